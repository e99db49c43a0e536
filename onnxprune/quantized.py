"""Ops on quantised numbers, as the plain ops that they stand for.

QLinearConv is Conv on `scale * (entry - zero_point)` of its operands, whose result is quantised again; MatMulInteger
is MatMul on `entry - zero_point`. Rules, gated forms, shapes and the comparison without rounding follow from one table.
"""

from collections.abc import Mapping
from dataclasses import dataclass

MICROSOFT = "com.microsoft"


@dataclass(frozen=True)
class Operand:
    """Inputs of a node that hold an operand of the plain op, its scale and its zero point (None: it has none)."""

    at: int
    scale: int | None = None
    zero: int | None = None


@dataclass(frozen=True)
class Quantised:
    """An op on quantised numbers."""

    plain: str
    """The plain op, of the default domain; attributes have the same names."""
    operands: tuple[Operand, ...]
    result: tuple[int, int] | None = None
    """Inputs that hold scale and zero point of what comes out; None: it is not quantised again."""
    bias: int | None = None
    """The input that is added to Conv and Gemm in units of both scales, to MatMul as it is."""

    @property
    def multiplies(self) -> bool:
        """Whether it sums products of two operands: a closed channel of the first must hold the zero point."""
        return self.plain in ("Conv", "Gemm", "MatMul")

    @property
    def measures(self) -> bool:
        """Whether it quantises its first operand itself, by the range of all entries."""
        return self.multiplies and self.operands[0].scale is None and self.operands[0].zero is None

    def axis(self, rank: int, transposed: bool) -> int:
        """The axis of the second operand that has a scale and a zero point per entry, if it has several."""
        return 0 if self.plain == "Conv" or transposed else rank - 1


def _slots(*numbers: int) -> tuple[Operand, ...]:
    """Operands followed by their scale and zero point."""
    return tuple(Operand(k, k + 1, k + 2) for k in numbers)


_UNARY = {
    "QLinearAveragePool": "AveragePool",
    "QLinearGlobalAveragePool": "GlobalAveragePool",
    "QLinearLeakyRelu": "LeakyRelu",
    "QLinearSigmoid": "Sigmoid",
    "QLinearSoftmax": "Softmax",
}
_FLOAT_A = Quantised("MatMul", (Operand(0), Operand(1, 2, 3)), None, 4)

TABLE: Mapping[tuple[str, str], Quantised] = {
    ("", "ConvInteger"): Quantised("Conv", (Operand(0, None, 2), Operand(1, None, 3))),
    ("", "MatMulInteger"): Quantised("MatMul", (Operand(0, None, 2), Operand(1, None, 3))),
    ("", "QLinearConv"): Quantised("Conv", _slots(0, 3), (6, 7), 8),
    ("", "QLinearMatMul"): Quantised("MatMul", _slots(0, 3), (6, 7)),
    (MICROSOFT, "DynamicQuantizeMatMul"): _FLOAT_A,
    (MICROSOFT, "NhwcMaxPool"): Quantised("MaxPool", (Operand(0),)),
    (MICROSOFT, "MatMulIntegerToFloat"): Quantised("MatMul", (Operand(0, 2, 4), Operand(1, 3, 5)), None, 6),
    (MICROSOFT, "QGemm"): Quantised("Gemm", _slots(0, 3), (7, 8), 6),
    (MICROSOFT, "QLinearAdd"): Quantised("Add", _slots(0, 3), (6, 7)),
    (MICROSOFT, "QLinearConcat"): Quantised("Concat", (), (0, 1)),
    (MICROSOFT, "QLinearConv"): Quantised("Conv", _slots(0, 3), (6, 7), 8),
    (MICROSOFT, "QLinearMul"): Quantised("Mul", _slots(0, 3), (6, 7)),
    (MICROSOFT, "QLinearWhere"): Quantised("Where", (Operand(0), *_slots(1, 4)), (7, 8)),
    **{(MICROSOFT, op): Quantised(plain, _slots(0), (3, 4)) for op, plain in _UNARY.items()},
}


def quantised(domain: str, op: str, inputs: int) -> Quantised | None:
    """What a node of this op with so many inputs stands for; None where it is none of these ops."""
    found = TABLE.get((domain, op))
    if found is not None and op == "QLinearConcat":
        return Quantised("Concat", _slots(*range(2, inputs, 3)), found.result)
    return found


def channels_last(op: str, attribute: int) -> bool:
    """Whether a node with this attribute `channels_last` has the channels of its image in the last axis."""
    return op == "NhwcMaxPool" or bool(attribute)
