"""Products of quantised numbers; sums of products of int8 fit float64 exactly."""

from collections.abc import Sequence

import torch
from torch import Tensor

from onnxprune.to_torch.operands import Fixed
from onnxprune.to_torch.ops import rounding
from onnxprune.to_torch.ops.conv import conv
from onnxprune.to_torch.ops.quantize import laid_out, quantized
from onnxprune.to_torch.registry import converts


def centred(x: Tensor, zero_point: Tensor | None, axis: int | None = None) -> Tensor:
    """`x` minus its zero point, per tensor or per entry of `axis`, in float64."""
    if zero_point is None:
        return x.double()
    return x.double() - (zero_point if axis is None else laid_out(zero_point, x, axis))


def is_carried(*xs: Tensor) -> bool:
    """Whether gradients pass through any of these quantised values (see quantize.py)."""
    return any(x.dtype in (torch.float32, torch.float64) for x in xs)


def summed(total: Tensor, *operands: Tensor) -> Tensor:
    """A sum of products as int32, or as it is where gradients pass."""
    return total if is_carried(*operands) else total.to(torch.int32)


def requantized(total: Tensor, scale: Tensor, zero_point: Tensor | None, *operands: Tensor) -> Tensor:
    """`total * scale` on the result's grid, in float32 like onnxruntime; with gradients if `operands` carry them."""
    carried = is_carried(*operands)
    held = torch.uint8 if carried else operands[0].dtype
    code = rounding.code_of(held if zero_point is None else zero_point.dtype)
    scaled = total.to(torch.float32) * scale.to(torch.float32)
    return quantized(scaled, zero_point, code, straight=carried)


@converts("MatMulInteger", since=10)
def matmul_integer(a: Tensor, b: Tensor, a_zero: Fixed | None = None, b_zero: Fixed | None = None) -> Tensor:
    left = centred(a, None if a_zero is None else _rows(a_zero))
    return summed(torch.matmul(left, centred(b, b_zero)), a, b)


def _rows(parameter: Tensor) -> Tensor:
    """One entry per row of a matrix; per column they lie right by themselves."""
    return parameter.unsqueeze(-1) if parameter.dim() == 1 else parameter


@converts("ConvInteger", since=10)
def conv_integer(
    x: Tensor,
    w: Tensor,
    x_zero: Fixed | None = None,
    w_zero: Fixed | None = None,
    *,
    group: int = 1,
    kernel_shape: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
    dilations: Sequence[int] | None = None,
    auto_pad: str = "NOTSET",
) -> Tensor:
    image, weight = centred(x, x_zero), centred(w, w_zero, 0)
    return summed(
        conv(image, weight, group=group, pads=pads, strides=strides, dilations=dilations, auto_pad=auto_pad),
        x,
        w,
    )


@converts("QLinearMatMul", since=10)
def qlinear_matmul(
    a: Tensor,
    a_scale: Fixed,
    a_zero: Fixed,
    b: Tensor,
    b_scale: Fixed,
    b_zero: Fixed,
    y_scale: Fixed,
    y_zero: Fixed,
) -> Tensor:
    total = torch.matmul(centred(a, _rows(a_zero)), centred(b, b_zero))
    scale = _rows(a_scale).float() * b_scale.float() / _rows(y_scale).float()
    return requantized(total, scale, _rows(y_zero), a, b)


@converts("QLinearConv", since=10)
def qlinear_conv(
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
    group: int = 1,
    kernel_shape: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
    dilations: Sequence[int] | None = None,
    auto_pad: str = "NOTSET",
) -> Tensor:
    total = conv(
        centred(x, x_zero), centred(w, w_zero, 0), None if bias is None else bias.double(), group=group,
        pads=pads, strides=strides, dilations=dilations, auto_pad=auto_pad,
    )  # fmt: skip
    return requantized(total, laid_out(x_scale * w_scale / y_scale, total, 1), y_zero, x, w)
