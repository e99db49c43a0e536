"""Ops that treat every entry alike, with broadcasting from the right: one generated rule for all."""

from collections.abc import Collection

from onnxprune.axes import bind
from onnxprune.links import At, Links, Shape
from onnxprune.ops.registry import Node, axes

UNARY = [
    "Abs",
    "Acos",
    "Acosh",
    "Asin",
    "Asinh",
    "Atan",
    "Atanh",
    "BitCast",
    "BitwiseNot",
    "Cast",
    "Ceil",
    "Celu",
    "Clip",
    "Cos",
    "Cosh",
    "Dropout",
    "Elu",
    "Erf",
    "Exp",
    "Floor",
    "Gelu",
    "HardSigmoid",
    "HardSwish",
    "Identity",
    "IsInf",
    "IsNaN",
    "LeakyRelu",
    "Log",
    "Mish",
    "Neg",
    "Not",
    "Reciprocal",
    "Relu",
    "Round",
    "Selu",
    "Shrink",
    "Sigmoid",
    "Sign",
    "Sin",
    "Sinh",
    "Softplus",
    "Softsign",
    "Sqrt",
    "Swish",
    "Tan",
    "Tanh",
    "ThresholdedRelu",
]
BROADCASTING = [
    "Add",
    "And",
    "BitShift",
    "BitwiseAnd",
    "BitwiseOr",
    "BitwiseXor",
    "Div",
    "Equal",
    "Greater",
    "GreaterOrEqual",
    "Less",
    "LessOrEqual",
    "Max",
    "Mean",
    "Min",
    "Mod",
    "Mul",
    "Or",
    "PRelu",
    "Pow",
    "Sub",
    "Sum",
    "SwiGLU",
    "Where",
    "Xor",
]


@axes(*UNARY, *BROADCASTING)
def elementwise(node: Node) -> str:
    out = node.out_shape()
    inputs = ", ".join(_aligned(node.shape(k), out) if node.has(k) else "_" for k in range(len(node.inputs)))
    return f"{inputs} -> {', '.join([names(out)] * len(node.outputs))}"


@axes("CastLike")
def cast_like(node: Node) -> Links:
    """The second input only lends its element type, so it may lose what it likes."""
    links = bind(f"{names(node.shape())} -> {names(node.shape())}", [node.shape()], [node.out_shape()])
    links.free += [At("in1", axis) for axis in range(len(node.shape(1)))]
    return links


def names(shape: Shape, whole: Collection[int] = (), measured: Collection[int] = ()) -> str:
    """`x0 ~x1 X2` for rank 3 with axis 1 measured over and axis 2 kept whole; size-1 axes are `1`."""
    return " ".join(
        "1" if size == 1 else f"X{axis}" if axis in whole else f"~x{axis}" if axis in measured else f"x{axis}"
        for axis, size in enumerate(shape)
    )


def _aligned(shape: Shape, out: Shape) -> str:
    """Names of an operand's axes after those of the output that they broadcast to."""
    skipped = len(out) - len(shape)
    return " ".join("1" if size == 1 else f"x{axis + skipped}" for axis, size in enumerate(shape))
