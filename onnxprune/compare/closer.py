"""A closer look at two models that differ by a little: on the same decisions, and in double precision.

What is left of the difference is not the models' own: in float32 the order of a sum decides over the last bit, which a
badly conditioned network magnifies, and which turns ties between decisions the other way.
"""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from onnxprune.apart import Apart
from onnxprune.compare.decided import Decision, Decisions, decisions, given, pairs, telling
from onnxprune.compare.doubled import Doubled, Unsupported
from onnxprune.compare.recording import Feed, Model, Recording, Runner, parts, record, relative_error
from onnxprune.errors import LawError, ModelError

log = logging.getLogger(__name__)

Pair = tuple[Decision, Decision]

ROUNDING = 1e-2
"""No larger difference is taken for rounding; and so near must both precisions be to each other in one model."""
TIMES = 10
"""So many times farther than the first model is from itself in double precision may the second be from it in single: a
model that rounds far worse than the original is not the same one.
"""


@dataclass(frozen=True)
class Closer:
    """What a closer look finds."""

    max_rel_error: float
    single: float
    """How far the models are apart in single precision, on the same decisions; equal to the former where that is it."""
    decided: bool
    """Whether they were given the same decisions."""


def look_closer(recorded: Recording, slim: Model, apart: float, tolerance: float) -> Closer | None:
    """How far the models are apart in what follows from decisions once they are the same, and in what these follow
    from; in double precision where that is above the tolerance. None where nothing more can be seen: `apart` stands.
    """
    try:
        view = _View(recorded, parts(recorded.model), parts(slim))
        single = view.apart(view.found, view.expected) if view.taken else apart
        if single <= tolerance:
            return Closer(single, single, decided=True)
        if single <= ROUNDING:
            return Closer(view.apart_in_double(single), single, decided=bool(view.taken))
    except (LawError, ModelError, Unsupported) as error:
        log.debug("no closer look: %s", error)
    return None


@dataclass
class _View:
    """Two models on the same inputs, the second one given the decisions that the first one makes.

    Only those that follow from values of equal shapes in both: one that reads pruned channels is left to each. Other
    decisions may change these shapes, so this goes on until no more can be given.
    """

    recorded: Recording
    first: Apart
    second: Apart
    taken: list[Pair] = field(default_factory=list)
    expected: Sequence[Feed] = ()
    """Per run what the first model computes."""
    found: Sequence[Feed] = ()
    """The same of the second one."""

    def __post_init__(self) -> None:
        made, others = decisions(self.first.light), decisions(self.second.light)
        alike = pairs(made, others)
        self.first = _telling(self.first, [one for one, _ in alike], made)
        self.second = _telling(self.second, [other for _, other in alike], others)
        self.types = made.types | others.types
        if alike:
            self._exchange(alike)

    def _exchange(self, alike: Sequence[Pair]) -> None:
        like = self.recorded
        told = record(
            self.first,
            feeds=self._feeds,
            provider=like.provider,
            where=like.where,
            optimize=like.optimize,
        )
        self.expected = [dict(zip(told.interface[1], values, strict=True)) for _, values in told.runs]
        more = list(alike)
        while more:
            with Runner(self._given(self.second), like.provider, like.where, like.optimize) as runner:
                self.found = self._run(runner)
            more = [pair for pair in alike if pair not in self.taken and self._readable(pair)]
            self.taken += more

    @property
    def _feeds(self) -> list[Feed]:
        return [feed for feed, _ in self.recorded.runs]

    @property
    def _names(self) -> list[str]:
        """Of the decisions that are given."""
        return [name for one, _ in self.taken for name in one.outputs]

    def _given(self, model: Apart) -> Apart:
        ranks = {name: self.expected[0][name].ndim for name in self._names}
        return replace(model, light=given(model.light, ranks, self.types))

    def _run(self, runner: "Runner | Doubled") -> list[Feed]:
        """Per run what a model computes that is given the decisions, and these."""
        found: list[Feed] = []
        for number, feed in enumerate(self._feeds):
            handed = {name: self.expected[number][name] for name in self._names}
            found.append(handed | dict(zip(runner.interface[1], runner({**feed, **handed}), strict=True)))
        return found

    def _readable(self, pair: Pair) -> bool:
        both = zip(self.expected, self.found, strict=True)
        return all(x[a].shape == y[b].shape for x, y in both for a, b in _reads(pair))

    def apart(self, found: Sequence[Feed], expected: Sequence[Feed], *, of_first: bool = False) -> float:
        """The largest difference of outputs and of what given decisions follow from; both are the first model's values
        if `of_first`, else `found` are the second one's.
        """
        outputs = [(name, name) for name in self.recorded.interface[1] if name not in self._names]
        read = [names for pair in self.taken for names in _reads(pair)]
        return max(
            (
                _error(x[a], y[a if of_first else b], a)
                for x, y in zip(expected, found, strict=True)
                for a, b in dict.fromkeys([*outputs, *read])
            ),
            default=0.0,
        )

    def apart_in_double(self, single: float) -> float:
        """The same in double precision; `single` is what it is in single precision. Raises Unsupported where it is not
        to be had, is not the same function, or says that `single` is more than the first model's own rounding.
        """
        first, second = (self._run(Doubled(self._given(model))) for model in (self.first, self.second))
        outputs = self.recorded.interface[1]
        plain = [dict(zip(outputs, values, strict=True)) for _, values in self.recorded.runs]
        own = self.apart(first, self.expected or plain, of_first=True)
        if not own <= ROUNDING:
            raise Unsupported("it is another function in double precision")
        if single > TIMES * own:
            raise Unsupported(f"{single:.1e} is not the rounding of a model that is {own:.1e} from itself")
        return self.apart(second, first)


def _telling(model: Apart, made: Iterable[Decision], known: Decisions) -> Apart:
    return replace(model, light=telling(model.light, made, known.types))


def _reads(pair: Pair) -> Iterable[tuple[str, str]]:
    return zip(pair[0].reads, pair[1].reads, strict=True)


def _error(a: np.ndarray, b: np.ndarray, name: str) -> float:
    """The relative error; what a decision follows from may hold no finite number, in both alike."""
    if a.dtype.kind == b.dtype.kind == "f" and np.array_equal(a, b, equal_nan=True):
        return 0.0
    return relative_error(a, b, name)
