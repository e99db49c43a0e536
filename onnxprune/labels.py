"""Which channels live and die together: labels, equalities and grids, solved at once.

Every entry of every static axis carries an int label. Rules state equalities between labels, labels that must stay,
and grids (an entry of a flattened axis goes when any of its factors goes). Connected labels are an *atom*.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

Labels = np.ndarray[Any, np.dtype[np.int64]]


@dataclass
class GridLabels:
    """removed(whole[i, j, ...]) = removed(factors[0][i]) or removed(factors[1][j]) or ..."""

    whole: Labels
    """Shape (n1, n2, ...)."""
    factors: tuple[Labels, ...]
    because: int
    """The reason to freeze it for, where no factor can go."""


@dataclass
class Statements:
    """Everything the rules said, in labels."""

    count: int = 0
    equal: list[tuple[Labels, Labels]] = field(default_factory=list)
    frozen: list[tuple[Labels, int]] = field(default_factory=list)
    """Labels and the index of the reason."""
    grids: list[GridLabels] = field(default_factory=list)

    def fresh(self, size: int) -> Labels:
        """`size` labels that nothing is said of yet."""
        self.count += size
        return np.arange(self.count - size, self.count, dtype=np.int64)


@dataclass
class Atoms:
    """The solution."""

    of: Labels
    """The atom of every label."""
    count: int
    because: Labels
    """Per atom the index of the reason that froze it, or -1 where it may go."""
    derived: dict[int, tuple[int, ...]]
    """Atoms that go exactly when one of these goes, in an order in which they can be settled one by one."""


NEVER = np.iinfo(np.int64).max


def solve(statements: Statements) -> Atoms:
    """Atoms, with every grid either dissolved into equalities, frozen, or kept as derived atoms."""
    equal = list(statements.equal)
    frozen = list(statements.frozen)
    while True:
        count, of = _connect(statements.count, equal)
        because = np.full(count, NEVER, dtype=np.int64)
        for labels, reason in frozen:
            np.minimum.at(because, of[labels], reason)
        news = _Settling(of, because)
        for grid in statements.grids:
            news.settle(grid)
        if not news.equal and not news.frozen:
            derived = news.in_order()
            if derived is not None:
                because[because == NEVER] = -1
                return Atoms(of, count, because, derived)
            news.freeze_all_grids(statements.grids)
        equal += news.equal
        frozen += news.frozen


def _connect(count: int, equal: Sequence[tuple[Labels, Labels]]) -> tuple[int, Labels]:
    if not equal:
        return count, np.arange(count, dtype=np.int64)
    a = np.concatenate([pair[0] for pair in equal])
    b = np.concatenate([pair[1] for pair in equal])
    graph = coo_matrix((np.ones(len(a), dtype=np.int8), (a, b)), shape=(count, count))
    number, of = connected_components(graph, directed=False)
    return int(number), of.astype(np.int64)


class _Settling:
    """One pass over the grids under the present atoms: what must be added, or how whole atoms follow their factors."""

    def __init__(self, of: Labels, because: Labels) -> None:
        self.of, self.because = of, because
        self.equal: list[tuple[Labels, Labels]] = []
        self.frozen: list[tuple[Labels, int]] = []
        self.derived: dict[int, tuple[int, ...]] = {}
        self.claimed: dict[int, GridLabels] = {}
        self.kept: set[tuple[tuple[int, ...], bytes, bytes]] = set()

    def _is_frozen(self, labels: Labels) -> np.ndarray:
        return np.asarray(self.because[self.of[labels]] != NEVER)

    def settle(self, grid: GridLabels) -> None:
        whole_frozen = self._is_frozen(grid.whole)
        live = []
        for axis, factor in enumerate(grid.factors):
            others = tuple(k for k in range(grid.whole.ndim) if k != axis)
            must_stay = whole_frozen.any(axis=others) & ~self._is_frozen(factor)
            for entry in np.flatnonzero(must_stay):  # a whole that stays keeps all of its factors
                cells = np.take(grid.whole, entry, axis=axis)
                self.frozen.append((factor[entry : entry + 1], int(self.because[self.of[cells]].min())))
            if not (self._is_frozen(factor) | must_stay).all():
                live.append(axis)
        if len(live) > 1:
            self._keep(grid)
        elif len(live) == 1:
            shape = [1] * grid.whole.ndim
            shape[live[0]] = -1
            factor = np.broadcast_to(grid.factors[live[0]].reshape(shape), grid.whole.shape)
            if (self.of[grid.whole] != self.of[factor]).any():
                self.equal.append((grid.whole.reshape(-1), factor.reshape(-1)))
        elif not whole_frozen.all():
            self.frozen.append((grid.whole.reshape(-1), self._reason(grid)))

    def _reason(self, grid: GridLabels) -> int:
        """Why its factors stay; the last to be frozen says most, its own if none was."""
        reasons = [int(self.because[self.of[f]].min()) for f in grid.factors]
        return min((r for r in reasons if r != NEVER), default=grid.because)

    def _keep(self, grid: GridLabels) -> None:
        atoms = self.of[grid.whole]
        for axis, factor in enumerate(grid.factors):
            alike = (atoms == atoms.take([0], axis)).all() and (self.of[factor] != self.of[factor[0]]).any()
            if alike and not self._is_frozen(factor).all():
                # such as the directions of a recurrent layer, which lose the same channels
                self.frozen.append((factor, grid.because))
                return
        cells = np.stack(np.meshgrid(*(self.of[f] for f in grid.factors), indexing="ij"), axis=-1)
        stays = (self.because[cells] != NEVER).all(axis=-1)
        if (stays & ~self._is_frozen(grid.whole)).any():
            self.frozen.append((grid.whole[stays], self._reason(grid)))
            return
        key = (grid.whole.shape, atoms.tobytes(), cells.tobytes())
        if key in self.kept:  # said by each of several views in a row
            return
        free = self.because[atoms] == NEVER
        for atom, follows in zip(atoms[free].tolist(), self._followed(cells[free]), strict=True):
            if self.derived.setdefault(atom, follows) != follows:
                self._conflict(grid, atom)
                return
            self.claimed.setdefault(atom, grid)
        self.kept.add(key)

    def _followed(self, cells: Labels) -> Iterator[tuple[int, ...]]:
        """Of each row the different atoms that may go, ascending."""
        rows = np.sort(cells, axis=-1)
        if (self.because[rows] == NEVER).all() and (np.diff(rows, axis=-1) > 0).all():
            return map(tuple, rows.tolist())
        return (tuple(sorted({f for f in row if self.because[f] == NEVER})) for row in rows.tolist())

    def _conflict(self, grid: GridLabels, atom: int) -> None:
        """Two groupings of the same entries: made one where they are alike, else this one is frozen."""
        first = self.claimed.get(atom, grid)
        pairs = list(zip(first.factors, grid.factors, strict=False))
        if first.whole.shape == grid.whole.shape and any((self.of[a] != self.of[b]).any() for a, b in pairs):
            self.equal += pairs
        else:
            self.frozen.append((grid.whole.reshape(-1), grid.because))

    def in_order(self) -> dict[int, tuple[int, ...]] | None:
        """The derived atoms, factors before wholes; None where they go in a circle."""
        if self.derived.keys().isdisjoint(chain.from_iterable(self.derived.values())):
            return self.derived
        done: dict[int, tuple[int, ...]] = {}
        waiting = dict(self.derived)
        while waiting:
            ready = [atom for atom, follows in waiting.items() if not any(f in waiting for f in follows)]
            if not ready:
                return None
            for atom in ready:
                done[atom] = waiting.pop(atom)
        return done

    def freeze_all_grids(self, grids: Sequence[GridLabels]) -> None:
        self.frozen += [(grid.whole.reshape(-1), grid.because) for grid in grids]
