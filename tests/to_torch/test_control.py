"""Control flow, with weights inside and around the bodies, against onnxruntime."""

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper, parser
from small import Array, draw, in_onnxruntime, in_torch

from onnxprune.to_torch import load, write_back

BRANCHES = """
<ir_version: 8, opset_import: ["" : 17]>
branches (float[N,3] x, bool c) => (float[N,K] y)
<float[3,4] outer> {
    h = MatMul(x, outer)
    y = If (c) <
        then_branch = one () => (float[N,4] a) <float[4] weight = {1.0, 2.0, 3.0, 4.0}> { a = Mul(h, weight) },
        else_branch = two () => (float[N,4] b) <float[4] weight = {5.0, 6.0, 7.0, 8.0}> {
            r = Relu(h)
            b = Add(r, weight)
        }>
}
"""
LOOP = """
<ir_version: 8, opset_import: ["" : 17]>
loop (float[2,3] x, int64 trips, bool go) => (float[2,3] last, float[T,2,3] all)
<float[3,3] w> {
    last, all = Loop (trips, go, x) <
        body = step (int64 i, bool c, float[2,3] v) => (bool on, float[2,3] u, float[2,3] o) {
        m = MatMul(v, w)
        u = Tanh(m)
        f = Cast<to = 1>(i)
        o = Add(u, f)
        s = ReduceSum<keepdims = 0>(u)
        limit = Constant<value_float = -100.0>()
        on = Greater(s, limit)
    }>
}
"""
SCAN = """
<ir_version: 8, opset_import: ["" : 17]>
scan (float[2] first, float[2,T] xs) => (float[2] total, float[T,2] ys) <float[2] w> {
    total, ys = Scan<num_scan_inputs = 1, scan_input_axes = [1], scan_input_directions = [1],
                     scan_output_directions = [1],
        body = step (float[2] s, float[2] v) => (float[2] t, float[2] y) {
            p = Mul(v, w)
            t = Add(s, p)
            y = Identity(t)
        }>(first, xs)
}
"""


def parsed(text: str, **values: Array) -> onnx.ModelProto:
    """The model with these values for the initializers that the text only declares."""
    model = parser.parse_model(text)
    for name, value in values.items():
        model.graph.initializer.append(numpy_helper.from_array(value, name))
    for declared in [v for v in model.graph.value_info if v.name in values]:
        model.graph.value_info.remove(declared)
    return model


@pytest.mark.parametrize("condition", [True, False])
def test_one_branch_or_the_other_is_taken(condition: bool) -> None:
    model = parsed(BRANCHES, outer=draw(3, 4, seed=1))
    inputs = draw(2, 3), np.array(condition)
    np.testing.assert_allclose(in_torch(load(model), *inputs)[0], in_onnxruntime(model, *inputs)[0], rtol=1e-5)


def test_weights_of_both_branches_train_and_go_back_where_they_were() -> None:
    model = parsed(BRANCHES, outer=draw(3, 4, seed=1))
    module = load(model)
    assert set(dict(module.named_parameters())) == {"outer", "weight", "weight#2"}
    assert write_back(module, model) == model
    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    module(torch.ones(1, 3), torch.tensor(False)).sum().backward()
    optimizer.step()
    written = write_back(module, model)
    one, two = (a.g.initializer[0] for a in written.graph.node[-1].attribute)
    assert numpy_helper.to_array(one).tolist() == [1, 2, 3, 4]
    np.testing.assert_allclose(numpy_helper.to_array(two), np.array([5, 6, 7, 8]) - 0.1, rtol=1e-6)
    x, condition = draw(2, 3), np.array(False)
    ours, theirs = in_torch(module, x, condition)[0], in_onnxruntime(written, x, condition)[0]
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def test_a_known_condition_leaves_one_branch_in_the_graph() -> None:
    model = parsed(BRANCHES, outer=draw(3, 4, seed=1), c=np.array(True))
    del model.graph.input[1]
    module = load(model)
    assert not [node for node in module.graph.nodes if node.op == "call_module"]
    np.testing.assert_allclose(in_torch(module, draw(2, 3))[0], in_onnxruntime(model, draw(2, 3))[0], rtol=1e-5)


def test_a_condition_on_sizes_compiles_in_one_piece() -> None:
    text = BRANCHES.replace("(float[N,3] x, bool c)", "(float[N,3] x)").replace(
        "h = MatMul", "s = Shape(x)\n n = Gather(s, zero)\n c = Equal(n, two)\n h = MatMul"
    )
    model = parsed(text, outer=draw(3, 4, seed=1), zero=np.array(0), two=np.array(2))
    compiled = torch.compile(load(model), backend="eager", fullgraph=True)
    for rows in (2, 3):
        np.testing.assert_allclose(
            in_torch(compiled, draw(rows, 3))[0], in_onnxruntime(model, draw(rows, 3))[0], rtol=1e-5
        )


@pytest.mark.parametrize(("trips", "go"), [(3, True), (1, True), (4, False)])
def test_a_loop_carries_and_stacks(trips: int, go: bool) -> None:
    model = parsed(LOOP, w=draw(3, 3, seed=2))
    inputs = draw(2, 3), np.array(trips), np.array(go)
    ours, theirs = in_torch(load(model), *inputs), in_onnxruntime(model, *inputs)
    np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-5)
    assert len(ours[1]) == len(theirs[1])
    if len(theirs[1]):
        np.testing.assert_allclose(ours[1], theirs[1], rtol=1e-5)


def test_gradients_come_back_through_every_trip_of_a_loop() -> None:
    module = load(parsed(LOOP, w=draw(3, 3, seed=2)))
    x = torch.from_numpy(draw(2, 3))
    module(x, torch.tensor(3), torch.tensor(True))[0].sum().backward()
    w = torch.from_numpy(draw(3, 3, seed=2)).requires_grad_()
    torch.tanh(torch.tanh(torch.tanh(x @ w) @ w) @ w).sum().backward()
    torch.testing.assert_close(module.get_parameter("w").grad, w.grad)


def test_a_loop_of_known_length_without_a_break_exports() -> None:
    text = LOOP.replace("on = Greater(s, limit)", "on = Identity(c)")
    model = parsed(text, w=draw(3, 3, seed=2), trips=np.array(3), go=np.array(True))
    del model.graph.input[1:]
    module, x = load(model), torch.from_numpy(draw(2, 3))
    program = torch.export.export(module, (x,))
    torch.testing.assert_close(program.module()(x), module(x))


def test_a_scan_runs_along_its_axes_and_backwards() -> None:
    model = parsed(SCAN, w=draw(2, seed=3))
    inputs = draw(2), draw(2, 5, seed=4)
    for ours, theirs in zip(in_torch(load(model), *inputs), in_onnxruntime(model, *inputs), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def test_normalisation_in_a_branch_follows_its_batches() -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    norm (float[N,2] x, bool c) => (float[N,2] y) <float[2] scale, float[2] bias, float[2] mean, float[2] var> {
        y = If (c) <
            then_branch = one () => (float[N,2] a) { a = BatchNormalization(x, scale, bias, mean, var) },
            else_branch = two () => (float[N,2] b) { b = Identity(x) }>
    }"""
    model = parsed(text, scale=draw(2), bias=draw(2, seed=1), mean=draw(2, seed=2), var=np.ones(2, np.float32))
    module, x = load(model).train(), torch.from_numpy(draw(8, 2, seed=5))
    module(x, torch.tensor(True))
    expected = 0.9 * torch.from_numpy(draw(2, seed=2)) + 0.1 * x.mean(0)
    torch.testing.assert_close(module.get_buffer("mean"), expected)


def test_what_cannot_be_converted_within_bodies_is_named_too() -> None:
    from onnxprune.errors import ConversionError

    model = parsed(BRANCHES, outer=draw(3, 4, seed=1))
    model.graph.node[-1].attribute[0].g.node[0].op_type = "Frobnicate"
    model.graph.node[0].op_type = "Quux"
    with pytest.raises(ConversionError, match=r"2 nodes .*'h' \(Quux-17.*'a' \(Frobnicate-17"):
        load(model)


def test_a_branch_never_taken_may_be_wrong() -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    wrong (float[2,3] x, bool c) => (float y) <int64[2] five = {5, 5}, float[4] four = {1.0, 2.0, 3.0, 4.0}> {
        y = If (c) <
            then_branch = one () => (float a) { r = Reshape(four, five)  a = ReduceSum<keepdims = 0>(r) },
            else_branch = two () => (float b) { b = ReduceSum<keepdims = 0>(x) }>
    }"""
    assert float(load(parsed(text))(torch.ones(2, 3), torch.tensor(False))) == 6


def test_bodies_are_fused_as_well() -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    silu (float[2,3] x, bool c) => (float[2,3] y) {
        y = If (c) <
            then_branch = one () => (float[2,3] a) { s = Sigmoid(x)  a = Mul(x, s) },
            else_branch = two () => (float[2,3] b) { b = Neg(x) }>
    }"""
    module, x = load(parsed(text)), torch.from_numpy(draw(2, 3))
    calls = [n.target for m in module.modules() if isinstance(m, torch.fx.GraphModule) for n in m.graph.nodes]
    assert torch.nn.functional.silu in calls
    torch.testing.assert_close(module(x, torch.tensor(True)), torch.nn.functional.silu(x))
