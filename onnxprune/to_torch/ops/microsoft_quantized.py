"""Element-wise ops and pooling of com.microsoft on quantised numbers, and its QuantizeLinear and DequantizeLinear."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from onnxprune.to_torch.operands import Fixed
from onnxprune.to_torch.ops.activation import softmax, softmax_1
from onnxprune.to_torch.ops.integer import centred, requantized
from onnxprune.to_torch.ops.microsoft import DOMAIN
from onnxprune.to_torch.ops.pool import average_pool, max_pool
from onnxprune.to_torch.ops.quantize import dequantize_linear, quantize_linear
from onnxprune.to_torch.registry import converts

converts("QuantizeLinear", domain=DOMAIN, since=1)(quantize_linear)
converts("DequantizeLinear", domain=DOMAIN, since=1)(dequantize_linear)


def _real(x: Tensor, scale: Tensor, zero_point: Tensor | None) -> Tensor:
    return centred(x, zero_point).float() * scale


def _whole(y: Tensor, scale: Tensor, zero_point: Tensor | None, *operands: Tensor) -> Tensor:
    """`y` on the result's grid, whose type is that of the operands where it has no zero point."""
    return requantized(y / scale, torch.ones_like(scale), zero_point, *operands)


def _binary(op: str, function: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    def convert(
        a: Tensor,
        a_scale: Fixed,
        a_zero: Fixed | None,
        b: Tensor,
        b_scale: Fixed,
        b_zero: Fixed | None,
        c_scale: Fixed,
        c_zero: Fixed | None = None,
    ) -> Tensor:
        y = function(_real(a, a_scale, a_zero), _real(b, b_scale, b_zero))
        return _whole(y, c_scale, c_zero, a, b)

    convert.__name__ = f"qlinear_{op.lower()}"
    return converts(f"QLinear{op}", domain=DOMAIN, since=1)(convert)


qlinear_add = _binary("Add", torch.add)
qlinear_mul = _binary("Mul", torch.mul)


@converts("QLinearLeakyRelu", domain=DOMAIN, since=1)
def qlinear_leaky_relu(
    x: Tensor,
    x_scale: Fixed,
    x_zero: Fixed | None,
    y_scale: Fixed,
    y_zero: Fixed | None = None,
    *,
    alpha: float = 0.01,
) -> Tensor:
    return _whole(F.leaky_relu(_real(x, x_scale, x_zero), alpha), y_scale, y_zero, x)


@converts("QLinearSigmoid", domain=DOMAIN, since=1)
def qlinear_sigmoid(
    x: Tensor, x_scale: Fixed, x_zero: Fixed | None, y_scale: Fixed, y_zero: Fixed | None = None
) -> Tensor:
    return _whole(torch.sigmoid(_real(x, x_scale, x_zero)), y_scale, y_zero, x)


@converts("QLinearSoftmax", domain=DOMAIN, since=1)
def qlinear_softmax(
    x: Tensor,
    x_scale: Fixed,
    x_zero: Fixed | None,
    y_scale: Fixed,
    y_zero: Fixed,
    *,
    opset: int,
    axis: int = -1,
) -> Tensor:
    real = _real(x, x_scale, x_zero)
    y = softmax(real, axis=axis) if opset >= 13 else softmax_1(real, axis=axis)
    return _whole(y, y_scale, y_zero, x)


@converts("QLinearConcat", domain=DOMAIN, since=1)
def qlinear_concat(y_scale: Fixed, y_zero: Fixed, *operands: Fixed, axis: int) -> Tensor:
    """`operands` are x, scale and zero point of each."""
    triples = [operands[i : i + 3] for i in range(0, len(operands), 3)]
    y = torch.cat([_real(x, scale, zero) for x, scale, zero in triples], axis)
    return _whole(y, y_scale, y_zero, *operands[::3])


@converts("QLinearWhere", domain=DOMAIN, since=1)
def qlinear_where(
    condition: Tensor,
    x: Tensor,
    x_scale: Fixed,
    x_zero: Fixed,
    y: Tensor,
    y_scale: Fixed,
    y_zero: Fixed,
    z_scale: Fixed,
    z_zero: Fixed,
) -> Tensor:
    chosen = torch.where(condition, _real(x, x_scale, x_zero), _real(y, y_scale, y_zero))
    return _whole(chosen, z_scale, z_zero, x, y)


@converts("QLinearGlobalAveragePool", domain=DOMAIN, since=1)
def qlinear_global_average_pool(
    x: Tensor, x_scale: Fixed, x_zero: Fixed, y_scale: Fixed, y_zero: Fixed, *, channels_last: int = 0
) -> Tensor:
    axes = range(1, x.dim() - 1) if channels_last else range(2, x.dim())
    y = centred(x, x_zero).mean(tuple(axes), keepdim=True)
    return requantized(y, x_scale / y_scale, y_zero, x)


@converts("QLinearAveragePool", domain=DOMAIN, since=1)
def qlinear_average_pool(
    x: Tensor,
    x_scale: Fixed,
    x_zero: Fixed | None,
    y_scale: Fixed,
    y_zero: Fixed | None = None,
    *,
    kernel_shape: Sequence[int],
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    channels_last: int = 0,
    count_include_pad: int = 0,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Tensor:
    real = _real(x, x_scale, x_zero)
    y = average_pool(
        real.movedim(-1, 1) if channels_last else real, kernel_shape=kernel_shape, auto_pad=auto_pad,
        ceil_mode=ceil_mode, count_include_pad=count_include_pad, pads=pads, strides=strides,
    )  # fmt: skip
    return _whole(y.movedim(1, -1) if channels_last else y, y_scale, y_zero, x)


@converts("NhwcMaxPool", domain=DOMAIN, since=1)
def nhwc_max_pool(
    x: Tensor,
    *,
    kernel_shape: Sequence[int],
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Tensor:
    y = max_pool(
        x.movedim(-1, 1), kernel_shape=kernel_shape, auto_pad=auto_pad, ceil_mode=ceil_mode,
        dilations=dilations, pads=pads, strides=strides,
    )  # fmt: skip
    assert isinstance(y, Tensor)
    return y.movedim(1, -1)
