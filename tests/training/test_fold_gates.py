"""Folding gates into weights changes how fast a net trains, and nothing else."""

import numpy as np
import onnx
import pytest
import torch
from small_net import gate_function, gated_cnn

from onnxprune import to_torch
from onnxprune.methods.tgl import gate
from onnxprune.training.fold_gates import fold_gates


def gated(nodes, arrays, shape):
    """x -> Gate by `w` -> `nodes` -> y."""
    make = onnx.helper.make_node
    value = onnx.helper.make_tensor_value_info
    first = make("Gate", ["x", "w"], ["g"], domain="onnxprune", to=1)
    initializers = [onnx.numpy_helper.from_array(v.astype(np.float32), k) for k, v in arrays.items()]
    ends = [value("x", 1, shape)], [value("y", 1, None)]
    graph = onnx.helper.make_graph([first, *nodes], "g", *ends, initializers)
    opsets = [onnx.helper.make_opsetid("", 18), onnx.helper.make_opsetid("onnxprune", 1)]
    return onnx.helper.make_model(graph, opset_imports=opsets, functions=[gate_function()], ir_version=8)


RNG = np.random.default_rng(0)
NODE = onnx.helper.make_node
CASES = {
    "Conv": ([NODE("Conv", ["g", "v"], ["y"])], (5, 4, 3, 3), (4, 1, 1), (2, 4, 6, 6)),
    "ConvTranspose": ([NODE("ConvTranspose", ["g", "v"], ["y"])], (4, 5, 3, 3), (4, 1, 1), (2, 4, 6, 6)),
    "Gemm": ([NODE("Gemm", ["g", "v"], ["y"])], (4, 5), (4,), (2, 4)),
    "Gemm transB": ([NODE("Gemm", ["g", "v"], ["y"], transB=1)], (5, 4), (1, 4), (2, 4)),
    "MatMul": ([NODE("MatMul", ["g", "v"], ["y"])], (4, 5), (4,), (2, 3, 4)),
    "two readers": (
        [
            NODE("Conv", ["g", "v"], ["a"]),
            NODE("Conv", ["g", "v"], ["b"]),
            NODE("Add", ["a", "b"], ["y"]),
        ],
        (5, 4, 1, 1),
        (1, 4, 1, 1),
        (2, 4, 6, 6),
    ),
}
LEFT = {
    "grouped Conv": ([NODE("Conv", ["g", "v"], ["y"], group=2)], (6, 2, 3, 3), (4, 1, 1), (2, 4, 6, 6)),
    "another axis": ([NODE("Conv", ["g", "v"], ["y"])], (5, 4, 3, 3), (6, 1), (2, 4, 6, 6)),
    "the second operand": ([NODE("MatMul", ["v", "g"], ["y"])], (5, 4), (4, 1), (4, 3)),
    "a reader without weight": (
        [NODE("Conv", ["g", "v"], ["a"]), NODE("Mul", ["a", "g"], ["y"])],
        (4, 4, 1, 1),
        (4, 1, 1),
        (2, 4, 6, 6),
    ),
}


@pytest.mark.parametrize("name", [*CASES, *LEFT])
def test_outputs_and_gradients_stay(name):
    nodes, weight, latent, shape = (CASES | LEFT)[name]
    w = RNG.choice([-0.1, 0.1], latent)
    model = gated(nodes, {"v": RNG.normal(size=weight), "w": w}, shape)
    plain, folded = (to_torch.load(model, gate_value=gate) for _ in range(2))
    x = torch.from_numpy(RNG.normal(size=shape).astype(np.float32))
    assert fold_gates(folded, (x,)) == (name in CASES)
    for module in (plain, folded):
        module(x).square().sum().backward()
    torch.testing.assert_close(folded(x), plain(x))
    for key, parameter in plain.named_parameters():
        torch.testing.assert_close(folded.get_parameter(key).grad, parameter.grad, rtol=1e-4, atol=1e-4)


def test_a_folded_module_is_written_back_alike():
    model = gated_cnn()
    module = to_torch.load(model, gate_value=gate)
    assert fold_gates(module, (torch.zeros(2, 1, 8, 8),)) == 2
    assert to_torch.write_back(module, model).SerializeToString() == model.SerializeToString()
