"""Control flow: bodies with layers of their own, which read values and weights of the graph around them."""

from collections.abc import Callable, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper
from sketch import BATCH, Sketch, Value

from blocks.registry import block
from blocks.ways import project


def body(
    g: Sketch, name: str, build: Callable[[], Value], inputs: Sequence[onnx.ValueInfoProto] = ()
) -> onnx.GraphProto:
    """What `build` adds, taken out of the graph into one of its own; half of the weights move along."""
    before, held = len(g.nodes), set(g.constants)
    made = build()
    nodes = g.nodes[before:]
    del g.nodes[before:]
    made_inside = {out for node in nodes for out in node.output}
    fresh = [key for key in g.constants if key not in held | made_inside | g.overridable]
    own = [g.constants[key] for key in fresh if g.chance(50)]
    for held_inside in [key for key in g.constants if key in made_inside | {tensor.name for tensor in own}]:
        del g.constants[held_inside]
        g.moved += 1
    g.moved += len(nodes)
    gone = {tensor.name for tensor in own} | made_inside
    for shape in g.weights:  # what lies inside cannot be read from outside
        g.weights[shape] = [value for value in g.weights[shape] if value.name not in gone]
    output = helper.make_tensor_value_info(made.name, TensorProto.FLOAT, None)
    return helper.make_graph(nodes, name, list(inputs), [output], initializer=own)


def layers(g: Sketch, x: Value, channels: int) -> Value:
    """Two layers with channels of their own between them."""
    return project(g, g.op("Relu", project(g, x, g.number(2, 6))), channels)


@block("If", on="any", rare=True)
def branches(g: Sketch, x: Value) -> Value:
    """Both branches read x from outside; the condition is known only when the model runs."""
    condition = g.op("Greater", g.op("Size", x), g.constant(np.int64(g.pick([0, 10**6]))))
    bodies = []
    for kind in ("Tanh", "Neg"):
        name = f"{g.fresh('branch')}_{kind.lower()}"
        output = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        bodies.append(helper.make_graph([helper.make_node(kind, [x.name], [name])], kind, [], [output]))
    y = g.op("If", condition, then_branch=bodies[0], else_branch=bodies[1], shape=x.shape)
    return Value(y.name, x.shape, x.layout, x.rms)


@block("If with layers", on="image", rare=True)
def branches_with_layers(g: Sketch, x: Value) -> Value:
    """One branch has layers, the other one layer or two; they make the same channels."""
    channels = g.number(2, 6)
    condition = g.op("Greater", g.op("Size", x), g.constant(np.int64(g.pick([0, 10**6]))))
    then = body(g, g.fresh("then"), lambda: layers(g, x, channels))
    other = body(g, g.fresh("else"), lambda: g.pick([project, layers])(g, x, channels))
    y = g.op("If", condition, then_branch=then, else_branch=other, shape=(x.shape[0], channels, *x.shape[2:]))
    return Value(y.name, y.shape, x.layout, x.rms)


@block("Loop with layers", on="image", rare=True)
def loop_with_layers(g: Sketch, x: Value) -> Value:
    """What is carried keeps its channels; the layers inside have their own, as has what they read from outside."""
    turns, keep = g.constant(np.int64(g.number(1, 3)), node=False), g.constant(np.True_, node=False)
    stem = g.fresh("loop")
    shape: list[int | str] = ["batch" if g.dynamic else BATCH, *x.shape[1:]]
    inputs = [
        helper.make_tensor_value_info(f"{stem}_turn", TensorProto.INT64, []),
        helper.make_tensor_value_info(f"{stem}_go", TensorProto.BOOL, []),
        helper.make_tensor_value_info(f"{stem}_state", TensorProto.FLOAT, shape),
    ]
    state = Value(f"{stem}_state", x.shape, x.layout, x.rms)
    inner = body(
        g, stem, lambda: g.op("Tanh", g.op("Add", state, layers(g, x, x.channels))), inputs
    )
    inner.node.insert(0, helper.make_node("Identity", [f"{stem}_go"], [f"{stem}_on"]))
    inner.output.insert(0, helper.make_tensor_value_info(f"{stem}_on", TensorProto.BOOL, []))
    y = g.op("Loop", turns, keep, x, body=inner, shape=x.shape)
    return Value(y.name, x.shape, x.layout, 1.0)
