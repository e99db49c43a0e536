"""Reshape, Flatten, Transpose, Squeeze, Unsqueeze: the same entries under other axes."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from onnxprune.links import At, Frozen, Grid, Links, Place, Same, Virtual
from onnxprune.ops.elementwise import names
from onnxprune.ops.registry import Kept, Node, Unknown, axes, repair
from onnxprune.shapes import Pair


@axes("Transpose")
def transpose(node: Node) -> str:
    data = names(node.shape()).split()
    order = node.attr("perm", list(reversed(range(len(data)))))
    return f"{' '.join(data)} -> {' '.join(data[k] for k in order)}"


@axes("Squeeze", "Unsqueeze")
def squeeze(node: Node) -> Links:
    shape, out = node.shape(), node.out_shape()
    longer, rank = (shape, len(out)) if node.op == "Squeeze" else (out, len(shape))
    gone = node.operand_ints("axes", 1)
    if gone is None:  # Squeeze of every axis of one entry
        gone = [axis for axis, size in enumerate(longer) if size == 1]
    gone = [axis % len(longer) for axis in gone]
    left = [axis for axis in range(len(longer)) if axis not in gone]
    if len(left) != rank:
        raise Unknown("the axes it takes away are not known")
    many, few = ("in0", "out0") if node.op == "Squeeze" else ("out0", "in0")
    return Links(same=[Same(At(few, k), At(many, axis)) for k, axis in enumerate(left)])


@axes("Reshape", "Flatten")
def reshape(node: Node) -> Links:
    source, target = node.inputs[0], node.outputs[0]
    if source is None or target is None or source.sizes is None or target.sizes is None:
        raise Unknown("its shapes are not known")
    if any(0 in pair for pair in (*source.sizes, *target.sizes)):
        raise Unknown("it is empty")
    links = Links()
    for segment in _segments(source.sizes, target.sizes):
        segment.link(links)
    for side, value in (("in0", source), ("out0", target)):
        links.free += [At(side, axis) for axis, (a, b) in enumerate(value.sizes or ()) if a == b == 1]
    return links


@repair("Reshape")
def reshape_target(node: Node, kept: Kept) -> None:
    """The target anew, with what is left of the static axes."""
    out = node.outputs[0]
    sizes = [kept.size(out, axis) if size is not None else None for axis, size in enumerate(node.out_shape())]
    node.set_shape(1, target_of(node, sizes))


def target_of(node: Node, sizes: Sequence[int | None]) -> list[int | None]:
    """A Reshape target for output axes of these sizes: the one dynamic axis (None) as -1; of several, those that the
    input has in the same place as 0, and the rest as they were computed (None).
    """
    target = list(sizes)
    source, out = node.inputs[0], node.outputs[0]
    if source is None or out is None or source.sizes is None or out.sizes is None:
        return target
    if target.count(None) > 1 and not node.attr("allowzero", 0):
        for axis, size in enumerate(sizes):
            if size is None and source.sizes[: axis + 1] == out.sizes[: axis + 1]:
                target[axis] = 0
    if target.count(None) == 1:
        target[target.index(None)] = -1
    return target


@dataclass(frozen=True)
class _Segment:
    """Axes of input and output that hold the same entries, and the finest factors that explain both (None: none do)."""

    source: list[tuple[int, range]]
    target: list[tuple[int, range]]
    factors: list[Pair] | None

    def link(self, links: Links) -> None:
        axes_ = [(At("in0", axis), span) for axis, span in self.source]
        axes_ += [(At("out0", axis), span) for axis, span in self.target]
        if self.factors is None:
            links.frozen += [Frozen(at, "regroups it across its neighbours") for at, _ in axes_]
            return
        places: dict[int, Place] = {}
        for at, span in axes_:
            if len(span) == 1:
                places.setdefault(span[0], at)
        for at, span in axes_:
            self._axis(links, at, span, places)

    def _axis(self, links: Links, at: At, span: range, places: dict[int, Place]) -> None:
        factors = self.factors or []
        of = [places.setdefault(k, Virtual(f"{at.operand}.{at.axis}.{k}", factors[k][0])) for k in span]
        if any(factors[k][0] != factors[k][1] for k in span):
            links.free.append(at)
            if len(span) > 1:
                static = [p for p, k in zip(of, span, strict=True) if factors[k][0] == factors[k][1]]
                links.frozen += [Frozen(place, "merges it into a dynamic axis") for place in static]
        elif len(span) == 1:
            links.free.append(at) if of[0] == at else links.same.append(Same(of[0], at))
        else:
            links.grids.append(Grid(at, tuple(of)))


def _segments(source: tuple[Pair, ...], target: tuple[Pair, ...]) -> list[_Segment]:
    """Cuts both shapes where their products from the right agree, and refines each piece."""
    cuts_in, cuts_out = _cuts(source), _cuts(target)
    if cuts_in[-1][1] != cuts_out[-1][1]:
        raise Unknown("its input and output differ in size")
    common = [cut for _, cut in cuts_in if cut in {c for _, c in cuts_out}]
    segments = []
    for low, high in pairwise(common):
        inner_in = [c for _, c in cuts_in if low[0] <= c[0] <= high[0]]
        inner_out = [c for _, c in cuts_out if low[0] <= c[0] <= high[0]]
        points = sorted(set(inner_in) | set(inner_out))
        nested = all(b[0] % a[0] == 0 and b[1] % a[1] == 0 and b[1] >= a[1] for a, b in pairwise(points))
        factors = [(b[0] // a[0], b[1] // a[1]) for a, b in pairwise(points)][::-1] if nested else None
        count = len(points) - 1
        place = {
            cut: count - k for k, cut in enumerate(points)
        }  # index of the factor that starts right of it
        segments.append(
            _Segment(_spans(cuts_in, low, high, place), _spans(cuts_out, low, high, place), factors)
        )
    return segments


def _cuts(sizes: tuple[Pair, ...]) -> list[tuple[int, Pair]]:
    """(axis, product of the sizes from this axis on) from the right, axes of one entry left out; starts with 1."""
    cuts: list[tuple[int, Pair]] = [(len(sizes), (1, 1))]
    for axis in reversed(range(len(sizes))):
        a, b = sizes[axis]
        if (a, b) != (1, 1):
            last = cuts[-1][1]
            cuts.append((axis, (last[0] * a, last[1] * b)))
    return cuts


def _spans(
    cuts: list[tuple[int, Pair]], low: Pair, high: Pair, place: dict[Pair, int]
) -> list[tuple[int, range]]:
    """(axis, its factors by index) of the axes between two cuts."""
    return [
        (axis, range(place[left], place[right]))
        for (_, right), (axis, left) in pairwise(cuts)
        if low[0] <= right[0] and left[0] <= high[0]
    ]
