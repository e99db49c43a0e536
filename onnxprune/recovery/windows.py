"""How a convolution's kernel meets positions of its input."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]


@dataclass(frozen=True)
class Window:
    """How a Conv, or a ConvTranspose over its input spread out by zeros, meets positions; an entry per spatial axis."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    before: tuple[int, ...] | None
    """Entries padded before the first (cut off where negative); None: as SAME has it, which the sizes tell."""
    after: tuple[int, ...] = ()
    odd_first: bool = False
    """Of SAME: whether the odd one of an odd number of entries goes before the first."""
    spread: tuple[int, ...] = ()
    """Of a ConvTranspose: its strides, which set its input apart by zeros."""

    def extents(self, sizes: tuple[int, ...]) -> list[tuple[int, int, int]]:
        """Per axis of these sizes: entries before and after, and how many positions the output has."""
        found = []
        for axis, size in enumerate(sizes):
            step, reach = self.strides[axis], (self.kernel[axis] - 1) * self.dilations[axis] + 1
            if self.before is None:
                count = -(-size // step)
                missing = max((count - 1) * step + reach - size, 0)
                first = (missing + self.odd_first) // 2
                found.append((first, missing - first, count))
            else:
                whole = size + self.before[axis] + self.after[axis]
                found.append((self.before[axis], self.after[axis], (whole - reach) // step + 1))
        return found

    def spread_out(self, sizes: tuple[int, ...]) -> tuple[int, ...]:
        """The sizes of the input as the window meets it."""
        steps = self.spread or (1,) * len(sizes)
        return tuple((n - 1) * step + 1 for n, step in zip(sizes, steps, strict=True))


def padded(x: Floats, window: Window) -> tuple[Floats, tuple[int, ...]]:
    """The input with all that the window reaches, flat over positions, shape (n, channels, positions); its sizes."""
    sizes = window.spread_out(x.shape[2:])
    if sizes != x.shape[2:]:
        apart = np.zeros((*x.shape[:2], *sizes), dtype=x.dtype)
        apart[:, :, *(slice(None, None, step) for step in window.spread)] = x
        x = apart
    ends = [(before, after) for before, after, _ in window.extents(sizes)]
    cut = (slice(max(-b, 0), n + min(a, 0)) for n, (b, a) in zip(sizes, ends, strict=True))
    found = np.pad(x[:, :, *cut], [(0, 0), (0, 0), *((max(b, 0), max(a, 0)) for b, a in ends)])
    return found.reshape(*found.shape[:2], -1), found.shape[2:]


def places(
    window: Window, out: tuple[int, ...], sizes: tuple[int, ...], chosen: NDArray[np.intp]
) -> NDArray[np.intp]:
    """Where the taps of each chosen position lie in the flat input, shape (positions, taps)."""
    taps = np.indices(window.kernel).reshape(len(sizes), -1)
    found = np.zeros((len(chosen), taps.shape[1]), dtype=np.intp)
    for axis, position in enumerate(np.unravel_index(chosen, out)):
        along = position[:, None] * window.strides[axis] + taps[axis][None] * window.dilations[axis]
        found = found * sizes[axis] + along
    return found
