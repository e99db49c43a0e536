"""What exporters write out computes the same in one torch function, and is found in what they really write."""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx import helper
from small import Array, draw, in_onnxruntime, in_torch, model
from test_torchvision import export
from torch import fx, nn

from onnxprune.to_torch import load, write_back

Nodes = Sequence[onnx.NodeProto]


def number(value: float, name: str, element: int = onnx.TensorProto.FLOAT) -> onnx.NodeProto:
    return helper.make_node("Constant", [], [name], value=helper.make_tensor("", element, [], [value]))


def text(spelling: str) -> list[onnx.NodeProto]:
    """Nodes from `y = Op(a, b) key=value; ...`; an operand that is a number becomes a Constant."""
    nodes: list[onnx.NodeProto] = []
    for line in spelling.split(";"):
        output, call = (part.strip() for part in line.split("=", 1))
        name, rest = call.split("(")
        operands, attributes = rest.split(")")
        inputs = []
        for operand in (o.strip() for o in operands.split(",")):
            try:
                nodes.append(number(float(operand), f"{output}_{len(nodes)}"))
                inputs.append(nodes[-1].output[0])
            except ValueError:
                inputs.append(operand)
        given = dict(pair.split("=") for pair in attributes.split())
        settings = {key: eval(value) for key, value in given.items()}
        nodes.append(helper.make_node(name.strip(), inputs, [output], **settings))
    return nodes


def calls(module: fx.GraphModule) -> Counter[str]:
    return Counter(n.target.__name__ for n in module.graph.nodes if n.op == "call_function")


def check(
    nodes: Nodes,
    shape: Sequence[int],
    *functions: str,
    held: Mapping[str, Array] | None = None,
    opset: int = 17,
    scale: float = 2.0,
) -> None:
    """`functions` are what is left; outputs are onnxruntime's, gradients those of the module as it was written."""
    made = model(nodes, {"x": ["N", *shape[1:]]}, ["y"], held, opset=opset)
    fused, plain = load(made), load(made, fuse=False)
    assert sorted(calls(fused).elements()) == sorted(functions)
    x = draw(*shape) * np.float32(scale)
    (expected,) = in_onnxruntime(made, x)
    np.testing.assert_allclose(in_torch(fused, x)[0], expected, rtol=1e-5, atol=2e-6 * np.abs(expected).max())
    gradients = []
    for module in (fused, plain):
        given = torch.from_numpy(x).requires_grad_()
        weight = torch.from_numpy(draw(*expected.shape, seed=7))
        (module(given) * weight).sum().backward()
        named = {name: p.grad for name, p in module.named_parameters()}
        gradients.append({"x": given.grad} | named)
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=2e-5)
    assert write_back(fused, made) == made


ACTIVATIONS = {
    "gelu, torchscript": (
        "d = Div(x, 1.4142135381698608); e = Erf(d); p = Add(e, 1); m = Mul(x, p); y = Mul(m, 0.5)", "gelu",
    ),
    "gelu, half first": (
        "d = Mul(x, 0.7071067811865476); e = Erf(d); p = Add(1, e); h = Mul(0.5, x); y = Mul(h, p)", "gelu",
    ),
    "gelu, half of the sum": (
        "d = Mul(0.70710678, x); e = Erf(d); p = Add(e, 1); h = Mul(p, 0.5); y = Mul(x, h)", "gelu",
    ),
    "tanh gelu, power": (
        "c = Pow(x, 3); a = Mul(c, 0.044715); s = Add(x, a); t = Mul(s, 0.7978845608028654); h = Tanh(t); "
        "p = Add(h, 1); f = Mul(x, 0.5); y = Mul(f, p)", "gelu",
    ),
    "tanh gelu, products": (
        "b = Mul(x, x); c = Mul(b, x); a = Mul(0.044715, c); s = Add(x, a); t = Mul(0.7978845608028654, s); "
        "h = Tanh(t); p = Add(1, h); f = Mul(x, p); y = Mul(f, 0.5)", "gelu",
    ),
    "tanh gelu, x outside": (
        "t = Mul(x, 0.7978845608028654); k = Mul(x, 0.044715); q = Mul(k, x); o = Add(q, 1); r = Mul(t, o); "
        "h = Tanh(r); p = Add(h, 1); f = Mul(x, 0.5); y = Mul(f, p)", "gelu",
    ),
    "silu": ("s = Sigmoid(x); y = Mul(x, s)", "silu"),
    "mish": ("s = Softplus(x); t = Tanh(s); y = Mul(x, t)", "mish"),
    "hard sigmoid": ("y = HardSigmoid(x) alpha=0.16666667163372 beta=0.5", "hardsigmoid"),
    "hard swish": ("s = HardSigmoid(x) alpha=0.16666667163372 beta=0.5; y = Mul(s, x)", "hardswish"),
    "hard swish by relu6": ("p = Add(x, 3); c = Clip(p, 0, 6); m = Mul(x, c); y = Div(m, 6)", "hardswish"),
    "hard sigmoid by relu6": ("p = Add(x, 3); c = Clip(p, 0, 6); y = Div(c, 6)", "hardsigmoid"),
    "hard swish by a quotient": ("p = Add(x, 3); c = Clip(p, 0, 6); q = Div(c, 6); y = Mul(x, q)", "hardswish"),
    "relu6": ("y = Clip(x, 0, 6)", "hardtanh"),
}  # fmt: skip


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(name: str) -> None:
    spelling, function = ACTIVATIONS[name]
    check(text(spelling), (3, 40), function if function != "hardtanh" else "relu6", scale=3.0)


NOT_QUITE = {
    "gelu of another x": "d = Div(z, 1.4142135); e = Erf(d); p = Add(e, 1); m = Mul(x, p); y = Mul(m, 0.5)",
    "another number": "d = Div(x, 1.5); e = Erf(d); p = Add(e, 1); m = Mul(x, p); y = Mul(m, 0.5)",
    "a second reader": "s = Sigmoid(x); m = Mul(x, s); y = Add(m, s)",
    "silu of a multiple": "k = Mul(x, 1.702); s = Sigmoid(k); y = Mul(x, s)",
    "other bounds": "y = Clip(x, 0, 5)",
    "a variance about another mean": (
        "m = ReduceMean(x) axes=[-1]; d = Sub(x, m); q = Mul(x, x); v = ReduceMean(q) axes=[-1]; "
        "e = Add(v, 0.01); r = Sqrt(e); y = Div(d, r)"
    ),
    "a mean over the first axis": (
        "q = Mul(x, x); v = ReduceMean(q) axes=[0]; e = Add(v, 0.01); r = Sqrt(e); y = Div(x, r)"
    ),
    "integer numbers": "i = Cast(x) to=7; k = Clip(i, l, u); y = Cast(k) to=1",
    "a softmax over rows": "t = Transpose(x); s = MatMul(x, t); a = Softmax(s) axis=0; y = MatMul(a, x)",
}


@pytest.mark.parametrize("name", NOT_QUITE)
def test_what_only_looks_alike_stays(name: str) -> None:
    held = {"z": draw(3, 40, seed=3), "l": np.array(0), "u": np.array(6)}
    spelling = NOT_QUITE[name]
    used = {n: v for n, v in held.items() if f"({n}," in spelling or f" {n}," in spelling or f" {n})" in spelling}
    made = model(text(spelling), {"x": ["N", 40]}, ["y"], used)
    fused, plain = load(made), load(made, fuse=False)
    assert calls(fused) == calls(plain)


CENTRED = (
    "m = ReduceMean(x) axes=[-1]; d = Sub(x, m); q = Pow(d, 2); v = ReduceMean(q) axes=[-1]; "
    "e = Add(v, 1e-5); r = Sqrt(e); "
)
MEAN_SQUARE = "q = Pow(x, 2); v = ReduceMean(q) axes=[-1]; e = Add(v, 1e-6); r = Sqrt(e); "
NORMS = {
    "layer norm": (CENTRED + "n = Div(d, r); s = Mul(n, w); y = Add(s, b)", "layer_norm"),
    "layer norm without a shift": (CENTRED + "n = Div(d, r); y = Mul(w, n)", "layer_norm"),
    "plain layer norm": (CENTRED + "y = Div(d, r)", "layer_norm"),
    "layer norm by a reciprocal": (
        CENTRED + "i = Reciprocal(r); n = Mul(d, i); s = Mul(n, w); y = Add(b, s)", "layer_norm",
    ),
    "layer norm of two differences": (
        CENTRED.replace("q = Pow(d, 2)", "f = Sub(x, m); q = Mul(f, f)")
        + "n = Div(d, r); s = Mul(n, w); y = Add(s, b)",
        "layer_norm",
    ),
    "RMS norm": (MEAN_SQUARE + "n = Div(x, r); y = Mul(n, w)", "rms_norm"),
    "RMS norm by a reciprocal": (MEAN_SQUARE + "i = Reciprocal(r); n = Mul(x, i); y = Mul(w, n)", "rms_norm"),
    "RMS norm by a quotient": (MEAN_SQUARE + "i = Div(1, r); n = Mul(x, i); y = Mul(w, n)", "rms_norm"),
}  # fmt: skip


@pytest.mark.parametrize("name", NORMS)
def test_norms(name: str) -> None:
    spelling, function = NORMS[name]
    held = {"w": draw(40, seed=1) + 2, "b": draw(40, seed=2)}
    used = {n: v for n, v in held.items() if f"{n})" in spelling or f"({n}," in spelling}
    check(text(spelling), (3, 5, 40), function, held=used)


@pytest.mark.parametrize("width", [40, 1])
@pytest.mark.parametrize("norm", ["layer norm", "RMS norm"])
def test_norms_of_open_sizes(norm: str, width: int) -> None:
    spelling, function = NORMS[norm]
    held = {"w": draw(40, seed=1) + 2} | ({"b": draw(40, seed=2)} if norm == "layer norm" else {})
    made = model(text(spelling), {"x": ["N", 5, "W"]}, ["y"], held)
    module = load(made)
    assert list(calls(module)) == [f"{function}_over"]
    x = draw(3, 5, width)
    expected = in_torch(load(made, fuse=False), x)[0]  # onnxruntime's own fusion stops at one that widens x
    np.testing.assert_allclose(in_torch(module, x)[0], expected, rtol=1e-4, atol=1e-5)


def test_a_layer_norm_over_two_axes() -> None:
    spelling = CENTRED.replace("[-1]", "[-2,-1]") + "n = Div(d, r); s = Mul(n, w); y = Add(s, b)"
    held = {"w": draw(5, 8, seed=1) + 2, "b": draw(5, 8, seed=2)}
    check(text(spelling), (3, 5, 8), "layer_norm", held=held)


GROUPED = "i = Reshape(x, s); n = InstanceNormalization(i, one, zero) epsilon=1e-3; h = Shape(x); r = Reshape(n, h); "


def groups(**others: Array) -> dict[str, Array]:
    return {"s": np.array([0, 2, -1]), "one": np.ones(2, np.float32), "zero": np.zeros(2, np.float32), **others}


def with_constants(nodes: Nodes, values: Mapping[str, Array]) -> list[onnx.NodeProto]:
    """Exporters write them as Constant nodes; initializers of ones would train."""
    made = [helper.make_node("Constant", [], [n], value=onnx.numpy_helper.from_array(v)) for n, v in values.items()]
    return [*made, *nodes]


@pytest.mark.parametrize("opset", [11, 17])
def test_a_group_norm_as_torchscript_writes_it(opset: int) -> None:
    held = {"w": draw(6, 1, 1, seed=1) + 2, "b": draw(6, 1, 1, seed=2)}
    nodes = with_constants(text(GROUPED + "m = Mul(r, w); y = Add(m, b)"), groups())
    check(nodes, (3, 6, 4, 4), "flatten", "flatten", "group_norm", held=held, opset=opset)


def test_a_group_norm_of_trained_groups_stays() -> None:
    made = model(text(GROUPED + "y = Relu(r)"), {"x": ["N", 6, 4, 4]}, ["y"], groups())
    assert calls(load(made))["instance_normalization"] == 1


def test_a_scale_of_another_shape_is_multiplied_afterwards() -> None:
    spelling = CENTRED + "n = Div(d, r); y = Mul(n, w)"
    check(text(spelling), (3, 5, 40), "layer_norm", "mul", held={"w": draw(5, 40, seed=1)})


def test_a_product_and_a_sum_are_linear_on_the_weight_as_it_is_stored() -> None:
    held = {"w": draw(8, 5, seed=1), "b": draw(5, seed=2)}
    check(text("m = MatMul(x, w); y = Add(b, m)"), (3, 4, 8), "linear", "t", held=held)


@pytest.mark.parametrize(("value", "operands"), [(0, 2), (1, 3)])
def test_a_bias_of_zeros_is_none(value: float, operands: int) -> None:
    spelling = f"s = Shape(w) start=0 end=1; b = Expand({value}, s); y = Conv(x, w, b)"
    made = model(text(spelling), {"x": ["N", 3, 6, 6]}, ["y"], {"w": draw(4, 3, 3, 3)}, opset=18)
    (call,) = [n for n in load(made).graph.nodes if "conv" in str(n.target)]
    assert len(call.args) == operands


def test_a_transposed_weight_is_linear_as_in_torch() -> None:
    held = {"w": draw(5, 8, seed=1), "b": draw(5, seed=2)}
    check(text("t = Transpose(w) perm=[1,0]; m = MatMul(x, t); y = Add(m, b)"), (3, 4, 8), "linear", held=held)


def test_a_bias_that_only_broadcasts_is_added_afterwards() -> None:
    held = {"w": draw(8, 5, seed=1), "b": draw(1, seed=2)}
    check(text("m = MatMul(x, w); y = Add(m, b)"), (3, 4, 8), "matmul", "add", held=held)


HEADS = (
    "q = Transpose(x) perm=[0,2,1,3]; k = Transpose(x) perm=[0,2,3,1]; v = Transpose(x) perm=[0,2,1,3]; "
)
ATTENTIONS = {
    "scores divided": "s = MatMul(q, k); c = Div(s, 2.5); a = Softmax(c) axis=-1; y = MatMul(a, v)",
    "queries multiplied": "u = Mul(q, 0.4); s = MatMul(u, k); a = Softmax(s) axis=3; y = MatMul(a, v)",
    "both multiplied": "u = Mul(q, 0.6); l = Mul(k, 0.6); s = MatMul(u, l); a = Softmax(s) axis=-1; y = MatMul(a, v)",
    "a mask": "s = MatMul(q, k); c = Mul(s, 0.4); h = Add(c, mask); a = Softmax(h) axis=-1; y = MatMul(a, v)",
    "a trained mask": "s = MatMul(q, k); c = Mul(s, 0.4); h = Add(bias, c); a = Softmax(h) axis=-1; y = MatMul(a, v)",
    "rows that may be masked whole": (
        "s = MatMul(q, k); c = Add(s, mask); a = Softmax(c) axis=-1; i = IsNaN(a); w = Where(i, 0, a); y = MatMul(w, v)"
    ),
}


MASK = np.where(draw(1, 1, 6, 6, seed=4) > 0.8, -np.inf, 0).astype(np.float32)


@pytest.mark.parametrize("name", ATTENTIONS)
def test_attention(name: str) -> None:
    held = {"mask": MASK, "bias": draw(2, 6, 6, seed=5)}
    used = {n: v for n, v in held.items() if n in ATTENTIONS[name]}
    function = "attend_broadcasting" if used else "scaled_dot_product_attention"
    functions = ["permute", function, "transpose", "transpose"]
    check(text(HEADS + ATTENTIONS[name]), (3, 6, 2, 8), *functions, held=used)


@pytest.mark.parametrize("mask", [(3, 1, 6, 6), (1, 1, 1, 6), (3, 2, 6, 6)])
@pytest.mark.parametrize("batch", [1, 3])
def test_attention_with_a_mask_that_may_be_wider_than_the_scores(batch: int, mask: tuple[int, ...]) -> None:
    nodes = text(HEADS + ATTENTIONS["a mask"])
    made = model(nodes, {"x": ["N", 6, 2, 8], "mask": ["M", "H", "Q", 6]}, ["y"])
    module, inputs = load(made), (draw(batch, 6, 2, 8), draw(*mask, seed=2))
    assert calls(module)["attend_broadcasting"] == 1
    (expected,) = in_onnxruntime(made, *inputs)
    np.testing.assert_allclose(in_torch(module, *inputs)[0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mask", [None, (6, 6), (4, 6, 6), (4, 1, 6), (2, 4, 6, 6)])
def test_attention_of_three_axes(mask: tuple[int, ...] | None) -> None:
    scores = "k = Transpose(x) perm=[0,2,1]; s = MatMul(x, k); c = Mul(s, 0.4); "
    masked = "h = Add(c, mask); a = Softmax(h) axis=-1; " if mask else "a = Softmax(c) axis=-1; "
    held = {"mask": draw(*mask, seed=3)} if mask else {}
    check(text(scores + masked + "y = MatMul(a, x)"), (4, 6, 8), "attend_broadcasting", held=held)


@pytest.mark.slow
def test_attention_with_a_mask_is_the_same_exported_anew() -> None:
    mask = np.where(np.arange(6)[:, None] == 2, -np.inf, MASK).astype(np.float32)
    spelling = HEADS.replace("(x)", "(p)") + ATTENTIONS["rows that may be masked whole"]
    held = {"mask": mask, "weight": draw(8, 8, seed=5)}
    made = model(text("p = MatMul(x, weight); " + spelling), {"x": [3, 6, 2, 8]}, ["y"], held)
    module, x = load(made), torch.from_numpy(draw(3, 6, 2, 8))
    assert module.get_parameter("weight").requires_grad
    anew = torch.onnx.export(torch.export.export(module, (x,)), (x,), dynamo=True, verbose=False)
    (expected,), (exported,) = (in_onnxruntime(m, x.numpy()) for m in (made, anew.model_proto))
    np.testing.assert_allclose(exported, expected, rtol=1e-5, atol=1e-6)


def test_a_softmax_of_an_old_opset_over_several_axes_is_no_attention() -> None:
    spelling = HEADS + "s = MatMul(q, k); a = Softmax(s); y = MatMul(a, v)"
    module = load(model(text(spelling), {"x": ["N", 6, 2, 8]}, ["y"], opset=11))
    assert "scaled_dot_product_attention" not in calls(module)


def test_the_keys_lose_their_transposition() -> None:
    made = model(text(HEADS + ATTENTIONS["scores divided"]), {"x": ["N", 6, 2, 8]}, ["y"])
    module = load(made)
    (call,) = [n for n in module.graph.nodes if n.target is F.scaled_dot_product_attention]
    assert call.args[1].target is torch.permute
    assert call.args[1].args == (call.args[0].args[0], [0, 2, 1, 3])
    assert call.kwargs["scale"] == pytest.approx(0.4)


def test_fusing_leaves_parameters_and_names_as_they_are() -> None:
    held = {"w": draw(8, 5, seed=1), "b": draw(5, seed=2)}
    made = model(text("m = MatMul(x, w); a = Add(m, b); s = Sigmoid(a); y = Mul(a, s)"), {"x": ["N", 8]}, ["y"], held)
    fused, plain = load(made).state_dict(), load(made, fuse=False).state_dict()
    assert list(fused) == list(plain)
    assert all(torch.equal(fused[name], plain[name]) for name in fused)


def test_one_known_entry_is_a_view() -> None:
    x = torch.from_numpy(draw(3, 4, 5))
    module = load(model(text("y = Gather(x, i) axis=1"), {"x": ["N", 4, 5]}, ["y"], {"i": np.array(-2)}))
    assert module(x).data_ptr() == x[:, 2].data_ptr()


class Block(nn.Module):
    """A transformer layer, as torch has it."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(32) for _ in range(2))
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(32, 64), activation, nn.Linear(64, 32))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.norms[0](x)
        x = x + self.attention(h, h, h, need_weights=False)[0]
        return x + self.mlp(self.norms[1](x))


def block(activation: nn.Module) -> Block:
    """With weights apart from each other: the exporters merge tensors of equal values."""
    torch.manual_seed(0)
    made = Block(activation)
    with torch.no_grad():
        for tensor in made.parameters():
            if tensor.dim() == 1:
                tensor.uniform_(0.5, 1.5)
    return made


@pytest.mark.parametrize("dynamo", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("activation", "function"), [(nn.GELU(), "gelu"), (nn.GELU(approximate="tanh"), "gelu"), (nn.SiLU(), "silu")]
)
def test_a_transformer_as_exported_trains_on_the_functions_it_was_made_of(
    activation: nn.Module, function: str, dynamo: bool
) -> None:
    original, x = block(activation).eval(), torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(1))
    made = export(original, x, dynamo=dynamo)
    imported = load(made)
    found = calls(imported)
    assert (found["layer_norm"], found["scaled_dot_product_attention"], found[function]) == (2, 1, 1)
    assert found["linear"] == 4
    assert not {"softmax", "matmul", "erf", "tanh", "gemm", "sigmoid"} & set(found)
    torch.testing.assert_close(imported(x), original(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("activation", [nn.Hardswish(), nn.Hardsigmoid(), nn.ReLU6(), nn.Mish(), nn.SiLU()])
def test_an_activation_as_exported_is_found(activation: nn.Module) -> None:
    made = export(nn.Sequential(nn.Linear(4, 4), activation), torch.randn(2, 4), dynamo=False)
    assert len(calls(load(made))) == 2
