"""How far each channel's slice of a weight is from all the others': least near their geometric median."""

from collections.abc import Iterator

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.weights import real

CHANNELS = 1024
"""Channels of which all distances to as many others are held at a time: 8 MiB."""
ENTRIES = 1 << 22
"""About so many entries of their slices are held as float64 at a time: 32 MiB."""
SAME = 1e-12
"""Squared distances below this part of both squared lengths are rounding errors of long slices."""


def distances(tensor: gs.Constant, axis: int, atoms: np.ndarray, largest: float) -> np.ndarray:
    """For each entry of the axis the sum of Euclidean distances of its channel's slice to those of all others, of the
    weight divided by its largest entry; float64, shape (entries of the axis,).

    `atoms`: the channel of each entry. A slice has all entries of its channel, in order, where every channel has as
    many; else each entry counts as a channel. Weights of whole numbers are held as floats while they are worked on.
    Squared distances are taken from inner products in float64, so that equal slices are at 0.
    """
    values = real(tensor)
    if values is None:
        return np.zeros(len(atoms))
    _, channel, count = np.unique(atoms, return_inverse=True, return_counts=True)
    if count.min() < count.max():
        channel, count = np.arange(len(atoms)), np.ones(len(atoms), np.intp)
    places = np.argsort(channel, kind="stable").reshape(len(count), -1)
    sums = np.zeros(len(places))
    starts = range(0, len(places), CHANNELS)
    view = np.moveaxis(values, axis, 0)
    for start in starts:
        some = slice(start, start + CHANNELS)
        for other in starts[: start // CHANNELS + 1]:
            others = slice(other, other + CHANNELS)
            apart = _apart(view, places[some], places[others], largest)
            sums[some] += apart.sum(1)
            if other != start:
                sums[others] += apart.sum(0)
    return sums[channel]


def _apart(view: np.ndarray, some: np.ndarray, others: np.ndarray, largest: float) -> np.ndarray:
    """Distances between slices, shape (some, others)."""
    inner = np.zeros((len(some), len(others)))
    lengths, other_lengths = np.zeros((len(some), 1)), np.zeros(len(others))
    same = np.array_equal(some, others)
    for columns in _columns(view, max(some.size, others.size)):
        one = _slices(columns, some, largest)
        two = one if same else _slices(columns, others, largest)
        inner += one @ two.T
        lengths += np.einsum("ij,ij->i", one, one)[:, None]
        other_lengths += np.einsum("ij,ij->i", two, two)
    both = lengths + other_lengths
    square = both - 2 * inner
    return np.sqrt(np.where(square > SAME * both, square, 0))


def _columns(view: np.ndarray, rows: int) -> Iterator[np.ndarray]:
    """All of these rows in parts along the second axis, of about ENTRIES entries."""
    each = rows * max(int(np.prod(view.shape[2:])), 1)
    step = max(ENTRIES // max(each, 1), 1)
    return (view[:, start : start + step] for start in range(0, view.shape[1], step))


def _slices(columns: np.ndarray, places: np.ndarray, largest: float) -> np.ndarray:
    """One row a channel, float64."""
    rows: np.ndarray = columns[places].reshape(len(places), -1).astype(np.float64)
    rows /= largest
    return rows
