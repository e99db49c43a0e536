"""Small ONNX models for the tests here, and both engines' answers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from onnx import helper, numpy_helper

Array = NDArray[Any]


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Sequence[int | str | None]],
    outputs: Sequence[str],
    initializers: Mapping[str, Array] | None = None,
    *,
    opset: int = 17,
    functions: Sequence[onnx.FunctionProto] = (),
    element: int = onnx.TensorProto.FLOAT,
) -> onnx.ModelProto:
    """A checked model; outputs get the types that shape inference finds."""
    graph = helper.make_graph(
        list(nodes),
        "small",
        [helper.make_tensor_value_info(name, element, shape) for name, shape in inputs.items()],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in (initializers or {}).items()],
    )
    domains = {f.domain for f in functions}
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)]
    made = helper.make_model(graph, opset_imports=imports, functions=list(functions), ir_version=8)
    inferred = {v.name: v for v in onnx.shape_inference.infer_shapes(made, data_prop=True).graph.output}
    for output in made.graph.output:
        output.CopyFrom(inferred[output.name])
    return made


def draw(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def in_onnxruntime(proto: onnx.ModelProto, *inputs: Array, optimized: bool = True) -> list[Array]:
    return _run(proto.SerializeToString(), *inputs, optimized=optimized)


def in_onnxruntime_file(path: Path, *inputs: Array) -> list[Array]:
    return _run(str(path), *inputs)


def _run(source: bytes | str, *inputs: Array, optimized: bool = True) -> list[Array]:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    if not optimized:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    names = [i.name for i in session.get_inputs()]
    return list(session.run(None, dict(zip(names, inputs, strict=True))))


def in_torch(module: torch.nn.Module, *inputs: Array) -> list[Array]:
    with torch.no_grad():
        result = module(*(torch.from_numpy(i) for i in inputs))
    return [r.numpy() for r in (result if isinstance(result, tuple) else (result,))]


def gate_function() -> onnx.FunctionProto:
    """`onnxprune.Gate(x, w)` with attribute `to`: x * Cast(w > 0)."""
    cast = helper.make_node("Cast", ["open"], ["factor"])
    cast.attribute.append(onnx.AttributeProto(name="to", ref_attr_name="to", type=onnx.AttributeProto.INT))
    body = [
        helper.make_node("Constant", [], ["zero"], value_float=0.0),
        helper.make_node("Greater", ["w", "zero"], ["open"]),
        cast,
        helper.make_node("Mul", ["x", "factor"], ["y"]),
    ]
    return helper.make_function(
        "onnxprune", "Gate", ["x", "w"], ["y"], body, [helper.make_opsetid("", 17)], ["to"]
    )


def cnn(*, gated: bool = False) -> onnx.ModelProto:
    """Conv, BatchNormalization, Relu (and a gate), Conv, pooling, Gemm; inputs [N, 3, 8, 8], outputs [N, 5]."""
    node = helper.make_node
    body = [
        node("Conv", ["x", "stem.conv.weight"], ["c"], name="stem", pads=[1, 1, 1, 1]),
        node("BatchNormalization", ["c", "bn.weight", "bn.bias", "bn.mean", "bn.var"], ["b"], name="bn"),
        node("Relu", ["b"], ["r"], name="relu"),
        node("Conv", ["r", "/blocks.0/conv:weight", "/blocks.0/conv:bias"], ["d"], strides=[2, 2]),
        node("GlobalAveragePool", ["d"], ["p"]),
        node("Flatten", ["p"], ["f"]),
        node("Gemm", ["f", "head.weight", "head.bias"], ["y"], transB=1),
    ]
    values = {
        "stem.conv.weight": draw(6, 3, 3, 3, seed=1),
        "bn.weight": draw(6, seed=2),
        "bn.bias": draw(6, seed=3),
        "bn.mean": draw(6, seed=4),
        "bn.var": np.abs(draw(6, seed=5)) + 0.5,
        "/blocks.0/conv:weight": draw(4, 6, 3, 3, seed=6),
        "/blocks.0/conv:bias": draw(4, seed=7),
        "head.weight": draw(5, 4, seed=8),
        "head.bias": draw(5, seed=9),
    }
    if gated:
        values |= {"gate/stem": np.array([1, -1, 0.5, 2, -0.1, 3], np.float32), "layout": np.array([6, 1, 1])}
        gate = [
            node("Reshape", ["gate/stem", "layout"], ["w"]),
            node("Gate", ["r", "w"], ["g"], name="gate", domain="onnxprune", to=1),
        ]
        body[3].input[0] = "g"
        body[3:3] = gate
    functions = [gate_function()] if gated else []
    return model(body, {"x": ["N", 3, 8, 8]}, ["y"], values, functions=functions)
