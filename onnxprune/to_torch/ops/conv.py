"""Convolutions."""

from collections.abc import Callable, Sequence

import torch.nn.functional as F
from torch import Tensor

from onnxprune.to_torch.registry import converts

_CONV: dict[int, Callable[..., Tensor]] = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}
_TRANSPOSED: dict[int, Callable[..., Tensor]] = {
    3: F.conv_transpose1d,
    4: F.conv_transpose2d,
    5: F.conv_transpose3d,
}


@converts("Conv", since=1)
def conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    group: int = 1,
    kernel_shape: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
    dilations: Sequence[int] | None = None,
    auto_pad: str = "NOTSET",
) -> Tensor:
    rank = x.dim() - 2
    strides, dilations = strides or [1] * rank, dilations or [1] * rank
    pads = window_pads(auto_pad, pads, x.shape[2:], weight.shape[2:], strides=strides, dilations=dilations)
    if not symmetric(pads):
        x, pads = pad_spatial(x, pads), [0] * rank
    return _CONV[x.dim()](x, weight, bias, strides, pads[:rank], dilations, group)


@converts("ConvTranspose", since=1)
def conv_transpose(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    group: int = 1,
    kernel_shape: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    output_padding: Sequence[int] | None = None,
    output_shape: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
    dilations: Sequence[int] | None = None,
    auto_pad: str = "NOTSET",
) -> Tensor:
    rank = x.dim() - 2
    strides, dilations = strides or [1] * rank, dilations or [1] * rank
    extra = list(output_padding or [0] * rank)
    pads = list(pads or [0] * 2 * rank)
    if output_shape is not None or auto_pad.startswith("SAME"):
        wanted = output_shape or [n * s for n, s in zip(x.shape[2:], strides, strict=True)]
        uncropped = [
            s * (n - 1) + e + (k - 1) * d + 1
            for n, k, s, d, e in zip(x.shape[2:], weight.shape[2:], strides, dilations, extra, strict=True)
        ]
        # A wider wanted shape means no cropping and zeros after the end, as in onnxruntime.
        total = [full - want for full, want in zip(uncropped, wanted[-rank:], strict=True)]
        half = [max(t, 0) // 2 for t in total]
        rest = [t - h for t, h in zip(total, half, strict=True)]
        pads = half + rest if auto_pad == "SAME_UPPER" else _spread(rest, half, total)
    function = _TRANSPOSED[x.dim()]
    if symmetric(pads):
        return function(x, weight, bias, strides, pads[:rank], extra, group, dilations)
    y = pad_spatial(
        function(x, weight, None, strides, [0] * rank, extra, group, dilations), [-p for p in pads]
    )
    return y if bias is None else y + bias.reshape(-1, *[1] * rank)


def _spread(rest: list[int], half: list[int], total: list[int]) -> list[int]:
    begins = [r if t >= 0 else 0 for r, t in zip(rest, total, strict=True)]
    ends = [h if t >= 0 else t for h, t in zip(half, total, strict=True)]
    return begins + ends


def window_pads(
    auto_pad: str,
    pads: Sequence[int] | None,
    size: Sequence[int],
    kernel: Sequence[int],
    *,
    strides: Sequence[int],
    dilations: Sequence[int],
) -> list[int]:
    """The pads of a sliding window, begins then ends, as `auto_pad` or `pads` say."""
    if auto_pad in ("NOTSET", ""):
        return list(pads or [0] * 2 * len(size))
    if auto_pad == "VALID":
        return [0] * 2 * len(size)
    total = [
        max((-(-n // s) - 1) * s + (k - 1) * d + 1 - n, 0)
        for n, k, s, d in zip(size, kernel, strides, dilations, strict=True)
    ]
    small, large = [t // 2 for t in total], [t - t // 2 for t in total]
    return small + large if auto_pad == "SAME_UPPER" else large + small


def symmetric(pads: Sequence[int]) -> bool:
    """Whether PyTorch's own padding can say these pads."""
    rank = len(pads) // 2
    return list(pads[:rank]) == list(pads[rank:]) and min(pads, default=0) >= 0


def pad_spatial(x: Tensor, pads: Sequence[int], value: float = 0.0) -> Tensor:
    """`x` padded (negative: cropped) along its last axes; `pads` are all begins, then all ends."""
    rank = len(pads) // 2
    return F.pad(
        x, [p for axis in reversed(range(rank)) for p in (pads[axis], pads[rank + axis])], value=value
    )
