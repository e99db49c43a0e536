"""How far a model's outputs are from the original's, in a number per sample that no label is needed for."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
TEMPERATURE = 4.0
"""Of class scores. At 1 their divergence hangs on the few inputs that the model doubts, and on how sure it is of itself
more than on which class it sees.
"""


@dataclass(frozen=True)
class Head:
    """How one output is compared: as `logits` or `probabilities` of classes along `axis`, `values`, or `nothing`."""

    kind: str
    axis: int = 1
    variance: float = 1.0

    @staticmethod
    def of(output: np.ndarray) -> "Head":
        """Told from the original's output on some inputs: (n, classes) with entries outside of 0 to 1 are logits, what
        is in it and sums to 1 probabilities; all other numbers are values.
        """
        if output.dtype.kind != "f" or output.size == 0:
            return Head("nothing")
        wide = output.astype(np.float64)
        variance = float(wide.var())
        if not np.isfinite(wide).all() or variance == 0:
            return Head("nothing")
        for axis in (1, -1):
            if output.ndim > 1 and output.shape[axis] > 1 and _sums_to_one(wide, axis):
                return Head("probabilities", axis, variance)
        outside = bool((wide < 0).any() or (wide > 1).any())
        if output.ndim == 2 and output.shape[1] > 1 and outside:
            return Head("logits", 1, variance)
        return Head("values", 1, variance)

    def distances(self, output: np.ndarray, wanted: np.ndarray) -> Floats:
        """KL(wanted || output) of classes at TEMPERATURE times its square, in nats, else the squared error per
        variance; per sample (entry of the first axis) the mean over its positions.
        """
        a, b = wanted.astype(np.float64), output.astype(np.float64)
        if self.kind == "values":
            found = np.square(a - b) / self.variance
        else:
            if self.kind == "probabilities":
                a, b = (np.log(np.maximum(p, 1e-12)) for p in (a, b))
            p, q = (x / TEMPERATURE - _logsumexp(x / TEMPERATURE, self.axis) for x in (a, b))
            found = (np.exp(p) * (p - q)).sum(axis=self.axis) * TEMPERATURE**2
        return np.asarray(found.reshape(len(found) if found.ndim else 1, -1).mean(axis=1))


def _sums_to_one(values: Floats, axis: int) -> bool:
    inside = (values >= 0).all() and (values <= 1).all()
    return bool(inside and np.allclose(values.sum(axis=axis), 1.0, atol=1e-3))


def _logsumexp(x: Floats, axis: int) -> Floats:
    most = x.max(axis=axis, keepdims=True)
    total = np.exp(x - most).sum(axis=axis, keepdims=True)
    return np.asarray(most + np.log(total))


def heads(outputs: Sequence[np.ndarray]) -> list[Head]:
    """One for each output of a batch."""
    return [Head.of(output) for output in outputs]


def discrepancies(
    heads: Sequence[Head], outputs: Sequence[np.ndarray], wanted: Sequence[np.ndarray]
) -> Floats:
    """Per sample the mean over the outputs that say something; where these do not count samples alike, one number. 0
    where none says anything, infinite where an output holds NaN.
    """
    with np.errstate(all="ignore"):
        parts = [
            head.distances(output, target)
            for head, output, target in zip(heads, outputs, wanted, strict=True)
            if head.kind != "nothing"
        ]
        if len({len(part) for part in parts}) > 1:
            parts = [part.mean(keepdims=True) for part in parts]
        mean = np.mean(parts, axis=0) if parts else np.zeros(1)
    return np.where(np.isfinite(mean), mean, np.inf)
