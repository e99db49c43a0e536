"""A network as layers with weights and what runs from one to the next: all that every exporter agrees on.

Names, the order of nodes, and ops without weights (how an activation or a normalisation is written) do not count. So
the keys of the layers are the same in every export of a network, and those of another network are others.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from math import prod

import onnx_graphsurgeon as gs

from onnxprune.groups import Groups
from onnxprune.ops import RULES, Node, Value
from onnxprune.scopes import bodies

WEIGHTS: Mapping[str, tuple[int, ...]] = {
    "Attention": (1,), "Conv": (1,), "ConvInteger": (1,), "ConvTranspose": (1,), "FusedConv": (1,), "FusedGemm": (0, 1),
    "FusedMatMul": (0, 1), "GRU": (1, 2), "Gemm": (0, 1), "LSTM": (1, 2), "MatMul": (0, 1), "MatMulInteger": (0, 1),
    "QLinearConv": (3,), "QLinearMatMul": (0, 3), "RNN": (1, 2),
}  # fmt: skip
"""Which inputs of an op are weights, where they are constants; of ops not named all that come after the first."""
ALSO_KNOWN_AS: Mapping[str, str] = {
    "ConvInteger": "Conv", "Einsum": "MatMul", "FusedConv": "Conv", "FusedGemm": "MatMul", "FusedMatMul": "MatMul",
    "Gemm": "MatMul", "MatMulInteger": "MatMul", "QLinearConv": "Conv", "QLinearMatMul": "MatMul",
}  # fmt: skip
"""Ops that another exporter, or onnxruntime's optimizer, writes as this one."""
MOST = 32
"""So many sources of one value are told one by one; more become one source of their own. Keeps the work linear."""

ROUNDS = 8
"""How far layers that are alike by themselves are told apart by what is around them."""


def digest(*parts: object) -> str:
    """A short hash of these bytes, or of what these print as."""
    raw = b"|".join(part if isinstance(part, bytes) else str(part).encode() for part in parts)
    return blake2b(raw, digest_size=8).hexdigest()


@dataclass(frozen=True)
class Layer:
    """A node that computes with weights."""

    node: Node
    weights: tuple[Value, ...]

    @property
    def shapes(self) -> tuple[str, ...]:
        """Of its weights, however they are laid out: axes of more than one entry, the longest first."""
        return tuple(
            "x".join(str(size) for size in sorted(w.shape or (), key=lambda size: -(size or 0)) if size != 1)
            for w in self.weights
        )

    @property
    def local(self) -> str:
        """What it is, wherever it stands."""
        steps = [self.node.attr(name) for name in ("strides", "dilations")]
        moved = [list(step) for step in steps if step is not None and any(k != 1 for k in step)]
        op = ALSO_KNOWN_AS.get(self.node.op, self.node.op)
        return f"{op} {' '.join(self.shapes)} {moved}"


def fixed_values(groups: Groups) -> set[str]:
    """Constants, and what is computed from constants alone, such as a dequantised weight."""
    fixed = {name for name, value in groups.values.items() if value.is_constant}
    for node in groups.nodes:
        known = all(value is None or value.name in fixed for value in node.inputs)
        if node.inputs and known and not bodies(node.raw):
            fixed |= {value.name for value in node.outputs if value}
    return fixed


@dataclass
class Flow:
    """Per layer, and per made-up point of a sweep through the graph, the points right before it, in sweeping order."""

    near: dict[int, frozenset[int]] = field(default_factory=dict)
    tags: dict[int, str] = field(default_factory=dict)
    """Made-up points, numbered from -1 downwards: ends of the graph, and sources that are told as one."""
    at: dict[str, frozenset[int]] = field(default_factory=dict)
    """The same for every value."""

    def point(self, tag: str, near: frozenset[int] = frozenset()) -> frozenset[int]:
        number = -1 - len(self.tags)
        self.tags[number], self.near[number] = tag, near
        return frozenset((number,))

    def join(self, sources: Iterable[frozenset[int]]) -> frozenset[int]:
        """All of these, as a point of its own where they are many."""
        distinct = set(sources)
        if len(distinct) == 1:
            return distinct.pop()
        joined = frozenset().union(*distinct)
        return joined if len(joined) <= MOST else self.point("many", joined)

    def swept(self, local: Mapping[int, str]) -> dict[int, str]:
        """Per point a key of all that comes before it."""
        keys: dict[int, str] = {}
        for number, near in self.near.items():
            keys[number] = digest(self.tags.get(number) or local[number], *sorted(keys[k] for k in near))
        return keys

    def around(self, keys: Mapping[int, str]) -> dict[int, str]:
        """Per point a key of the points right before it, given the layers' keys."""
        known = dict(keys)
        found: dict[int, str] = {}
        for number, near in self.near.items():
            found[number] = digest(*sorted(known[k] for k in near))
            if number < 0:
                known[number] = digest(self.tags[number], found[number])
        return found


@dataclass
class Wiring:
    """The layers of a prepared model, by the number of their node."""

    layers: dict[int, Layer]
    forward: Flow
    backward: Flow
    keys: dict[int, str]
    """Equal for layers that stand alike in the network; another network has other ones."""
    paths: dict[int, str]
    """Equal for layers to which alike networks lead."""
    after: dict[int, str]
    """Equal for layers from which alike networks lead on."""
    depth: dict[int, int]
    """How many layers come before."""

    def about(self, value: str) -> str:
        """Where a value stands: what it comes from, and what reads it."""
        sides = ((self.forward, self.paths), (self.backward, self.after))
        return digest(*(digest(*sorted(keys[k] for k in flow.at.get(value, ()))) for flow, keys in sides))


def wiring(groups: Groups) -> Wiring:
    """Finds the layers of a model and gives them their keys."""
    fixed = fixed_values(groups)
    layers = layers_of(groups, fixed)
    numbers = {id(node.raw): k for k, node in enumerate(groups.nodes)}
    steps = list(_steps(groups.model.graph, numbers, fixed))
    forward, backward = _forward(groups, layers, steps), _backward(groups, layers, steps)
    local = {number: layer.local for number, layer in layers.items()}
    paths = forward.swept(local)
    after = backward.swept(local)
    keys = {number: digest(paths[number], after[number]) for number in layers}
    for _ in range(ROUNDS):
        count = len(set(keys.values()))
        if count == len(layers):
            break
        sides = [flow.around(keys) for flow in (forward, backward)]
        keys = {k: digest(key, *(side[k] for side in sides)) for k, key in keys.items()}
        if len(set(keys.values())) == count:
            break
    depth: dict[int, int] = {}
    for number, near in forward.near.items():
        depth[number] = max((depth[k] + (k in layers) for k in near), default=0)
    return Wiring(layers, forward, backward, keys, paths, after, depth)


def layers_of(groups: Groups, fixed: set[str]) -> dict[int, Layer]:
    """The nodes that compute with weights, by their number; `fixed` as `fixed_values` finds it."""
    return {k: layer for k in range(len(groups.nodes)) if (layer := _layer(groups, k, fixed))}


def _layer(groups: Groups, number: int, fixed: set[str]) -> Layer | None:
    node, links = groups.nodes[number], groups.links[number]
    if bodies(node.raw) or all(value is None or value.name in fixed for value in node.outputs):
        return None
    ruled = (node.domain, node.op) in RULES and (links is None or links.macs is None)
    if ruled and node.op not in WEIGHTS:
        return None
    positions = WEIGHTS.get(node.op, range(1, len(node.inputs)))
    weights = [node.inputs[k] for k in positions if k < len(node.inputs)]
    known = tuple(w for w in weights if w and w.name in fixed and prod(s or 1 for s in w.shape or ()) > 1)
    if node.op not in WEIGHTS:
        known = tuple(w for w in known if len(w.shape or ()) > 1)
    return Layer(node, known) if known else None


@dataclass(frozen=True)
class Step:
    """A node, or what a control-flow node hands into its bodies."""

    number: int
    """Of the node, -1 for none."""
    reads: list[str]
    writes: list[str]


def _steps(graph: gs.Graph, numbers: Mapping[int, int], fixed: set[str]) -> Iterator[Step]:
    """All nodes in an order in which values are made before they are read; bodies come before what they make up."""
    for node in graph.nodes:
        reads = [tensor.name for tensor in node.inputs if tensor.name and tensor.name not in fixed]
        for body in bodies(node):
            yield Step(-1, reads, [tensor.name for tensor in body.inputs])
            yield from _steps(body, numbers, fixed)
        reads = [*reads, *(tensor.name for body in bodies(node) for tensor in body.outputs)]
        yield Step(numbers.get(id(node), -1), reads, [tensor.name for tensor in node.outputs if tensor.name])


def _forward(groups: Groups, layers: Mapping[int, Layer], steps: Sequence[Step]) -> Flow:
    flow = Flow()
    for position, tensor in enumerate(groups.model.graph.inputs):
        flow.at[tensor.name] = flow.point(f"input {position}")
    for step in steps:
        sources = flow.join(flow.at.get(name, frozenset()) for name in step.reads)
        if step.number in layers:
            flow.near[step.number] = sources
            sources = frozenset((step.number,))
        flow.at |= dict.fromkeys(step.writes, sources)
    return flow


def _backward(groups: Groups, layers: Mapping[int, Layer], steps: Sequence[Step]) -> Flow:
    flow = Flow()
    waiting: dict[str, list[frozenset[int]]] = {}
    for position, tensor in enumerate(groups.model.graph.outputs):
        waiting.setdefault(tensor.name, []).append(flow.point(f"output {position}"))
    for step in reversed(steps):
        for name in step.writes:
            flow.at[name] = flow.join(waiting.pop(name, [frozenset()]))
        sinks = flow.join(flow.at[name] for name in step.writes)
        if step.number in layers:
            flow.near[step.number] = sinks
            sinks = frozenset((step.number,))
        for name in step.reads:
            waiting.setdefault(name, []).append(sinks)
    flow.at |= {name: flow.join(sinks) for name, sinks in waiting.items()}
    return flow
