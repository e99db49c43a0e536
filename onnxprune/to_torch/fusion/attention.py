"""Attention that exporters write out: softmax(q k^T scale + mask) v."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from onnxprune.to_torch.fusion.match import alone, dtype, is_float, number, op, pairs, setting, shape
from onnxprune.to_torch.fusion.rules import call, fuses, view
from onnxprune.to_torch.ops.activation import softmax_1
from onnxprune.to_torch.ops.attention import attend


@fuses("MatMul")
def attention(node: fx.Node) -> fx.Node | None:
    """Scales on the queries, on the keys and on their product come together; the keys lose their transposition."""
    weights, value = node.args
    softmax = _softmax(weights)
    if softmax is None or not isinstance(softmax.args[0], fx.Node):
        return None
    scores, mask = _masked(softmax.args[0])
    scores, scale = _scaled(scores)
    if op(scores) != "MatMul" or not _own(scores):
        return None
    (query, q), (key, k) = (_scaled(operand) for operand in scores.args)
    ranks = {None if known is None else len(known) for known in map(shape, (query, key, value))}
    axis = setting(softmax, "axis", 1 if softmax.target is softmax_1 else -1)
    if len(ranks) != 1 or not ranks & {3, 4, 5} or not (axis == -1 or axis + 1 in ranks):
        return None
    if mask is not None and (not is_float(mask) or dtype(mask) != dtype(scores)):
        return None
    target = F.scaled_dot_product_attention if mask is None and ranks == {4} else attend_broadcasting
    return call(node, target, query, _swapped(node, key), value, mask, scale=scale * q * k)


def attend_broadcasting(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, *, scale: float
) -> Tensor:
    """Attention of any rank, with a mask that may be wider than the scores, which PyTorch does not take.

    PyTorch's kernels, and its exporter to ONNX, want four axes: of three, the first counts as heads.
    """
    scores = (*query.shape[:-1], key.shape[-2])
    if mask is not None and not _broadcasts(mask.shape, scores):
        return torch.softmax(query @ key.transpose(-2, -1) * scale + mask, -1) @ value
    if query.dim() != 3:
        return attend(query, key, value, mask, scale=scale)
    mask = mask[None] if mask is not None and mask.dim() == 3 else mask
    return attend(query[None], key[None], value[None], mask, scale=scale)[0]


def _broadcasts(mask: Sequence[int], scores: Sequence[int]) -> bool:
    return 1 < len(mask) <= len(scores) and all(
        m in (1, s) for m, s in zip(mask[::-1], scores[::-1], strict=False)
    )


def _own(node: Any) -> bool:
    return isinstance(node, fx.Node) and alone(node)


def _softmax(weights: Any) -> fx.Node | None:
    """The Softmax behind `weights`, as it is or with 0 where a whole row was masked."""
    if op(weights) == "Where" and _own(weights):
        rows, zero, softmax = weights.args
        if op(rows) != "IsNaN" or rows.args[0] is not softmax or number(zero) != 0 or not _own(rows):
            return None
        readers = {weights, rows}
    else:
        softmax, readers = weights, None
    if op(softmax) != "Softmax" or not (_own(softmax) if readers is None else set(softmax.users) == readers):
        return None
    return softmax  # type: ignore[no-any-return]


def _masked(scores: Any) -> tuple[Any, Any]:
    """The scores and what is added to them."""
    if op(scores) == "Add" and _own(scores):
        for inner, mask in pairs(scores):
            if op(_scaled(inner)[0]) == "MatMul":
                return inner, mask
    return scores, None


def _scaled(node: Any) -> tuple[Any, float]:
    """`node` without the numbers that it is multiplied with, and their product."""
    scale = 1.0
    while op(node) in ("Mul", "Div") and _own(node):
        a, b = node.args
        if (by := number(b)) is not None and by != 0:
            node, scale = a, scale * (by if op(node) == "Mul" else 1 / by)
        elif op(node) == "Mul" and (by := number(a)) is not None:
            node, scale = b, scale * by
        else:
            break
    return node, scale


def _swapped(place: fx.Node, key: fx.Node) -> fx.Node:
    """`key` with its last two axes exchanged."""
    order = setting(key, "perm", None) if op(key) == "Transpose" and alone(key) else None
    if not isinstance(order, Sequence):
        return view(place, torch.transpose, key, -2, -1)
    order = [*order[:-2], order[-1], order[-2]]
    source = key.args[0]
    if order == sorted(order):
        return source  # type: ignore[return-value]
    return view(place, torch.permute, source, order)
