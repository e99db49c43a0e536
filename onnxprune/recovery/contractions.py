"""Ops that sum over channels with weights of their own, as the matrix products that they are: y = U W + b.

Of a Conv, U holds the patches of its input, a row per output position. What can be written so can be solved for W.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod

import numpy as np
from numpy.typing import NDArray

from onnxprune.groups import Groups
from onnxprune.labels import Labels
from onnxprune.ops import Node, Value
from onnxprune.recovery.following import Offset, Sum, follow, own_bias, owned
from onnxprune.recovery.windows import Floats, Window, padded, places


@dataclass(frozen=True, eq=False)
class Contraction:
    """One such op; `blocks` of independent products for a grouped convolution, else 1."""

    name: str
    weight: str
    shape: tuple[int, ...]
    op: str
    """`Conv`, `ConvTranspose`, `rows` (W is inputs x outputs) or `columns` (outputs x inputs)."""
    blocks: int
    inputs: int
    """Input channels of a block."""
    outputs: int
    """Output channels of a block."""
    atoms: Labels
    """The atom of every input channel, shape (blocks * inputs,); -1 where it has none."""
    made: Labels
    """The same of the output channels."""
    window: Window | None = None
    offset: Offset | None = None
    sum: Sum | None = None

    @property
    def taps(self) -> int:
        return prod(self.window.kernel) if self.window else 1

    @property
    def rows(self) -> int:
        """Rows of W in a block: input channels times kernel positions, the channel first."""
        return self.inputs * self.taps

    def matrix(self, weight: Floats) -> Floats:
        """The weight as (blocks, rows, outputs), float64."""
        wide = np.asarray(weight, dtype=np.float64)
        if self.op == "rows":
            return wide[None]
        if self.op == "columns":
            return wide.T[None]
        if self.op == "Conv":
            return wide.reshape(self.blocks, self.outputs, self.rows).transpose(0, 2, 1)
        split = wide.reshape(self.blocks, self.inputs, self.outputs, self.taps)[..., ::-1]
        return split.transpose(0, 1, 3, 2).reshape(self.blocks, self.rows, self.outputs)

    def weights(self, matrix: Floats) -> Floats:
        """The way back of `matrix`, in the shape of the weight."""
        if self.op == "rows":
            return np.asarray(matrix[0])
        if self.op == "columns":
            return np.ascontiguousarray(matrix[0].T)
        if self.op == "Conv":
            return np.ascontiguousarray(matrix.transpose(0, 2, 1)).reshape(self.shape)
        split = matrix.reshape(self.blocks, self.inputs, self.taps, self.outputs)[:, :, ::-1]
        return np.ascontiguousarray(split.transpose(0, 1, 3, 2)).reshape(self.shape)

    def positions(self, x_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Sizes of the output of one sample without its channels, for an input of this shape."""
        if self.window is None:
            return x_shape[1:-1]
        return tuple(n for _, _, n in self.window.extents(self.window.spread_out(x_shape[2:])))

    def pick(self, x_shape: tuple[int, ...], most: int, rng: np.random.Generator) -> NDArray[np.intp]:
        """At most `most` output positions per sample, drawn without repetition, ascending."""
        count = prod(self.positions(x_shape))
        chosen = rng.permutation(count)[:most] if count > most else np.arange(count)
        return np.sort(chosen)

    def patches(self, x: Floats, chosen: NDArray[np.intp]) -> Floats:
        """U at these positions of every sample, shape (blocks, samples * positions, rows), float32."""
        if self.window is None:
            flat = np.asarray(x, dtype=np.float32)
            flat = flat.reshape(len(flat) if flat.ndim > 1 else 1, -1, self.inputs)[:, chosen]
            return flat.reshape(1, -1, self.inputs)
        out = self.positions(x.shape)
        flat, sizes = padded(np.asarray(x, dtype=np.float32), self.window)
        found = np.take(flat, places(self.window, out, sizes, chosen), axis=2)
        n, count = len(x), len(chosen)
        split = found.reshape(n, self.blocks, self.inputs, count, self.taps)
        return split.transpose(1, 0, 3, 2, 4).reshape(self.blocks, n * count, self.rows)

    def results(self, y: Floats, chosen: NDArray[np.intp]) -> Floats:
        """Values laid out as y is at these positions, shape (blocks, samples * positions, outputs), float32."""
        wide = np.asarray(y, dtype=np.float32)
        if self.window is None:
            flat = wide.reshape(len(wide) if wide.ndim > 1 else 1, -1, self.outputs)[:, chosen]
            return flat.reshape(1, -1, self.outputs)
        split = wide.reshape(len(wide), self.blocks, self.outputs, -1)[..., chosen]
        return split.transpose(1, 0, 3, 2).reshape(self.blocks, -1, self.outputs)


def contractions(groups: Groups) -> list[Contraction]:
    """Those of the model's own graph whose weight is a constant that nothing else reads, in graph order."""
    own = {id(node) for node in groups.model.graph.nodes}
    found = [_contraction(groups, node) for node in groups.nodes if id(node.raw) in own]
    ends = {tensor.name for tensor in groups.model.graph.outputs}
    return [
        replace(one, offset=None) if one.offset is not None and one.offset.name in ends else one
        for one in found
        if one is not None and one.weight not in ends
    ]


def _contraction(groups: Groups, node: Node) -> Contraction | None:
    if node.domain or node.op not in ("Conv", "ConvTranspose", "Gemm", "MatMul") or len(node.inputs) < 2:
        return None
    x, w, y = node.inputs[0], node.inputs[1], node.outputs[0]
    if x is None or w is None or y is None or x.is_constant or not owned(w):
        return None
    ends = groups.model.graph.outputs
    if x.sizes is None or y.sizes is None or not (y.raw.outputs or any(y.raw is end for end in ends)):
        return None
    shape = tuple(w.raw.shape)
    if node.op in ("Gemm", "MatMul"):
        return _product(groups, node, x, w, y, shape)
    return _convolution(groups, node, x, w, y, shape)


def _product(
    groups: Groups, node: Node, x: Value, w: Value, y: Value, shape: tuple[int, ...]
) -> Contraction | None:
    if len(shape) != 2 or len(x.sizes or ()) < 1:
        return None
    if node.op == "Gemm" and (node.attr("transA", 0) or node.attr("alpha", 1.0) != 1.0):
        return None
    turned = node.op == "Gemm" and bool(node.attr("transB", 0))
    inputs, outputs = shape[::-1] if turned else shape
    atoms, made = _atoms(groups, x, -1, inputs), _atoms(groups, y, -1, outputs)
    offset, added = None, node.op == "Gemm" and node.has(2)
    if added and node.attr("beta", 1.0) == 1.0:
        offset = own_bias(node.inputs[2], outputs)
    found = None if added and offset is None else follow(groups, y, len(y.sizes or ()) - 1, outputs)
    return Contraction(
        node.name, w.name, shape, "columns" if turned else "rows", 1, inputs, outputs, atoms, made,
        None, offset or (found.offset if found and not added else None), found.sum if found else None,
    )  # fmt: skip


def _convolution(
    groups: Groups, node: Node, x: Value, w: Value, y: Value, shape: tuple[int, ...]
) -> Contraction | None:
    rank, blocks, padding = len(shape) - 2, node.attr("group", 1), node.text("auto_pad", "NOTSET")
    ones, zeros, kernel = (1,) * rank, (0,) * rank, shape[2:]
    strides, dilations = tuple(node.attr("strides", ones)), tuple(node.attr("dilations", ones))
    pads = zeros * 2 if padding == "VALID" else tuple(node.attr("pads", zeros * 2))
    if node.op == "Conv":
        inputs, outputs = shape[1], shape[0] // blocks
        before = None if padding.startswith("SAME") else pads[:rank]
        window = Window(kernel, strides, dilations, before, pads[rank:], padding == "SAME_LOWER")
    else:
        if padding != "NOTSET" or node.attr("output_shape"):
            return None
        inputs, outputs = shape[0] // blocks, shape[1]
        reach = [(k - 1) * d for k, d in zip(kernel, dilations, strict=True)]
        more = node.attr("output_padding", zeros)
        before = tuple(reach[k] - pads[k] for k in range(rank))
        after = tuple(reach[k] - pads[rank + k] + more[k] for k in range(rank))
        window = Window(kernel, ones, dilations, before, after, spread=strides)
    offset = own_bias(node.inputs[2], blocks * outputs) if node.has(2) else None
    found = None if node.has(2) and offset is None else follow(groups, y, 1, blocks * outputs)
    return Contraction(
        node.name, w.name, shape, node.op, blocks, inputs, outputs,
        _atoms(groups, x, 1, blocks * inputs), _atoms(groups, y, 1, blocks * outputs), window,
        offset or (found.offset if found and not node.has(2) else None), found.sum if found else None,
    )  # fmt: skip


def _atoms(groups: Groups, value: Value, axis: int, size: int) -> Labels:
    axes = groups.labels.get(value.name)
    labels = axes[axis] if axes else None
    if labels is None or len(labels) != size:
        return np.full(size, -1, dtype=np.int64)
    return groups.atoms.of[labels]


def units(groups: Groups, one: Contraction, atoms: Labels) -> list[NDArray[np.intp]] | None:
    """Per block the rows of W that go with each of these free atoms, shape (atoms, rows of one).

    None where they do not go from this op alike: it has none of them, or unequally many, or loses outputs with them.
    """
    place = {int(atom): k for k, atom in enumerate(atoms)}
    if any(s in place for atom in np.unique(one.made).tolist() if atom >= 0 for s in groups.deciding(atom)):
        return None
    found = []
    for block in one.atoms.reshape(one.blocks, one.inputs):
        channels: list[list[int]] = [[] for _ in atoms]
        for channel, atom in enumerate(block.tolist()):
            for source in groups.deciding(atom) if atom >= 0 else ():
                if source in place:
                    channels[place[source]].append(channel)
        if len({len(c) for c in channels}) != 1 or not channels[0]:
            return None
        of_units = np.asarray(channels, dtype=np.intp)
        rows = of_units[:, :, None] * one.taps + np.arange(one.taps)
        found.append(rows.reshape(len(atoms), -1))
    return found


def gone(one: Contraction, removed: NDArray[np.bool_]) -> Iterator[NDArray[np.bool_]]:
    """Per block the rows of W that are left without input, given which atoms are removed."""
    lost = np.where(one.atoms >= 0, removed[one.atoms], False)
    for block in lost.reshape(one.blocks, one.inputs):
        yield np.repeat(block, one.taps)
