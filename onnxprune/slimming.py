"""`gate` and `slim`: the way from a model to a gated one, and to a smaller one that is proven to compute the same."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import onnx

from onnxprune import gates
from onnxprune import model as files
from onnxprune import plan as plans
from onnxprune.apart import Apart
from onnxprune.calibration import REPAIRS, Calibration
from onnxprune.choose import SCOPES, Wish
from onnxprune.compare.recording import Feed
from onnxprune.cost import LATENCY
from onnxprune.decision import Decision, Fitting
from onnxprune.errors import LawError, ModelError, PlanError
from onnxprune.garbage import uncollected
from onnxprune.groups import find
from onnxprune.latency import Setting, fraction_of
from onnxprune.proving import Attempts, ModelLike, differs
from onnxprune.recovery.criteria import BY_INPUTS
from onnxprune.verify import Verification, verify


@dataclass(frozen=True)
class Gated:
    """A gated model, and how far it is from the original with all gates open."""

    parts: Apart
    output: str | None
    groups: int
    gates: int
    max_rel_error: float

    @cached_property
    def model(self) -> onnx.ModelProto:
        """The gated model as one protobuf, a copy of its weights."""
        return self.parts.whole()

    def to_json(self) -> dict[str, Any]:
        return {
            "output": self.output, "groups": self.groups, "gates": self.gates, "max_rel_error": self.max_rel_error
        }  # fmt: skip


@dataclass(frozen=True)
class Slimmed:
    """A slim model, proven equal to its gated counterpart."""

    slim_parts: Apart
    gated_parts: Apart
    output: str | None
    asked: float | None
    by: str
    kept: Mapping[str, float]
    """Fractions of the original's channels, params, macs and bytes; of its latency where that was asked for."""
    verified: Verification
    seconds: float
    """Analysis and rewriting; loading, checking and saving apart."""
    plan: Mapping[str, Any]
    frozen: Mapping[str, str] = field(default_factory=dict)
    """Groups that the check found out and froze, with the reason."""
    recovery: Mapping[str, float] = field(default_factory=dict)
    """How far the outputs are from the original's on held-out calibration inputs (`recovery.discrepancy`): `cut` with
    the channels gone and nothing else changed, `repaired`, `distilled`; empty without such inputs.
    """

    @cached_property
    def model(self) -> onnx.ModelProto:
        """The slim model as one protobuf, a copy of its weights."""
        return self.slim_parts.whole()

    @cached_property
    def gated(self) -> onnx.ModelProto:
        """Its gated counterpart as one protobuf, a copy of its weights."""
        return self.gated_parts.whole()

    def to_json(self) -> dict[str, Any]:
        verified = {k: v for k, v in self.verified.to_json().items() if k != "equal"}
        return {
            "output": self.output, "asked": self.asked, "by": self.by, "kept": dict(self.kept), "verified": verified,
            "seconds": round(self.seconds, 3), "plan": dict(self.plan), "frozen": dict(self.frozen),
            "recovery": dict(self.recovery),
        }  # fmt: skip


@uncollected()
def gate(
    model: ModelLike, output: str | Path | None = None, *, plan: str | Path | None = None, force: bool = True
) -> Gated:
    """Inserts gates, all open or as `plan` says; with all of them open the function is unchanged, which is checked.

    `output`: where to write the gated model; None only returns it. Raises ModelError, PlanError, LawError, OutputError.
    """
    if output is not None:
        files.writable(output, force=force)
    loaded = files.load(model)
    if gates.is_gated(loaded):
        raise ModelError(
            f"{loaded.where}: has gates already; give the model without them, or go on with train or slim"
        )
    groups = find(loaded)
    if not groups.groups:
        raise PlanError(f"{loaded.where}: nothing can be pruned; onnxprune inspect says why")
    closed = plans.load(plan, groups) if plan is not None else None
    count = gates.insert(groups, {})
    opened = files.export(loaded)
    check = verify(model, opened)
    if not check.equal:
        raise LawError(differs(loaded.where, "with all gates open", check))
    if closed is not None:
        gates.set_latents(opened, closed.latents(groups))
    if output is not None:
        files.save(opened, output, force=force)
    return Gated(opened, str(output) if output else None, len(groups.groups), count, check.max_rel_error)


@uncollected()
def slim(
    model: ModelLike,
    output: str | Path | None = None,
    *,
    ratio: float | None = None,
    by: str = "channels",
    criterion: str = "auto",
    keep: tuple[str, ...] = (),
    only: tuple[str, ...] = (),
    multiple_of: int | str = "auto",
    min_channels: int = 1,
    scope: str = "auto",
    drop_branches: bool | None = None,
    plan: str | Path | None = None,
    calibration: Calibration | None = None,
    repair: str = "auto",
    distill: int | None = None,
    provider: str = "cpu",
    threads: int | None = None,
    batch: int | None = None,
    feeds: Callable[[onnx.ModelProto], Iterator[Feed]] | None = None,
    save_plan: str | Path | None = None,
    save_gated: str | Path | None = None,
    force: bool = True,
    seed: int = 0,
) -> Slimmed:
    """Removes channels from a plain, gated or trained gated model, and proves that nothing else changed.

    Which channels: `plan` where given; the gates of a trained model; else `criterion` for the `ratio` of `by` to keep.
    With `calibration`, unlabelled inputs, channels are chosen by what the outputs miss on them: the `criterion` "auto"
    is then "reconstruction", the `scope` "sensitivity", else "l2" and "layer". The weights that stay are fitted to make
    up for those that go, then trained for `distill` epochs with the original as the teacher. `repair` is one of
    `calibration.REPAIRS`; "auto" is "weights" where channels are chosen here, "none" where a plan or trained gates
    decide. `distill` None trains where something chosen here is repaired.
    `by` "latency" is what onnxruntime takes on this machine with this `provider`, `threads` and `batch`: plans are
    timed beside the original until one is as fast as asked.
    `feeds`: inputs to prove it on (by name), given the model; those of the calibration, else random ones, unless given.
    A group for which the proof fails is frozen and named in `frozen`; what comes back is exact.
    `drop_branches`: branches that a residual goes past may go altogether, which takes another scope than "layer"; None
    is yes for "sensitivity".
    Raises ModelError, PlanError, LawError, DataError, OutputError.
    """
    wish = None
    if repair not in ("auto", *REPAIRS):
        raise PlanError(f"repair '{repair}' is unknown; choose one of auto, {', '.join(REPAIRS)}")
    if scope == "auto":
        scope = SCOPES[0] if calibration is None else SCOPES[-1]
    if drop_branches is None:
        drop_branches = scope == SCOPES[-1]
    if ratio is not None:
        wish = Wish(ratio, by, multiple_of, min_channels, scope, tuple(keep), tuple(only), drop_branches)
    for path in (output, save_plan, save_gated):
        if path is not None:
            files.writable(path, force=force)
    source = files.load(model)
    fitting = None if calibration is None else Fitting(calibration, criterion, repair, distill, seed)
    if fitting is None:
        if repair in REPAIRS[:-1] or distill or (wish is not None and wish.scope == "sensitivity"):
            raise PlanError(
                "repairing, distilling and measured sensitivity take inputs to run; give some with --data"
            )
        if criterion in BY_INPUTS:
            raise PlanError(f"criterion '{criterion}' ranks by inputs; give some with --data")
    setting = Setting(provider, threads, batch)
    decide = Decision(source, wish, criterion, plan, fitting, setting)
    if feeds is None and calibration is not None:
        feeds = calibration.feeds
    attempts = Attempts(model, source, decide, decide.original_is, feeds, seed)
    done = attempts.exact()
    timed = wish is not None and wish.by == LATENCY
    latency = {LATENCY: fraction_of(attempts.parts, done.slim, setting)} if timed else {}
    size = done.slim.size
    if save_plan is not None:
        files.write_text(save_plan, done.plan_json, force=force)
    if save_gated is not None:
        files.save(done.gated, save_gated, force=force)
    if output is not None:
        size = files.save(done.slim, output, force=force)
    original = attempts.parts.size
    kept = {**done.kept, "bytes": size / original if original else 1.0, **latency}
    asked = ratio if ratio is not None else decide.trained_ratio
    return Slimmed(
        done.slim, done.gated, str(output) if output else None, asked, decide.by(by), kept, done.verified,
        done.seconds, done.plan_json, attempts.frozen, decide.recovery if attempts.with_weights else {},
    )  # fmt: skip
