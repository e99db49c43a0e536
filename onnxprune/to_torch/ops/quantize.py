"""Real numbers onto an integer grid and back.

Integer tensors carry no gradient. With `load(..., straight_through=True)` a quantised value that needs one is
a float tensor of the same whole numbers; straight.py makes integers of it where an op wants those.
"""

import torch
from torch import Tensor

from onnxprune.to_torch.operands import TRAINABLE, Fixed, dtype_of
from onnxprune.to_torch.ops import rounding
from onnxprune.to_torch.registry import converts

_UINT8 = 2


def laid_out(parameter: Tensor, x: Tensor, axis: int, block_size: int = 0) -> Tensor:
    """A scale or zero point against `x`: per tensor, per entry of `axis`, or per block along it."""
    if parameter.dim() == 0 or parameter.numel() == 1 == parameter.dim():
        return parameter
    axis = axis % x.dim()
    if block_size:
        return parameter.repeat_interleave(block_size, axis).narrow(axis, 0, x.shape[axis])
    return parameter.reshape([-1 if a == axis else 1 for a in range(x.dim())])


def quantized(
    scaled: Tensor, zero_point: Tensor | None, code: int, *, saturate: bool = True, straight: bool = False
) -> Tensor:
    """`scaled` rounded, ties to even, plus `zero_point`, as element type `code`.

    `straight`: as float32, with a gradient of 1 to `scaled` inside the range and 0 where it saturates.
    """
    real = scaled.detach() if straight else scaled
    lowest, highest = rounding.limits(code)
    if rounding.is_float(code):
        whole, held = real, rounding.cast(real, code, saturate)
    else:
        whole = torch.round(real if real.dtype == torch.float64 else real.float())
        whole = whole if zero_point is None else whole + zero_point
        held = whole.clamp(lowest, highest)
    if not straight:
        return held.to(dtype_of(code))
    inside = (whole >= lowest) & (whole <= highest)
    return held.to(torch.float32) + torch.where(inside, scaled - real, 0)


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
    result_type: int = 0,
    straight_through: bool = False,
) -> Tensor:
    held = _UINT8 if zero_point is None else rounding.code_of(zero_point.dtype)
    divided = dtype_of(precision) if precision else scale.dtype
    if divided not in TRAINABLE:  # scales may be int32 or powers of two
        divided = torch.float32
    scaled = x.to(divided) / laid_out(scale, x, axis, block_size).to(divided)
    zero = None if zero_point is None else laid_out(zero_point, x, axis, block_size)
    straight = straight_through and torch.is_grad_enabled() and scaled.requires_grad
    code = output_dtype or result_type or held
    return quantized(scaled, zero, code, saturate=bool(saturate), straight=straight)


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
    wide = x.dtype in (torch.int32, torch.float64)
    whole = x.to(torch.float64 if wide else torch.float32)
    if zero_point is not None:
        whole = whole - laid_out(zero_point, x, axis, block_size).to(whole.dtype)
    dtype = dtype_of(output_dtype) if output_dtype else scale.dtype
    return (whole * laid_out(scale, x, axis, block_size).to(whole.dtype)).to(dtype)


@converts("DynamicQuantizeLinear", since=11)
def dynamic_quantize_linear(
    x: Tensor, *, n_outputs: int = 1, straight_through: bool = False
) -> Tensor | tuple[Tensor, ...]:
    """The grid spans the values of `x` and 0; gradients take it as given."""
    scale, zero_point = span(x)
    straight = straight_through and torch.is_grad_enabled() and x.requires_grad
    y = quantized(x / scale, zero_point, _UINT8, straight=straight)
    return (y, scale, zero_point)[:n_outputs] if n_outputs > 1 else y


def span(x: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and zero point of the uint8 grid from the least to the largest of `x` and 0; scale 1 for zeros alone."""
    lowest, highest = x.detach().amin().clamp(max=0), x.detach().amax().clamp(min=0)
    scale = (highest - lowest) / 255
    scale = torch.where(scale == 0, 1, scale)
    return scale, torch.round(-lowest / scale).clamp(0, 255).to(torch.uint8)
