"""From scores and a ratio to a plan: how many channels of each group stay, and which."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np

from onnxprune.branches import droppable
from onnxprune.cost import BY, LATENCY, CostModel
from onnxprune.errors import PlanError
from onnxprune.groups import Group, Groups
from onnxprune.plan import Plan
from onnxprune.settle import WIDTHS, Wanted, allowed, settle
from onnxprune.wiring import fixed_values

log = logging.getLogger(__name__)


SCOPES = ("layer", "global", "sensitivity")
"""How much of each group goes: the same fraction; what the scores say, held against those of all other groups; or what
the outputs say, when each group alone is narrowed and calibration inputs are run (`recovery.sensitivity`)."""


@dataclass(frozen=True)
class Wish:
    """How much to keep, and within which bounds."""

    ratio: float
    by: str = "channels"
    multiple_of: int | str = "auto"
    min_channels: int = 1
    scope: str = "layer"
    """One of SCOPES: the same fraction of every group, or the best channels wherever they are."""
    keep: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    drop_branches: bool = False
    """Whether branches that a residual goes past may lose all of their channels; it takes the scope global."""

    def __post_init__(self) -> None:
        if not (isinstance(self.ratio, int | float) and 0 < self.ratio <= 1):
            raise PlanError(
                f"ratio {self.ratio} is not in (0, 1]; it is the fraction that is kept, such as 0.5"
            )
        if self.by not in (*BY, LATENCY):
            raise PlanError(f"by '{self.by}' is unknown; choose one of {', '.join((*BY, LATENCY))}")
        if self.scope not in SCOPES:
            raise PlanError(f"scope '{self.scope}' is unknown; choose one of {', '.join(SCOPES)}")
        if self.drop_branches and self.scope == "layer":
            raise PlanError(
                "dropping branches takes --scope global or sensitivity: the same fraction of every group empties none"
            )
        if self.multiple_of != "auto" and (not isinstance(self.multiple_of, int) or self.multiple_of < 1):
            raise PlanError(f"multiple-of {self.multiple_of} is neither 'auto' nor a number from 1 on")
        if self.min_channels < 1:
            raise PlanError(f"min-channels {self.min_channels} must be 1 or more")


def protected(groups: Groups, wish: Wish) -> set[str]:
    """Groups that `--keep` or `--only` take out of the game. Raises PlanError for patterns that match nothing."""
    names = _names(groups) if wish.keep or wish.only else {}

    def matches(group: Group, pattern: str) -> bool:
        return any(fnmatchcase(name, pattern) for name in names[group.name])

    for pattern in (*wish.keep, *wish.only):
        if not any(matches(group, pattern) for group in groups):
            raise PlanError(
                f"pattern '{pattern}' matches no prunable group, tensor or node (a weight's name means the channels "
                "that it makes); see onnxprune inspect"
            )
    return {
        group.name
        for group in groups
        if any(matches(group, pattern) for pattern in wish.keep)
        or (wish.only and not any(matches(group, pattern) for pattern in wish.only))
    }


def _names(groups: Groups) -> dict[str, set[str]]:
    """Per group what a pattern may call it: its name, the tensors it lies on, the nodes that make them.

    A weight lies on the channels that it reads as well as on those that it makes; its name means the latter.
    """
    made = _made(groups)
    named: dict[str, set[str]] = {group.name: {group.name} for group in groups}
    for node in groups.nodes:
        for value in node.outputs:
            for group in made.get(value.name, ()) if value else ():
                named[group].add(node.name)
    for tensor, lying in made.items():
        for group in lying:
            named[group].add(tensor)
    return named


def _made(groups: Groups) -> dict[str, set[str]]:
    """Per tensor the groups that lie on it; of a constant those that lie on what is made from it too."""
    lying: dict[str, set[str]] = {}
    for group in groups:
        for member in group.members:
            lying.setdefault(member.tensor, set()).add(group.name)
    fixed = fixed_values(groups)
    results: dict[str, set[str]] = {}
    for node in reversed(groups.nodes):  # readers before what they read
        outputs = [value.name for value in node.outputs if value]
        makes: set[str] = set().union(
            *(lying.get(name, set()) & results.get(name, lying.get(name, set())) for name in outputs)
        )
        for value in node.inputs:
            if value and value.name in fixed:
                results.setdefault(value.name, set()).update(makes)
    return {name: found & results.get(name, found) for name, found in lying.items()}


def choose(groups: Groups, costs: CostModel, scores: Mapping[str, np.ndarray], wish: Wish) -> Plan:
    """The plan that keeps the best-scored channels, as many as the wish asks for.

    `scores`: per group, one number a channel, comparable between groups unless the scope is layer. Warns where
    the ratio is missed by more than 0.02. Raises PlanError where nothing can be pruned.
    """
    if not groups.groups:
        raise PlanError(f"{groups.model.where}: nothing can be pruned; onnxprune inspect says why")
    whole = protected(groups, wish)
    target = _target(costs, groups, whole, wish)
    wanted = _uniform(costs) if wish.scope == "layer" else best_first([scores[g.name] for g in groups])
    counts, reached = [group.size for group in groups], 1.0
    empty = droppable(groups) - whole if wish.drop_branches else frozenset()
    widths = WIDTHS if wish.multiple_of == "auto" else (int(wish.multiple_of),)
    for widest in widths:
        ranges = [_allowed(group.size, wish, widest, group.name in whole) for group in groups]
        ranges = [[0, *r] if group.name in empty else r for group, r in zip(groups, ranges, strict=True)]
        trade = widest == widths[-1]  # else narrower steps come nearer and stay closer to what is wanted
        counts = settle(lambda n: float(costs.fraction(wish.by, n)), target, ranges, wanted, trade=trade)
        reached = float(costs.fraction(wish.by, counts))
        if abs(reached - target) <= CLOSE:
            break
    if abs(reached - target) > 2 * CLOSE and wish.by != LATENCY:
        _warn(target, reached, wish)
    kept = {
        group.name: np.sort(np.argsort(-scores[group.name], kind="stable")[:count])
        for group, count in zip(groups, counts, strict=True)
    }
    return Plan(kept)


CLOSE = 0.01
"""How far what is reached may be from what was asked before `auto` takes narrower steps; twice as far is warned of."""


def _warn(target: float, reached: float, wish: Wish) -> None:
    why = "groups are too coarse to come closer"
    if reached > target:
        why = "what cannot be pruned, and the least that groups may keep, are already more"
    log.warning("asked for %.3f of the %s, reached %.3f: %s", target, wish.by, reached, why)


def _target(costs: CostModel, groups: Groups, whole: set[str], wish: Wish) -> float:
    """The fraction of `by` to reach; of channels the ratio speaks of those that may be pruned."""
    if wish.by != "channels":
        return float(wish.ratio)
    held = [group.size if group.name in whole else 0 for group in groups]
    kept = float(costs.fraction("channels", held))
    return kept + wish.ratio * (1 - kept)


def _allowed(size: int, wish: Wish, widest: int, whole: bool) -> list[int]:
    """The counts a group of this size may keep, ascending."""
    return [size] if whole else allowed(size, widest, wish.min_channels, exact=wish.multiple_of != "auto")


def _uniform(costs: CostModel) -> Wanted:
    """The same fraction of all channels. Of groups that decide together, such as heads and their dims, one gives its
    channels, and the others only when that one is down to its last.
    """
    grids = [grid for grid in costs.grids if not any(set(grid) < set(other) for other in costs.grids)]
    leaders = {_leader(grid, costs) for grid in grids}
    followed: dict[int, int] = {}
    for grid in grids:
        for g in set(grid) - leaders:
            size = costs.sizes[_leader(grid, costs)]
            followed[g] = min(followed.get(g, size), size)

    def wanted(t: float) -> list[float]:
        return [min(1.0, t * followed.get(g, 1)) * size for g, size in enumerate(costs.sizes)]

    return wanted


def _leader(grid: tuple[int, ...], costs: CostModel) -> int:
    """The group in the fewest other grids: of conv groups and the channels in them the channels, which are on one
    side only. Where that is too coarse, the largest.
    """
    fine = [g for g in grid if costs.sizes[g] >= FINE]
    return min(
        fine or grid, key=lambda g: (sum(g in other for other in costs.grids) * bool(fine), -costs.sizes[g])
    )


FINE = 4
"""Channels that a group must have to give them in place of the groups that it shares a grid with."""


def best_first(scores: Sequence[np.ndarray]) -> Wanted:
    """Of each group its channels among the best of all; of equal scores as large a part of every group."""
    everything = np.concatenate([np.sort(group)[::-1] for group in scores])
    part = np.concatenate([(np.arange(len(group)) + 0.5) / len(group) for group in scores])
    owner = np.repeat(np.arange(len(scores)), [len(group) for group in scores])
    ranked = owner[np.lexsort((part, -everything))]

    def wanted(t: float) -> list[float]:
        best = ranked[: round(t * len(ranked))]
        return [float(n) for n in np.bincount(best, minlength=len(scores))]

    return wanted
