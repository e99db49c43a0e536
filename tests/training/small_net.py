"""A small gated net, written node by node as `onnxprune gate` would write it."""

import numpy as np
import onnx

SIZES = {"a": 24, "b": 40}


def gate_function():
    make = onnx.helper.make_node
    cast = make("Cast", ["open"], ["mask"])
    cast.attribute.add(name="to", ref_attr_name="to", type=onnx.AttributeProto.INT)
    zero = onnx.numpy_helper.from_array(np.float32(0), "zero")
    nodes = [
        make("Constant", [], ["zero"], value=zero),
        make("Greater", ["w", "zero"], ["open"]),
        cast,
        make("Mul", ["x", "mask"], ["y"]),
    ]
    opset = [onnx.helper.make_opsetid("", 18)]
    return onnx.helper.make_function("onnxprune", "Gate", ["x", "w"], ["y"], nodes, opset, attributes=["to"])


def gated_cnn(classes: int = 3, softmax: bool = False) -> onnx.ModelProto:
    """Two convolutions with BatchNorm and a linear layer, (n, 1, 8, 8) -> (n, classes); random weights.

    One channel of the first convolution is in no group: its part of the laid out gate is a constant 1.
    """
    rng, make = np.random.default_rng(0), onnx.helper.make_node
    a, b = SIZES.values()
    arrays = {
        "conv1.weight": rng.normal(0, 0.5, (a + 1, 1, 3, 3)),
        "conv2.weight": rng.normal(0, 0.1, (b, a + 1, 3, 3)),
        "linear.weight": rng.normal(0, 0.2, (classes, b)),
        "linear.bias": np.zeros(classes),
        **{f"bn{i}.{part}": np.full(n, part in ("scale", "var"), float)
           for i, n in ((1, a + 1), (2, b)) for part in ("scale", "bias", "mean", "var")},
        "gate/a": np.ones(a), "gate/b": np.ones(b), "gate/layout/open": np.ones(1),
    }  # fmt: skip
    nodes = [
        make("Conv", ["x", "conv1.weight"], ["c1"], pads=[1, 1, 1, 1]),
        make("BatchNormalization", ["c1", "bn1.scale", "bn1.bias", "bn1.mean", "bn1.var"], ["n1"]),
        make("Relu", ["n1"], ["r1"]),
        make("Concat", ["gate/a", "gate/layout/open"], ["all"], axis=0),
        make("Reshape", ["all", "laid_out"], ["wa"]),
        make("Gate", ["r1", "wa"], ["g1"], domain="onnxprune", to=1),
        make("Conv", ["g1", "conv2.weight"], ["c2"], pads=[1, 1, 1, 1]),
        make("BatchNormalization", ["c2", "bn2.scale", "bn2.bias", "bn2.mean", "bn2.var"], ["n2"]),
        make("Relu", ["n2"], ["r2"]),
        make("GlobalMaxPool", ["r2"], ["p"]),
        make("Flatten", ["p"], ["f"]),
        make("Gate", ["f", "gate/b"], ["g2"], domain="onnxprune", to=1),
        make("Gemm", ["g2", "linear.weight", "linear.bias"], ["logits"], transB=1),
        *([make("Softmax", ["logits"], ["probabilities"], axis=1)] if softmax else []),
    ]
    initializers = [onnx.numpy_helper.from_array(v.astype(np.float32), k) for k, v in arrays.items()]
    initializers.append(onnx.numpy_helper.from_array(np.asarray([1, a + 1, 1, 1]), "laid_out"))
    value = onnx.helper.make_tensor_value_info
    output = value("probabilities" if softmax else "logits", onnx.TensorProto.FLOAT, ["n", classes])
    graph = onnx.helper.make_graph(
        nodes, "toy", [value("x", onnx.TensorProto.FLOAT, ["n", 1, 8, 8])], [output], initializers
    )
    opsets = [onnx.helper.make_opsetid("", 18), onnx.helper.make_opsetid("onnxprune", 1)]
    return onnx.helper.make_model(graph, opset_imports=opsets, functions=[gate_function()], ir_version=8)


def small_model() -> onnx.ModelProto:
    """The same net without gates, all of whose channels can be pruned."""
    gated = gated_cnn()
    nodes = [node for node in gated.graph.node if node.op_type != "Gate" and "gate/a" not in node.input]
    nodes = [node for node in nodes if "all" not in node.input]
    for node in nodes:
        for place, name in enumerate(node.input):
            node.input[place] = {"g1": "r1", "g2": "f"}.get(name, name)
    weights = [w for w in gated.graph.initializer if not w.name.startswith("gate/") and w.name != "laid_out"]
    graph = onnx.helper.make_graph(nodes, "toy", gated.graph.input, gated.graph.output, weights)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=8)
