"""Attention: PyTorch's own kernel wherever it computes the same."""

import torch
import torch.nn.functional as F
from torch import Tensor

from onnxprune.to_torch.operands import dtype_of
from onnxprune.to_torch.registry import converts


@converts("Attention", since=23)
def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    past_key: Tensor | None = None,
    past_value: Tensor | None = None,
    valid: Tensor | None = None,
    *,
    is_causal: int = 0,
    q_num_heads: int | None = None,
    kv_num_heads: int | None = None,
    scale: float | None = None,
    softcap: float = 0.0,
    softmax_precision: int | None = None,
    qk_matmul_output_mode: int = 0,
    left_window_size: int = -1,
    right_window_size: int = -1,
    n_outputs: int = 1,
) -> Tensor | tuple[Tensor, ...]:
    """Operands [batch, heads, length, size] or [batch, length, heads * size]; `valid` keys per batch entry.

    Rows that may attend to nothing give 0.
    """
    flat = q.dim() == 3
    q, k, v = _heads(q, q_num_heads), _heads(k, kv_num_heads), _heads(v, kv_num_heads)
    k = k if past_key is None else torch.cat([past_key, k], 2)
    v = v if past_value is None else torch.cat([past_value, v], 2)
    before: int | Tensor = 0 if past_key is None else past_key.shape[2]
    if past_key is None and valid is not None:
        before = valid.reshape(-1, 1, 1, 1) - q.shape[2]
    right = 0 if is_causal else right_window_size
    scores: Tensor | None = None
    if not softcap and n_outputs < 4 and _internal(q.dtype, softmax_precision):
        causal = bool(is_causal) and mask is valid is past_key is None and left_window_size < 0
        bias = None if causal else _bias(q, k, mask, _window(q, k, before, left_window_size, right), valid)
        y = attend(q, k, v, bias, causal=causal, scale=scale)
    else:
        bias = _bias(q, k, mask, _window(q, k, before, left_window_size, right), valid)
        precision = q.dtype if softmax_precision is None else dtype_of(softmax_precision)
        y, scores = _written_out(q, k, v, bias, scale, softcap, precision, qk_matmul_output_mode)
    y = y.transpose(1, 2).flatten(2) if flat else y
    outputs = (y, k, v) if scores is None else (y, k, v, scores)
    return outputs[:n_outputs] if n_outputs > 1 else y


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None = None,
    *,
    causal: bool = False,
    scale: float | None = None,
) -> Tensor:
    """PyTorch's kernel of attention on [batch, heads, length, size], also where `q` has more heads than `k`.

    Exported, attention with a mask is written out: where weights train, PyTorch 2.15 traces another kernel than it
    then finds, and its exporter to ONNX makes NaN, not 0, of a row that may attend to nothing.
    """
    if bias is not None and torch.compiler.is_exporting():
        precision = torch.promote_types(q.dtype, torch.float32)
        return _written_out(q, k, v, bias, scale, 0.0, precision, 0)[0]
    grouped = q.shape[1] > k.shape[1]
    return F.scaled_dot_product_attention(q, k, v, bias, 0.0, causal, scale=scale, enable_gqa=grouped)


def _heads(x: Tensor, heads: int | None) -> Tensor:
    """[batch, heads, length, size]."""
    return x if x.dim() == 4 else x.reshape(x.shape[0], x.shape[1], heads or 1, -1).transpose(1, 2)


def _internal(dtype: torch.dtype, precision: int | None) -> bool:
    """Whether PyTorch's kernels, float32 inside for shorter types, have the softmax's precision."""
    inside = torch.float64 if dtype == torch.float64 else torch.float32
    return precision is None or dtype_of(precision) == inside


def _window(q: Tensor, k: Tensor, before: int | Tensor, left: int, right: int) -> Tensor | None:
    """Which keys [..., queries, keys] lie near enough; query `i` stands at key `before + i`."""
    last_sees_all = right == 0 and isinstance(before, int) and q.shape[2] == 1 and k.shape[2] == before + 1
    if left < 0 and (right < 0 or last_sees_all):
        return None
    place = torch.arange(q.shape[2], device=q.device)[:, None] + before
    distance = torch.arange(k.shape[2], device=q.device) - place
    near = distance >= -left if left >= 0 else torch.ones_like(distance, dtype=torch.bool)
    return near & (distance <= right) if right >= 0 else near


def _bias(
    q: Tensor, k: Tensor, mask: Tensor | None, allowed: Tensor | None, valid: Tensor | None
) -> Tensor | None:
    """What limits attention, as one tensor: True where it may go, or numbers to add to the scores."""
    keys = k.shape[2]
    if valid is not None:
        present = torch.arange(keys, device=q.device) < valid.reshape(-1, 1, 1, 1)
        allowed = present if allowed is None else allowed & present
    if mask is None:
        return allowed if allowed is None else allowed.expand(*allowed.shape[:-2], q.shape[2], keys)
    mask = mask if mask.dim() > 1 else mask.reshape(1, -1)
    is_bool = mask.dtype == torch.bool
    if mask.shape[-1] not in (1, keys):
        mask = F.pad(mask, [0, keys - mask.shape[-1]], value=False if is_bool else -torch.inf)
    if is_bool:
        return mask if allowed is None else mask & allowed
    mask = mask.to(q.dtype)
    return mask if allowed is None else torch.where(allowed, mask, -torch.inf)


def _written_out(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    scale: float | None,
    softcap: float,
    precision: torch.dtype,
    mode: int,
) -> tuple[Tensor, Tensor]:
    """The result, and the scores at the stage that `mode` names."""
    groups = q.shape[1] // k.shape[1]
    if groups > 1:
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    root = (q.shape[-1] ** -0.5 if scale is None else scale) ** 0.5
    raw = torch.matmul(q * root, (k * root).transpose(2, 3))
    capped = softcap * torch.tanh(raw / softcap) if softcap else raw
    biased, blind = capped, None
    if bias is not None and bias.dtype == torch.bool:
        biased, blind = torch.where(bias, capped, -torch.inf), ~bias.any(-1, keepdim=True)
    elif bias is not None:
        biased, blind = capped + bias, (bias == -torch.inf).all(-1, keepdim=True)
    weights = torch.softmax(biased.to(precision), -1)
    weights = (weights if blind is None else torch.where(blind, 0, weights)).to(q.dtype)
    return torch.matmul(weights, v), (raw, capped, biased, weights)[mode]
