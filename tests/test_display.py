"""What a person sees of a model, whatever its size and the terminal's."""

import re
from dataclasses import replace

import pytest

from onnxprune import display
from onnxprune.groups import Member
from onnxprune.inspection import GroupFacts, Inspection, Lock, Part
from onnxprune.widths import Measured, Width


def group(number: int, share: float, *, prunable: bool = True) -> GroupFacts:
    members = (Member(f"layer{number}.weight", 0), Member(f"out{number}", 1), Member(f"out{number}", 2))
    layers = (f"layer{number}", "shortcut"), (f"layer{number + 1}",)
    return GroupFacts(f"layer{number}", 64, members, prunable, None, share, share / 2, *layers)


def model(groups: int, locks: int = 1) -> Inspection:
    made = [group(k, 0.5 / (k + 1)) for k in range(groups)]
    frozen = [Lock("'logits' is an output of the model", "output", 0.1, "expected")]
    frozen += [Lock(f"Mix 'mix{k}': has no axis rule", "Mix", 0.02, "add a rule") for k in range(locks - 1)]
    part = Part(64 * groups, 0.97, 0.9)
    return Inspection("net.onnx", 4_100_000, 25_000, 2**20, tuple(made), tuple(frozen), part, replace(part, macs=0.27))


def shown(capsys: pytest.CaptureFixture[str], result: Inspection, **options: bool) -> str:
    display.inspection(result, **options)
    return capsys.readouterr().out


def rows(said: str) -> list[str]:
    return re.findall(r"^layer\d+ ", said, flags=re.MULTILINE)


def test_the_first_lines_say_what_it_costs_and_what_can_go(capsys: pytest.CaptureFixture[str]):
    first, second, third, *_ = shown(capsys, model(3)).splitlines()
    assert first == "net.onnx: 4.1 M MACs, 0.03 M parameters, 1.0 MiB"
    assert second.startswith("3 groups of channels can be pruned: 192 channels that have a part in 97.0% of the MACs")
    assert third.startswith("half of each group's channels would keep 0.27 of the MACs and 0.90")


def test_one_is_one(capsys: pytest.CaptureFixture[str]):
    assert "1 group of channels can be pruned" in shown(capsys, model(1))


def test_a_group_is_told_by_its_size_its_shares_and_its_layers(capsys: pytest.CaptureFixture[str]):
    said = shown(capsys, model(1))
    (row,) = (line for line in said.splitlines() if line.startswith("layer0"))
    assert row.split() == ["layer0", "64", "50.0%", "25.0%", "2", "layer0", "+1", "layer1"]


def test_the_largest_come_first(capsys: pytest.CaptureFixture[str]):
    result = model(3)
    assert rows(shown(capsys, replace(result, groups=result.groups[::-1]))) == ["layer0 ", "layer1 ", "layer2 "]


def test_of_hundreds_the_small_ones_are_summed(capsys: pytest.CaptureFixture[str]):
    said = shown(capsys, model(300))
    assert len(rows(said)) == display.MOST
    rest = 300 - display.MOST
    assert f"... and {rest} more groups, {64 * rest:,} channels, each with a part in at most 2.4%; --all" in said


def test_all_are_listed_where_asked(capsys: pytest.CaptureFixture[str]):
    said = shown(capsys, model(300, locks=40), everything=True)
    assert len(rows(said)) == 300
    assert said.count("has no axis rule") == 39
    assert "more" not in said


def test_reasons_that_differ_by_the_node_alone_are_told_once(capsys: pytest.CaptureFixture[str]):
    said = shown(capsys, model(1, locks=40))
    assert said.count("has no axis rule") == 1
    (row,) = (line for line in said.splitlines() if "has no axis rule" in line)
    assert re.search(r"78\.0% +Mix: has no axis rule \(39 nodes, such as mix0\) +add a rule", row)


def test_many_kinds_of_reasons_are_cut(capsys: pytest.CaptureFixture[str]):
    kinds = tuple(Lock(f"Op{k} 'n': has no axis rule", f"Op{k}", 0.01, "add a rule") for k in range(30))
    said = shown(capsys, replace(model(1), frozen=kinds))
    assert f"... and {30 - display.FEW} more kinds of reasons, each for 1.0% of the parameters or less; --all" in said


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_no_line_of_a_table_is_wider_than_the_terminal(
    width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(display, "WIDTH", width)
    lines = shown(capsys, model(5, locks=3)).splitlines()
    table = [line for line in lines if line.startswith(("layer", "─", " "))]
    assert len(table) > 6
    assert all(len(line) <= width for line in table)
    assert any("read by" in line for line in lines) is (width >= 80)


def test_a_name_that_is_too_long_is_told_by_its_end(capsys: pytest.CaptureFixture[str]):
    name = "model/" * 15 + "last"
    result = replace(model(1), groups=(replace(group(0, 0.5), name=name, made_by=(name,)),))
    assert f"…{name[-47:]} " in shown(capsys, result)
    assert f"{name} " in shown(capsys, result, everything=True)


def test_brackets_in_names_are_names(capsys: pytest.CaptureFixture[str]):
    """They are markup to the library that draws the table."""
    assert "[bold]x" in shown(capsys, replace(model(1), groups=(replace(group(0, 0.5), name="[bold]x"),)))


def test_a_share_too_small_to_tell_is_not_nothing(capsys: pytest.CaptureFixture[str]):
    result = replace(model(1), groups=(group(0, 1e-5), group(1, 0.0)))
    said = shown(capsys, result).splitlines()
    assert "<0.1%" in next(line for line in said if line.startswith("layer0"))
    assert "0.0%" in next(line for line in said if line.startswith("layer1"))


def test_where_nothing_can_be_pruned_the_reasons_are_all_there_is(capsys: pytest.CaptureFixture[str]):
    said = shown(capsys, model(0))
    assert "frozen, and why:" in said and said.endswith("the reasons above say what to change\n")
    assert "groups of channels" not in said


# ---- sensitivity


def curve(*discrepancies: float, saves: float = 0.1) -> tuple[Width, ...]:
    """Of 64 channels in quarters; each quarter saves so much of the MACs."""
    return tuple(Width(64 - 16 * k, 1 - saves * k, 1.0, moved) for k, moved in enumerate(discrepancies))


def sensitive(*curves: tuple[Width, ...], outputs: tuple[str, ...] = ("logits",)) -> Inspection:
    result = model(len(curves))
    groups = tuple(replace(g, sensitivity=c) for g, c in zip(result.groups, curves, strict=True))
    return replace(result, groups=groups, measured=Measured(48, dict(zip("abc", outputs, strict=False))))


def test_sensitivity_is_told_at_three_widths_and_per_mac_saved(capsys: pytest.CaptureFixture[str]):
    said = shown(capsys, sensitive(curve(0, 0.0123, 0.05, 1.5)))
    (row,) = (line for line in said.splitlines() if line.startswith("layer0"))
    assert row.split() == ["layer0", "64", "50.0%", "25.0%", "0.0123", "0.05", "1.5", "0.0025", "2", "layer0", "+1",
                           "layer1"]  # fmt: skip
    assert re.search(r"channels +MACs +params +3/4 +1/2 +1/4 +per 1%", said)


def test_the_groups_that_are_cheapest_to_narrow_come_first(capsys: pytest.CaptureFixture[str]):
    """Per MAC that goes, whatever the group's share."""
    unmoved, dear = curve(0, 0, 0, 0, saves=0.0), curve(0, 1, 2, 3, saves=0.2)
    cheap = curve(0, 0.1, 0.2, 0.3, saves=0.1)
    assert rows(shown(capsys, sensitive(unmoved, dear, cheap))) == ["layer2 ", "layer1 ", "layer0 "]


@pytest.mark.parametrize(
    ("outputs", "says"),
    [
        (("logits",), "KL divergence at temperature 4, on 48 inputs"),
        (("values", "nothing"), "squared error per variance, on 48 inputs"),
        (
            ("probabilities", "values"),
            "KL divergence at temperature 4 or squared error per variance, mean of 2 outputs, on 48",
        ),
    ],
)
def test_it_is_said_what_the_numbers_are(outputs: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]):
    assert says in shown(capsys, sensitive(curve(0, 1, 2, 3), outputs=outputs))
    assert "KL" not in shown(capsys, model(1))


@pytest.mark.parametrize(
    ("widths", "cells"),
    [
        (curve(0), ["-", "-", "-", "-"]),
        (curve(0, 1e-9, 2e-5, float("inf")), ["<1e-6", "2e-05", "inf", "1e-06"]),
        (curve(0, 0, 0, 0, saves=0.0), ["0", "0", "0", "-"]),
    ],
)
def test_what_has_no_number_is_no_number(
    widths: tuple[Width, ...], cells: list[str], capsys: pytest.CaptureFixture[str]
):
    said = shown(capsys, sensitive(widths, curve(0, 1, 2, 3)))
    (row,) = (line for line in said.splitlines() if line.startswith("layer0"))
    assert row.split()[4:8] == cells
