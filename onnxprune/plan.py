"""What each channel group keeps: the decision, on its own and as JSON that fits every export of the network."""

import json
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from onnxprune.branches import droppable
from onnxprune.errors import PlanError
from onnxprune.groups import Groups
from onnxprune.structure import Structure, structure

log = logging.getLogger(__name__)

FORMAT = "onnxprune-plan-2"
SAME_WEIGHTS = 1e-6
"""How far the norms of the same weights may be apart, summed in another order."""


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
        """Channels are counted along the group's first weight, groups known by where they stand in the network."""
        found = structure(groups)
        alike = Counter(identity.key for identity in found.groups.values())
        entries = []
        for group in groups:
            identity = found.groups[group.name]
            kept = np.isin(identity.order, self.kept.get(group.name, identity.order))
            entry = {
                "name": group.name, "size": group.size, "kept": np.flatnonzero(kept).tolist(),
                "weights": identity.weights, "path": identity.path, "key": identity.key,
            }  # fmt: skip
            if alike[identity.key] > 1:
                entry["norms"] = identity.norms()
            entries.append(entry)
        return {"format": FORMAT, "model": found.key, "groups": entries}


def load(path: str | Path, groups: Groups) -> Plan:
    """The plan in a JSON file, made for this model or another export of it.

    Raises PlanError: unreadable, malformed, or made for another network.
    """
    document = _read(path)
    try:
        entries = _entries(document["groups"])
        model = str(document["model"])
    except (KeyError, OverflowError, TypeError, ValueError):
        raise PlanError(f"{path}: its groups are malformed; make it anew with --save-plan") from None
    found = structure(groups)
    if model == found.key:  # what keeps all of its channels may be frozen here
        known = {identity.key for identity in found.groups.values()}
        entries = [entry for entry in entries if entry.key in known or len(entry.kept) < entry.size]
    names = _matched(entries, found)
    if names is None or model != found.key:
        raise PlanError(
            f"{path}: {_refusal(entries, found, model)}; make one for this model with --save-plan"
        )
    frozen = {group.name for group in groups.frozen_by_check}
    kept = {name: entry.kept for entry, name in zip(entries, names, strict=True) if name not in frozen}
    check(Plan(kept), groups, str(path))
    return Plan({name: np.sort(found.groups[name].order[entries]) for name, entries in kept.items()})


@dataclass(frozen=True, eq=False)
class _Entry:
    """A group as the document has it."""

    name: str
    size: int
    kept: np.ndarray
    weights: dict[str, int]
    path: str
    key: str
    norms: Sequence[float]


def _read(path: str | Path) -> dict[str, Any]:
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
    return document


def _entries(entries: list[dict[str, Any]]) -> list[_Entry]:
    """The `groups` of a document. Raises KeyError, OverflowError, TypeError or ValueError where they are none."""
    if not isinstance(entries, list) or any(type(k) is not int for entry in entries for k in entry["kept"]):
        raise TypeError("groups are a list, and channels are whole numbers")
    found = [
        _Entry(
            str(entry["name"]), int(entry["size"]), np.asarray(entry["kept"], dtype=np.int64),
            {str(shape): int(count) for shape, count in dict(entry["weights"]).items()},
            str(entry["path"]), str(entry["key"]), [float(norm) for norm in entry.get("norms", ())],
        )
        for entry in entries
    ]  # fmt: skip
    if len({entry.name for entry in found}) < len(found):
        raise ValueError("a group is named twice")
    return found


def _matched(entries: Sequence[_Entry], found: Structure) -> list[str] | None:
    """The model's group for each of the plan's; None where there is none for some."""
    theirs: dict[str, list[str]] = {}
    for name, identity in found.groups.items():
        theirs.setdefault(identity.key, []).append(name)
    ours: dict[str, list[_Entry]] = {}
    for entry in entries:
        ours.setdefault(entry.key, []).append(entry)
    if any(len(alike) > len(theirs.get(key, ())) for key, alike in ours.items()):
        return None
    pairs = {
        entry: name for key, alike in ours.items() for entry, name in _told_apart(alike, theirs[key], found)
    }
    return [pairs[entry] for entry in entries]


def _told_apart(
    entries: Sequence[_Entry], names: Sequence[str], found: Structure
) -> list[tuple[_Entry, str]]:
    """Groups that stand alike, such as parallel branches: by their weights, else their names, else their order."""
    if len(names) == 1:
        return [(entries[0], names[0])]
    norms = {name: found.groups[name].norms() for name in names}
    close = [[name for name in names if _close(entry.norms, norms[name])] for entry in entries]
    if all(len(alike) == 1 for alike in close) and len({alike[0] for alike in close}) == len(entries):
        return [(entry, alike[0]) for entry, alike in zip(entries, close, strict=True)]
    if all(entry.name in names for entry in entries):
        return [(entry, entry.name) for entry in entries]
    log.warning(
        "the plan cannot tell %s apart: they stand alike in the network; taken in the order of the file",
        ", ".join(f"'{name}'" for name in names),
    )
    return list(zip(entries, names, strict=False))


def _close(ours: Sequence[float], theirs: Sequence[float]) -> bool:
    return len(ours) == len(theirs) > 0 and bool(np.allclose(ours, theirs, rtol=SAME_WEIGHTS, atol=0))


def _refusal(entries: Sequence[_Entry], found: Structure, model: str) -> str:
    """Why the plan does not fit: what differs first between its network and the model."""
    ours = [(entry.size, *entry.weights.items()) for entry in entries]
    theirs = [(len(identity.order), *identity.weights.items()) for identity in found.groups.values()]
    for entry, kind in zip(entries, ours, strict=True):
        if theirs.count(kind) < ours.count(kind):
            group = _described(entry.size, entry.name, entry.weights)
            if model == found.key:
                return f"closes channels of {group}, which this export of the network keeps whole"
            return f"was made for another model: the plan has {group}, the model none like it"
    for (name, identity), kind in zip(found.groups.items(), theirs, strict=True):
        if ours.count(kind) < theirs.count(kind):
            group = _described(len(identity.order), name, identity.weights)
            return f"was made for another model: the model has {group}, the plan none like it"
    known = {what: {getattr(g, what) for g in found.groups.values()} for what in ("path", "key")}
    for what, layers in (("path", "lead to"), ("key", "follow")):
        for entry in entries:
            if getattr(entry, what) not in known[what]:
                channels = f"the {entry.size} channels of '{entry.name}'"
                return f"was made for another model: other layers {layers} {channels} in it"
    return "was made for another model: its layers that cannot be pruned are others"


def _described(size: int, name: str, weights: dict[str, int]) -> str:
    shapes = [shape if count == 1 else f"{count} of {shape}" for shape, count in weights.items()]
    shown = ", ".join(shapes[:3]) + (", ..." if len(shapes) > 3 else "")
    return f"a group of {size} channels '{name}'" + (f" on weights {shown}" if shown else "")


def check(plan: Plan, groups: Groups, where: str = "the plan") -> Plan:
    """The plan itself, if every kept set is an ascending subset of its group, and none is empty but of branches that a
    residual goes past. Raises PlanError.
    """
    sizes = {group.name: group.size for group in groups}
    for name, kept in plan.kept.items():
        if name not in sizes:
            raise PlanError(
                f"{where}: group '{name}' is not in the model or cannot be pruned; see onnxprune inspect"
            )
        if kept.ndim != 1 or (np.diff(kept) <= 0).any():
            raise PlanError(f"{where}: group '{name}' must keep its channels in ascending order")
        if not len(kept):
            continue
        if kept[0] < 0 or kept[-1] >= sizes[name]:
            wrong = kept[0] if kept[0] < 0 else kept[-1]
            raise PlanError(
                f"{where}: group '{name}' has channels 0 to {sizes[name] - 1}, but {wrong} is kept"
            )
    empty = {name for name, kept in plan.kept.items() if not len(kept)}
    if empty and (held := empty - droppable(groups)):
        raise PlanError(
            f"{where}: group '{min(held)}' must keep at least one channel: no residual goes past it"
        )
    return plan
