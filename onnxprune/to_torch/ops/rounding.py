"""Numbers onto the grid of a small ONNX element type, which PyTorch may not have or round otherwise.

Integers below 8 bits are held in int8 or uint8; floats of 4 and 6 bits in float8_e4m3fn, which has all their
numbers.
"""

import onnx
import torch
from torch import Tensor

from onnxprune.to_torch.operands import (
    DTYPES,
    FLOAT6E2M3,
    FLOAT6E3M2,
    FLOAT8E8M0,
    INT2,
    UINT2,
    dtype_of,
)

_Type = onnx.TensorProto
BELOW_8_BITS = {_Type.INT4: (-8, 7), _Type.UINT4: (0, 15), INT2: (-2, 1), UINT2: (0, 3)}
_SMALL_FLOATS = {  # mantissa bits, smallest and largest positive number
    _Type.FLOAT4E2M1: (1, 0.5, 6.0),
    FLOAT6E2M3: (3, 0.125, 7.5),
    FLOAT6E3M2: (2, 0.0625, 28.0),
}
_HELD = {dtype: code for code, dtype in reversed(DTYPES.items())}


def code_of(dtype: torch.dtype) -> int:
    """The ONNX element type that a torch dtype stands for by itself."""
    return _HELD[dtype]


def limits(code: int) -> tuple[float, float]:
    """The smallest and the largest number of an element type."""
    if code in BELOW_8_BITS:
        return BELOW_8_BITS[code]
    if code in _SMALL_FLOATS:
        return -_SMALL_FLOATS[code][2], _SMALL_FLOATS[code][2]
    dtype = dtype_of(code)
    info = torch.finfo(dtype) if dtype.is_floating_point else torch.iinfo(dtype)
    return info.min, info.max


def is_float(code: int) -> bool:
    return dtype_of(code).is_floating_point


def cast(x: Tensor, code: int, saturate: bool = True, round_mode: str = "up") -> Tensor:
    """`x` as ONNX Cast makes it; `saturate` and `round_mode` matter for the types where Cast has them."""
    dtype = dtype_of(code)
    if code in BELOW_8_BITS:
        lowest, highest = BELOW_8_BITS[code]
        return (((x.to(torch.int32) - lowest) & (highest - lowest)) + lowest).to(dtype)
    if x.dtype == dtype and code not in _SMALL_FLOATS:
        return x
    if code in _SMALL_FLOATS:
        return _small_float(x.to(torch.float32), code).to(dtype)
    if code == FLOAT8E8M0:
        return _power_of_two(x.to(torch.float32), saturate, round_mode)
    if dtype.is_floating_point and dtype.itemsize == 1 and x.dtype.itemsize > 1:
        return _float8(x, dtype, saturate)
    return x.to(dtype)


def _float8(x: Tensor, dtype: torch.dtype, saturate: bool) -> Tensor:
    if saturate:
        limit = torch.finfo(dtype).max
        x = torch.where(torch.isnan(x), x, x.clamp(-limit, limit))
    elif dtype == torch.float8_e4m3fn:  # PyTorch saturates this one by itself
        x = torch.where(x.abs() > 464, torch.nan, x)  # 464 is half way to the next power's first number
    return x.to(dtype)


def _small_float(x: Tensor, code: int) -> Tensor:
    """Nearest numbers, ties to even; these types have no infinities and no NaN."""
    mantissa, smallest, largest = _SMALL_FLOATS[code]
    x = torch.nan_to_num(x).clamp(-largest, largest)
    step, binade = torch.full_like(x, smallest), smallest * 2 ** (mantissa + 1)
    while binade < largest:
        step = torch.where(x.abs() >= binade, binade / 2**mantissa, step)
        binade *= 2
    return torch.round(x / step) * step


def _power_of_two(x: Tensor, saturate: bool, round_mode: str) -> Tensor:
    """The exponent bits of float32, rounded as `onnx.numpy_helper.to_float8e8m0` does; NaN for what is not finite."""
    bits = x.contiguous().view(torch.int32)
    exponent, fraction = bits >> 23 & 0xFF, bits & 0x7FFFFF
    half = 0x400000
    if round_mode == "nearest":
        up = (fraction > half) | (fraction == half) & (exponent > 0)
    else:
        up = (fraction > 0) & (round_mode == "up")
    if saturate:
        up = up & (exponent < 0xFE)
    rounded = torch.where(exponent == 0xFF, exponent, exponent + up.to(torch.int32))
    return rounded.to(torch.uint8).view(torch.float8_e8m0fnu)
