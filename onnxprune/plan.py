"""What each channel group keeps: the decision, on its own and as JSON."""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from onnxprune.errors import PlanError
from onnxprune.groups import Groups

FORMAT = "onnxprune-plan-1"


@dataclass(frozen=True, eq=False)
class Plan:
    """The kept channels of every group, by group name, ascending; groups not named keep all."""

    kept: dict[str, np.ndarray] = field(default_factory=dict)

    def counts(self, groups: Groups) -> list[int]:
        """How many channels of each group are kept."""
        return [len(self.kept[group.name]) if group.name in self.kept else group.size for group in groups]

    def latents(self, groups: Groups) -> dict[str, np.ndarray]:
        """Gate values that close what is not kept: 1 and -1, by group name."""
        return {
            group.name: np.where(np.isin(np.arange(group.size), self.kept[group.name]), 1.0, -1.0)
            for group in groups
            if group.name in self.kept
        }

    def to_json(self, groups: Groups) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "model": fingerprint(groups),
            "groups": [
                {"name": g.name, "size": g.size, "kept": self.kept.get(g.name, np.arange(g.size)).tolist()}
                for g in groups
            ],
        }


def fingerprint(groups: Groups) -> str:
    """Identifies the model's groups: their names, sizes and members."""
    every = sorted((*groups.groups, *groups.frozen_by_check), key=lambda group: group.name)
    facts = [[g.name, g.size, [[m.tensor, m.axis] for m in g.members]] for g in every]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


def load(path: str | Path, groups: Groups) -> Plan:
    """The plan in a JSON file. Raises PlanError: unreadable, malformed, or made for another model."""
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as reason:
        raise PlanError(
            f"{path}: cannot be read ({reason.strerror}); give a file made with --save-plan"
        ) from None
    except ValueError:
        raise PlanError(f"{path}: is not JSON; give a file made with --save-plan") from None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise PlanError(f"{path}: is no {FORMAT}; give a file made with --save-plan")
    if document.get("model") != fingerprint(groups):
        raise PlanError(f"{path}: was made for another model; make one for this model with --save-plan")
    try:
        kept = _kept(document["groups"])
    except (KeyError, OverflowError, TypeError, ValueError):
        raise PlanError(f"{path}: its groups are malformed; make it anew with --save-plan") from None
    for group in groups.frozen_by_check:
        kept.pop(group.name, None)
    return check(Plan(kept), groups, str(path))


def _kept(entries: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    """The `groups` of a document. Raises KeyError, OverflowError, TypeError or ValueError where they are none."""
    if not isinstance(entries, list) or any(type(k) is not int for entry in entries for k in entry["kept"]):
        raise TypeError("groups are a list, and channels are whole numbers")
    kept = {str(entry["name"]): np.asarray(entry["kept"], dtype=np.int64) for entry in entries}
    if len(kept) < len(entries):
        raise ValueError("a group is named twice")
    return kept


def check(plan: Plan, groups: Groups, where: str = "the plan") -> Plan:
    """The plan itself, if every kept set is a non-empty ascending subset of its group. Raises PlanError."""
    sizes = {group.name: group.size for group in groups}
    for name, kept in plan.kept.items():
        if name not in sizes:
            raise PlanError(
                f"{where}: group '{name}' is not in the model or cannot be pruned; see onnxprune inspect"
            )
        if kept.ndim != 1 or not len(kept) or (np.diff(kept) <= 0).any():
            raise PlanError(f"{where}: group '{name}' must keep at least one channel, in ascending order")
        if kept[0] < 0 or kept[-1] >= sizes[name]:
            wrong = kept[0] if kept[0] < 0 else kept[-1]
            raise PlanError(
                f"{where}: group '{name}' has channels 0 to {sizes[name] - 1}, but {wrong} is kept"
            )
    return plan
