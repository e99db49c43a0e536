"""Whole numbers in place of real ones: quantised and dequantised values, and the ops that compute on them."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from sketch import Sketch, Value

from blocks.conv import window
from blocks.registry import block
from blocks.ways import divisible, partner, project

MICROSOFT = "com.microsoft"


@dataclass(frozen=True)
class Whole:
    """Whole numbers, what one of them is worth, and which of them is 0."""

    value: Value
    scale: Value
    zero: Value
    layout: str
    rms: float

    @property
    def operands(self) -> tuple[Value, Value, Value]:
        return self.value, self.scale, self.zero


def parameters(g: Sketch, rms: float, dtype: Any = None) -> tuple[Value, Value]:
    """Scale and zero point for values of this size."""
    eight = (
        [np.uint8] if g.opset >= 21 else [np.uint8, np.int8]
    )  # onnxruntime 1.31 then fails on int8 and Reshape
    dtype = np.dtype(dtype or g.pick(eight))
    limits = np.iinfo(dtype)
    middle = (limits.max + limits.min + 1) // 2
    scale = np.float32(8 * rms / (limits.max - limits.min) * g.uniform((), 0.8, 1.3))
    return g.constant(scale, "scale"), g.constant(dtype.type(middle + g.number(-10, 10)), "zero")


def quantise(g: Sketch, x: Value, dtype: Any = None) -> Whole:
    scale, zero = parameters(g, x.rms, dtype)
    return Whole(g.op("QuantizeLinear", x, scale, zero), scale, zero, x.layout, x.rms)


def dequantise(g: Sketch, x: Whole) -> Value:
    return g.op("DequantizeLinear", *x.operands, layout=x.layout, rms=x.rms)


def through(g: Sketch, x: Value) -> Value:
    return dequantise(g, quantise(g, x))


def weight(g: Sketch, array: NDArray[np.float32], axis: int | None, dtype: Any = np.int8) -> Whole:
    """A weight as whole numbers, with one scale or (`axis`) one for each entry of an axis."""
    over = None if axis is None else tuple(k for k in range(array.ndim) if k != axis)
    largest = np.abs(array).max(axis=over)
    scale = np.asarray(largest / 127, np.float32)
    spread = scale if axis is None else np.expand_dims(scale, over or ())
    middle = 128 + g.number(-5, 5) if dtype is np.uint8 else 0
    whole = np.clip(np.round(array / spread) + middle, np.iinfo(dtype).min, np.iinfo(dtype).max).astype(dtype)
    zero = np.full(scale.shape, middle, dtype)
    values = [
        g.constant(values, kind) for values, kind in ((whole, "weight"), (scale, "scale"), (zero, "zero"))
    ]
    return Whole(*values, "", 1.0)


def kernel(
    g: Sketch, x: Value, channels: int, groups: int, attributes: dict[str, Any]
) -> NDArray[np.float32]:
    shape = (channels, x.channels // groups, *attributes["kernel_shape"])
    return g.random(shape, 1.2 / (np.prod(shape[1:]) ** 0.5 * x.rms))


def bias(g: Sketch, x: Whole, w: Whole, channels: int) -> Value:
    """Whole numbers worth the product of both scales."""
    unit = np.multiply(*(numpy_helper.to_array(g.constants[part.scale.name]) for part in (x, w)))
    return g.constant(np.round(g.random((channels,), 0.3) / unit).astype(np.int32), "bias")


def convolution(g: Sketch, x: Value) -> tuple[Value, int, int, dict[str, Any]]:
    """The image, and the channels, groups and attributes of a convolution of it."""
    groups = g.pick([1, 1, 1, 2, 0])
    x = divisible(g, x, groups) if groups > 1 else x
    groups = groups or x.channels
    channels = groups * g.number(1, 3) if groups > 1 else g.number(2, 8)
    return x, channels, groups, window(g, x) | ({"group": groups} if groups > 1 else {})


# ------------------------------------------------------------------ pairs of QuantizeLinear and DequantizeLinear


@block("QuantizeLinear and DequantizeLinear", on="any")
def pair(g: Sketch, x: Value) -> Value:
    return dequantise(g, quantise(g, x, g.pick([None, np.int16, np.uint16] if g.opset >= 21 else [None])))


@block("QuantizeLinear to small types", on="any", since=19, rare=True)
def small_types(g: Sketch, x: Value) -> Value:
    """Floats of eight bits, and, from opset 21 on, whole numbers of four."""
    kind = g.pick(["FLOAT8E4M3FN", "FLOAT8E5M2"] + (["INT4", "UINT4"] if g.opset >= 21 else []))
    dtype = helper.tensor_dtype_to_np_dtype(getattr(TensorProto, kind))
    scale = g.constant(np.float32(x.rms / (4 if "INT" in kind else 40)), "scale")
    zero = g.constant(np.asarray(7 if kind == "UINT4" else 0).astype(dtype), "zero")
    shift = g.constant(
        g.random((), 0.3), "shift"
    )  # else onnxruntime 1.31 carries float8 past a Transpose, and fails
    whole = g.op("QuantizeLinear", g.op("Add", x, shift), scale, zero)
    return g.op("Sub", dequantise(g, Whole(whole, scale, zero, x.layout, x.rms)), shift)


@block("MaxPool of whole numbers", on="image", since=12)
def whole_pool(g: Sketch, x: Value) -> Value:
    if len(x.space) != 2:
        return through(g, x)
    whole = quantise(g, x)
    pooled = g.op("MaxPool", whole.value, kernel_shape=[1, 1], strides=[1, 1])
    return dequantise(g, Whole(pooled, whole.scale, whole.zero, x.layout, x.rms))


@block("Conv of a dequantised weight", on="image")
def conv(g: Sketch, x: Value) -> Value:
    x, channels, groups, attributes = convolution(g, x)
    axis = g.pick([None, 0]) if g.opset >= 13 else None
    w = weight(g, kernel(g, x, channels, groups, attributes), axis, g.pick([np.int8, np.uint8]))
    operands = [through(g, x), dequantised_weight(g, w, 0)]
    if g.chance(60):
        operands.append(g.weight((channels,)))
    y = g.op("Conv", *operands, rms=1, **attributes)
    return through(g, y) if g.chance(50) else y


def dequantised_weight(g: Sketch, w: Whole, axis: int) -> Value:
    return g.op("DequantizeLinear", *w.operands, **({"axis": axis} if w.scale.shape else {}))


@block("Gemm of a dequantised weight", on="vector")
def gemm(g: Sketch, x: Value) -> Value:
    channels, transposed = g.number(2, 8), g.chance(50)
    shape = (channels, x.channels) if transposed else (x.channels, channels)
    axis = 1 - transposed if g.opset >= 13 and g.chance(60) else None
    w = weight(g, g.random(shape, 1.2 / (x.channels**0.5 * x.rms)), axis)
    operands = [through(g, x), dequantised_weight(g, w, 1 - transposed)]
    return through(g, g.op("Gemm", *operands, g.weight((channels,)), transB=int(transposed), rms=1))


@block("MatMul of a weight dequantised in blocks", on="tokens", since=21)
def blocked(g: Sketch, x: Value) -> Value:
    """Four bits or eight, the blocks along the sum or across it, the last one not always full."""
    size, axis = g.number(2, 3), g.number(0, 1)
    x = project(g, x, g.number(4, 9))
    channels = g.number(3, 9)
    whole = g.rng.integers(0, 16, (x.channels, channels))
    count = [-(-n // size) if k == axis else n for k, n in enumerate(whole.shape)]
    scale = g.constant(g.uniform(count, 0.5, 1.5) / np.float32(5 * x.channels**0.5 * x.rms), "scale")
    kind = g.pick(["uint4", "int4", "uint8"])
    signed = kind == "int4"
    dtype = helper.tensor_dtype_to_np_dtype(getattr(TensorProto, kind.upper()))
    zero = g.rng.integers(6, 10, count)
    w, z = (g.constant((values - 8 * signed).astype(dtype), "whole") for values in (whole, zero))
    real = g.op(
        "DequantizeLinear", w, scale, z, axis=axis, block_size=size, shape=whole.shape, elem=TensorProto.FLOAT
    )
    return g.op("MatMul", x, real, rms=1)


# ------------------------------------------------------------------ ops on whole numbers


@block("ConvInteger", on="image")
def conv_integer(g: Sketch, x: Value) -> Value:
    """As onnxruntime writes it: quantised by the range of all entries, then scaled."""
    x, channels, groups, attributes = convolution(g, x)
    w = weight(g, kernel(g, x, channels, groups, attributes), None, g.pick([np.int8, np.uint8]))
    whole, scale, zero = measured(g, x)
    total = g.op("ConvInteger", whole, w.value, zero, w.zero, **attributes)
    real = g.op("Cast", total, to=TensorProto.FLOAT, layout="image", rms=1)
    return g.op("Mul", real, g.op("Mul", scale, w.scale))


def measured(g: Sketch, x: Value) -> list[Value]:
    return g.ops("DynamicQuantizeLinear", x, count=3)


@block("MatMulInteger", on="tokens")
def matmul_integer(g: Sketch, x: Value) -> Value:
    channels = g.number(2, 8)
    array = g.random((x.channels, channels), 1.2 / (x.channels**0.5 * x.rms))
    w = weight(g, array, g.pick([None, 1]))
    whole, scale, zero = measured(g, x)
    if g.chance(30):
        whole = (
            g.op("Relu", g.op("Identity", whole))
            if g.opset >= 14 and whole.elem == TensorProto.INT8
            else whole
        )
    total = g.op("MatMulInteger", whole, w.value, zero, w.zero)
    real = g.op("Cast", total, to=TensorProto.FLOAT, layout="tokens", rms=1)
    return g.op("Add", g.op("Mul", real, g.op("Mul", scale, w.scale)), g.weight((channels,)))


@block("QLinearConv", on="image")
def qlinear_conv(g: Sketch, x: Value) -> Value:
    x, channels, groups, attributes = convolution(g, x)
    whole = quantise(g, x)
    signed = whole.value.elem == TensorProto.INT8
    w = weight(
        g, kernel(g, x, channels, groups, attributes), g.pick([None, 0]), np.int8 if signed else np.uint8
    )
    out = parameters(g, 1, np.int8 if signed else np.uint8)
    also = [bias(g, whole, w, channels)] if g.chance(60) else []
    y = g.op("QLinearConv", *whole.operands, *w.operands, *out, *also, **attributes)
    return dequantise(g, Whole(y, *out, "image", 1))


@block("QLinearMatMul", on="tokens")
def qlinear_matmul(g: Sketch, x: Value) -> Value:
    whole = quantise(g, x)
    array = g.random((x.channels, g.number(2, 8)), 1.2 / (x.channels**0.5 * x.rms))
    w = weight(g, array, g.pick([None, 1]))
    out = parameters(g, 1, np.int8 if whole.value.elem == TensorProto.INT8 else np.uint8)
    y = g.op("QLinearMatMul", *whole.operands, *w.operands, *out)
    return dequantise(g, Whole(y, *out, "tokens", 1))


# ------------------------------------------------------------------ onnxruntime's own


def microsoft(g: Sketch, kind: str, *operands: Value, like: Value, **facts: Any) -> Value:
    """A node of onnxruntime's domain, whose result is `like` this but for `facts`."""
    if all(entry.domain != MICROSOFT for entry in g.opsets):
        g.opsets.append(helper.make_opsetid(MICROSOFT, 1))
    facts = {"shape": like.shape, "elem": like.elem, "layout": like.layout, "rms": like.rms} | facts
    return g.op(kind, *operands, domain=MICROSOFT, **facts)


@block("QLinearAdd and QLinearMul", on="any")
def qlinear_binary(g: Sketch, x: Value) -> Value:
    dtype = np.uint8 if g.chance(50) or g.opset >= 21 else np.int8
    a, b = quantise(g, x, dtype), quantise(g, partner(g, x), dtype)
    kind = g.pick(["Add", "Mul"])
    rms = x.rms + b.rms if kind == "Add" else x.rms * b.rms
    out = parameters(g, rms, dtype)
    y = microsoft(g, f"QLinear{kind}", *a.operands, *b.operands, *out, like=a.value)
    return dequantise(g, Whole(y, *out, x.layout, rms))


@block("QLinearConcat", on="any", rare=True)
def qlinear_concat(g: Sketch, x: Value) -> Value:
    a, b = quantise(g, x, np.uint8), quantise(g, partner(g, x), np.uint8)
    out = parameters(g, x.rms, np.uint8)
    shape = tuple(2 * n if k == x.axis else n for k, n in enumerate(x.shape))
    y = microsoft(g, "QLinearConcat", *out, *a.operands, *b.operands, like=a.value, axis=x.axis, shape=shape)
    return dequantise(g, Whole(y, *out, x.layout, x.rms))


@block("QLinearSigmoid and QLinearLeakyRelu", on="any", rare=True)
def qlinear_unary(g: Sketch, x: Value) -> Value:
    whole = quantise(g, x)
    kind, also = g.pick([("QLinearSigmoid", {}), ("QLinearLeakyRelu", {"alpha": 0.2})])
    out = parameters(g, 1, np.int8 if whole.value.elem == TensorProto.INT8 else np.uint8)
    y = microsoft(g, kind, *whole.operands, *out, like=whole.value, **also)
    return dequantise(g, Whole(y, *out, x.layout, 1))


@block("QLinearSoftmax", on="any", rare=True)
def qlinear_softmax(g: Sketch, x: Value) -> Value:
    whole = quantise(g, x)
    out = parameters(g, 0.3, np.int8 if whole.value.elem == TensorProto.INT8 else np.uint8)
    axis = g.number(1, x.rank - 1)
    y = microsoft(g, "QLinearSoftmax", *whole.operands, *out, like=whole.value, axis=axis, opset=g.opset)
    return dequantise(g, Whole(y, *out, x.layout, 1))


@block("QLinearAveragePool and QLinearGlobalAveragePool", on="image", rare=True)
def qlinear_pool(g: Sketch, x: Value) -> Value:
    if len(x.space) != 2:
        return through(g, x)
    whole = quantise(g, x)
    out = parameters(g, x.rms, np.int8 if whole.value.elem == TensorProto.INT8 else np.uint8)
    if g.chance(50):
        shape = (*x.shape[:2], 1, 1)
        y = microsoft(g, "QLinearGlobalAveragePool", *whole.operands, *out, like=whole.value, shape=shape)
    else:
        window = {"kernel_shape": [1, 1], "strides": [1, 1]}
        y = microsoft(g, "QLinearAveragePool", *whole.operands, *out, like=whole.value, **window)
    return dequantise(g, Whole(y, *out, "image", x.rms))


@block("QLinearConv with channels last", on="image", rare=True)
def qlinear_conv_last(g: Sketch, x: Value) -> Value:
    """And what onnxruntime's optimizer leaves the channels last for."""
    if len(x.space) != 2:
        return through(g, x)
    x, channels, groups, attributes = convolution(g, x)
    whole = quantise(g, x)
    dtype = np.int8 if whole.value.elem == TensorProto.INT8 else np.uint8
    w = weight(g, kernel(g, x, channels, groups, attributes), g.pick([None, 0]), dtype)
    out, operands = parameters(g, 1, dtype), [whole.scale, whole.zero, *w.operands]
    plain = g.op("Conv", x, g.constant(np.zeros(w.value.shape, np.float32)), **attributes)  # for its shape
    turned = g.op("Transpose", whole.value, perm=(0, 2, 3, 1))
    shape = (plain.shape[0], *plain.shape[2:], channels)
    made = {"like": turned, "shape": shape}
    y = microsoft(g, "QLinearConv", turned, *operands, *out, **made, **attributes, channels_last=1)
    match g.pick(["conv", "max", "mean"]):
        case "max":
            y = microsoft(g, "NhwcMaxPool", y, like=y, kernel_shape=[1, 1], strides=[1, 1])
        case "mean":
            made["shape"] = (shape[0], 1, 1, channels)
            y = microsoft(g, "QLinearGlobalAveragePool", y, *out, *out, **made, channels_last=1)
    return dequantise(g, Whole(g.op("Transpose", y, perm=(0, 3, 1, 2)), *out, "image", 1))


@block("QGemm", on="vector")
def qgemm(g: Sketch, x: Value) -> Value:
    whole, channels, transposed = quantise(g, x), g.number(2, 8), g.chance(50)
    signed = whole.value.elem == TensorProto.INT8
    shape = (channels, x.channels) if transposed else (x.channels, channels)
    axis = 1 - transposed if g.chance(50) else None
    w = weight(
        g,
        g.random(shape, 1.2 / (x.channels**0.5 * x.rms)),
        axis,
        np.int8 if signed else g.pick([np.int8, np.uint8]),
    )
    out = parameters(g, 1, np.int8 if signed else np.uint8)
    made = {"shape": (x.shape[0], channels), "transB": int(transposed), "layout": "vector", "rms": 1}
    operands = [*whole.operands, *w.operands, bias(g, whole, w, channels)]
    if g.chance(30):
        return microsoft(g, "QGemm", *operands, like=whole.value, **made, elem=TensorProto.FLOAT)
    return dequantise(
        g, Whole(microsoft(g, "QGemm", *operands, *out, like=whole.value, **made), *out, "vector", 1)
    )


@block("MatMulIntegerToFloat and DynamicQuantizeMatMul", on="tokens")
def matmul_to_float(g: Sketch, x: Value) -> Value:
    channels = g.number(2, 8)
    array = g.random((x.channels, channels), 1.2 / (x.channels**0.5 * x.rms))
    w = weight(g, array, g.pick([None, 1]))
    also = [g.weight((channels,))] if g.chance(60) else []
    made = {"shape": (*x.shape[:2], channels), "rms": 1}
    if g.chance(50):
        return microsoft(g, "DynamicQuantizeMatMul", x, *w.operands, *also, like=x, **made)
    whole, scale, zero = measured(g, x)
    return microsoft(
        g, "MatMulIntegerToFloat", whole, w.value, scale, w.scale, zero, w.zero, *also, like=x, **made
    )


@block("MatMulNBits", on="tokens", rare=True)
def matmul_nbits(g: Sketch, x: Value) -> Value:
    """Blocks of 16 along the sum, the last one not always full; scales in a row or a matrix."""
    blocks, columns, bits = g.number(1, 3), g.number(2, 6), g.pick([4, 8])
    x = project(g, x, 16 * blocks - g.pick([0, 0, 3]))
    whole = g.constant(g.rng.integers(0, 256, (columns, blocks, 2 * bits), np.uint8), "packed")
    unit = g.uniform((columns, blocks), 0.5, 1.5) / np.float32(2**bits / 4 * x.channels**0.5 * x.rms)
    operands = [x, whole, g.constant(unit if g.chance(50) else unit.reshape(-1), "scale")]
    if g.chance(50):
        zero = g.rng.integers(0, 256, (columns, -(-blocks * bits // 8)), np.uint8)
        operands.append(g.constant(zero if g.chance(50) else zero.reshape(-1), "zero"))
    made = {"shape": (*x.shape[:2], columns), "rms": 1, "K": x.channels, "N": columns, "bits": bits}
    y = microsoft(g, "MatMulNBits", *operands, like=x, block_size=16, accuracy_level=g.pick([0, 4]), **made)
    return project(g, y, g.number(2, 6))
