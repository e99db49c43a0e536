"""Versions of opsets 1 to 6 that differ from their successors in more than attributes without meaning.

Binary ops broadcast only where `broadcast` says so, and then the second operand's axes lie against the first's
from `axis` on, or against its last ones.
"""

from collections.abc import Callable, Sequence

import onnx
import torch
from torch import Tensor

from onnxprune.to_torch.operands import Floats, Scalar, Statistic, floats, number
from onnxprune.to_torch.ops import activation, elementwise, linear, norm, pool, reduce, resize
from onnxprune.to_torch.ops.cast import cast
from onnxprune.to_torch.ops.join import pad, split_18
from onnxprune.to_torch.ops.reshape import reshape
from onnxprune.to_torch.registry import converts

_Binary = Callable[[Tensor, Tensor], Tensor]


def _broadcasting(op: str, function: _Binary) -> None:
    def binary(a: Tensor, b: Tensor, *, axis: int | None = None, broadcast: int = 0) -> Tensor:
        return function(a, _against(a, b, axis))

    binary.__name__ = binary.__qualname__ = f"{op}_1"
    globals()[binary.__name__] = converts(op, since=1)(binary)  # fx writes the call by this name


def _against(a: Tensor, b: Tensor, axis: int | None) -> Tensor:
    """`b` with as many axes of size 1 behind its own as lie behind them in `a`."""
    if axis is None or b.dim() >= a.dim():
        return b
    behind = a.dim() - axis % a.dim() - b.dim()
    return b.reshape(b.shape + (1,) * max(behind, 0))


_BINARY: dict[str, _Binary] = {
    "Add": torch.add,
    "Sub": torch.sub,
    "Mul": torch.mul,
    "Div": elementwise.div,
    "Pow": elementwise.pow_,
    "And": torch.logical_and,
    "Or": torch.logical_or,
    "Xor": torch.logical_xor,
    "Equal": torch.eq,
    "Greater": torch.gt,
    "Less": torch.lt,
}
for _op, _function in _BINARY.items():
    _broadcasting(_op, _function)


@converts("Gemm", since=1)
def gemm_1(
    a: Tensor,
    b: Tensor,
    c: Tensor,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    broadcast: int = 0,
    transA: int = 0,  # noqa: N803  (the schema's name)
    transB: int = 0,  # noqa: N803
) -> Tensor:
    return linear.gemm(a, b, c, alpha=alpha, beta=beta, transA=transA, transB=transB)


@converts("BatchNormalization", since=1)
class BatchNormalization1(norm.BatchNormalization):
    """Whatever `is_test` says, whose default is to train: the module's own mode decides."""

    def __init__(
        self, *, epsilon: float = 1e-5, momentum: float = 0.9, is_test: int = 0, spatial: int = 1
    ) -> None:
        super().__init__(epsilon=epsilon, momentum=momentum, spatial=spatial)

    def forward(self, x: Tensor, scale: Tensor, bias: Tensor, mean: Statistic, var: Statistic) -> Tensor:
        return super().forward(x, scale, bias, mean, var)


@converts("Dropout", since=1)
class Dropout1(activation.Dropout7):
    """Whatever `is_test` says: it drops in train mode only."""

    def __init__(self, *, ratio: float = 0.5, is_test: int = 0, n_outputs: int = 1) -> None:
        super().__init__(ratio=ratio, n_outputs=n_outputs)


@converts("PRelu", since=1)
def prelu_1(x: Tensor, slope: Tensor) -> Tensor:
    """One slope, or one per channel."""
    return activation.prelu(x, slope if slope.numel() == 1 else _against(x, slope, 1))


@converts("Selu", since=1)
def selu_1(x: Tensor, *, alpha: float = 1.6732, gamma: float = 1.0507) -> Tensor:
    return activation.selu(x, alpha=alpha, gamma=gamma)


@converts("Clip", since=1)
def clip_1(x: Tensor, *, min: float | None = None, max: float | None = None) -> Tensor:  # noqa: A002
    return elementwise.clip(x, min, max)


@converts("Cast", since=1)
def cast_1(x: Tensor, *, to: str) -> Tensor:
    return cast(x, to=onnx.TensorProto.DataType.Value(to.upper()))


@converts("Reshape", since=1)
def reshape_1(x: Tensor, *, shape: Sequence[int] = ()) -> Tensor:
    return reshape(x, shape)


@converts("Concat", since=1)
def concat_1(*xs: Tensor, axis: int = 1) -> Tensor:
    return torch.cat(xs, axis)


@converts("Split", since=1)
def split_1(
    x: Tensor,
    sizes: Floats | None = None,
    *,
    axis: int = 0,
    split: Sequence[int] | None = None,
    n_outputs: int = 1,
) -> Tensor | tuple[Tensor, ...]:
    """`sizes` have the type of `x`."""
    parts = split if sizes is None else [int(size) for size in floats(sizes)]
    return split_18(x, parts, axis=axis, n_outputs=n_outputs)


@converts("Pad", since=1)
def pad_1(x: Tensor, *, paddings: Sequence[int], mode: str = "constant", value: float = 0.0) -> Tensor:
    return pad(x, paddings, value, mode=mode)


@converts("Tile", since=1)
def tile_1(x: Tensor, tiles: Scalar, axis: Scalar) -> Tensor:
    repeats = [1] * x.dim()
    repeats[int(number(axis))] = int(number(tiles))
    return x.repeat(repeats)


@converts("TopK", since=1)
def top_k_1(x: Tensor, *, k: int, axis: int = -1, n_outputs: int = 2) -> Tensor | tuple[Tensor, ...]:
    return reduce.top_k(x, [k], axis=axis, n_outputs=n_outputs)


@converts("Upsample", since=1)
def upsample_1(x: Tensor, *, height_scale: float, width_scale: float, mode: str = "nearest") -> Tensor:
    linear_mode = "linear" if mode == "bilinear" else mode
    return resize.resize_10(x, [1.0, 1.0, height_scale, width_scale], mode=linear_mode)


@converts("LpPool", since=1)
def lp_pool_1(
    x: Tensor,
    *,
    kernel_shape: Sequence[int] | None = None,
    p: float = 2.0,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
    auto_pad: str = "NOTSET",
) -> Tensor:
    kernel = kernel_shape or x.shape[2:]
    return pool.lp_pool(x, kernel_shape=kernel, p=p, pads=pads, strides=strides, auto_pad=auto_pad)
