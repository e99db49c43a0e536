"""The whole of it: from a model and unlabelled inputs to the channels that stay, and weights that make up for the rest.

anatomy = Anatomy.of(parts, {}, seed=0)
found = one_shot(anatomy, batches, Wish(0.5, "macs", scope="sensitivity"))
found.plan, found.weights, found.recovery["repaired"]     # the last is what held-out inputs say
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from onnxprune import model as files
from onnxprune import rewrite
from onnxprune.apart import Apart
from onnxprune.calibration import Batches
from onnxprune.choose import Wish, protected
from onnxprune.errors import OnnxpruneError, PlanError
from onnxprune.gates import PREFIX
from onnxprune.groups import find
from onnxprune.latency import choose
from onnxprune.plan import Plan
from onnxprune.proving import put
from onnxprune.recovery import allocation
from onnxprune.recovery.anatomy import Anatomy
from onnxprune.recovery.criteria import BY_OUTPUTS, scored
from onnxprune.recovery.discrepancy import Floats, discrepancies
from onnxprune.recovery.pieces import Values
from onnxprune.recovery.rebuild import Rebuilding
from onnxprune.recovery.sensitivity import measured_curves

log = logging.getLogger(__name__)

HELD_OUT = 8
"""One batch of so many is kept from all fitting, to tell what is best."""
DEARER = 2.0
"""How much more than measured a group is worth that several layers read: narrowed alone it says too little of what it
does to all of them at once."""
FITTED = 1024
"""Least squares takes so many samples at the most; more serve distillation."""
TAUGHT = 1.7e13
"""Multiply-accumulates of an unasked distillation: about three minutes on two cores."""
CARRIED = 5e11
"""And bytes that its contractions read: as long on two cores, for networks that move more than they compute."""
EPOCHS = 40
"""And no more than so many times over the samples where half of the model is left, or as often as there are layers:
deeper networks learn longer."""
FEWEST = 1280
"""Samples, however often each. If no more can be paid for, it is not begun: forty steps teach next to nothing."""


@dataclass(frozen=True)
class OneShot:
    """What one shot found."""

    plan: Plan
    weights: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Initializers that changed, in their full shapes."""
    apart: Floats = field(default_factory=lambda: np.zeros(1))
    """The discrepancy of each held-out sample."""
    recovery: Mapping[str, float] = field(default_factory=dict)
    """Its mean on the way: `cut` with nothing repaired, `repaired`, `distilled`."""

    def said(self, how: str) -> "OneShot":
        """With the mean as it is now noted down."""
        return replace(self, recovery={**self.recovery, how: float(self.apart.mean())})


def one_shot(
    anatomy: Anatomy,
    batches: Batches,
    wish: Wish | None,
    plan: Plan | None = None,
    *,
    criterion: str = "auto",
    repair: str = "weights",
) -> OneShot:
    """Chooses channels, as `wish` asks, unless `plan` does, and repairs the weights.

    `criterion` ranks the channels of a group: one of `criteria.BY_INPUTS` or `magnitude.CRITERIA`, or "auto", which is
    "reconstruction"; `repair` is one of `calibration.REPAIRS`. Raises PlanError, ModelError, DataError, OutputError.
    """
    if not anatomy.groups.groups:
        raise PlanError(f"{anatomy.groups.model.where}: nothing can be pruned; onnxprune inspect says why")
    criterion = "reconstruction" if criterion == "auto" else criterion
    fitting, held, _ = _divided(batches)
    anatomy.measure(fitting)
    settles = plan is None and criterion == "reconstruction"
    plan = _chosen(anatomy, fitting, wish, criterion) if plan is None else plan
    cut = OneShot(plan, {}, distances(anatomy, held, plan, {})).said("cut")
    if repair == "none":
        return cut
    rebuilding = Rebuilding(anatomy, dict(plan.kept), settles, repair)
    rebuilding.run(fitting)
    return _better(anatomy, held, cut, OneShot(Plan(rebuilding.kept), rebuilding.weights))


def _divided(batches: Batches) -> tuple[Batches, Batches, Batches]:
    """What least squares is fitted on, what is held out from everything, and what is left for distillation alone."""
    count = max(FITTED // batches.size, 1)
    return *batches[:count].split(HELD_OUT), batches[count:]


def _chosen(anatomy: Anatomy, batches: Batches, wish: Wish | None, criterion: str) -> Plan:
    if wish is None:
        raise PlanError(f"{anatomy.groups.model.where}: say how much to keep with --ratio, or give a --plan")
    scores = (
        _by_sensitivity(anatomy, batches, wish, criterion)
        if wish.scope == "sensitivity"
        else scored(anatomy, batches, criterion)
    )
    return choose(anatomy.groups, anatomy.costs, scores, wish)


def _by_sensitivity(anatomy: Anatomy, batches: Batches, wish: Wish, criterion: str) -> dict[str, np.ndarray]:
    order = {} if criterion in BY_OUTPUTS else scored(anatomy, batches, criterion)
    free = [g.name for g in anatomy.groups if g.name not in protected(anatomy.groups, wish)]
    measured, _ = measured_curves(anatomy, batches, free, order)
    scores = allocation.scores(measured, anatomy.costs, wish.by, wish.ratio)
    return {n: s * (DEARER if len(anatomy.readers[n]) > 1 else 1) for n, s in scores.items()}


def distances(anatomy: Anatomy, batches: Batches, plan: Plan, weights: Values) -> Floats:
    """The discrepancy of the whole model under this plan and with these weights, for each sample."""
    pieces = anatomy.pieces
    closed = frozenset(g.name for g in anatomy.groups if len(plan.kept.get(g.name, g.atoms)) < g.size)
    latents = {PREFIX + name: value for name, value in plan.latents(anatomy.groups).items()}
    span = range(len(pieces.nodes))
    whole = pieces.piece(span, pieces.outputs, batches[0])
    pruned = pieces.piece(span, pieces.outputs, batches[0], closed=closed, weights={**latents, **weights})
    parts = []
    for batch in batches:
        wanted, made = whole(batch), pruned(batch)
        ours, theirs = (
            [values[n] for n in piece.outputs] for piece, values in ((pruned, made), (whole, wanted))
        )
        parts.append(discrepancies(anatomy.heads, ours, theirs))
    return np.concatenate(parts)


def taught(found: OneShot, parts: Apart, anatomy: Anatomy, batches: Batches, epochs: int) -> OneShot:
    """The slim model trained on for so many epochs, with the whole one as its teacher; its weights in full shapes.

    Raises DataError, TrainingError, ConversionError.
    """
    from onnxprune.distilled import distilled  # torch comes with it

    fitted, held, more = _divided(batches)
    fitting = replace(batches, rows=np.concatenate([fitted.rows, more.rows]))
    model = files.load(parts)
    groups = find(model, {group.name: "frozen by the check" for group in anatomy.groups.frozen_by_check})
    put(model, found.weights)
    left = rewrite.Remaining(groups, groups.removed(found.plan.kept))
    rewrite.apply(groups, found.plan)
    known = anatomy.pieces.stored  # what takes the place of a branch is none of them, and stays
    trained = distilled(
        files.export(model),
        parts,
        fitting.samples,
        held.samples,
        epochs=epochs,
        seed=anatomy.seed,
        names=known,
    )
    if not trained:
        return found.said("distilled")
    weights = dict(found.weights)
    for name, values in trained.items():
        whole = np.array(weights.get(name, anatomy.pieces.constant(name)))
        masks = [left.mask(name, axis) for axis in range(whole.ndim)]
        stays = [
            np.arange(n) if m is None else np.flatnonzero(m) for n, m in zip(whole.shape, masks, strict=True)
        ]
        whole[np.ix_(*stays)] = values
        weights[name] = whole
    apart = distances(anatomy, held, found.plan, weights)
    return replace(found, weights=weights, apart=apart).said("distilled")


def taught_if_it_can_be(found: OneShot, parts: Apart, anatomy: Anatomy, batches: Batches) -> OneShot:
    """As `taught`, for as many epochs as pay; without it, and with a word in the log, where it cannot be."""
    left = float(anatomy.costs.fraction("macs", found.plan.counts(anatomy.groups)))
    samples = len(batches) * batches.size
    macs, read = float(anatomy.costs.total["macs"]), anatomy.read / batches.size
    epochs = epochs_that_pay(samples, macs, read, left, len(anatomy.contractions))
    if not epochs:
        return found
    try:
        return taught(found, parts, anatomy, batches, epochs)
    except OnnxpruneError as reason:
        log.info("not distilled: %s", reason)
        return found


def epochs_that_pay(samples: int, macs: float, read: float, left: float, layers: int) -> int:
    """Of distillation, where for one sample the whole model takes `macs` and its contractions read so many bytes, and
    the share `left` of it is left.
    """
    each = 1 + 3 * left  # the teacher; there and back
    paid = min(TAUGHT / max(macs, 1.0), CARRIED / max(read, 1.0)) / each
    most = max(EPOCHS, layers) * (1 + 3 / 2) / each
    return int(min(paid / samples, most)) if paid >= FEWEST else 0


def _better(anatomy: Anatomy, held: Batches, before: OneShot, after: OneShot) -> OneShot:
    """The repaired model, unless held-out samples speak against it."""
    apart = distances(anatomy, held, after.plan, after.weights)
    if np.isfinite(apart).all() and apart.mean() <= before.apart.mean():
        return replace(after, apart=apart, recovery=before.recovery).said("repaired")
    log.warning(
        "on %d held-out inputs the repaired model is further from the original (%.3g; without it %.3g): left out",
        len(held) * held.size, apart.mean(), before.apart.mean(),
    )  # fmt: skip
    return before.said("repaired")
