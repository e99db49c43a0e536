"""The same entries in another shape or order, or repeated."""

from collections.abc import Sequence

import torch
from torch import Tensor

from onnxprune.to_torch.operands import Ints, ints
from onnxprune.to_torch.registry import converts


@converts("Reshape", since=5)
def reshape(x: Tensor, shape: Ints, *, allowzero: int = 0) -> Tensor:
    sizes = ints(shape)
    if not allowzero:
        sizes = [x.shape[i] if n == 0 else n for i, n in enumerate(sizes)]
    return x.reshape(sizes)


@converts("Flatten", since=1)
def flatten(x: Tensor, *, axis: int = 1) -> Tensor:
    if axis == 1 and x.dim() > 1:
        return torch.flatten(x, 1)
    axis = axis % x.dim() if axis < 0 else axis
    return x.reshape(x.shape[:axis].numel(), -1) if x.numel() else x.reshape(
        x.shape[:axis].numel(), x.shape[axis:].numel()
    )  # fmt: skip


@converts("Transpose", since=1)
def transpose(x: Tensor, *, perm: Sequence[int] | None = None) -> Tensor:
    return x.permute(list(perm) if perm else list(reversed(range(x.dim()))))


@converts("Squeeze", since=1)
def squeeze_1(x: Tensor, *, axes: Sequence[int] | None = None) -> Tensor:
    return x.squeeze() if axes is None else x.squeeze(tuple(axes))


@converts("Squeeze", since=13)
def squeeze(x: Tensor, axes: Ints | None = None) -> Tensor:
    return x.squeeze() if axes is None else x.squeeze(tuple(ints(axes)))


@converts("Unsqueeze", since=1)
def unsqueeze_1(x: Tensor, *, axes: Sequence[int]) -> Tensor:
    return unsqueeze(x, axes)


@converts("Unsqueeze", since=13)
def unsqueeze(x: Tensor, axes: Ints) -> Tensor:
    places = ints(axes)
    rank = x.dim() + len(places)
    for axis in sorted(a % rank for a in places):
        x = x.unsqueeze(axis)
    return x


@converts("Expand", since=8)
def expand(x: Tensor, shape: Ints) -> Tensor:
    """To the shape that `x` and `shape` broadcast to: a 1 in `shape` keeps the size of `x`."""
    sizes = ints(shape)
    own = [1] * (len(sizes) - x.dim()) + list(x.shape)
    sizes = [1] * (x.dim() - len(sizes)) + sizes
    return x.expand([o if n == 1 else n for o, n in zip(own, sizes, strict=True)])


@converts("Tile", since=6)
def tile(x: Tensor, repeats: Ints) -> Tensor:
    return x.repeat(ints(repeats))


@converts("DepthToSpace", since=1)
def depth_to_space(x: Tensor, *, blocksize: int, mode: str = "DCR") -> Tensor:
    n, c, h, w = x.shape
    b, depth = blocksize, c // blocksize**2
    if mode == "DCR":
        x = x.reshape(n, b, b, depth, h, w).permute(0, 3, 4, 1, 5, 2)
    else:
        x = x.reshape(n, depth, b, b, h, w).permute(0, 1, 4, 2, 5, 3)
    return x.reshape(n, depth, h * b, w * b)


@converts("SpaceToDepth", since=1)
def space_to_depth(x: Tensor, *, blocksize: int, mode: str = "DCR") -> Tensor:
    n, c, h, w = x.shape
    b = blocksize
    x = x.reshape(n, c, h // b, b, w // b, b)
    x = x.permute(0, 3, 5, 1, 2, 4) if mode == "DCR" else x.permute(0, 1, 3, 5, 2, 4)
    return x.reshape(n, c * b * b, h // b, w // b)


@converts("Identity", since=1)
def identity(x: Tensor) -> Tensor:
    return x
