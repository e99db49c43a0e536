"""Writes docs/ops.md: per op what may be pruned through it, what not, and why.

python tools/op_table.py               # writes the file anew
python tools/op_table.py -o FILE       # writes another one

Nothing in it is kept by hand: small models of every op go through the analysis, and the table says what was left free.
"""

import argparse
import importlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from textwrap import fill
from typing import Any

import op_cases
from onnx import __version__, defs, helper
from onnxruntime import InferenceSession
from onnxruntime import __version__ as runtime_version
from onnxruntime.capi import onnxruntime_pybind11_state as runtime
from op_sightings import Axes, Key, Sighting, seen

from onnxprune.ops import REPAIRS, RULES
from onnxprune.ops.frozen import REASONS, frozen
from onnxprune.ops.registry import Rule

TARGET = Path(__file__).parents[1] / "docs" / "ops.md"
CONTRIBUTED = "onnxruntime"
"""Whose ops in the default domain onnx does not know."""
UNTOLD = {"keeps this axis whole", "keeps this factor whole", "its rule leaves this axis out"}
"""Reasons that say no more than the axes themselves do."""
MOST = 4
"""Axis expressions that a row shows."""


# ---- in words


@dataclass(frozen=True)
class Row:
    name: str
    opsets: str
    verdict: str
    passes: str
    whole: str
    form: str
    repair: str

    def __str__(self) -> str:
        return f"| {' | '.join(cell.replace('|', '/') for cell in vars(self).values())} |"


def row(key: Key, sightings: Sequence[Sighting], newest: int) -> Row:
    """One op. Raises LookupError where nobody says anything of it."""
    passing = [sighting for sighting in sightings if sighting.passes]
    reasons = _reasons(key, sightings) or ([REASONS[key[1]]] if RULES.get(key) is frozen and not passing else [])
    if not passing and not reasons:
        missing = "no case in tools/op_cases.txt" if key in RULES else "neither a rule nor a reason in onnxprune/ops"
        raise LookupError(f"{key[1]} has {missing}")
    verdict = "pruned through" if not any(sighting.unknown for sighting in sightings) else "partly"
    gated = sum(sighting.gated for sighting in passing)
    return Row(
        f"`{key[1]}`",
        _opsets(key, newest),
        verdict if passing else "frozen",
        _passes(key, passing) if passing else "",
        "; ".join(reasons),
        "" if not gated else "yes" if gated == len(passing) else "some",
        "yes" if key in REPAIRS and passing else "",
    )


def _reasons(key: Key, sightings: Iterable[Sighting]) -> list[str]:
    found = {_plain(key, reason) for sighting in sightings for reason in sighting.reasons}
    return sorted(found - UNTOLD)


def _plain(key: Key, reason: str) -> str:
    """With the names of operands, and without what is only about the rule."""
    reason = re.sub(r"^does not fit its axis rule \((.*)\)$", r"\1", reason)
    for side, number in re.findall(r"its (in|out)put (\d+)", reason):
        reason = reason.replace(f"its {side}put {number}", f"`{_operand(key, side + number)}`")
    return reason


def _passes(key: Key, passing: Sequence[Sighting]) -> str:
    """The axis expressions of the rule where it has some, else the axes in words, and what the rule says of itself."""
    gone = [sighting for sighting in passing if sighting.instead is not None]
    stays = [sighting for sighting in passing if sighting.instead is None]
    words = []
    if stays:
        texts = list(dict.fromkeys(_spelled(sighting.expression) for sighting in stays))
        free = not any(stuck for sighting in stays for _, _, stuck in sighting.operands.values())
        shown = [text for text in texts if text and not re.search(r"\b[xX]\d", text)]
        if free and not any("~" in text for text in texts) and not shown:
            words.append("every axis")
        elif shown and len(shown) == len(texts) <= MOST:
            words.append("; ".join(f"`{text}`" for text in shown))
        elif all(texts):
            words.append(f"as `{max(texts, key=_telling)}`")
        else:
            words.append(_axes_in_words(key, stays))
    if gone:
        instead = sorted({op for sighting in gone for op in sighting.instead or ()})
        words.append(f"prepared as {', '.join(f'`{op}`' for op in instead)}" if instead else "gone in preparation")
    rule = RULES.get(key)
    return ". ".join([*words, *([_doc(rule)] if rule and rule not in _shared() else [])]).removesuffix(". ")


@cache
def _shared() -> dict[Rule, list[str]]:
    """Rules of several ops that say something of themselves: that stands over the table, once."""
    ops: dict[Rule, list[str]] = defaultdict(list)
    for (_, op), rule in RULES.items():
        ops[rule].append(op)
    return {rule: sorted(set(names)) for rule, names in ops.items() if len(set(names)) > 1 and _doc(rule)}


def _doc(documented: object) -> str:
    """The first paragraph of a docstring."""
    return " ".join((documented.__doc__ or "").strip().partition("\n\n")[0].split())


def _telling(text: str) -> tuple[bool, int, int]:
    """How much an expression shows of its rule: no axis of one entry, few that stay whole, many in all."""
    first = text.partition(",")[0].partition("->")[0].split()
    return "1" not in first, -len(re.findall(r"\bX\d", text)), len(text)


def _spelled(expression: str) -> str:
    """An axis expression without its MACs, and with the letters of an equation."""
    text = re.sub(r"\be(\d{2,3})\b", lambda code: chr(int(code[1])), expression.partition("|")[0])
    return " ".join(text.split()).replace(" ,", ",")


def _axes_in_words(key: Key, sightings: Sequence[Sighting]) -> str:
    by_operand: dict[str, list[Axes]] = defaultdict(list)
    for sighting in sightings:
        for place, axes in sighting.operands.items():
            by_operand[_operand(key, place)].append(axes)
    parts = {name: _told(axes) for name, axes in by_operand.items()}
    told: dict[str, list[str]] = defaultdict(list)
    for name, words in parts.items():
        if words:
            told[words].append(f"`{name}`")
    return "; ".join(f"{', '.join(names)}: {words}" for words, names in told.items())


def _told(axes: Sequence[Axes]) -> str:
    """Which axes of an operand may lose entries, counted from the front or from the back; empty where none may."""
    if not any(stuck for _, _, stuck in axes):
        return "every axis"
    for back in (False, True):
        shift = [(rank if back else 0, free, stuck) for rank, free, stuck in axes]
        free = {axis - rank for rank, some, _ in shift for axis in some}
        stuck = {axis - rank for rank, _, some in shift for axis in some}
        if free and not free & stuck:
            return f"{'axis' if len(free) == 1 else 'axes'} {', '.join(map(str, sorted(free)))}"
    return "some axes" if any(free for _, free, _ in axes) else ""


def _is_contributed(key: Key) -> bool:
    return bool(key[0]) or key[1] not in op_cases.history()


@cache
def _contributed() -> dict[Key, Any]:
    """The schemas of onnxruntime's own ops."""
    return {(schema.domain, schema.name): schema for schema in runtime.get_all_operator_schema()}


@cache
def _parameters(key: Key) -> tuple[list[str], list[str]]:
    """Names of an op's inputs and outputs."""
    if _is_contributed(key):
        schema = _contributed()[key]
    else:
        schema = next(s for s in reversed(op_cases.history()[key[1]]) if s.inputs or s.outputs)
    return [one.name for one in schema.inputs], [one.name for one in schema.outputs]


def _operand(key: Key, place: str) -> str:
    side, number = _parameters(key)[place[0] == "o"], int(re.sub(r"\D", "", place))
    return side[min(number, len(side) - 1)]


def _opsets(key: Key, newest: int) -> str:
    if _is_contributed(key):
        return key[0] or CONTRIBUTED
    versions = [s for s in op_cases.history()[key[1]] if s.since_version <= newest]
    gone = f" (gone in {versions[-1].since_version})" if versions[-1].deprecated else ""
    return ", ".join(str(s.since_version) for s in versions if not gone or s is not versions[-1]) + gone


# ---- the document

INTRODUCTION = """# What passes through which op

{header}

{summary}

An op is *pruned through* if in all of its forms there are axes that may lose entries, *partly* if in some. Whatever a
*frozen* one touches keeps all of its entries, and `inspect` names it; so it is with every op that is not in here.

What may lose entries is told as axis expressions ([ops/README.md](../onnxprune/ops/README.md): `lower` case may,
`UPPER` case keeps its size, `~c` is measured over) or by operands and axes. An op with a *gated form* counts channels;
its form counts the open ones only. An op that is *repaired* repeats a size, which is written anew.
"""
COLUMNS = """| op | since opset | verdict | may lose entries | kept whole, and why | gated form | repaired |
|---|---|---|---|---|---|---|"""
OTHERWISE = "control flow and sequences"


def newest_opset() -> int:
    """The newest opset that onnxruntime guarantees to run."""
    for opset in range(defs.onnx_opset_version(), 0, -1):
        x, y = (helper.make_tensor_value_info(name, 1, [2]) for name in "xy")
        graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "opset", [x], [y])
        proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
        try:
            InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
        except runtime.Fail:
            continue
        return opset
    raise LookupError("onnxruntime runs no opset that onnx knows")


def header(newest: int) -> str:
    """The line that says what the table was made with."""
    tool = "`python tools/op_table.py`"
    return f"Made by {tool} with onnx {__version__} and onnxruntime {runtime_version}, opset {newest}."


def document(newest: int) -> str:
    """The whole file."""
    found = seen(newest)
    own = [("", op) for op, versions in op_cases.history().items() if versions[0].since_version <= newest]
    keys = [*own, *(key for key in RULES if _is_contributed(key))]
    families: dict[str, list[Row]] = defaultdict(list)
    for key in sorted(keys, key=lambda key: (key[1], key[0])):
        told = row(key, found.get(key, []), newest)
        families[_family(key, told.verdict)].append(told)
    parts = [INTRODUCTION.format(header=header(newest), summary=_summary(families))]
    for family in sorted(families):
        table = "\n".join(map(str, families[family]))
        parts.append(f"## {family}\n\n{_about(family)}\n\n{COLUMNS}\n{table}\n")
    return "\n".join(parts)


def _family(key: Key, verdict: str) -> str:
    if key not in RULES or (RULES[key] is frozen and verdict != "frozen"):
        return OTHERWISE
    return RULES[key].__module__.rpartition(".")[2]


def _about(family: str) -> str:
    """What stands over the table of a family."""
    if family == OTHERWISE:
        return "Bodies are read as the graph around them is; a sequence is, where it is known, what it holds."
    module = importlib.import_module(f"onnxprune.ops.{family}")
    shared = {rule: names for rule, names in _shared().items() if rule.__module__ == module.__name__}
    told = [f"{', '.join(f'`{name}`' for name in names)}: {_doc(rule)}" for rule, names in shared.items()]
    return "\n\n".join(fill(text, 120, break_on_hyphens=False) for text in (_doc(module), *told))


def _summary(families: Mapping[str, Sequence[Row]]) -> str:
    rows = [row for rows in families.values() for row in rows]
    lines = []
    for where, of in (("the default domain", True), ("other domains, or of onnxruntime alone", False)):
        verdicts = Counter(row.verdict for row in rows if row.opsets[0].isdigit() == of)
        counts = ", ".join(f"{verdicts[verdict]} {verdict}" for verdict in ("pruned through", "partly", "frozen"))
        lines.append(f"- **{verdicts.total()} ops of {where}**: {counts}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("-o", "--output", type=Path, default=TARGET, help="the file to write, docs/ops.md by default")
    parser.parse_args().output.write_text(document(newest_opset()))


if __name__ == "__main__":
    main()
