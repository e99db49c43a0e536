"""The picture of a model's sensitivity, as a reader of its text (an SVG's) sees it."""

import re
import sys
from dataclasses import replace
from html import unescape
from pathlib import Path

import pytest

from onnxprune.errors import DataError, OutputError, PlanError
from onnxprune.inspection import GroupFacts, Inspection, Part
from onnxprune.picture import NAMED, picture
from onnxprune.widths import Measured, Width

BEGINS = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}


def group(name: str, worth: float, *, macs: float = 0.05) -> GroupFacts:
    """Of 8 channels in quarters."""
    curve = tuple(Width(8 - 2 * k, 1 - macs * k, 1 - 0.02 * k, worth * k**2) for k in range(4))
    return GroupFacts(name, 8, (), True, None, 0.1, 0.1, sensitivity=curve)


def result(*groups: GroupFacts) -> Inspection:
    part = Part(8, 0.5, 0.5)
    return Inspection("some/net.onnx", 100, 100, 400, groups, (), part, part, Measured(32, {"y": "values"}))


def texts(path: Path) -> list[str]:
    """What is written in an SVG, whose letters are drawn: the library leaves each text as a comment."""
    return [unescape(text) for text in re.findall(r"<!-- (.*?) -->", path.read_text(encoding="utf-8"))]


@pytest.mark.parametrize("ending", BEGINS)
def test_a_file_is_of_the_kind_that_its_name_says_and_nothing_else_is_left(ending: str, tmp_path: Path):
    path = picture(result(group("a", 0.1), group("b", 0.2)), tmp_path / f"out{ending}")
    assert path.read_bytes().startswith(BEGINS[ending])
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("ending", BEGINS)
def test_equal_results_make_equal_files(
    ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    found = result(group("a", 0.1), group("b", 0.2))
    first = picture(found, tmp_path / f"first{ending}").read_bytes()
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")  # another day
    assert picture(found, tmp_path / f"second{ending}").read_bytes() == first


def test_it_says_what_is_drawn(tmp_path: Path):
    said = texts(picture(result(group("a", 0.1)), tmp_path / "out.svg"))
    assert {"net.onnx: one group narrowed at a time", "% of the model's MACs left", "a",
            "squared error per variance, on 32 inputs"} <= set(said)  # fmt: skip


def test_where_no_macs_can_be_saved_it_shows_parameters(tmp_path: Path):
    said = texts(picture(result(group("a", 0.1, macs=0.0)), tmp_path / "out.svg"))
    assert "% of the model's parameters left" in said


def test_the_most_sensitive_are_named_and_the_rest_are_counted(tmp_path: Path):
    groups = [group(f"layer{k}", 0.01 * (k + 1)) for k in range(NAMED + 3)]
    said = texts(picture(result(*groups), tmp_path / "out.svg"))
    named = [text for text in said if text.startswith("layer")]
    assert named == [f"layer{k}" for k in range(NAMED + 2, 2, -1)]
    assert "3 less sensitive" in said


@pytest.mark.parametrize("name", ["_private", "$x^$", "a$b", "名前", "<b>&amp;"])
def test_any_name_is_a_name(name: str, tmp_path: Path):
    assert name in texts(picture(result(group(name, 0.1)), tmp_path / "out.svg"))


def test_a_long_name_is_told_by_its_end(tmp_path: Path):
    said = texts(picture(result(group("model/" * 20 + "last", 0.1)), tmp_path / "out.svg"))
    assert any(re.fullmatch(r"….{34}/last", text) for text in said)


@pytest.mark.parametrize("worth", [0.0, 1e-12, 1e9, float("inf")])
def test_all_magnitudes_can_be_drawn(worth: float, tmp_path: Path):
    curve = tuple(replace(width, discrepancy=worth if width.kept < 8 else 0.0) for width in group("a", 1).sensitivity)
    picture(result(replace(group("a", 1), sensitivity=curve)), tmp_path / "out.png")


def test_an_existing_file_stays_unless_forced(tmp_path: Path):
    path = tmp_path / "out.svg"
    path.write_text("mine")
    with pytest.raises(OutputError, match="exists already"):
        picture(result(group("a", 0.1)), path, force=False)
    assert path.read_text() == "mine"


def test_what_was_not_measured_is_not_drawn(tmp_path: Path):
    with pytest.raises(DataError, match="inspect it with --sensitivity"):
        picture(replace(result(group("a", 0.1)), measured=None), tmp_path / "out.svg")
    with pytest.raises(PlanError, match="nothing can be pruned"):
        picture(result(), tmp_path / "out.svg")
    assert not list(tmp_path.iterdir())


def test_without_matplotlib_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(OutputError, match=r"pip install 'onnxprune\[plots\]'"):
        picture(result(group("a", 0.1)), tmp_path / "out.svg")
