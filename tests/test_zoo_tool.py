"""The zoo's tool counts what it is said to count, remembers what it found, and draws weights that hide nothing."""

import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

TOOLS = Path(__file__).parents[1] / "tools"
sys.path.insert(0, str(TOOLS))

from zoo_models import catalogue, peers, table, weights  # noqa: E402 - the folder of tools is no package
from zoo_models.case import Case, Network  # noqa: E402
from zoo_models.processes import Limits, Results, limited  # noqa: E402

CASE = Case("others", "net", "dynamo", 20)


def test_a_case_is_known_by_its_name():
    every = list(catalogue.cases())
    assert len({case.name for case in every}) == len(every)
    assert [Case.named(case.name) for case in every] == every


def test_every_network_is_there_once_and_the_representative_ones_in_all_forms():
    every = list(catalogue.cases())
    named = {(family, name) for family, names in catalogue.models().items() for name in names}
    assert named <= {case.network for case in every}
    assert set(catalogue.ALL_FORMS) <= named
    for network in catalogue.ALL_FORMS:
        forms = {(case.exporter, case.opset, case.form) for case in every if case.network == network}
        assert forms >= set(catalogue.FORMS)


def test_the_catalogue_covers_exporters_opsets_and_families():
    every = list(catalogue.cases())
    assert {case.exporter for case in every} == {
        "dynamo",
        "torchscript",
        "tf2onnx",
        "keras_torch",
        "skl2onnx",
    }
    assert {case.opset for case in every if case.torch} >= {9, 11, 13, 17, 18, 20, 23}
    timm = pytest.importorskip("timm")
    modules = {timm.models._registry._model_to_module[name] for name in catalogue.TIMM}
    assert len(modules) >= 60


def test_dynamic_axes_follow_the_form():
    network = Network(
        nn.Identity(), lambda n: (torch.zeros(n, 4), torch.zeros(2, n)), {0: {1: "time"}}, {1: 1}
    )
    assert network.open_axes("static") == [{}, {}]
    assert network.open_axes("dynamic") == [{0: "batch"}, {1: "batch"}]
    assert network.open_axes("free") == [{0: "batch", 1: "time"}, {1: "batch"}]


class Mixed(nn.Module):
    """One of each kind of parameter that starts as zero, one or a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.layer_norm = nn.LayerNorm(8)
        self.scale = nn.Parameter(torch.full((8,), 1e-6))
        self.rnn = nn.GRU(8, 8)
        self.position = nn.Parameter(torch.zeros(1, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(x))


def test_no_weight_is_zero_or_left_at_its_first_value():
    first = Mixed()
    before = {name: value.clone() for name, value in first.named_parameters()}
    after = dict(weights.randomize(first).named_parameters())
    assert all((value != 0).all() for value in after.values())
    assert not [name for name, value in after.items() if torch.allclose(value, before[name], atol=1e-3)]


def test_running_statistics_are_measured_and_then_moved_a_little():
    torch.manual_seed(0)
    module = Mixed()
    images = torch.randn(16, 3, 12, 12) + 3
    weights.randomize(module, lambda: module(images))
    assert not module.training
    measured = module.conv(images).mean((0, 2, 3))
    spread = module.conv(images).std((0, 2, 3))
    apart = (module.norm.running_mean - measured).abs() / spread
    assert (apart > 0).all()
    assert (apart < 1).all()


class TwoOutputs(nn.Module):
    """A residual stream that is an output, and a classifier; the hidden layers are neither."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.inner, self.back = nn.Linear(4, 8), nn.Linear(8, 16, bias=False), nn.Linear(16, 8)
        self.classifier = nn.Conv1d(8, 3, 1)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        x = self.first(x)
        x = x + self.back(torch.relu(self.inner(x)))
        return {"stream": x, "scores": self.classifier(x.unsqueeze(2)).flatten(1).sigmoid()}


def test_the_layers_of_the_outputs_are_those_whose_channels_come_out():
    module = TwoOutputs()
    found = peers.output_layers(module, (torch.randn(2, 4),))
    assert set(found) == {module.first, module.back, module.classifier}


class Grouped(nn.Module):
    """Attention with fewer heads for keys and values than for queries."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads, self.num_key_value_groups = 4, 2
        self.q_proj, self.k_proj, self.v_proj = nn.Linear(8, 8), nn.Linear(8, 4), nn.Linear(8, 4)
        self.out = nn.Linear(8, 8)


def test_heads_are_found_by_the_names_of_projections():
    module = Grouped()
    assert peers.attention_heads(nn.Sequential(module)) == {
        module.q_proj: 4,
        module.k_proj: 2,
        module.v_proj: 2,
    }


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path: Path):
    path = tmp_path / "results.jsonl"
    results = Results(path)
    results.add(CASE, "export", {"nodes": 3})
    results.add(CASE, "onnxprune", {"error": "once"})
    results.add(CASE, "onnxprune", {"macs_kept": 0.25})
    with path.open("a") as file:
        file.write('{"name": "others.net.dyn')
    again = Results(path)
    assert again.get(CASE, "export") == {"name": CASE.name, "step": "export", "nodes": 3}
    assert again.get(CASE, "onnxprune") == {"name": CASE.name, "step": "onnxprune", "macs_kept": 0.25}


def test_fresh_forgets_results_but_no_export_that_succeeded(tmp_path: Path):
    other, broken = Case("others", "other", "dynamo", 20), Case("others", "broken", "dynamo", 20)
    results = Results(tmp_path / "results.jsonl")
    for case in (CASE, other):
        results.add(case, "export", {"nodes": 3})
        results.add(case, "onnxprune", {"macs_kept": 0.25})
    results.add(broken, "export", {"error": "no"})
    results.forget([CASE, broken], "all")
    again = Results(results.path)
    assert set(again.of) == {(CASE.name, "export"), (other.name, "export"), (other.name, "onnxprune")}


def test_one_step_can_be_made_afresh(tmp_path: Path):
    results = Results(tmp_path / "results.jsonl")
    for step in ("export", "onnxprune", "onnxsim"):
        results.add(CASE, step, {"seconds": 1})
    results.forget([CASE], "onnxprune")
    assert set(Results(results.path).of) == {(CASE.name, "export"), (CASE.name, "onnxsim")}


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("raise SystemExit('no such op')", "no such op"),
        ("import time; time.sleep(60)", "no result within 1 s"),
        ("import os; os.kill(os.getpid(), 9)", "exit code -9"),
        ("x = bytearray(3 << 30)", "MemoryError"),
    ],
)
def test_a_step_that_fails_is_a_result(code: str, error: str):
    assert limited([sys.executable, "-c", code], Limits(1 if "sleep" in code else 60, 2)) == {"error": error}


def test_what_a_step_prints_last_is_its_result():
    code = "print('chatter'); print('{\"nodes\": 3}')"
    assert limited([sys.executable, "-c", code], Limits(60, 2)) == {"nodes": 3}


def found(macs: float, *, error: float = 1e-7, theirs: float | None = None, heads: float | None = None):
    results = {
        (CASE.name, "export"): {"nodes": 5},
        (CASE.name, "onnxprune"): {
            "macs_kept": macs, "params_kept": macs, "max_rel_error": error, "core_seconds": 0.1, "slim_seconds": 0.2,
            "peak_mib": 99.0, "groups": 2, "frozen_share": 0.5,
            "frozen": [{"op": "Foo", "because": "Foo has no axis rule", "params_share": 1.0}],
        },
        (CASE.name, "onnxsim"): {"macs_kept": 0.5, "params_kept": 0.6, "runs": "invalid | shape"},
    }  # fmt: skip
    if theirs is not None:
        results[CASE.name, "torch_pruning"] = {"macs_kept": theirs, "params_kept": theirs}
    if heads is not None:
        results[CASE.name, "torch_pruning_heads"] = {"macs_kept": heads, "params_kept": heads}
    return results


row = partial(table.row_of, CASE, peers_case=CASE)


@pytest.mark.parametrize(
    ("theirs", "heads", "above"),
    [(None, None, False), (0.29, None, False), (0.27, None, True), (0.30, 0.27, True), (None, 0.27, True)],
)
def test_a_row_may_not_keep_more_than_a_little_over_torch_pruning(
    theirs: float | None, heads: float | None, above: bool
):
    figures = table.summary([row(results=found(0.30, theirs=theirs, heads=heads))])
    assert (CASE.name in figures["above_torch_pruning"]) is above


def test_a_row_that_is_not_exact_is_a_failure():
    figures = table.summary([row(results=found(0.25, error=2e-5))])
    assert (figures["slimmed_exactly"], figures["share_slimmed_exactly"]) == (0, 0.0)
    assert figures["failures"] == {CASE.name: "max_rel_error 2.0e-05"}


def test_a_row_whose_error_is_not_a_number_is_a_failure():
    assert table.summary([row(results=found(0.25, error=float("nan")))])["failures"]


def test_what_is_not_exported_is_counted_apart():
    figures = table.summary([row(results={(CASE.name, "export"): {"error": "no such op"}})])
    assert figures["exported_and_run"] == 0
    assert figures["failures"] == {}
    assert figures["not_exported"] == {CASE.name: "no such op"}


def test_a_case_that_did_not_run_is_no_success():
    figures = table.summary([row(results={(CASE.name, "export"): {"nodes": 5}})])
    assert figures["failures"] == {CASE.name: "not run"}


def test_the_table_has_one_line_a_row_and_as_many_cells_as_headings():
    rows = [
        row(results=found(0.25, theirs=0.26)),
        row(results={(CASE.name, "export"): {"error": "a | b\nc"}}),
    ]
    lines = table.table(rows).splitlines()
    assert len(lines) == 4
    assert {line.replace("\\|", "").count("|") for line in lines} == {len(table.COLUMNS) + 1}
    assert "| 0.250 | 0.250 | 1e-07 |" in lines[2]
    assert "export: a \\| b c" in lines[3]


def test_the_words_name_every_failure():
    words = table.in_words(table.summary([row(results=found(0.30, error=1.0, theirs=0.2))]))
    assert "0 of them (0.0 %)" in words
    assert f"- {CASE.name}: max_rel_error 1.0e+00" in words


def run_tool(cache: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(TOOLS / "zoo.py"), "--cache", str(cache), *options]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_a_network_goes_the_whole_way_and_a_second_run_runs_nothing(tmp_path: Path):
    options = ("--only", "others.perceptron.*", "--json", str(tmp_path / "zoo.json"), "--no-peers")
    first = run_tool(tmp_path, *options)
    assert first.returncode == 0, first.stdout + first.stderr
    assert "1 of them (100.0 %)" in first.stdout
    assert '"step": "onnxprune"' in first.stderr
    second = run_tool(tmp_path, *options)
    assert second.stdout == first.stdout
    assert "step" not in second.stderr


@pytest.mark.slow
def test_the_peers_run_on_the_same_network_and_are_counted_alike(tmp_path: Path):
    pytest.importorskip("torch_pruning")
    done = run_tool(tmp_path, "--only", "others.unet_transposed.*")
    assert done.returncode == 0, done.stdout + done.stderr
    cells = done.stdout.splitlines()[2].split("|")
    assert cells[7].strip() == cells[13].strip() == "0.255"
