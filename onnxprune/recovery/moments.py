"""Sums over samples that least squares needs, gathered batch by batch."""

from dataclasses import dataclass, field

import numpy as np

from onnxprune.recovery.windows import Floats


@dataclass
class Moments:
    """First and second moments of U, shape (blocks, samples, rows), and with targets T, (blocks, samples, outputs)."""

    count: int = 0
    u: Floats = field(default_factory=lambda: np.zeros(()))
    t: Floats = field(default_factory=lambda: np.zeros(()))
    uu: Floats = field(default_factory=lambda: np.zeros(()))
    ut: Floats = field(default_factory=lambda: np.zeros(()))
    tt: Floats = field(default_factory=lambda: np.zeros(()))
    """Of each target with itself, (blocks, outputs)."""

    def add(self, u: Floats, t: Floats | None = None) -> None:
        """Float32 products of a batch, summed in float64; what holds NaN or infinity is left out."""
        sound = np.isfinite(u).all(axis=(0, 2))
        if t is not None:
            sound &= np.isfinite(t).all(axis=(0, 2))
        if not sound.all():
            u, t = u[:, sound], None if t is None else t[:, sound]
        self.count += u.shape[1]
        self.u = self.u + u.sum(axis=1, dtype=np.float64)
        self.uu = _added(self.uu, np.matmul(u.transpose(0, 2, 1), u))
        if t is not None:
            self.t = self.t + t.sum(axis=1, dtype=np.float64)
            self.ut = _added(self.ut, np.matmul(u.transpose(0, 2, 1), t))
            self.tt = self.tt + np.square(t).sum(axis=1, dtype=np.float64)

    def mean(self) -> Floats:
        return np.asarray(self.u / max(self.count, 1), dtype=np.float64)

    def target(self) -> Floats:
        """The mean of the targets."""
        return np.asarray(self.t / max(self.count, 1), dtype=np.float64)

    def covariance(self, *, centred: bool) -> Floats:
        """Of U, (blocks, rows, rows); about zero where nothing can take up a constant."""
        found = self.uu / max(self.count, 1)
        if centred:
            mean = self.mean()
            found = found - mean[:, :, None] * mean[:, None, :]
        return np.asarray(found, dtype=np.float64)

    def cross(self, *, centred: bool) -> Floats:
        """Of U and T, (blocks, rows, outputs)."""
        found = self.ut / max(self.count, 1)
        if centred:
            found = found - self.mean()[:, :, None] * self.target()[:, None, :]
        return np.asarray(found, dtype=np.float64)

    def variance(self, *, centred: bool) -> Floats:
        """Of each target, (blocks, outputs)."""
        found = self.tt / max(self.count, 1)
        return np.maximum(found - self.target() ** 2, 0.0) if centred else np.asarray(found)


def _added(total: Floats, part: Floats) -> Floats:
    """In place, but for the first time: these are the largest arrays that there are."""
    if not total.ndim:
        return part.astype(np.float64)
    total += part
    return total


RIDGE = 1e-4
"""Added to the diagonal of a covariance, as a share of its mean: what the samples do not tell stays as it was."""
SCARCE = 0.03
"""The same, times rows per sample: the fewer samples there are the more of what they tell is chance."""


def damped(covariance: Floats, count: int) -> Floats:
    """The covariance of so many samples with a ridge, positive definite."""
    rows = covariance.shape[-1]
    ridge = max(RIDGE, SCARCE * rows / max(count, 1))
    level = np.trace(covariance, axis1=-2, axis2=-1) / rows * ridge
    return np.asarray(covariance + np.maximum(level, 1e-12)[:, None, None] * np.eye(rows))
