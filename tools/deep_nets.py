"""Networks of any depth with small weights, to see how the cost of an analysis grows with the number of nodes.

`residual`: stages of convolutions; `transformer`: blocks as torch's exporter writes them, with the shape
arithmetic of a dynamic batch; `gemm_chain`: few nodes and much weight, to see what memory a slimming takes.
"""

from collections.abc import Callable, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

CHANNELS, HEADS = 8, 2
BLOCKS = 4
"""Residual blocks a stage."""


class _Sketch:
    """Nodes and weights, one after the other."""

    def __init__(self, shape: Sequence[int | str]) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.rng = np.random.default_rng(0)
        self.input = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)

    def add(self, op: str, *inputs: str, **attributes: object) -> str:
        out = f"{op.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [out], out, **attributes))
        return out

    def weight(self, *shape: int, around: float = 0.0) -> str:
        spread = (0.5 / np.prod(shape[1:])) ** 0.5 if len(shape) > 1 else 0.1
        return self.constant((around + spread * self.rng.standard_normal(shape)).astype(np.float32))

    def constant(self, values: np.ndarray) -> str:
        self.weights.append(numpy_helper.from_array(np.asarray(values), f"w_{len(self.weights)}"))
        return self.weights[-1].name

    def ints(self, *values: int) -> str:
        return self.constant(np.asarray(values, dtype=np.int64))

    def model(self, output: str, rank: int) -> onnx.ModelProto:
        out = helper.make_tensor_value_info(output, TensorProto.FLOAT, ["batch"] + [None] * (rank - 1))
        graph = helper.make_graph(self.nodes, "deep", [self.input], [out], self.weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def residual(nodes: int) -> onnx.ModelProto:
    """About so many nodes of convolutions, each with its BatchNorm, in stages of residual blocks."""
    net = _Sketch(["batch", CHANNELS, 8, 8])
    stream = "x"
    while len(net.nodes) < nodes - 2:
        stream = net.add("Relu", _conv(net, stream))
        for _ in range(min(BLOCKS, (nodes - len(net.nodes)) // 7)):
            inner = net.add("Relu", _conv(net, stream))
            stream = net.add("Relu", net.add("Add", stream, _conv(net, inner, scale=0.3)))
    return net.model(_conv(net, stream), 4)


def _conv(net: _Sketch, x: str, scale: float = 1.0) -> str:
    y = net.add("Conv", x, net.weight(CHANNELS, CHANNELS, 3, 3), pads=[1, 1, 1, 1])
    mean, var = net.weight(CHANNELS), net.weight(CHANNELS, around=1.0)
    gain = net.weight(CHANNELS, around=scale)
    return net.add("BatchNormalization", y, gain, net.weight(CHANNELS), mean, var)


def transformer(nodes: int) -> onnx.ModelProto:
    """About so many nodes of attention and feed-forward blocks with computed Reshape targets."""
    net = _Sketch(["batch", "tokens", CHANNELS])
    stream = _linear(net, "x", CHANNELS, CHANNELS)
    while len(net.nodes) < nodes - 2:
        stream = net.add("Add", stream, _attention(net, _norm(net, stream)))
        wide = _gelu(net, _linear(net, _norm(net, stream), CHANNELS, 4 * CHANNELS))
        stream = net.add("Add", stream, _linear(net, wide, 4 * CHANNELS, CHANNELS))
    return net.model(_linear(net, stream, CHANNELS, CHANNELS), 3)


def _linear(net: _Sketch, x: str, width: int, out: int) -> str:
    return net.add("Add", net.weight(out), net.add("MatMul", x, net.weight(width, out)))


def _norm(net: _Sketch, x: str) -> str:
    return net.add("LayerNormalization", x, net.weight(CHANNELS, around=1.0), net.weight(CHANNELS), axis=-1)


def _gelu(net: _Sketch, x: str) -> str:
    root, one, half = (net.constant(np.float32(value)) for value in (2**0.5, 1.0, 0.5))
    erf = net.add("Add", net.add("Erf", net.add("Div", x, root)), one)
    return net.add("Mul", net.add("Mul", x, erf), half)


def _attention(net: _Sketch, x: str) -> str:
    width = CHANNELS // HEADS
    heads = []
    for _ in range(3):
        target = _target(net, x, HEADS, width)
        split = net.add("Reshape", _linear(net, x, CHANNELS, CHANNELS), target)
        heads.append(net.add("Transpose", split, perm=[0, 2, 1, 3]))
    query, key, value = heads
    score = net.add("MatMul", query, net.add("Transpose", key, perm=[0, 1, 3, 2]))
    share = net.add("Softmax", net.add("Div", score, net.constant(np.float32(width**0.5))), axis=-1)
    seen = net.add("Transpose", net.add("MatMul", share, value), perm=[0, 2, 1, 3])
    return _linear(net, net.add("Reshape", seen, _target(net, seen, CHANNELS)), CHANNELS, CHANNELS)


def _target(net: _Sketch, x: str, *sizes: int) -> str:
    """A Reshape target as exporters compute it: batch and tokens from the shape of x, then these sizes."""
    shape = net.add("Shape", x)
    parts = [
        net.add("Unsqueeze", net.add("Gather", shape, net.constant(np.int64(axis)), axis=0), net.ints(0))
        for axis in (0, 1)
    ]
    return net.add("Concat", *parts, *(net.ints(size) for size in sizes), axis=0)


def gemm_chain(mib: int, layers: int = 8) -> onnx.ModelProto:
    """Square Gemms of so many MiB in all."""
    width = round((mib * 2**20 / layers / 4) ** 0.5)
    net = _Sketch(["batch", width])
    stream = "x"
    for _ in range(layers):
        spread = np.float32((2 / width) ** 0.5)
        weight = net.constant(net.rng.standard_normal((width, width), np.float32) * spread)
        stream = net.add("Relu", net.add("Gemm", stream, weight, net.weight(width), transB=1))
    return net.model(stream, 2)


KINDS: dict[str, Callable[[int], onnx.ModelProto]] = {"residual": residual, "transformer": transformer}
