"""Spectra; complex numbers are the last axis, (real, imaginary), as in ONNX."""

import math

import torch
from torch import Tensor

from onnxprune.to_torch.operands import Scalar, dtype_of, number
from onnxprune.to_torch.registry import converts


@converts("DFT", since=17)
def dft_17(
    x: Tensor, length: Scalar | None = None, *, axis: int = 1, inverse: int = 0, onesided: int = 0
) -> Tensor:
    return dft(x, length, axis, inverse=inverse, onesided=onesided)


@converts("DFT", since=20)
def dft(
    x: Tensor, length: Scalar | None = None, axis: Scalar | None = -2, *, inverse: int = 0, onesided: int = 0
) -> Tensor:
    """One-sided: from real to half a spectrum, or back to real."""
    along = (-2 if axis is None else int(number(axis))) % x.dim()
    n = None if length is None else int(number(length))
    z = _joined(x)
    if onesided and inverse:
        back: Tensor = torch.fft.irfft(z, n, along)
        return back.unsqueeze(-1).to(x.dtype)
    if onesided:
        return _parted(torch.fft.rfft(z, n, along), x.dtype)
    return _parted(torch.fft.ifft(z, n, along) if inverse else torch.fft.fft(z, n, along), x.dtype)


@converts("STFT", since=17)
def stft(
    x: Tensor,
    step: Scalar,
    window: Tensor | None = None,
    length: Scalar | None = None,
    *,
    onesided: int = 1,
) -> Tensor:
    """From [batch, time, 1 or 2] to [batch, frames, bins, 2]."""
    z = _joined(x)
    n = int(number(length)) if length is not None else z.shape[1] if window is None else window.shape[0]
    frames = z.unfold(1, n, int(number(step)))
    frames = frames if window is None else frames * window.to(frames.dtype)
    return _parted(
        torch.fft.rfft(frames) if onesided and not frames.is_complex() else torch.fft.fft(frames), x.dtype
    )


def _joined(x: Tensor) -> Tensor:
    """[..., 1] as real, [..., 2] as complex numbers [...]."""
    x = x.float() if x.dtype.itemsize < 4 else x
    return torch.complex(x[..., 0], x[..., 1]) if x.shape[-1] == 2 else x[..., 0]


def _parted(z: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.view_as_real(z).to(dtype)


@converts("MelWeightMatrix", since=17)
def mel_weight_matrix(
    bands: Scalar,
    length: Scalar,
    rate: Scalar,
    lower: Scalar,
    upper: Scalar,
    *,
    output_datatype: int = 1,
) -> Tensor:
    """Triangles [length // 2 + 1, bands], whose corners are whole bins."""
    count, size = int(number(bands)), int(number(length))
    low, high = (2595 * math.log10(1 + number(hertz) / 700) for hertz in (lower, upper))
    mels = [low + i * (high - low) / (count + 2) for i in range(count + 2)]
    bins = [(size + 1) * 700 * (10 ** (mel / 2595) - 1) // number(rate) for mel in mels]
    device = upper.device if isinstance(upper, Tensor) else None
    corner = torch.tensor(bins, dtype=torch.float64, device=device)
    place = torch.arange(size // 2 + 1, dtype=torch.float64, device=device)[:, None]
    begin, peak, end = corner[:-2], corner[1:-1], corner[2:]
    rising = torch.where((place >= begin) & (place < peak), (place - begin) / (peak - begin), 0)
    falling = torch.where((place > peak) & (place < end), (end - place) / (end - peak), 0)
    return torch.where(place == peak, 1, rising + falling).to(dtype_of(output_datatype))
