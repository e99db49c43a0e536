"""Gates folded into weights change how fast a net runs, and nothing else."""

import numpy as np
import onnx
import pytest
import torch
from small import draw, gate_function

from onnxprune import to_torch
from onnxprune.methods.gate import gate
from onnxprune.to_torch.ops.gate import FoldedGate, Gate


def gated(nodes, arrays, shape):
    """x -> Gate by `w` -> `nodes` -> y."""
    make = onnx.helper.make_node
    value = onnx.helper.make_tensor_value_info
    first = make("Gate", ["x", "w"], ["g"], domain="onnxprune", to=1)
    initializers = [onnx.numpy_helper.from_array(v.astype(np.float32), k) for k, v in arrays.items()]
    ends = [value("x", 1, ["N", *shape[1:]])], [value("y", 1, None)]
    graph = onnx.helper.make_graph([first, *nodes], "g", *ends, initializers)
    opsets = [onnx.helper.make_opsetid("", 18), onnx.helper.make_opsetid("onnxprune", 1)]
    return onnx.helper.make_model(graph, opset_imports=opsets, functions=[gate_function()], ir_version=8)


NODE = onnx.helper.make_node
CASES = {
    "Conv": ([NODE("Conv", ["g", "v"], ["y"])], (5, 4, 3, 3), (4, 1, 1), (2, 4, 6, 6)),
    "grouped Conv": ([NODE("Conv", ["g", "v"], ["y"], group=2)], (6, 2, 3, 3), (4, 1, 1), (2, 4, 6, 6)),
    "depthwise Conv": ([NODE("Conv", ["g", "v"], ["y"], group=4)], (8, 1, 3, 3), (4, 1, 1), (2, 4, 6, 6)),
    "Conv of one axis": ([NODE("Conv", ["g", "v"], ["y"])], (5, 4, 3), (4, 1), (2, 4, 6)),
    "ConvTranspose": ([NODE("ConvTranspose", ["g", "v"], ["y"])], (4, 5, 3, 3), (4, 1, 1), (2, 4, 6, 6)),
    "grouped ConvTranspose": (
        [NODE("ConvTranspose", ["g", "v"], ["y"], group=2)], (4, 3, 3, 3), (4, 1, 1), (2, 4, 6, 6),
    ),
    "Gemm": ([NODE("Gemm", ["g", "v"], ["y"])], (4, 5), (4,), (2, 4)),
    "Gemm transB": ([NODE("Gemm", ["g", "v"], ["y"], transB=1)], (5, 4), (1, 4), (2, 4)),
    "MatMul": ([NODE("MatMul", ["g", "v"], ["y"])], (4, 5), (4,), (2, 3, 4)),
    "MatMul of a batch of weights": ([NODE("MatMul", ["g", "v"], ["y"])], (3, 4, 5), (4,), (2, 3, 6, 4)),
    "MatMul of a weight on the left": ([NODE("MatMul", ["v", "g"], ["y"])], (5, 4), (4, 1), (2, 4, 3)),
    "a transposed weight": (
        [NODE("Transpose", ["v"], ["t"], perm=[1, 0]), NODE("MatMul", ["g", "t"], ["y"])], (5, 4), (4,), (2, 3, 4),
    ),
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
}  # fmt: skip
LEFT = {
    "another axis": ([NODE("Conv", ["g", "v"], ["y"])], (5, 4, 3, 3), (6, 1), (2, 4, 6, 6)),
    "both axes": ([NODE("Conv", ["g", "v"], ["y"])], (5, 4, 3, 3), (4, 6, 1), (2, 4, 6, 6)),
    "another axis of the second operand": ([NODE("MatMul", ["v", "g"], ["y"])], (5, 4), (3,), (2, 4, 3)),
    "a product with itself": ([NODE("MatMul", ["g", "g"], ["y"])], (1,), (4,), (2, 4, 4)),
    "a product of activations": (
        [NODE("Transpose", ["x"], ["t"], perm=[0, 2, 1]), NODE("MatMul", ["g", "t"], ["y"])],
        (1,), (4,), (2, 4, 4),
    ),
    "a reader without weight": (
        [NODE("Conv", ["g", "v"], ["a"]), NODE("Mul", ["a", "g"], ["y"])],
        (4, 4, 1, 1),
        (4, 1, 1),
        (2, 4, 6, 6),
    ),
}  # fmt: skip


def kinds(module):
    return {type(m) for m in module.modules()} & {Gate, FoldedGate}


def put_gates(module, *, on_weights):
    """Whatever has fewer entries."""
    for part in module.modules():
        if isinstance(part, Gate) and part.weights_instead is not None:
            part.weights_instead = 0 if on_weights else 10**9
        elif isinstance(part, FoldedGate):
            part.weights = 0 if on_weights else 10**9


@pytest.mark.parametrize("on_weights", [True, False], ids=["on weights", "on activations"])
@pytest.mark.parametrize("value", [None, gate, torch.sigmoid], ids=["default", "trained", "soft"])
@pytest.mark.parametrize("name", [*CASES, *LEFT])
def test_outputs_and_gradients_stay(name, value, on_weights):
    nodes, weight, latent, shape = (CASES | LEFT)[name]
    w = np.where(draw(*latent, seed=3) > 0, 0.1, -0.1)
    assert len(np.unique(w)) == 2
    model = gated(nodes, {"v": draw(*weight), "w": w}, shape)
    folded = to_torch.load(model, gate_value=value)
    plain = to_torch.load(model, gate_value=value, fuse=False)
    assert kinds(folded) == ({Gate, FoldedGate} if name in CASES else {Gate})
    put_gates(folded, on_weights=on_weights)
    assert kinds(plain) == {Gate}
    x, gradients = torch.from_numpy(draw(*shape, seed=5)), []
    for module in (plain, folded):
        given = x.clone().requires_grad_()
        module(given).square().sum().backward()
        gradients.append(given.grad)
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(folded(x), plain(x), rtol=1e-4, atol=1e-5)
    for key, parameter in plain.named_parameters():
        torch.testing.assert_close(folded.get_parameter(key).grad, parameter.grad, rtol=1e-4, atol=1e-4)
    assert to_torch.write_back(folded, model).SerializeToString() == model.SerializeToString()


def test_gates_are_where_there_are_fewer_entries():
    made = gated([NODE("Gemm", ["g", "v"], ["y"], transB=1)], {"v": draw(8, 4), "w": np.ones((1, 4))}, ("N", 4))
    module = to_torch.load(made)
    (gate_before,) = [m for m in module.modules() if isinstance(m, Gate)]
    (gate_within,) = [m for m in module.modules() if isinstance(m, FoldedGate)]
    weight, w = module.get_parameter("v"), module.get_parameter("w")
    for rows, on_activations in ((8, True), (9, False)):
        x = torch.ones(rows, 4)
        assert (gate_before(x, w) is not x) == on_activations
        assert (gate_within(weight, w, x) is weight) == on_activations


def test_exported_for_all_sizes_gates_are_on_activations():
    made = gated([NODE("Gemm", ["g", "v"], ["y"], transB=1)], {"v": draw(8, 4), "w": np.ones((1, 4))}, ("N", 4))
    module = to_torch.load(made)
    sizes = ({0: torch.export.Dim("rows", min=1, max=64)},)
    program = torch.export.export(module, (torch.ones(3, 4),), dynamic_shapes=sizes)
    x = torch.from_numpy(draw(20, 4))
    torch.testing.assert_close(program.module()(x), module(x))


def test_a_folded_linear_map_takes_its_bias_along():
    nodes = [NODE("MatMul", ["g", "v"], ["m"]), NODE("Add", ["m", "b"], ["y"])]
    arrays = {"v": draw(4, 5), "b": draw(5), "w": np.array([1, -1, 1, -1])}
    module = to_torch.load(gated(nodes, arrays, (2, 3, 4)))
    names = [n.target.__name__ for n in module.graph.nodes if n.op == "call_function"]
    assert names == ["t", "linear"]
