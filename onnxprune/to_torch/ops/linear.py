"""Matrix products."""

import torch
import torch.nn.functional as F
from torch import Tensor

from onnxprune.to_torch.registry import converts


@converts("Gemm", since=7)
def gemm(
    a: Tensor,
    b: Tensor,
    c: Tensor | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,  # noqa: N803  (the schema's name)
    transB: int = 0,  # noqa: N803
) -> Tensor:
    if transA:
        a = a.t()
    b = b if transB else b.t()
    if alpha == beta == 1.0 and (c is None or c.dim() == 1):
        return F.linear(a, b, c)
    y = alpha * F.linear(a, b) if alpha != 1.0 else F.linear(a, b)
    return y if c is None else y + (beta * c if beta != 1.0 else c)


@converts("MatMul", since=1)
def matmul(a: Tensor, b: Tensor) -> Tensor:
    return torch.matmul(a, b)


@converts("Einsum", since=12)
def einsum(*operands: Tensor, equation: str) -> Tensor:
    return torch.einsum(equation.replace(" ", ""), *operands)


@converts("Det", since=11)
def det(x: Tensor) -> Tensor:
    result: Tensor = torch.linalg.det(x)
    return result
