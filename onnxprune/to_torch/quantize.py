"""Numbers on an integer grid."""

import torch
from torch import Tensor

from onnxprune.to_torch.conv import conv
from onnxprune.to_torch.operands import Fixed, dtype_of
from onnxprune.to_torch.registry import converts


def _laid_out(parameter: Tensor, x: Tensor, axis: int, block_size: int = 0) -> Tensor:
    """A scale or zero point against `x`: per tensor, per entry of `axis`, or per block along it."""
    if parameter.dim() == 0 or parameter.numel() == 1 == parameter.dim():
        return parameter
    axis = axis % x.dim()
    if block_size:
        return parameter.repeat_interleave(block_size, axis).narrow(axis, 0, x.shape[axis])
    return parameter.reshape([-1 if a == axis else 1 for a in range(x.dim())])


@converts("QuantizeLinear", since=10)
def quantize_linear(
    x: Tensor,
    scale: Fixed,
    zero_point: Fixed | None = None,
    *,
    axis: int = 1,
    saturate: int = 1,
    block_size: int = 0,
    output_dtype: int = 0,
    precision: int = 0,
) -> Tensor:
    default = dtype_of(output_dtype) if output_dtype else torch.uint8
    dtype = default if zero_point is None else zero_point.dtype
    scaled = x.to(scale.dtype if not precision else dtype_of(precision)) / _laid_out(
        scale, x, axis, block_size
    )
    if dtype.is_floating_point:
        limit = torch.finfo(dtype).max
        return (scaled.clamp(-limit, limit) if saturate else scaled).to(dtype)
    whole = torch.round(scaled.double())
    if zero_point is not None:
        whole = whole + _laid_out(zero_point, x, axis, block_size)
    limits = torch.iinfo(dtype)
    return whole.clamp(limits.min, limits.max).to(dtype)


@converts("DequantizeLinear", since=10)
def dequantize_linear(
    x: Tensor,
    scale: Fixed,
    zero_point: Fixed | None = None,
    *,
    axis: int = 1,
    block_size: int = 0,
    output_dtype: int = 0,
) -> Tensor:
    whole = x.to(torch.float32) if x.dtype.itemsize < 4 else x.to(torch.float64)
    if zero_point is not None:
        whole = whole - _laid_out(zero_point, x, axis, block_size).to(whole.dtype)
    dtype = dtype_of(output_dtype) if output_dtype else scale.dtype
    return (whole * _laid_out(scale, x, axis, block_size).to(whole.dtype)).to(dtype)


@converts("MatMulInteger", since=10)
def matmul_integer(a: Tensor, b: Tensor, a_zero: Fixed | None = None, b_zero: Fixed | None = None) -> Tensor:
    """Products and sums of int8 fit float64 exactly."""
    rows = (
        a.double() if a_zero is None else a.double() - (a_zero if a_zero.dim() != 1 else a_zero.unsqueeze(-1))
    )
    columns = b.double() if b_zero is None else b.double() - b_zero
    return torch.matmul(rows, columns).to(torch.int32)


@converts("ConvInteger", since=10)
def conv_integer(
    x: Tensor,
    w: Tensor,
    x_zero: Fixed | None = None,
    w_zero: Fixed | None = None,
    *,
    group: int = 1,
    kernel_shape: tuple[int, ...] | None = None,
    pads: tuple[int, ...] | None = None,
    strides: tuple[int, ...] | None = None,
    dilations: tuple[int, ...] | None = None,
    auto_pad: str = "NOTSET",
) -> Tensor:
    image = x.double() if x_zero is None else x.double() - x_zero
    weight = w.double() if w_zero is None else w.double() - _laid_out(w_zero, w, 0)
    return conv(
        image, weight, group=group, pads=pads, strides=strides, dilations=dilations, auto_pad=auto_pad
    ).to(torch.int32)


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
    def rows(parameter: Tensor) -> Tensor:
        return parameter.unsqueeze(-1) if parameter.dim() == 1 else parameter

    left = (a.double() - rows(a_zero)) * rows(a_scale).double()
    right = (b.double() - b_zero) * b_scale.double()
    return quantize_linear(torch.matmul(left, right), rows(y_scale).double(), rows(y_zero), axis=-2)


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
    kernel_shape: tuple[int, ...] | None = None,
    pads: tuple[int, ...] | None = None,
    strides: tuple[int, ...] | None = None,
    dilations: tuple[int, ...] | None = None,
    auto_pad: str = "NOTSET",
) -> Tensor:
    scale = x_scale.double() * w_scale.double()
    weight = w.double() - _laid_out(w_zero, w, 0)
    y = conv(
        x.double() - x_zero, weight, None if bias is None else bias.double(), group=group, pads=pads,
        strides=strides, dilations=dilations, auto_pad=auto_pad,
    )  # fmt: skip
    return quantize_linear(y * _laid_out(scale, y, 1), y_scale.double(), y_zero)
