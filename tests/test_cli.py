"""Commands as a user types them."""

import json
import logging
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from onnx_text import RELU
from small_models import conv_net, images
from text_nets import net

from onnxprune import __version__, verify
from onnxprune.cli import main


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, with a model and data in it."""
    monkeypatch.chdir(tmp_path)
    onnx.save(conv_net(16), "model.onnx")
    np.savez("data.npz", image=images(24), y=np.arange(24) % 3)
    log = logging.getLogger("onnxprune")
    handlers, propagate, level = log.handlers, log.propagate, log.level
    yield tmp_path
    log.handlers, log.propagate = handlers, propagate
    log.setLevel(level)


def typed(line: str, code: int = 0) -> Result:
    """`onnxprune <line>`, which must end with this exit code."""
    result = CliRunner().invoke(main, line.split())
    assert result.exit_code == code, (result.stdout, result.stderr, result.exception)
    return result


def document(line: str, code: int = 0) -> dict[str, Any]:
    """The one JSON object that a command prints."""
    found = json.loads(typed(f"{line} --json", code).stdout)
    assert isinstance(found, dict)
    return found


def process(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "onnxprune", *words], capture_output=True, text=True, check=False, timeout=120
    )


# ---- the main way, as typed


def test_gate_then_slim_works_exactly_as_typed(folder: Path):
    """In processes of their own, as in a shell."""
    gated = process("gate", "model.onnx")
    slim = process("slim", "--ratio", "0.1")
    assert (gated.returncode, slim.returncode) == (0, 0), gated.stderr + slim.stderr
    assert sorted(path.name for path in folder.glob("*.onnx")) == [
        "model.gated.onnx",
        "model.onnx",
        "model.slim.onnx",
    ]
    assert Path("model.slim.onnx").stat().st_size < 0.5 * Path("model.onnx").stat().st_size
    assert "model.slim.onnx: asked for 0.1 of the channels" in slim.stdout
    onnx.checker.check_model("model.slim.onnx", full_check=True)


def test_every_step_follows_the_one_before():
    typed("gate model.onnx")
    typed("slim model.gated.onnx --ratio 0.5 --save-plan plan.json --save-gated closed.onnx")
    typed("verify closed.onnx model.slim.onnx")
    typed("gate model.onnx --plan plan.json -o planned.onnx")
    typed("verify planned.onnx model.slim.onnx")
    typed("slim model.onnx --plan plan.json -o again.onnx")
    assert Path("again.onnx").read_bytes() == Path("model.slim.onnx").read_bytes()


def test_train_then_slim_keeps_what_the_gates_say():
    reached = document("train model.onnx --data data.npz --ratio 0.5 --epochs 2 --batch-size 8")
    slim = document("slim")
    assert (slim["asked"], slim["by"]) == (0.5, "channels")
    assert slim["kept"]["channels"] == pytest.approx(reached["reached"], abs=1e-6)


WAYS = {
    "scp": "--method scp --method-option push=0.02",
    "fisher": "--method fisher --method-option decay=0.9",
    "l2": "--method finetune --method-option criterion=l2",
    "limits": "--by macs --limit params=0.6 --limit channels=0.8 --multiple-of 1",
    "loop": "--optimizer adamw --schedule one-cycle --warmup 0.1 --clip 1 --accumulate 2 --ema 0.9 --workers 1",
    "data": "--augment flip,mixup --task classification --distill 0.5 --temperature 3 --precision bfloat16",
}


@pytest.mark.parametrize("way", WAYS)
def test_train_takes_what_its_help_names(way: str):
    found = document(f"train model.onnx --data data.npz --epochs 2 --batch-size 8 --ratio 0.7 {WAYS[way]}")
    assert found["kept"].keys() == {"channels", "params", "macs"}
    assert found["kept"][found["by"]] == pytest.approx(found["reached"], abs=1e-6)
    if way == "limits":
        assert found["kept"]["params"] <= 0.6 + 1e-9 and found["kept"]["channels"] <= 0.8 + 1e-9


# ---- --json


FIELDS = {
    "inspect model.onnx": {"model", "macs", "params", "bytes", "groups", "frozen"},
    "gate model.onnx": {"output", "groups", "gates", "max_rel_error"},
    "slim model.onnx --ratio 0.5": {"output", "asked", "by", "kept", "verified", "seconds", "plan"},
    "verify model.onnx model.onnx": {"max_rel_error", "tolerance", "inputs", "equal"},
    "train model.onnx --data data.npz --ratio 0.5 --epochs 1": {
        "output", "epochs", "asked", "by", "reached", "metrics", "seconds", "run_dir"
    },
}  # fmt: skip


@pytest.mark.parametrize("line", FIELDS)
def test_json_is_one_object_of_the_promised_fields_and_nothing_else(line: str):
    assert FIELDS[line] <= document(line).keys()


@pytest.mark.parametrize(
    ("line", "path", "fields"),
    [
        ("inspect model.onnx", ["groups", 0], {"name", "size", "members", "prunable", "frozen_because", "macs_share"}),
        ("inspect model.onnx", ["groups", 0, "members", 0], {"tensor", "axis"}),
        ("inspect model.onnx", ["frozen", 0], {"because", "op", "params_share"}),
        ("slim model.onnx --ratio 0.5", ["kept"], {"channels", "params", "macs", "bytes"}),
        ("slim model.onnx --ratio 0.5", ["verified"], {"max_rel_error", "tolerance", "inputs"}),
    ],
)  # fmt: skip
def test_json_holds_the_promised_fields_further_in(line: str, path: list[Any], fields: set[str]):
    found: Any = document(line)
    for step in path:
        found = found[step]
    assert fields <= found.keys()


def test_json_of_a_bench_has_all_promised_fields():
    found = document("bench model.onnx model.onnx --runs 2 --warmup 1 --threads 1 --batch 2")
    assert found.keys() >= {"machine", "provider", "threads", "batch", "models", "speedup"}
    figures = {"path", "median_ms", "p10_ms", "p90_ms", "p99_ms", "runs", "peak_mib"}
    assert all(entry.keys() >= figures for entry in found["models"])
    assert all(entry.keys() >= {"of", "over", "ratio", "low", "high"} for entry in found["speedup"])
    assert (len(found["models"]), len(found["speedup"])) == (2, 1)
    assert (found["provider"], found["threads"], found["batch"]) == ("cpu", 1, 2)


def test_json_of_a_real_process_is_alone_on_stdout():
    done = process("slim", "model.onnx", "--ratio", "0.01", "--by", "macs", "--keep", "first", "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["by"] == "macs"
    assert len(done.stdout.splitlines()) == 1
    assert "Warning: asked for 0.010 of the macs" in done.stderr


def test_json_is_valid_json_when_models_differ():
    typed("slim model.onnx --ratio 0.5")
    found = document("verify model.onnx model.slim.onnx", code=1)
    assert found["equal"] is False and found["max_rel_error"] > 1e-3


# ---- files


@pytest.mark.parametrize(
    ("line", "made"),
    [
        ("gate model.onnx", "model.gated.onnx"),
        ("gate model.onnx -o other.onnx", "other.onnx"),
        ("slim model.onnx --ratio 0.5", "model.slim.onnx"),
        ("slim model.onnx --ratio 0.5 --output other.onnx", "other.onnx"),
        ("gate sub/model.onnx", "sub/model.gated.onnx"),
        ("slim sub/model.onnx --ratio 0.5", "sub/model.slim.onnx"),
    ],
)
def test_outputs_have_their_default_names(line: str, made: str, folder: Path):
    (folder / "sub").mkdir()
    onnx.save(conv_net(), "sub/model.onnx")
    before = {path for path in folder.rglob("*") if path.is_file()}
    typed(line)
    assert {path for path in folder.rglob("*") if path.is_file()} - before == {folder / made}


def test_a_gated_model_slims_to_the_plain_name():
    typed("gate model.onnx")
    assert document("slim model.gated.onnx --ratio 0.5")["output"] == "model.slim.onnx"


@pytest.mark.parametrize("command", ["gate model.onnx", "slim model.onnx --ratio 0.5"])
def test_default_names_are_overwritten_and_chosen_ones_only_by_force(command: str):
    typed(command)
    typed(command)
    typed(f"{command} -o mine.onnx")
    assert "exists already" in typed(f"{command} -o mine.onnx", code=1).stderr
    typed(f"{command} -o mine.onnx --force")


@pytest.mark.parametrize("command", ["gate model.onnx", "slim model.onnx --ratio 0.5"])
def test_a_model_never_becomes_its_own_output(command: str):
    before = Path("model.onnx").read_bytes()
    assert "exists already" in typed(f"{command} -o model.onnx", code=1).stderr
    assert Path("model.onnx").read_bytes() == before


def test_slim_without_a_model_takes_the_one_gated_model_here():
    assert "holds no *.gated.onnx" in typed("slim --ratio 0.5", code=1).stderr
    typed("gate model.onnx")
    assert document("slim --ratio 0.5")["output"] == "model.slim.onnx"
    typed("gate model.onnx -o other.gated.onnx")
    assert "several gated models" in typed("slim --ratio 0.5", code=1).stderr


# ---- options


@pytest.mark.parametrize("by", ["channels", "params", "macs"])
def test_the_ratio_counts_what_it_is_told_to(by: str):
    found = document(f"slim model.onnx --ratio 0.5 --by {by} --multiple-of 1")
    assert found["kept"][by] == pytest.approx(0.5, abs=0.04)
    assert (found["asked"], found["by"]) == (0.5, by)


def kept(found: dict[str, Any]) -> dict[str, int]:
    return {group["name"]: len(group["kept"]) for group in found["plan"]["groups"]}


@pytest.mark.parametrize(
    ("options", "counts"),
    [
        ("--multiple-of 1", {"first": 4, "second": 8}),
        ("--keep first --multiple-of 1", {"first": 16, "second": 8}),
        ("--only second --multiple-of 1", {"first": 16, "second": 8}),
        ("--keep relu1 --multiple-of 1", {"first": 16, "second": 8}),
        ("--multiple-of 8", {"first": 8, "second": 8}),
        ("--min-channels 6 --multiple-of 1", {"first": 6, "second": 6}),
    ],
)
def test_bounds_on_what_is_kept(options: str, counts: dict[str, int]):
    assert kept(document(f"slim model.onnx --ratio 0.25 {options}")) == counts


@pytest.mark.parametrize("option", ["--scope global", "--criterion l1", "--seed 3"])
def test_other_ways_to_choose_are_exact_too(option: str):
    found = document(f"slim model.onnx --ratio 0.5 {option}")
    assert found["verified"]["max_rel_error"] <= found["verified"]["tolerance"]


def test_proof_on_given_data_is_on_all_of_it():
    assert document("slim model.onnx --ratio 0.5 --data data.npz --distill 0")["verified"]["inputs"] == 24
    assert document("verify model.onnx model.onnx --data data.npz")["inputs"] == 24


def test_with_data_the_weights_are_repaired_and_proven_with_the_gated_model_that_has_them():
    found = document("slim model.onnx --ratio 0.5 --data data.npz --distill 2 --save-gated gated.onnx")
    assert list(found["recovery"]) == ["cut", "repaired", "distilled"]
    assert found["recovery"]["repaired"] < found["recovery"]["cut"]
    assert document("verify gated.onnx model.slim.onnx --data data.npz")["equal"]
    assert "held-out inputs: cut" in typed("slim model.onnx --ratio 0.5 --data data.npz --distill 0").stdout


def test_the_same_seed_gives_the_same_file():
    files = []
    for seed in (0, 0, 1):
        typed(f"slim model.onnx --ratio 0.5 --data data.npz --distill 2 --samples 16 --seed {seed} -o s.onnx --force")
        files.append(Path("s.onnx").read_bytes())
    assert files[0] == files[1] != files[2]


@pytest.mark.parametrize(
    "option",
    ["--repair none", "--repair biases --distill 0", "--repair statistics", "--scope layer --distill 0",
     "--criterion wanda --distill 0"],
)  # fmt: skip
def test_other_ways_to_choose_by_data_are_exact_too(option: str):
    found = document(f"slim model.onnx --ratio 0.5 --data data.npz {option}")
    assert found["verified"]["max_rel_error"] <= found["verified"]["tolerance"]
    assert ("repaired" in found["recovery"]) == (option != "--repair none")


def test_a_plan_keeps_its_channels_and_weights_unless_repair_is_asked_for():
    typed("slim model.onnx --ratio 0.5 --save-plan plan.json -o plain.onnx")
    assert document("slim model.onnx --plan plan.json --data data.npz")["recovery"] == {}
    repaired = document("slim model.onnx --plan plan.json --data data.npz --repair weights")
    assert repaired["plan"] == json.loads(Path("plan.json").read_text())
    assert repaired["recovery"]["repaired"] < repaired["recovery"]["cut"]


@pytest.mark.parametrize("option", ["--repair statistics", "--distill 3", "--scope sensitivity", "--criterion fisher"])
def test_what_takes_inputs_says_so(option: str):
    said = typed(f"slim model.onnx --ratio 0.5 {option}", code=1).stderr
    assert said.startswith("Error: ") and "--data" in said and said.count("\n") == 1


def test_training_goes_on_from_a_repaired_model_with_the_original_as_teacher(folder: Path):
    typed("slim model.onnx --ratio 0.5 --by macs --data data.npz --distill 0 --save-gated start.onnx -o cut.onnx")
    line = "train start.onnx --data data.npz --method finetune --epochs 1 --batch-size 8 --run-dir run"
    alone, taught = document(f"{line} -o a.onnx"), document(f"{line}2 --teacher model.onnx -o b.onnx")
    assert taught["metrics"]["before"]["agreement"] == 1  # of what is learned from: the original
    assert taught["metrics"]["after"]["distillation"] < alone["metrics"]["after"]["distillation"]
    assert taught["kept"] == alone["kept"] and taught["asked"] == taught["reached"]
    assert document("train --resume run2")["metrics"] == taught["metrics"]
    shutil.copy("start.onnx", "model.onnx")
    assert "model.onnx is gone or has changed" in typed("train --resume run2", code=1).stderr
    other = Path(__file__).parents[1] / "models/digits/digits.onnx"
    assert "its inputs are x" in typed(f"train start.onnx --data data.npz --teacher {other}", code=1).stderr


def test_the_tolerance_of_verify_is_the_users():
    typed("slim model.onnx --ratio 0.5")
    typed("verify model.onnx model.slim.onnx", code=1)
    typed("verify model.onnx model.slim.onnx --tolerance 1e6")


def test_equal_runs_write_equal_files():
    typed("slim model.onnx --ratio 0.5 -o a.onnx")
    typed("slim model.onnx --ratio 0.5 -o b.onnx")
    assert Path("a.onnx").read_bytes() == Path("b.onnx").read_bytes()


def test_bench_exits_with_1_below_its_bound_and_shows_what_it_measured():
    result = typed("bench model.onnx model.onnx --runs 3 --warmup 1 --min-speedup 10000", code=1)
    assert "model.onnx" in result.stdout
    assert "asked for 10000x" in result.stderr


# ---- exit codes and words


@pytest.mark.parametrize(
    "line",
    ["", "unknown", "slim --ratio", "slim model.onnx --ratio half", "slim model.onnx --by bytes", "verify model.onnx",
     "bench", "gate", "inspect", "inspect model.onnx --nope", "train model.onnx"],
)  # fmt: skip
def test_wrong_usage_exits_with_2(line: str):
    result = CliRunner().invoke(main, line.split())
    assert result.exit_code == 2
    assert "Error: " in result.stderr or "Usage: " in result.stderr


@pytest.mark.parametrize("command", ["inspect", "gate", "train", "slim", "verify", "bench", "demo"])
def test_every_command_explains_itself(command: str):
    said = typed(f"{command} --help").stdout
    assert said.startswith(f"Usage: main {command}") and len(said.split()) > 20


def test_the_help_lists_every_command():
    said = typed("--help").stdout
    assert all(
        f"  {name} " in said for name in ["inspect", "gate", "train", "slim", "verify", "bench", "demo"]
    )


def test_the_version_is_the_packages():
    assert __version__ in typed("--version").stdout


def test_inspect_says_what_goes_and_what_stays_and_why():
    said = typed("inspect model.onnx").stdout
    assert "2 groups of channels can be pruned" in said
    assert "'logits' is an output of the model" in said


def test_inspect_says_when_nothing_can_be_pruned():
    onnx.save(RELU, "relu.onnx")
    assert "nothing can be pruned" in typed("inspect relu.onnx").stdout


def test_inspect_measures_what_each_group_is_worth():
    said = typed("inspect model.onnx --sensitivity --data data.npz").stdout
    assert "KL divergence at temperature 4, on 24 inputs" in said
    assert re.search(r"^second +32 +\S+ +\S+ +[\d.e<-]+ +[\d.e<-]+ +[\d.e<-]+ +[\d.e<-]+ ", said, flags=re.MULTILINE)


def test_inspect_measures_as_json_on_so_many_inputs_as_asked_for():
    found = document("inspect model.onnx --sensitivity --data data.npz --samples 8 --seed 3")
    assert found["measured"] == {"inputs": 8, "outputs": {"logits": "logits"}}
    first = next(group for group in found["groups"] if group["name"] == "first")
    assert first["sensitivity"][0] == {"kept": 16, "macs": 1.0, "params": 1.0, "discrepancy": 0.0}
    assert [width["kept"] for width in first["sensitivity"]] == [16, 14, 12, 10, 8, 6, 4, 2]


def test_inspect_draws_a_picture_and_overwrites_one_only_by_force(folder: Path):
    command = "inspect model.onnx --sensitivity --data data.npz --samples 4 --picture out.png"
    typed(command)
    assert Path("out.png").read_bytes().startswith(b"\x89PNG")
    assert {path.name for path in folder.iterdir()} == {"model.onnx", "data.npz", "out.png"}
    assert "another place with --picture, or overwrite it with --force" in typed(command, code=1).stderr
    typed(f"{command} --force")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("--sensitivity", "Error: --sensitivity: runs the model on inputs; give some with --data"),
        ("--data data.npz", "Error: --data: is for measuring; add --sensitivity, or leave it out"),
        ("--picture a.png", "Error: --picture: is for measuring; add --sensitivity, or leave it out"),
        ("--sensitivity --data none.npz", "none.npz: no such file"),
        ("--sensitivity --data data.npz --samples 0", "0 samples are none"),
        ("--sensitivity --data none.npz --picture a.gif", "a.gif: pictures end with .png, .svg, .pdf"),
        ("--sensitivity --data none.npz --picture no/a.png", "no/a.png: the folder no does not exist"),
    ],
)
def test_inspect_says_in_one_line_what_measuring_lacks(line: str, says: str):
    said = typed(f"inspect model.onnx {line}", code=1).stderr
    assert says in said and said.count("\n") == 1


def test_verify_says_whether_and_by_how_much():
    typed("slim model.onnx --ratio 0.5 --save-gated gated.onnx")
    assert typed("verify gated.onnx model.slim.onnx").stdout.startswith("equal: ")
    assert typed("verify model.onnx model.slim.onnx", code=1).stdout.startswith("NOT EQUAL: ")


def test_a_surprise_is_one_line_and_a_traceback_only_with_debug(monkeypatch: pytest.MonkeyPatch):
    def surprise(*_: object, **__: object) -> None:
        raise RuntimeError("first\nsecond")

    monkeypatch.setattr("onnxprune.inspection.inspect", surprise)
    assert typed("inspect model.onnx", code=1).stderr == (
        "Error: unexpected RuntimeError: first second; run with `onnxprune --debug` and report the traceback\n"
    )
    result = CliRunner().invoke(main, ["--debug", "inspect", "model.onnx"])
    assert isinstance(result.exception, RuntimeError)


def test_an_interrupt_is_one_line(monkeypatch: pytest.MonkeyPatch):
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("onnxprune.inspection.inspect", interrupt)
    assert typed("inspect model.onnx", code=1).stderr == "Error: interrupted; nothing was written\n"


# ---- what a command starts


@pytest.mark.parametrize(
    "line",
    [
        "inspect model.onnx",
        "inspect model.onnx --sensitivity --data data.npz --samples 4 --picture a.svg",
        "gate model.onnx",
        "slim model.onnx --ratio 0.5 --data data.npz --distill 0",
        "verify model.onnx model.onnx",
        "bench model.onnx --runs 1",
    ],
)
def test_torch_is_not_imported_for(line: str):
    code = (
        "import sys; from onnxprune.cli import main\n"
        f"main({line.split()!r}, standalone_mode=False)\n"
        "sys.exit(3 if {'torch', 'accelerate'} & sys.modules.keys() else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr


def test_the_installed_names_are_the_modules_and_the_commands():
    assert callable(verify)
    assert process("--version").stdout.split()[-1] == __version__


def test_a_model_with_several_inputs_goes_all_the_way():
    proto = net(
        """net (float[N,5] x, float[N,7] z) => (float[N,2] y) {
            a = MatMul(x, w1)  b = MatMul(z, w2)  c = Add(a, b)  y = MatMul(c, w3)
        }""",
        w1=(5, 8),
        w2=(7, 8),
        w3=(8, 2),
    )
    onnx.save(proto, "two.onnx")
    typed("gate two.onnx")
    found = document("slim two.gated.onnx --ratio 0.5")
    assert found["kept"]["channels"] == 0.5
