"""How a converter takes its operands: which stay tensors, which become Python numbers, which never train.

>>> def expand(x: Tensor, shape: Ints) -> Tensor: ...

The annotation is what the importer goes by. A constant operand annotated `Ints`, `Floats` or `Scalar` reaches
the converter as Python numbers, so the fx graph holds literals and compiles; a computed one arrives as a
tensor, and the converter asks `ints`, `floats` or `number` for its value when it runs.
"""

import inspect
from collections.abc import Callable, Sequence
from enum import Enum
from functools import cache
from typing import Annotated, Any, cast, get_args, get_type_hints

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from onnxprune.errors import ConversionError


class Form(Enum):
    """What the importer does with an operand."""

    TENSOR = "a tensor; trainable when it is a float initializer"
    FIXED = "a tensor that training leaves alone, such as a quantisation scale"
    STATISTIC = "a tensor that the op itself updates in training"
    INTS = "a flat list of ints"
    FLOATS = "a flat list of floats"
    SCALAR = "one number"
    INDEX = "a number where it is known and of rank 0, else a tensor"


Fixed = Annotated[Tensor, Form.FIXED]
Statistic = Annotated[Tensor, Form.STATISTIC]
Ints = Annotated[Tensor | Sequence[int], Form.INTS]
Floats = Annotated[Tensor | Sequence[float], Form.FLOATS]
Scalar = Annotated[Tensor | float, Form.SCALAR]
Index = Annotated[Tensor | int, Form.INDEX]


def form_of(annotation: Any) -> Form:
    """The form that `annotation`, or the `X` in `X | None`, asks for."""
    for candidate in (annotation, *get_args(annotation)):
        for mark in getattr(candidate, "__metadata__", ()):
            if isinstance(mark, Form):
                return mark
    return Form.TENSOR


@cache
def forms_of(function: Callable[..., Any], arguments: int) -> tuple[Form, ...]:
    """The forms of the first `arguments` positional parameters; `*xs` repeats its own."""
    hints = get_type_hints(function, include_extras=True)
    forms: list[Form] = []
    for parameter in signature(function).parameters.values():
        if parameter.name == "self" or parameter.kind is parameter.KEYWORD_ONLY:
            continue
        form = form_of(hints[parameter.name])
        forms += [form] * (arguments if parameter.kind is parameter.VAR_POSITIONAL else 1)
    return tuple(forms[:arguments])


signature = cache(inspect.signature)


def ints(value: Tensor | Sequence[int] | int) -> list[int]:
    """`value` as a flat list of ints."""
    if isinstance(value, Tensor):
        return [int(v) for v in value.reshape(-1).tolist()]
    return [value] if isinstance(value, int) else list(value)


def floats(value: Tensor | Sequence[float]) -> list[float]:
    """`value` as a flat list of floats."""
    return [float(v) for v in (value.reshape(-1).tolist() if isinstance(value, Tensor) else value)]


def number(value: Tensor | Sequence[float] | float) -> float:
    """`value` as one Python number, an int where it was one."""
    if isinstance(value, Tensor):
        return cast(float, value.item())
    return value[0] if isinstance(value, Sequence) else value


DTYPES: dict[int, torch.dtype] = {
    onnx.TensorProto.FLOAT: torch.float32,
    onnx.TensorProto.DOUBLE: torch.float64,
    onnx.TensorProto.FLOAT16: torch.float16,
    onnx.TensorProto.BFLOAT16: torch.bfloat16,
    onnx.TensorProto.INT8: torch.int8,
    onnx.TensorProto.INT16: torch.int16,
    onnx.TensorProto.INT32: torch.int32,
    onnx.TensorProto.INT64: torch.int64,
    onnx.TensorProto.UINT8: torch.uint8,
    onnx.TensorProto.UINT16: torch.uint16,
    onnx.TensorProto.UINT32: torch.uint32,
    onnx.TensorProto.UINT64: torch.uint64,
    onnx.TensorProto.BOOL: torch.bool,
    onnx.TensorProto.COMPLEX64: torch.complex64,
    onnx.TensorProto.COMPLEX128: torch.complex128,
    onnx.TensorProto.FLOAT8E4M3FN: torch.float8_e4m3fn,
    onnx.TensorProto.FLOAT8E4M3FNUZ: torch.float8_e4m3fnuz,
    onnx.TensorProto.FLOAT8E5M2: torch.float8_e5m2,
    onnx.TensorProto.FLOAT8E5M2FNUZ: torch.float8_e5m2fnuz,
}
FLOAT8E8M0, UINT2, INT2, FLOAT6E2M3, FLOAT6E3M2 = range(24, 29)  # not every onnx has names for these
# What torch does not compute with is held in a larger type; see rounding.py.
_HELD: dict[int, torch.dtype] = {
    onnx.TensorProto.INT4: torch.int8,
    onnx.TensorProto.UINT4: torch.uint8,
    INT2: torch.int8,
    UINT2: torch.uint8,
    onnx.TensorProto.FLOAT4E2M1: torch.float8_e4m3fn,
    FLOAT6E2M3: torch.float8_e4m3fn,
    FLOAT6E3M2: torch.float8_e4m3fn,
}
DTYPES |= {FLOAT8E8M0: torch.float8_e8m0fnu} | _HELD
# numpy has no such types of its own: the same bits under an integer type, viewed again in torch.
_BITS: dict[torch.dtype, tuple[type[np.generic], torch.dtype]] = {
    torch.bfloat16: (np.int16, torch.int16),
    **{d: (np.uint8, torch.uint8) for d in DTYPES.values() if str(d).startswith("torch.float8")},
}
TRAINABLE = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def dtype_of(code: int) -> torch.dtype:
    """The torch dtype of an ONNX element type; ConversionError where torch has none (strings)."""
    if code not in DTYPES:
        name = onnx.TensorProto.DataType.Name(code) if code in onnx.TensorProto.DataType.values() else code
        raise ConversionError(
            f"PyTorch has no element type for {name}; cast the tensor to another type first"
        )
    return DTYPES[code]


def to_tensor(proto: onnx.TensorProto) -> Tensor:
    """A torch copy of an ONNX tensor, bit for bit."""
    dtype = dtype_of(proto.data_type)
    array = np.ascontiguousarray(onnx.numpy_helper.to_array(proto)).reshape(tuple(proto.dims))
    if proto.data_type in _HELD:
        wide = np.float32 if dtype.is_floating_point else np.int8 if dtype.is_signed else np.uint8
        return torch.from_numpy(array.astype(wide)).to(dtype)
    if dtype in _BITS:
        as_numpy, as_torch = _BITS[dtype]
        return torch.from_numpy(array.view(as_numpy).copy()).to(as_torch).view(dtype)
    return torch.from_numpy(array.copy())


def to_bytes(tensor: Tensor, code: int) -> bytes:
    """The bytes of `tensor` as `TensorProto.raw_data` of element type `code` wants them."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    if code in _HELD:
        values = (flat.to(torch.float32) if flat.is_floating_point() else flat).numpy()
        small = values.astype(onnx.helper.tensor_dtype_to_np_dtype(code))
        return onnx.numpy_helper.from_array(small).raw_data
    if flat.dtype in _BITS:
        flat = flat.view(_BITS[flat.dtype][1])
    array = flat.numpy()
    return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()


def is_finite(tensor: Tensor) -> bool:
    """Whether every entry of a float tensor is; unlike torch.isfinite it takes no memory of the tensor's size."""
    values = tensor.detach() if tensor.dtype in TRAINABLE else tensor.float()  # else aminmax may lack
    return not values.numel() or all(bool(torch.isfinite(end)) for end in torch.aminmax(values))


def is_module(target: Any) -> bool:
    """Whether a converter's target is an nn.Module class."""
    return isinstance(target, type) and issubclass(target, nn.Module)
