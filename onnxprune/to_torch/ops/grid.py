"""Sampling on a grid."""

import torch.nn.functional as F
from torch import Tensor

from onnxprune.to_torch.operands import Ints, ints
from onnxprune.to_torch.registry import converts

_MODES = {"linear": "bilinear", "cubic": "bicubic"}


@converts("GridSample", since=16)
def grid_sample(
    x: Tensor, grid: Tensor, *, mode: str = "linear", padding_mode: str = "zeros", align_corners: int = 0
) -> Tensor:
    return F.grid_sample(x, grid, _MODES.get(mode, mode), padding_mode, bool(align_corners))


@converts("AffineGrid", since=20)
def affine_grid(theta: Tensor, size: Ints, *, align_corners: int = 0) -> Tensor:
    return F.affine_grid(theta, ints(size), bool(align_corners))
