"""Which channels a sum misses least, one after the other, when the weights of the others make up for each.

Optimal brain surgery on groups of rows (Hassibi, Stork, Wolff, NIPS 1993; for one layer's error, Frantar and Alistarh,
NeurIPS 2022, arXiv 2208.11580): with H the damped covariance of a layer's inputs U and W its weights, taking the rows g
away costs tr(W_g' [H^-1]_gg^-1 W_g), if the other rows are moved by -[H^-1]_:g [H^-1]_gg^-1 W_g.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxprune.recovery.windows import Floats


@dataclass
class Layer:
    """One op's part: per block H^-1, W, and the rows of every channel, shape (channels, rows of one)."""

    inverse: Floats
    weight: Floats
    rows: list[NDArray[np.intp]]
    scale: float = 1.0
    """What an error of this op counts."""

    @staticmethod
    def of(hessian: Floats, weight: Floats, rows: list[NDArray[np.intp]], scale: float = 1.0) -> "Layer":
        """From H, shape (blocks, rows, rows), and W, (blocks, rows, outputs)."""
        return Layer(np.linalg.inv(hessian), np.array(weight), rows, scale)

    def losses(self, left: NDArray[np.intp]) -> Floats:
        """What each of the channels `left` costs, shape (left,)."""
        total = np.zeros(len(left))
        for inverse, weight, rows in zip(self.inverse, self.weight, self.rows, strict=True):
            own = rows[left]
            inner = inverse[own[:, :, None], own[:, None, :]]
            total += np.einsum("cro,cro->c", weight[own], np.linalg.solve(inner, weight[own]))
        return total * self.scale

    def remove(self, which: NDArray[np.intp]) -> float:
        """Takes these channels' rows away and moves the others; what all of them together cost."""
        cost = 0.0
        for inverse, weight, rows in zip(self.inverse, self.weight, self.rows, strict=True):
            own = rows[which].reshape(-1)
            columns = inverse[:, own]
            step = np.linalg.solve(inverse[np.ix_(own, own)], np.hstack([weight[own], columns.T]))
            cost += float((weight[own] * step[:, : weight.shape[1]]).sum())
            moved = columns @ step
            np.subtract(weight, moved[:, : weight.shape[1]], out=weight)
            np.subtract(inverse, moved[:, weight.shape[1] :], out=inverse)
            weight[own] = 0
            inverse[own] = 0
            inverse[:, own] = 0
            inverse[own, own] = 1  # solvable, and out of the game
        return cost * self.scale


class Elimination:
    """Channels of a group taken away in the order in which all layers that read them miss them least."""

    def __init__(self, size: int, layers: Sequence[Layer]) -> None:
        self.layers = layers
        self.left = np.arange(size)
        self.order: list[int] = []
        """Channels that are gone, the first that went first."""
        self.spent: list[float] = [0.0]
        """What all that went up to each of them cost, 0 for none."""

    def down_to(self, count: int, scores: Floats | None = None) -> None:
        """Takes channels away until so many are left; of many at once a small part, in between all are looked at anew.
        `scores`, one a channel, say which go first, where given.
        """
        while len(self.left) > count:
            losses = sum((layer.losses(self.left) for layer in self.layers), np.zeros(len(self.left)))
            step = min(max(len(self.left) // AT_ONCE, 1), len(self.left) - count)
            least = np.argsort(losses if scores is None else scores[self.left], kind="stable")[:step]
            cost = sum(layer.remove(self.left[least]) for layer in self.layers)
            parts = np.maximum(losses[least], 0.0) + 1e-300  # what each alone costs says its share
            self.spent += (self.spent[-1] + cost * np.cumsum(parts) / parts.sum()).tolist()
            self.order += self.left[least].tolist()
            self.left = np.delete(self.left, least)


AT_ONCE = 32
"""One of so many channels that are left goes in one step."""
