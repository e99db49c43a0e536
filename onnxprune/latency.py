"""What a model takes in onnxruntime, by how many of its channels are open: what `--by latency` counts.

costs = Timed.of(groups, parts, Setting("cpu", threads=2))
costs.fraction("latency", [size // 2 for size in costs.sizes])     # expected
costs.measured(plan)                                               # run beside the original

The model runs at several widths under onnxruntime's profiler. So each op's time is known by how much of its work is
left, on this machine, with what onnxruntime makes of its neighbours; what the profiler names otherwise goes by all
MACs. Plans are chosen by that, then timed as a whole, until one is as fast as asked.
"""

import logging
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np

from onnxprune import choose as plain
from onnxprune import model as files
from onnxprune import rewrite
from onnxprune.apart import Apart
from onnxprune.bench import bench
from onnxprune.choose import CLOSE, Wish
from onnxprune.cost import LATENCY, CostModel, Lengths, Term, multiplied
from onnxprune.errors import PlanError
from onnxprune.groups import Groups, find
from onnxprune.plan import Plan
from onnxprune.profiling import Kernel, kernel_times
from onnxprune.settle import WIDTHS as STEPS

log = logging.getLogger(__name__)

WIDTHS = (1.0, 0.75, 0.5, 0.25, 0.125)
"""Fractions of the channels that the model is timed at."""
SECONDS = 2.0
"""What timing a plan beside the original takes."""
ROUNDS = 6
"""Plans that are timed at the most until one is as fast as asked."""
STEP = 1 / 8
"""Of a group, what goes to tell what a channel saves: kernels do not know of less."""
PRODUCTS = re.compile(r"Conv|Gemm|MatMul")
RENAMED = re.compile(r"(_nchwc|_token_\d+)+$")
"""What onnxruntime adds to the name of what it lays out anew."""


@dataclass(frozen=True)
class Setting:
    """Where and how a model runs; None leaves it to onnxruntime, or to the model."""

    provider: str = "cpu"
    threads: int | None = None
    batch: int | None = None

    def __post_init__(self) -> None:
        if self.batch is not None and self.batch < 1:
            raise PlanError(f"batch {self.batch} is none to time; give 1 or more")


@dataclass(frozen=True)
class _Op:
    """Milliseconds by the share of the work that is left, ascending."""

    terms: list[Term]
    whole: float
    shares: np.ndarray
    times: np.ndarray

    def at(self, lengths: Lengths) -> float:
        left = float(lengths.total(self.terms)) / self.whole if self.whole else 1.0
        return float(np.interp(left, self.shares, self.times))


class Timed(CostModel):
    """A cost model that counts latency as well, in milliseconds."""

    def __init__(
        self,
        groups: Groups,
        counts: Sequence[Sequence[int]],
        profiles: Sequence[Mapping[Kernel, float]],
        cut: Callable[[Plan], Apart],
        setting: Setting,
    ) -> None:
        """`profiles` are the times of kernels with so many channels of each group open; `cut` carries a plan out."""
        super().__init__(groups)
        self.cut, self.setting = cut, setting
        placed = [self._by_op(profile) for profile in profiles]
        lengths = [Lengths(self, open_) for open_ in counts]
        self.ops: list[_Op] = []
        for number in sorted({n for times in placed for n in times}):
            terms = self._work(number)
            whole = float(Lengths(self, self.sizes).total(terms))
            shares = np.asarray([float(one.total(terms)) / whole if whole else 1.0 for one in lengths])
            times = np.asarray([found.get(number, 0.0) for found in placed])
            order = np.argsort(shares, kind="stable")
            self.ops.append(_Op(terms, whole, shares[order], np.maximum.accumulate(times[order])))
        self.total[LATENCY] = float(self.count(LATENCY, self.sizes))

    @staticmethod
    def of(groups: Groups, parts: Apart, setting: Setting) -> "Timed":
        """`parts` are the groups' model without gates. Takes tens of seconds.

        Raises ModelError, ProviderError.
        """
        frozen = {group.name: "frozen by the check" for group in groups.frozen_by_check}

        def cut(plan: Plan) -> Apart:
            model = files.load(parts)
            rewrite.apply(find(model, frozen), plan)
            return files.export(model)

        plans = [Plan({group.name: _first(group.size, width) for group in groups}) for width in WIDTHS]
        models = [cut(plan) for plan in plans]
        profiles = kernel_times(models, setting.provider, threads=setting.threads, batch=setting.batch)
        return Timed(groups, [plan.counts(groups) for plan in plans], profiles, cut, setting)

    def count(self, by: str, open: Sequence[float]) -> float:  # noqa: A002
        """As the other, `by` "latency" too, in milliseconds; that is no polynomial, and takes numbers only."""
        lengths = Lengths(self, open)
        if by == LATENCY:
            return sum(op.at(lengths) for op in self.ops)
        return float(lengths.total(self._terms[by]))

    def unit_costs(self, by: str, open: Sequence[float]) -> np.ndarray:  # noqa: A002
        """Per group, what one more closed channel saves; of latency the mean over an eighth of the group."""
        if by != LATENCY:
            return super().unit_costs(by, open)
        here, saved = self.count(LATENCY, open), np.zeros(len(self.sizes))
        for g, size in enumerate(self.sizes):
            step = min(max(size * STEP, 1.0), open[g])
            fewer = [*open[:g], open[g] - step, *open[g + 1 :]]
            saved[g] = (here - self.count(LATENCY, fewer)) / step
        return saved

    def measured(self, plan: Plan) -> float:
        """The latency that a plan leaves, as a fraction of the original's."""
        return fraction_of(self.cut(Plan({})), self.cut(plan), self.setting)

    def _by_op(self, profile: Mapping[Kernel, float]) -> dict[int, float]:
        """Milliseconds by the number of the op that a kernel is of; -1 for all that are of none."""
        found: dict[int, float] = defaultdict(float)
        for kernel, time in profile.items():
            found[self._number(kernel)] += time
        return dict(found)

    def _number(self, kernel: Kernel) -> int:
        named, made = self._named, self._made
        stem = RENAMED.sub("", kernel.name)
        number = named.get(stem, made.get(stem, -1))
        if not PRODUCTS.search(kernel.op):
            return number
        while number >= 0 and not list(multiplied(self.groups, number)):  # fused with what comes behind it
            first = self.groups.nodes[number].inputs[0]
            number = made.get(first.name, -1) if first is not None else -1
        return number

    @cached_property
    def _named(self) -> dict[str, int]:
        return {node.name: number for number, node in enumerate(self.groups.nodes)}

    @cached_property
    def _made(self) -> dict[str, int]:
        """By tensor the op that makes it."""
        return {
            out.name: number for number, node in enumerate(self.groups.nodes) for out in node.outputs if out
        }

    def _work(self, number: int) -> list[Term]:
        """What an op multiplies, or else makes."""
        if number < 0:
            return self._terms["macs"]
        products = list(multiplied(self.groups, number))
        out = next((value for value in self.groups.nodes[number].outputs if value is not None), None)
        if not products and out is not None:
            products = [
                (1.0, [labels for labels in self.groups.labels.get(out.name, []) if labels is not None])
            ]
        return self._as_terms(products)


def fraction_of(original: Apart, slim: Apart, setting: Setting) -> float:
    """The latency of a model as a fraction of another's: medians of runs that take turns."""
    result = bench(
        [original.whole(), slim.whole()], provider=setting.provider, threads=setting.threads, batch=setting.batch,
        seconds=SECONDS, memory=False,
    )  # fmt: skip
    return 1 / result.speedup[0].ratio


def _first(size: int, width: float) -> np.ndarray:
    """The first channels of a group, about this fraction: as many as kernels like."""
    wanted = max(width * size, 1.0)
    step = next(step for step in STEPS if step <= wanted)
    return np.arange(min(round(wanted / step) * step, size))


class _Tried(NamedTuple):
    asked: float
    reached: float
    plan: Plan


def _next(tried: Sequence[_Tried], wanted: float) -> float:
    """What to ask the expected times for: between plans that are too slow and too fast, or in proportion."""
    if not tried:
        return wanted
    slow, fast = ([one for one in tried if (one.reached > wanted) == above] for above in (True, False))
    if slow and fast:
        over, under = min(slow, key=lambda one: one.reached), max(fast, key=lambda one: one.reached)
        part = (wanted - under.reached) / (over.reached - under.reached)
        return under.asked + part * (over.asked - under.asked)
    last = min(tried, key=lambda one: abs(one.reached - wanted))
    return float(np.clip(last.asked * wanted / last.reached, 0.01, 1.0))


def _same(one: Plan, other: Plan) -> bool:
    """Whether two plans keep the same channels."""
    return one.kept.keys() == other.kept.keys() and all(
        np.array_equal(kept, other.kept[name]) for name, kept in one.kept.items()
    )


def choose(groups: Groups, costs: CostModel, scores: Mapping[str, np.ndarray], wish: Wish) -> Plan:
    """As `choose.choose`; where latency is counted, plans are timed until one is as fast as asked, the nearest else."""
    if not isinstance(costs, Timed) or wish.by != LATENCY:
        return plain.choose(groups, costs, scores, wish)
    found: list[_Tried] = []
    for _ in range(ROUNDS):
        asked = _next(found, wish.ratio)
        plan = plain.choose(groups, costs, scores, replace(wish, ratio=asked))
        if any(_same(plan, one.plan) for one in found):
            break
        found.append(_Tried(asked, costs.measured(plan), plan))
        log.info("a plan expected to leave %.3f of the latency leaves %.3f", asked, found[-1].reached)
        if abs(found[-1].reached - wish.ratio) <= CLOSE:
            break
    _, reached, plan = min(found, key=lambda one: abs(one.reached - wish.ratio))
    if abs(reached - wish.ratio) > 2 * CLOSE:
        log.warning(
            "asked for %.3f of the latency, reached %.3f: what cannot be pruned, overheads and the steps of kernels "
            "leave no plan nearer", wish.ratio, reached,
        )  # fmt: skip
    return plan
