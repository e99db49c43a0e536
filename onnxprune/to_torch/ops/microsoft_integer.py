"""Products of com.microsoft on quantised numbers."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from onnxprune.to_torch.operands import Fixed
from onnxprune.to_torch.ops.integer import centred, matmul_integer, qlinear_conv, requantized
from onnxprune.to_torch.ops.microsoft import DOMAIN
from onnxprune.to_torch.ops.quantize import laid_out, quantized, span
from onnxprune.to_torch.registry import converts

_UINT8 = 2


@converts("QLinearConv", domain=DOMAIN, since=1)
def qlinear_conv_last(
    x: Tensor,
    x_scale: Fixed,
    x_zero: Fixed,
    w: Tensor,
    w_scale: Fixed,
    w_zero: Fixed,
    y_scale: Fixed,
    y_zero: Fixed,
    bias: Tensor | None = None,
    *,
    channels_last: int = 0,
    group: int = 1,
    kernel_shape: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
    dilations: Sequence[int] | None = None,
    auto_pad: str = "NOTSET",
) -> Tensor:
    y = qlinear_conv(
        x.movedim(-1, 1) if channels_last else x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero, bias,
        group=group, pads=pads, strides=strides, dilations=dilations, auto_pad=auto_pad,
    )  # fmt: skip
    return y.movedim(1, -1) if channels_last else y


@converts("QGemm", domain=DOMAIN, since=1)
def qgemm(
    a: Tensor,
    a_scale: Fixed,
    a_zero: Fixed,
    b: Tensor,
    b_scale: Fixed,
    b_zero: Fixed,
    c: Tensor | None = None,
    y_scale: Fixed | None = None,
    y_zero: Fixed | None = None,
    *,
    alpha: float = 1.0,
    transA: int = 0,  # noqa: N803  (the schema's name)
    transB: int = 0,  # noqa: N803
) -> Tensor:
    """`c` counts in units of the product; without a scale the result is a float."""
    columns = 0 if transB else 1
    left, right = centred(a, a_zero), centred(b, b_zero, columns)
    total = torch.matmul(left.t() if transA else left, right.t() if transB else right)
    total = total if c is None else total + c
    scale = alpha * a_scale * b_scale
    if y_scale is None:
        return (total * scale).to(a_scale.dtype)
    return requantized(total, scale / y_scale, y_zero, a, b)


@converts("MatMulIntegerToFloat", domain=DOMAIN, since=1)
def matmul_integer_to_float(
    a: Tensor,
    b: Tensor,
    a_scale: Fixed,
    b_scale: Fixed,
    a_zero: Fixed | None = None,
    b_zero: Fixed | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    y = matmul_integer(a, b, a_zero, b_zero).to(a_scale.dtype) * (a_scale * b_scale)
    return y if bias is None else y + bias


@converts("DynamicQuantizeMatMul", domain=DOMAIN, since=1)
def dynamic_quantize_matmul(
    a: Tensor,
    b: Tensor,
    b_scale: Fixed,
    b_zero: Fixed | None = None,
    bias: Tensor | None = None,
    *,
    straight_through: bool = False,
) -> Tensor:
    scale, zero_point = span(a)
    straight = straight_through and torch.is_grad_enabled() and a.requires_grad
    whole = quantized(a / scale, zero_point, _UINT8, straight=straight)
    return matmul_integer_to_float(whole, b, scale, b_scale, zero_point, b_zero, bias)


@converts("MatMulNBits", domain=DOMAIN, since=1)
def matmul_nbits(
    a: Tensor,
    b: Tensor,
    scales: Fixed,
    zero_points: Fixed | None = None,
    g_idx: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    N: int,  # noqa: N803  (the schema's name)
    K: int,  # noqa: N803
    block_size: int,
    bits: int = 4,
    accuracy_level: int = 0,
    weight_prepacked: Literal[0] = 0,
) -> Tensor:
    """`b` packs the weight [N, K] along K; each block of K has its scale and zero point, or `g_idx` chooses."""
    blocks = -(-K // block_size)
    whole = unpacked(b.reshape(N, -1), bits).to(a.dtype)
    zeros: Tensor | int = 2 ** (bits - 1)
    if zero_points is not None and zero_points.dtype == torch.uint8:
        zero_points = unpacked(zero_points.reshape(N, -1), bits)
    if zero_points is not None:
        zeros = _along(zero_points.reshape(N, -1)[:, :blocks].to(a.dtype), block_size, g_idx, K)
    weight = (whole[:, :K] - zeros) * _along(scales.reshape(N, blocks), block_size, g_idx, K)
    return torch.nn.functional.linear(a, weight.to(a.dtype), bias)


def _along(parameter: Tensor, block_size: int, g_idx: Tensor | None, k: int) -> Tensor:
    """One entry per block, [N, blocks], as one per entry of the weight."""
    if g_idx is not None:
        return parameter[:, g_idx[:k]]
    return laid_out(parameter, parameter.new_empty(1, k), 1, block_size)


def unpacked(packed: Tensor, bits: int) -> Tensor:
    """The numbers of so many `bits` in the bytes of the last axis, lowest bits first."""
    if bits == 8:
        return packed
    if 8 % bits == 0:
        shifts = torch.arange(0, 8, bits, device=packed.device, dtype=torch.uint8)
        return (packed.unsqueeze(-1) >> shifts & (1 << bits) - 1).flatten(-2)
    single = (packed.unsqueeze(-1) >> torch.arange(8, device=packed.device, dtype=torch.uint8) & 1).flatten(
        -2
    )
    count = single.shape[-1] // bits
    places = 1 << torch.arange(bits, device=packed.device)
    return (single[..., : count * bits].reshape(*single.shape[:-1], count, bits) * places).sum(-1)
