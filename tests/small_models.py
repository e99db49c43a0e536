"""Small trained-looking models, made in a moment, for tests that need a file rather than a random graph."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def conv_net(width: int = 8, *, classes: int = 3, seed: int = 0) -> onnx.ModelProto:
    """Conv-Relu twice, pooled, Gemm: `image` (batch, 3, 8, 8) to `logits` (batch, classes)."""
    rng = np.random.default_rng(seed)

    def weight(name: str, *shape: int) -> TensorProto:
        fan_in = int(np.prod(shape[1:])) or 1
        array = rng.normal(0, (2 / fan_in) ** 0.5, shape).astype(np.float32)
        return numpy_helper.from_array(array, name)

    nodes = [
        helper.make_node(
            "Conv", ["image", "first.weight", "first.bias"], ["a"], name="first", pads=[1, 1, 1, 1]
        ),
        helper.make_node("Relu", ["a"], ["b"], name="relu1"),
        helper.make_node("Conv", ["b", "second.weight"], ["c"], name="second", strides=[2, 2]),
        helper.make_node("Relu", ["c"], ["d"], name="relu2"),
        helper.make_node("GlobalAveragePool", ["d"], ["e"], name="pool"),
        helper.make_node("Flatten", ["e"], ["f"], name="flatten"),
        helper.make_node("Gemm", ["f", "head.weight", "head.bias"], ["logits"], name="head", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "conv_net",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", classes])],
        initializer=[
            weight("first.weight", width, 3, 3, 3),
            weight("first.bias", width),
            weight("second.weight", 2 * width, width, 3, 3),
            weight("head.weight", classes, 2 * width),
            weight("head.bias", classes),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def images(count: int, *, seed: int = 0) -> np.ndarray:
    """Random float32 inputs of `conv_net`."""
    return np.random.default_rng(seed).normal(size=(count, 3, 8, 8)).astype(np.float32)
