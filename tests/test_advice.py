import ast
import re
from pathlib import Path

import pytest

import onnxprune
from onnxprune.advice import ADVICE, ALONE, CONSTANT, EVALUATION, RULE, SHAPE, TOGETHER, advice
from onnxprune.ops.frozen import REASONS

PACKAGE = Path(onnxprune.__file__).parent


def told(argument: ast.expr) -> str | None:
    """A reason as it is written, with a word for what is filled in."""
    if isinstance(argument, ast.Constant):
        return argument.value if isinstance(argument.value, str) else None
    if isinstance(argument, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "0" for part in argument.values)
    return None


def reasons() -> set[str]:
    """All reasons that rules give."""
    found = set(REASONS.values())
    for path in [*(PACKAGE / "ops").glob("*.py"), PACKAGE / "axes.py"]:
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            name = call.func.id if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) else ""
            where = {"Unknown": 0, "Frozen": 1}.get(name)
            if where is not None and len(call.args) > where and (text := told(call.args[where])):
                found.add(text)
    return found


@pytest.mark.parametrize("reason", sorted(reasons()))
def test_every_reason_of_a_rule_has_its_advice(reason: str):
    assert any(re.search(pattern, reason) for pattern, _ in ADVICE)


def test_there_are_reasons():
    assert len(reasons()) > 30


@pytest.mark.parametrize(
    ("because", "start"),
    [
        ("'x' is an input of the model", "expected"),
        ("'y' is an output of the model", "expected"),
        ("Mix 'mix2': has no axis rule", RULE),
        ("Reshape 'r': merges it into a dynamic axis", SHAPE),
        ("Conv 'c': does not fit its axis rule (the shape of its input 0 is not known)", SHAPE),
        ("LSTM 'l': does not fit its axis rule (axis n is both 1 and None)", SHAPE),
        ("Conv 'c': does not fit its axis rule (axis c is both 3 and 4)", "please report"),
        ("Gather 'g': indexes it by computed or many-axis indices", CONSTANT),
        ("BatchNormalization 'b': it computes batch statistics", EVALUATION),
        ("the slim model differed from the gated one: its channels were not understood", "slim stays exact"),
        ("Loop 'l': hands it through its body", "export without control flow"),
        ("Gather 'g': takes a single entry", ALONE),
        ("Resize 'is an input of the model': resizes this axis", TOGETHER),
        ("something new", TOGETHER),
    ],
)
def test_advice_fits_the_reason(because: str, start: str):
    assert advice(because).startswith(start)


@pytest.mark.parametrize("pattern", [pattern for pattern, _ in ADVICE])
def test_no_advice_is_for_nothing(pattern: str):
    """Each pattern is the first that some reason meets."""
    texts = reasons() | ELSEWHERE
    assert pattern in {next((p for p, _ in ADVICE if re.search(p, text)), None) for text in texts}


ELSEWHERE = {
    "is an input of the model",
    "is an output of the model",
    "has no axis rule",
    "the slim model differed from the gated one",
    "does not fit its axis rule (axis c is both 3 and 4)",
    "hands it through its body",
    "groups these entries in another way",
}
"""Reasons that are not a rule's."""
