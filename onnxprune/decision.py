"""Which channels stay, and with which weights: what a plan, trained gates, or criterion and ratio decide."""

import contextlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from onnxprune import gates
from onnxprune import model as files
from onnxprune import plan as plans
from onnxprune.apart import Apart
from onnxprune.calibration import REPAIRS, Calibration
from onnxprune.choose import Wish
from onnxprune.cost import LATENCY, CostModel
from onnxprune.errors import ModelError, PlanError
from onnxprune.groups import Groups
from onnxprune.latency import Setting, Timed, choose
from onnxprune.methods.magnitude import magnitude
from onnxprune.plan import Plan
from onnxprune.proving import CLOSED, OPEN, Decided
from onnxprune.recovery.anatomy import Anatomy
from onnxprune.recovery.oneshot import OneShot, one_shot, taught, taught_if_it_can_be

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fitting:
    """What to do with calibration inputs."""

    calibration: Calibration
    criterion: str
    repair: str
    """One of `calibration.REPAIRS`, or "auto"."""
    distill: int | None
    seed: int


class Decision:
    """Which channels stay, and with which weights: by plan, by trained gates, or by criterion and ratio."""

    def __init__(
        self,
        source: files.Model,
        wish: Wish | None,
        criterion: str,
        plan: str | Path | None,
        fitting: Fitting | None = None,
        setting: Setting | None = None,
    ) -> None:
        self.setting = setting or Setting()
        self.wish, self.criterion, self.path, self.fitting = wish, criterion, plan, fitting
        self.plain = not gates.is_gated(source)
        self.trained = _trained(source)
        self.latents = gates.strip(source)
        self.closed = any((w <= 0).any() for w in self.latents.values())
        if wish is None and plan is None and not self.closed:
            raise PlanError(
                f"{source.where}: no gate is closed; say how much to keep with --ratio, or give a --plan"
            )
        self.found: dict[tuple[str, ...], OneShot] = {}
        """What was found, by the groups that there were."""

    @property
    def recovery(self) -> Mapping[str, float]:
        return next(reversed(self.found.values())).recovery if self.found else {}

    @property
    def original_is(self) -> str | None:
        """What the file must be equal to: gates of its own that are replaced say nothing of it."""
        return OPEN if self.plain else CLOSED if self.by_gates else None

    @property
    def by_gates(self) -> bool:
        """Whether the file's own gates decide."""
        wish = self.wish
        return self.path is None and (wish is None or self.trained == (wish.ratio, wish.by))

    @property
    def trained_ratio(self) -> float | None:
        return self.trained[0] if self.trained and self.path is None else None

    def by(self, asked: str) -> str:
        return self.trained[1] if self.trained and self.wish is None else asked

    def __call__(self, groups: Groups, parts: Apart) -> Decided:
        """The plan, and the weights that go with it; `parts` are the model without gates."""
        known = tuple(group.name for group in groups)
        if known not in self.found:
            self.found[known] = self._find(groups, parts)
        return Decided(self.found[known].plan, self.found[known].weights)

    def _find(self, groups: Groups, parts: Apart) -> OneShot:
        ranked, fitting = self.path is None and not self.by_gates and not self.closed, self.fitting
        if fitting is None or not (ranked or fitting.repair in REPAIRS[:-1] or fitting.distill):
            return OneShot(self._plan(groups, parts))
        plan = None if ranked else self._plan(groups, parts)
        batches = fitting.calibration.draw(parts.light, fitting.seed)
        frozen = {group.name: "frozen by the check" for group in groups.frozen_by_check}
        anatomy = Anatomy.of(parts, frozen, fitting.seed)
        anatomy.costs = self._costs(anatomy.groups, parts)
        repair = fitting.repair
        if repair == "auto":
            repair = "weights" if ranked else "none"
        found = one_shot(anatomy, batches, self.wish, plan, criterion=fitting.criterion, repair=repair)
        wanted = fitting.distill
        if wanted is None and ranked and repair != "none":
            return taught_if_it_can_be(found, parts, anatomy, batches)
        return taught(found, parts, anatomy, batches, wanted) if wanted else found

    def _costs(self, groups: Groups, parts: Apart) -> CostModel:
        timed = self.wish is not None and self.wish.by == LATENCY and self.path is None
        return Timed.of(groups, parts, self.setting) if timed else CostModel(groups)

    def _plan(self, groups: Groups, parts: Apart) -> Plan:
        if self.path is not None:
            return plans.load(self.path, groups)
        unknown = (
            set(self.latents)
            - {group.name for group in groups}
            - {group.name for group in groups.frozen_by_check}
        )
        if unknown:
            raise ModelError(
                f"{groups.model.where}: gates '{min(unknown)}' fit no channel group; gate the model anew"
            )
        if self.by_gates or self.wish is None:
            return plans.check(
                Plan({g.name: np.flatnonzero(self.latents[g.name] > 0) for g in groups if g.name in self.latents}),
                groups, groups.model.where,
            )  # fmt: skip
        if self.closed:
            log.warning(
                "the model was not trained for this ratio: channels are ranked by the weights of its gates"
            )
            wish = Wish(**{**self.wish.__dict__, "scope": "global"})
            return choose(groups, self._costs(groups, parts), _ranks(groups, self.latents), wish)
        criterion = "l2" if self.criterion == "auto" else self.criterion
        return choose(groups, self._costs(groups, parts), magnitude(groups, criterion), self.wish)


def _ranks(groups: Groups, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The gates' weights as positive scores that compare between groups."""
    least = min((float(w.min()) for w in values.values()), default=0.0)
    return {g.name: values.get(g.name, np.ones(g.size)) - least for g in groups}


def _trained(source: files.Model) -> tuple[float, str] | None:
    for entry in source.header.metadata_props:
        if entry.key == gates.TRAINED_KEY:
            ratio, _, by = entry.value.partition(" ")
            with contextlib.suppress(ValueError):  # an entry of somebody else's
                return float(ratio), by
    return None
