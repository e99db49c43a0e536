"""Which channels a sum misses least, one after the other, when the weights of the others make up for each.

Optimal brain surgery on groups of rows (Hassibi, Stork, Wolff, NIPS 1993; for one layer's error, Frantar and Alistarh,
NeurIPS 2022, arXiv 2208.11580): with H the damped covariance of a layer's inputs U and W its weights, taking the rows g
away costs tr(W_g' [H^-1]_gg^-1 W_g), if the other rows are moved by -[H^-1]_:g [H^-1]_gg^-1 W_g.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxprune.recovery.definite import inverted
from onnxprune.recovery.windows import Floats

PACKED = 0.8
"""An inverse is packed where less than this share of it is in use."""
AT_ONCE = 32
"""One of so many channels that are left goes in one step."""


@dataclass
class Layer:
    """One op's part: H^-1 of each block, W, and in each block the rows of every channel, shape (channels, rows of one).

    What is gone leaves H^-1 in batches, so that the matrices become smaller.
    """

    inverse: list[Floats]
    weight: Floats
    rows: list[NDArray[np.intp]]
    scale: float = 1.0
    """What an error of this op counts."""

    def __post_init__(self) -> None:
        self.place = [np.arange(len(inverse)) for inverse in self.inverse]
        """Where a row of W lies in H^-1, -1 where it is gone."""

    @staticmethod
    def of(hessian: Floats, weight: Floats, rows: list[NDArray[np.intp]], scale: float = 1.0) -> "Layer":
        """From H, shape (blocks, rows, rows), and W, (blocks, rows, outputs)."""
        return Layer(list(inverted(hessian)), np.array(weight), rows, scale)

    def losses(self, left: NDArray[np.intp]) -> Floats:
        """What each of the channels `left` costs, shape (left,)."""
        total = np.zeros(len(left))
        for inverse, weight, rows, place in zip(
            self.inverse, self.weight, self.rows, self.place, strict=True
        ):
            own = rows[left]
            at = place[own]
            inner = inverse[at[:, :, None], at[:, None, :]]
            gone = at < 0  # with another group's channels; their weights are 0
            if gone.any():
                inner[gone[:, :, None] | gone[:, None, :]] = 0
                inner += gone[:, :, None] * np.eye(own.shape[1])
            total += np.einsum("cro,cro->c", weight[own], np.linalg.solve(inner, weight[own]))
        return total * self.scale

    def remove(self, which: NDArray[np.intp]) -> float:
        """Takes these channels' rows away and moves the others; what all of them together cost."""
        cost = 0.0
        for block, (weight, rows) in enumerate(zip(self.weight, self.rows, strict=True)):
            inverse, place = self.inverse[block], self.place[block]
            own = rows[which].reshape(-1)
            own = own[place[own] >= 0]
            at, stays = place[own], np.flatnonzero(place >= 0)
            columns = inverse[:, at]
            step = np.linalg.solve(columns[at], np.hstack([weight[own], columns.T]))
            outputs = weight.shape[1]
            cost += float((weight[own] * step[:, :outputs]).sum())
            weight[stays] -= columns[place[stays]] @ step[:, :outputs]
            weight[own] = 0
            np.subtract(inverse, columns @ step[:, outputs:], out=inverse)
            place[own] = -1
            stays = np.flatnonzero(place >= 0)
            if len(stays) < PACKED * len(inverse):
                self.inverse[block] = inverse[np.ix_(place[stays], place[stays])]
                place[stays] = np.arange(len(stays))
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
