"""Values in another element type."""

from torch import Tensor

from onnxprune.to_torch.operands import dtype_of
from onnxprune.to_torch.ops import rounding
from onnxprune.to_torch.registry import converts


@converts("Cast", since=6)
def cast(x: Tensor, *, to: int, saturate: int = 1, round_mode: str = "up") -> Tensor:
    return rounding.cast(x, to, bool(saturate), round_mode)


@converts("CastLike", since=15)
def cast_like(
    x: Tensor, target: Tensor, *, saturate: int = 1, round_mode: str = "up", result_type: int = 0
) -> Tensor:
    """To the type of `target`; that of the tensor may hold a smaller one, which the graph knows."""
    return rounding.cast(x, result_type or rounding.code_of(target.dtype), bool(saturate), round_mode)


@converts("BitCast", since=26)
def bit_cast(x: Tensor, *, to: int) -> Tensor:
    return x.view(dtype_of(to))
