"""What a rule says of a node's axes: the statements that an axis expression stands for, or that a rule makes itself."""

from dataclasses import dataclass, field

Shape = tuple[int | None, ...]
"""Sizes of a value's axes; None where the size is dynamic."""


@dataclass(frozen=True)
class At:
    """One axis of one operand of a node; `operand` is `in0`, `in1`, ..., `out0`, ..."""

    operand: str
    axis: int


@dataclass(frozen=True)
class Virtual:
    """An axis that no operand has by itself: a factor of a flattened one."""

    name: str
    size: int


Place = At | Virtual


@dataclass(frozen=True)
class Same:
    """Equal entries live and die together: a[i] ~ b[j] for the paired indices (None: all, in order)."""

    a: Place
    b: Place
    a_index: tuple[int, ...] | range | None = None
    b_index: tuple[int, ...] | range | None = None


@dataclass(frozen=True)
class Frozen:
    """These entries (None: all) keep their place, and why; the node's name is put before the reason."""

    at: Place
    because: str
    index: tuple[int, ...] | range | None = None


@dataclass(frozen=True)
class Grid:
    """removed(whole[i, j, ...]) = removed(factors[0][i]) or removed(factors[1][j]) or ..."""

    whole: Place
    factors: tuple[Place, ...]


@dataclass
class Links:
    """All that a rule says of one node. An axis not mentioned is frozen."""

    same: list[Same] = field(default_factory=list)
    frozen: list[Frozen] = field(default_factory=list)
    grids: list[Grid] = field(default_factory=list)
    free: list[At] = field(default_factory=list)
    """Mentioned, and nothing more: entries that may go without anything else going."""
    summed: list[At] = field(default_factory=list)
    """Axes the op sums away: where gates go."""
    measured: list[At] = field(default_factory=list)
    """Axes that the op passes on and takes a norm, a mean, a running sum over: where gates go too."""
    macs: tuple[Place | int, ...] | None = None
    """The axes whose sizes multiply to the op's multiply-accumulates; a plain number where no axis has a label."""
    more_macs: list[tuple[Place | int, ...]] = field(default_factory=list)
    """Further such products, of ops that multiply more than once; they add up."""

    def mentioned(self) -> set[At]:
        """Every operand axis that some statement covers."""
        places: list[Place] = [*self.free, *(f.at for f in self.frozen), *(g.whole for g in self.grids)]
        places += [p for g in self.grids for p in g.factors]
        places += [p for s in self.same for p in (s.a, s.b)]
        return {p for p in places if isinstance(p, At)}
