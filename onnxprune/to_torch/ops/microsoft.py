"""Products and activations of com.microsoft, which onnxruntime's optimiser makes of the ONNX ops around them."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from onnxprune.to_torch.ops.conv import conv
from onnxprune.to_torch.ops.linear import gemm
from onnxprune.to_torch.ops.recurrence import activation
from onnxprune.to_torch.registry import converts

DOMAIN = "com.microsoft"


@converts("Gelu", domain=DOMAIN, since=1)
def gelu(x: Tensor) -> Tensor:
    return F.gelu(x)


@converts("BiasGelu", domain=DOMAIN, since=1)
def bias_gelu(a: Tensor, b: Tensor) -> Tensor:
    return F.gelu(a + b)


@converts("FastGelu", domain=DOMAIN, since=1)
def fast_gelu(x: Tensor, bias: Tensor | None = None) -> Tensor:
    return F.gelu(x if bias is None else x + bias, approximate="tanh")


@converts("QuickGelu", domain=DOMAIN, since=1)
def quick_gelu(x: Tensor, *, alpha: float = 1.702) -> Tensor:
    return x * torch.sigmoid(alpha * x)


@converts("BiasSplitGelu", domain=DOMAIN, since=1)
def bias_split_gelu(x: Tensor, bias: Tensor) -> Tensor:
    first, second = (x + bias).chunk(2, -1)
    return first * F.gelu(second)


@converts("BiasAdd", domain=DOMAIN, since=1)
def bias_add(x: Tensor, bias: Tensor, skip: Tensor) -> Tensor:
    return x + bias + skip


def _activated(x: Tensor, name: str, parameters: Sequence[float | None]) -> Tensor:
    """What stands after a product; `parameters` in the order of the activation's own attributes."""
    first, second = [*parameters, None, None][:2]
    if name == "Clip":
        return torch.clamp(x, first, second)
    if name == "HardSwish":
        return F.hardswish(x)
    return activation(name.lower(), first, second)(x) if name else x


@converts("FusedConv", domain=DOMAIN, since=1)
def fused_conv(
    x: Tensor,
    w: Tensor,
    b: Tensor | None = None,
    z: Tensor | None = None,
    *,
    activation: str = "",
    activation_params: Sequence[float] = (),
    group: int = 1,
    kernel_shape: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
    dilations: Sequence[int] | None = None,
    auto_pad: str = "NOTSET",
) -> Tensor:
    """`z` is added before the activation."""
    y = conv(x, w, b, group=group, pads=pads, strides=strides, dilations=dilations, auto_pad=auto_pad)
    return _activated(y if z is None else y + z, activation, activation_params)


@converts("FusedGemm", domain=DOMAIN, since=1)
def fused_gemm(
    a: Tensor,
    b: Tensor,
    c: Tensor | None = None,
    *,
    activation: str = "",
    activation_alpha: float | None = None,
    activation_beta: float | None = None,
    activation_gamma: float | None = None,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,  # noqa: N803  (the schema's name)
    transB: int = 0,  # noqa: N803
) -> Tensor:
    y = gemm(a, b, c, alpha=alpha, beta=beta, transA=transA, transB=transB)
    return _activated(y, activation, (activation_alpha, activation_beta))


@converts("FusedMatMul", domain=DOMAIN, since=1)
def fused_matmul(
    a: Tensor,
    b: Tensor,
    *,
    alpha: float = 1.0,
    transA: int = 0,  # noqa: N803  (the schema's name)
    transB: int = 0,  # noqa: N803
    transBatchA: int = 0,  # noqa: N803
    transBatchB: int = 0,  # noqa: N803
) -> Tensor:
    """`transBatch`: the matrix's first axis stands before the batch axes."""
    a, b = (x.movedim(0, -2) if moved else x for x, moved in ((a, transBatchA), (b, transBatchB)))
    a, b = (x.mT if turned and x.dim() > 1 else x for x, turned in ((a, transA), (b, transB)))
    y = torch.matmul(a, b)
    return y if alpha == 1 else alpha * y


@converts("GemmFastGelu", domain=DOMAIN, since=1)
def gemm_fast_gelu(x: Tensor, w: Tensor, bias: Tensor | None = None) -> Tensor:
    return fast_gelu(torch.matmul(x, w), bias)


@converts("TransposeMatMul", domain=DOMAIN, since=1)
def transpose_matmul(
    a: Tensor,
    b: Tensor,
    *,
    alpha: float = 1.0,
    transA: int = 0,  # noqa: N803  (the schema's name)
    transB: int = 0,  # noqa: N803
) -> Tensor:
    return fused_matmul(a, b, alpha=alpha, transA=transA, transB=transB)
