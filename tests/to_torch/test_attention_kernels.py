"""What the specification's cases do not ask of attention: gradients, compilation and PyTorch's own kernel."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from onnx import helper, numpy_helper
from torch import Tensor

from onnxprune.to_torch import load
from onnxprune.to_torch.ops.attention import attention
from onnxprune.to_torch.ops.linear_attention import linear_attention
from onnxprune.to_torch.ops.rotary import rotary_embedding


def operand(heads: int, length: int, size: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(2, heads, length, size, dtype=dtype, generator=torch.Generator().manual_seed(seed))


Q, K, V = operand(4, 3, 8, 0), operand(2, 5, 8, 1), operand(2, 5, 6, 2)
MASK = torch.tensor([[1, 0, 1, 1, 0], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]], dtype=torch.bool)
FORMS: list[dict[str, Any]] = [
    {},
    {"is_causal": 1},
    {"mask": MASK},
    {"mask": torch.linspace(-1, 1, 15, dtype=torch.float64).reshape(3, 5)},
    {"valid": torch.tensor([4, 5])},
    {"is_causal": 1, "mask": MASK, "left_window_size": 1},
    {"is_causal": 1, "past_key": operand(2, 2, 8, 3), "past_value": operand(2, 2, 6, 4)},
    {"softcap": 2.0, "scale": 0.3},
]


@pytest.mark.parametrize("form", FORMS, ids="-".join)
def test_gradients_flow_to_all_three_operands(form: dict[str, Any]) -> None:
    operands = [x.clone().requires_grad_() for x in (Q, K, V)]
    assert torch.autograd.gradcheck(lambda q, k, v: attention(q, k, v, **form), operands)


@pytest.mark.parametrize("form", FORMS[:-1], ids="-".join)
def test_the_kernel_and_the_formula_agree(form: dict[str, Any]) -> None:
    fused = attention(Q, K, V, **form, n_outputs=3)
    written = attention(Q, K, V, **form, n_outputs=4)
    for ours, theirs in zip(fused, written, strict=False):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("form", FORMS, ids="-".join)
def test_it_compiles_as_one_graph(form: dict[str, Any]) -> None:
    compiled = torch.compile(lambda q, k, v: attention(q, k, v, **form), fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(Q, K, V), attention(Q, K, V, **form))


def test_causal_attention_is_the_kernel_without_a_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    kernel = F.scaled_dot_product_attention

    def spy(*operands: Any, **options: Any) -> Tensor:
        seen.append(operands[3:])
        return kernel(*operands, **options)

    monkeypatch.setattr(F, "scaled_dot_product_attention", spy)
    attention(Q, K, V, is_causal=1)
    attention(Q[:, :, :1], K[:, :, :1], V[:, :, :1], is_causal=1, past_key=K, past_value=V)
    assert seen == [(None, 0.0, True), (None, 0.0, False)]


def test_rows_without_a_key_give_zeros_and_finite_gradients() -> None:
    q = Q.clone().requires_grad_()
    for outputs in (1, 4):
        y = attention(q, K, V, MASK, n_outputs=outputs)
        y = y[0] if isinstance(y, tuple) else y
        assert not y[:, :, 1].any()
        (gradient,) = torch.autograd.grad(y.sum(), q)
        assert gradient.isfinite().all()


def test_linear_attention_passes_gradients() -> None:
    flat = [x.transpose(1, 2).flatten(2).float() for x in (Q, K[:, :, :3], V[:, :, :3])]
    operands = [x.requires_grad_() for x in flat]
    y = linear_attention(*operands, update_rule="linear", q_num_heads=4, kv_num_heads=2)
    assert isinstance(y, Tensor)
    assert all(g.isfinite().all() and g.any() for g in torch.autograd.grad(y.square().sum(), operands))


@pytest.mark.parametrize("interleaved", [0, 1])
def test_rotations_keep_lengths_and_pass_gradients(interleaved: int) -> None:
    angle = torch.linspace(0, 3, 12, dtype=torch.float64).reshape(3, 4).expand(2, 3, 4)
    x = Q.clone().requires_grad_()
    turned = rotary_embedding(x, angle.cos(), angle.sin(), interleaved=interleaved)
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))
    assert torch.autograd.gradcheck(
        lambda v: rotary_embedding(v, angle.cos(), angle.sin(), interleaved=interleaved), x
    )


def test_the_tables_of_rotations_do_not_train() -> None:
    ends = [helper.make_tensor_value_info("x", 1, [2, 4, 3, 8]), helper.make_tensor_value_info("p", 7, [2, 3])]
    tables = [numpy_helper.from_array(np.ones((5, 4), np.float32), n) for n in ("cos", "sin")]
    node = helper.make_node("RotaryEmbedding", ["x", "cos", "sin", "p"], ["y"])
    graph = helper.make_graph([node], "g", ends, [helper.make_empty_tensor_value_info("y")], tables)
    module = load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)]))
    assert not list(module.parameters())
    assert set(dict(module.named_buffers())) == {"cos", "sin"}
