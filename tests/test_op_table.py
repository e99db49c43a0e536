"""docs/ops.md says of every op what the rules say."""

import re
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from onnx import defs

ROOT = Path(__file__).parents[1]
TOOLS = ROOT / "tools"
sys.path.insert(0, str(TOOLS))

import op_table  # noqa: E402 - the folder of tools is no package
from op_sightings import Sighting  # noqa: E402

from onnxprune.ops import RULES  # noqa: E402

COMMITTED = (ROOT / "docs" / "ops.md").read_text()
AGAIN = "docs/ops.md is not what the rules say any more; `python tools/op_table.py` writes it anew; read its diff"


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> str:
    """As the tool makes it now, in a process of its own: it reads the onnx package's cases in a way of its own."""
    target = tmp_path_factory.mktemp("docs") / "ops.md"
    tool = [sys.executable, str(TOOLS / "op_table.py"), "-o", str(target)]
    ran = subprocess.run(tool, check=False, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr.strip().rpartition("\n")[2]
    return target.read_text()


def header(text: str) -> str:
    return next(line for line in text.splitlines() if line.startswith("Made by"))


def cells(text: str) -> list[list[str]]:
    """The rows of all tables."""
    return [line.strip("|").split("|") for line in text.splitlines() if line.startswith("| `")]


def row(text: str, op: str, where: str = "") -> tuple[str, str, str, str, str]:
    """Verdict, what passes, what does not, gated form and repair of an op."""
    found = [r[2:] for r in cells(text) if r[0].strip() == f"`{op}`" and where in r[1]]
    verdict, passes, whole, form, repair = (cell.strip() for cell in found[0])
    return verdict, passes, whole, form, repair


def test_the_committed_table_is_what_the_rules_say(table: str):
    now, then = (re.sub(r" and onnxruntime \S+,", ",", header(text)) for text in (table, COMMITTED))
    if now != then:
        pytest.skip(f"the table was made by other versions: {header(COMMITTED)}")
    differ = set(table.splitlines()) ^ set(COMMITTED.splitlines())
    assert not differ - {header(table), header(COMMITTED)}, AGAIN
    assert table.count("\n") == COMMITTED.count("\n"), AGAIN


def test_every_op_has_one_row(table: str):
    newest = int(header(table).rpartition(" ")[2].rstrip("."))
    history = [s for s in defs.get_all_schemas_with_history() if not s.domain and s.since_version <= newest]
    own = {("", s.name) for s in history}
    named = [(r[1].strip() if "." in r[1] else "", r[0].strip(" `")) for r in cells(table)]
    assert len(named) == len(set(named))
    assert set(named) == own | (RULES.keys() - {("", s.name) for s in defs.get_all_schemas_with_history()})


def test_every_row_says_what_passes_or_why_nothing_does(table: str):
    for cell in cells(table):
        verdict, passes, whole, *_ = (text.strip() for text in cell[2:])
        assert verdict in ("pruned through", "partly", "frozen")
        assert whole if verdict == "frozen" else passes, cell


def test_well_known_ops_are_told_as_they_are(table: str):
    verdict, passes, _, _, repair = row(table, "Conv")
    assert verdict == "pruned through" and "`N i *S, o i *K, o -> N o *T`" in passes and repair == "yes"
    assert row(table, "Relu") == ("pruned through", "every axis", "", "", "")
    assert row(table, "LayerNormalization")[3] == "yes"
    verdict, passes, why, *_ = row(table, "NonMaxSuppression")
    assert (verdict, passes) == ("frozen", "") and "every box" in why
    verdict, _, why, *_ = row(table, "MaxPool")
    assert verdict == "partly" and "Indices" in why
    assert "`Concat`" in row(table, "ConcatFromSequence")[1]
    assert "`weights`, `bias`: every axis" in row(table, "Attention", "com.microsoft")[1]


def test_the_summary_counts_the_rows(table: str):
    counted = [int(number) for number in re.findall(r"(\d+) (?:pruned through|partly|frozen)", table)]
    assert sum(counted) == len(cells(table))


def test_an_op_without_a_rule_or_a_reason_is_an_error():
    with pytest.raises(LookupError, match="Nonsense has neither a rule nor a reason"):
        op_table.row(("", "Nonsense"), [], 26)


def test_a_rule_without_a_case_is_an_error():
    with pytest.raises(LookupError, match=r"Conv has no case in tools/op_cases.txt"):
        op_table.row(("", "Conv"), [], 26)


def sighting(free: set[int], stuck: set[int], *, unknown: bool = False) -> Sighting:
    reasons = ["its input 1 is computed at run time"] if unknown else []
    return Sighting({"in0": (3, frozenset(free), frozenset(stuck))}, reasons, unknown=unknown)


def test_a_form_that_the_rule_gives_up_makes_an_op_partly_pruned():
    some = [sighting({0, 1}, {2}), sighting(set(), {0, 1, 2}, unknown=True)]
    assert op_table.row(("", "Slice"), some[:1], 18).verdict == "pruned through"
    told = op_table.row(("", "Slice"), some, 18)
    assert told.verdict == "partly" and told.whole == "`starts` is computed at run time"
    assert op_table.row(("", "Slice"), some[1:], 18).verdict == "frozen"


def test_axes_are_counted_from_the_side_where_they_agree():
    assert "`data`: axes 0, 1" in op_table.row(("", "Slice"), [sighting({0, 1}, {2})], 18).passes
    last = [sighting({2}, {1}), Sighting({"in0": (2, frozenset({1}), frozenset({0}))})]
    assert "`data`: axis -1" in op_table.row(("", "Slice"), last, 18).passes


def test_onnx_knows_the_newest_opset_that_onnxruntime_runs():
    assert 20 <= op_table.newest_opset() <= onnx.defs.onnx_opset_version()


@pytest.mark.parametrize("readme", ["README.md", "onnxprune/ops/README.md"])
def test_readers_find_the_table(readme: str):
    assert "docs/ops.md" in (ROOT / readme).read_text()
