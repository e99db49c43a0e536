"""Random ONNX graphs and random plans: what the law is tested on.

    @given(models(), st.data())
    def test_law(model, data):
        plan = data.draw(plans([(group.name, group.size) for group in groups.find(load(model)).groups]))

`models(including="Pad")` draws graphs with at least one such block; `random_model(seed)` is one graph without
Hypothesis, for long searches. A new op joins by a few lines in `tests/blocks`.
"""

from collections.abc import Sequence
from functools import cache

import hypothesis.strategies as st
import numpy as np
import onnx
from blocks import BLOCKS, Block
from blocks.ways import as_layout, bounded, pooled, project
from numpy.typing import NDArray
from onnx import helper
from sketch import BATCH, DYNAMIC, Choices, SeededChoices, Sketch, Value

OPSETS = tuple(range(11, 25))


class DrawnChoices:
    """Decisions drawn by Hypothesis, so that a failing graph shrinks."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw

    def number(self, low: int, high: int) -> int:
        return self.draw(integers(low, high))


@cache
def integers(low: int, high: int) -> st.SearchStrategy[int]:
    return st.integers(low, high)


@st.composite
def models(
    draw: st.DrawFn, *, including: str | None = None, most: int = 12, opsets: Sequence[int] = OPSETS
) -> onnx.ModelProto:
    """Graphs of up to `most` random blocks, among them one of the name `including`."""
    return build(DrawnChoices(draw), draw(integers(0, 2**16)), including=including, most=most, opsets=opsets)


def random_model(
    seed: int, *, including: str | None = None, most: int = 12, opsets: Sequence[int] = OPSETS
) -> onnx.ModelProto:
    """The graph of this seed, the same every time."""
    return build(SeededChoices(seed), seed, including=including, most=most, opsets=opsets)


@st.composite
def plans(draw: st.DrawFn, groups: Sequence[tuple[str, int]]) -> dict[str, tuple[int, ...]]:
    """For each group the indices it keeps, ascending and never none: all, one, or some."""
    return {name: draw(kept(size)) for name, size in groups}


@cache
def kept(size: int) -> st.SearchStrategy[tuple[int, ...]]:
    everything = st.just(tuple(range(size)))
    one = st.integers(0, size - 1).map(lambda index: (index,))
    some = st.lists(st.booleans(), min_size=size, max_size=size).map(
        lambda flags: tuple(i for i, flag in enumerate(flags) if flag) or (0,)
    )
    return st.one_of(everything, one, some, some)


def random_plan(seed: int, groups: Sequence[tuple[str, int]]) -> dict[str, tuple[int, ...]]:
    """The plan of this seed, drawn as by `plans`."""
    rng = np.random.default_rng(seed)
    plan = {}
    for name, size in groups:
        count = [size, 1, rng.integers(1, size + 1), rng.integers(1, size + 1)][rng.integers(4)]
        plan[name] = tuple(int(i) for i in sorted(rng.permutation(size)[:count]))
    return plan


def random_inputs(model: onnx.ModelProto, seed: int, batch: int = BATCH) -> dict[str, NDArray[np.float32]]:
    """Normal numbers for every input that is not an initializer; `batch` where the batch is dynamic."""
    rng = np.random.default_rng(seed)
    given = {tensor.name for tensor in model.graph.initializer}
    feeds = {}
    for value in model.graph.input:
        if value.name not in given:
            shape = [dim.dim_value or batch for dim in value.type.tensor_type.shape.dim]
            feeds[value.name] = rng.standard_normal(shape).astype(np.float32)
    return feeds


def describe(model: onnx.ModelProto) -> str:
    """The graph in one line per node, for `hypothesis.note`."""
    return "\n".join(
        f"{', '.join(node.output)} = {node.op_type}({', '.join(node.input)}) "
        + " ".join(
            f"{a.name}={helper.get_attribute_value(a)}" for a in node.attribute if a.type in (1, 2, 3, 7)
        )
        for node in model.graph.node
        if node.op_type != "Constant"
    )


# ---------------------------------------------------------------------- building


def build(
    choose: Choices, seed: int, *, including: str | None, most: int, opsets: Sequence[int]
) -> onnx.ModelProto:
    wanted = BLOCKS[including] if including else None
    possible = [opset for opset in opsets if wanted is None or opset >= wanted.since]
    g = Sketch(choose, seed, opset=0, dynamic=False)
    g = Sketch(choose, seed, opset=possible[-1 - g.number(0, len(possible) - 1)], dynamic=g.chance(50))
    for _ in range(g.pick([1, 1, 1, 2, 3])):
        g.pool.append(first(g))
    count = g.number(1 if wanted else 3, most)
    place = g.number(0, count - 1) if wanted else -1
    offered = [block for block in BLOCKS.values() if block.since <= g.opset]
    offered += 3 * [
        block for block in offered if block.since >= 18
    ]  # else few graphs would have a place for them
    for step in range(count):
        block = wanted if step == place and wanted else drawn(g, offered)
        x = g.pool[-1] if g.chance(65) else g.pick(g.pool)
        if block is wanted and len(g.pool) == len(g.inputs) and g.chance(80):
            x = project(g, x, g.number(3, 8))  # else its channels would be the input's, and frozen
        made = block.build(g, as_layout(g, bounded(g, x), block.on))
        g.pool.extend(made if isinstance(made, list) else [made])
    return finished(g)


def drawn(g: Sketch, offered: Sequence[Block]) -> Block:
    block = g.pick(offered)
    return g.pick(offered) if block.rare and g.chance(60) else block


def first(g: Sketch) -> Value:
    """An input: mostly an image of two spatial axes."""
    layout = g.pick(["image", "image", "image", "image", "image", "row", "volume", "tokens", "vector"])
    channels = g.number(2, 6)
    match layout:
        case "image":
            return g.input("image", (BATCH, channels, g.number(4, 8), g.number(4, 8)))
        case "row":
            return g.input("image", (BATCH, channels, g.number(4, 8)))
        case "volume":
            return g.input("image", (BATCH, channels, 4, 3, 4))
        case "tokens":
            return g.input("tokens", (BATCH, g.number(2, 6), channels))
    return g.input("vector", (BATCH, channels))


def head(g: Sketch, x: Value) -> Value:
    """What models end in: a last layer. Its output channels are frozen, those before it are not."""
    x = bounded(g, x)
    if x.layout == "image" and g.chance(50):
        x = pooled(g, x)
    return project(g, x, g.number(1, 3))


def finished(g: Sketch) -> onnx.ModelProto:
    """Outputs for what nobody reads (mostly through a last layer), then the ModelProto."""
    read = reads(g.nodes)
    loose = [value for value in g.pool if value.name not in read]
    inner = [value for value in g.pool if value.name in read and value not in g.inputs]
    outputs: list[Value] = []
    for value in loose:
        if value in g.inputs or g.chance(80):
            outputs.append(head(g, value))
        elif not outputs or g.chance(70):
            outputs.append(value)
    if inner and g.chance(10):
        outputs.append(g.pick(inner))
    return proto(g, outputs)


def reads(nodes: Sequence[onnx.NodeProto]) -> set[str]:
    """Names of all that nodes read, in their bodies as well."""
    inner = [attribute.g.node for node in nodes for attribute in node.attribute if attribute.HasField("g")]
    return {name for node in nodes for name in node.input} | {name for body in inner for name in reads(body)}


def proto(g: Sketch, outputs: Sequence[Value]) -> onnx.ModelProto:
    read = reads(g.nodes)
    made = {name for node in g.nodes for name in node.output}
    inner = made - {value.name for value in outputs}
    tensors = [tensor for name, tensor in g.constants.items() if name in read - made]
    given = [
        helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        for tensor in tensors
        if tensor.name in g.overridable
    ]
    graph = helper.make_graph(
        g.nodes,
        "random",
        [info(g, value) for value in g.inputs] + given,
        [info(g, value) for value in outputs],
        initializer=tensors,
        value_info=[info(g, value) for value in {v.name: v for v in g.noted}.values() if value.name in inner],
    )
    model = helper.make_model(graph, opset_imports=g.opsets, producer_name="onnxprune-tests")
    model.ir_version = helper.find_min_ir_version_for(g.opsets, ignore_unknown=True)
    return model


def info(g: Sketch, value: Value) -> onnx.ValueInfoProto:
    shape: list[int | str] = list(value.shape)
    if g.dynamic and value.shape:
        shape[0] = DYNAMIC
    return helper.make_tensor_value_info(value.name, value.elem, shape)


__all__ = [
    "OPSETS",
    "describe",
    "models",
    "plans",
    "random_inputs",
    "random_model",
    "random_plan",
]
