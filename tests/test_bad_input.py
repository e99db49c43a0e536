"""Whatever a user gives: one line that says what is wrong, exit code 1, and nothing left behind."""

import errno
import io
import json
import logging
import os
import pickle
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import onnx
import onnxruntime
import pytest
from click.testing import CliRunner, Result
from onnx import TensorProto, helper
from small_models import conv_net, images

from onnxprune.cli import main

MODEL_COMMANDS = {
    "inspect": ["inspect", "{}"],
    "gate": ["gate", "{}"],
    "slim": ["slim", "{}", "--ratio", "0.5"],
    "train": ["train", "{}", "--data", "data.npz", "--ratio", "0.5", "--epochs", "1"],
    "verify": ["verify", "{}", "model.onnx"],
    "verify (slim)": ["verify", "model.onnx", "{}"],
    "bench": ["bench", "{}", "--runs", "1"],
}
TRAIN = ["train", "model.onnx", "--ratio", "0.5", "--epochs", "1", "--data"]
SLIM = ["slim", "model.onnx", "--ratio", "0.5"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder: a good model, good data, and nothing else."""
    monkeypatch.chdir(tmp_path)
    onnx.save(conv_net(), "model.onnx")
    np.savez("data.npz", image=images(8), y=np.arange(8) % 3)
    log = logging.getLogger("onnxprune")
    handlers, propagate, level = log.handlers, log.propagate, log.level
    yield tmp_path
    log.handlers, log.propagate = handlers, propagate
    log.setLevel(level)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def run(*words: str) -> Result:
    return CliRunner().invoke(main, list(words))


def refused(*words: str, saying: str = "") -> str:
    """Runs the command; it must refuse as promised. Returns the one line."""
    before = contents(Path())
    result = run(*words)
    assert_refused(result.exit_code, result.stdout, result.stderr, saying)
    assert contents(Path()) == before
    return result.stderr


def assert_refused(code: int, stdout: str, stderr: str, saying: str) -> None:
    assert code == 1, (stdout, stderr)
    assert stdout == ""
    assert len(stderr.splitlines()) == 1, stderr
    assert stderr.startswith("Error: ")
    assert "unexpected" not in stderr
    assert "Traceback" not in stderr
    assert saying in stderr


# ---------------------------------------------------------------------- models


def broken(kind: str) -> str:
    """Puts a bad model of this kind into the folder; returns its name."""
    name = "bad.onnx"
    proto = conv_net()
    match kind:
        case "missing":
            pass
        case "a folder":
            Path(name).mkdir()
        case "text":
            Path(name).write_text("This is a letter, not a network.\n" * 20)
        case "empty":
            Path(name).touch()
        case "truncated":
            Path(name).write_bytes(Path("model.onnx").read_bytes()[:-600])
        case "refused by the checker":
            proto.graph.node[1].input[0] = "nowhere"
            onnx.save(proto, name)
        case "an unknown op":
            proto.graph.node[1].op_type = "Rectify"
            onnx.save(proto, name)
        case "opset of the future":
            proto.opset_import[0].version = 99
            onnx.save(proto, name)
        case "shapes that contradict each other":
            proto.graph.initializer[2].dims[:] = [16, 4, 6, 3]
            onnx.save(proto, name)
        case "terabytes of weights":
            proto.graph.initializer[0].ClearField("raw_data")
            proto.graph.initializer[0].dims[0] = 2**42
            onnx.save(proto, name)
        case "a size below zero":
            proto.graph.initializer[0].dims[0] = -8
            onnx.save(proto, name)
        case "weights shorter than declared":
            proto.graph.initializer[0].raw_data = proto.graph.initializer[0].raw_data[:-4]
            onnx.save(proto, name)
        case "sizes whose product overflows":
            proto.graph.initializer[0].dims[:] = [2**32, 2**32, 1, 1]
            onnx.save(proto, name)
    return name


KINDS = [
    "missing",
    "a folder",
    "text",
    "empty",
    "truncated",
    "refused by the checker",
    "an unknown op",
    "terabytes of weights",
    "a size below zero",
    "weights shorter than declared",
    "sizes whose product overflows",
]


@pytest.mark.parametrize("command", MODEL_COMMANDS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_bad_model_is_refused_in_one_line(kind: str, command: str):
    name = broken(kind)
    refused(*[word.format(name) for word in MODEL_COMMANDS[command]], saying=name)


@pytest.mark.parametrize("command", sorted(MODEL_COMMANDS.keys() - {"inspect"}))
@pytest.mark.parametrize("kind", ["opset of the future", "shapes that contradict each other"])
def test_a_model_that_cannot_run_is_refused_where_it_has_to_run(kind: str, command: str):
    """`inspect` runs nothing, and may still say what it sees."""
    name = broken(kind)
    refused(*[word.format(name) for word in MODEL_COMMANDS[command]])


def test_a_missing_file_is_called_missing():
    assert "no such file" in refused("slim", "nowhere.onnx", "--ratio", "0.5")


@pytest.mark.parametrize("length", [0, 1, 2, 10, 100, 1000, 3000])
def test_a_model_cut_off_anywhere_is_refused(length: int):
    Path("bad.onnx").write_bytes(Path("model.onnx").read_bytes()[:length])
    refused("slim", "bad.onnx", "--ratio", "0.5", saying="bad.onnx")


def with_external_weight(location: str, length: int | None = None) -> None:
    proto = conv_net()
    weight = proto.graph.initializer[0]
    size = len(weight.raw_data)
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value=location)
    weight.external_data.add(key="length", value=str(length or size))
    Path("bad.onnx").write_bytes(proto.SerializeToString())


@pytest.mark.parametrize("command", MODEL_COMMANDS)
@pytest.mark.parametrize("way", ["..", "absolute", "link", "inside and out", "empty"])
def test_external_data_outside_the_models_folder_is_never_read(way: str, command: str, tmp_path_factory):
    secret = tmp_path_factory.mktemp("elsewhere") / "secret.bin"
    secret.write_bytes(bytes(4096))
    Path("link.bin").symlink_to(secret)
    Path("inside").mkdir()
    relative = os.path.relpath(secret)
    locations = {
        "..": relative,
        "absolute": str(secret),
        "link": "link.bin",
        "inside and out": f"inside/../{relative}",
        "empty": "",
    }
    with_external_weight(locations[way])
    refused(*[word.format("bad.onnx") for word in MODEL_COMMANDS[command]], saying="bad.onnx")


@pytest.mark.parametrize("command", MODEL_COMMANDS)
def test_external_data_that_is_missing_or_too_short_is_refused(command: str):
    words = [word.format("bad.onnx") for word in MODEL_COMMANDS[command]]
    with_external_weight("weights.bin")
    refused(*words, saying="bad.onnx")
    Path("weights.bin").write_bytes(bytes(100))
    refused(*words, saying="bad.onnx")


def test_external_data_of_terabytes_is_refused():
    with_external_weight("weights.bin", 2**44)
    Path("weights.bin").write_bytes(bytes(864))
    refused(*SLIM[:1], "bad.onnx", "--ratio", "0.5", saying="weights.bin")


@pytest.mark.parametrize("command", ["slim", "gate", "bench"])
@pytest.mark.parametrize("where", ["input", "ConstantOfShape", "Expand"])
def test_a_tensor_of_terabytes_that_only_running_would_make_is_refused(where: str, command: str):
    """No folding, no random input and no measurement may try to hold it."""
    size = 2**42
    value = helper.make_tensor_value_info
    nodes = [helper.make_node("Relu", ["x"], ["y"], name="relu")]
    inputs, weights = [value("x", TensorProto.FLOAT, [1, size])], []
    if where != "input":
        inputs = [value("x", TensorProto.FLOAT, [1, 1])]
        weights = [helper.make_tensor("sizes", TensorProto.INT64, [2], [1, size])]
        source = ["sizes"] if where == "ConstantOfShape" else ["x", "sizes"]
        nodes = [
            helper.make_node(where, source, ["big"], name="big"),
            helper.make_node("Add", ["x", "big"], ["y"], name="add"),
        ]
    graph = helper.make_graph(
        nodes, "big", inputs, [value("y", TensorProto.FLOAT, [1, size])], initializer=weights
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), "bad.onnx")
    refused(*[word.format("bad.onnx") for word in MODEL_COMMANDS[command]])


# ---------------------------------------------------------------------- numbers


@pytest.mark.parametrize("ratio", ["0", "1.5", "nan", "-0.5", "inf", "1e-400"])
@pytest.mark.parametrize("command", ["slim", "train"])
def test_a_ratio_outside_its_range_is_refused(command: str, ratio: str):
    words = ["slim", "model.onnx"] if command == "slim" else ["train", "model.onnx", "--data", "data.npz"]
    refused(*words, "--ratio", ratio, saying="ratio")


@pytest.mark.parametrize(
    "extra",
    [
        ("--multiple-of", "0"),
        ("--multiple-of", "often"),
        ("--min-channels", "0"),
        ("--criterion", "beauty"),
        ("--keep", "nothing.like.that"),
        ("--only", "nothing.like.that"),
    ],
)
def test_an_option_that_fits_nothing_is_refused(extra: tuple[str, str]):
    refused(*SLIM, *extra, saying=extra[1])


def test_slim_without_ratio_or_plan_is_refused():
    refused("slim", "model.onnx", saying="--ratio")


def test_wrong_usage_exits_with_two():
    assert run("slim", "model.onnx", "--ratio", "half").exit_code == 2
    assert run("prune", "model.onnx").exit_code == 2
    assert run("bench").exit_code == 2


# ---------------------------------------------------------------------- data


class Trap:
    """Unpickling it makes a file."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, ("sprung",)


def bad_data(kind: str) -> str:
    good, labels = images(8), np.arange(8) % 3
    trap = np.array([Trap()] * 8, dtype=object)
    match kind:
        case "missing":
            return "nowhere.npz"
        case "wrong shape":
            np.savez("bad.npz", image=good[:, :2], y=labels)
        case "wrong rank":
            np.savez("bad.npz", image=good[0], y=labels)
        case "wrong dtype":
            np.savez("bad.npz", image=good.astype(np.int32), y=labels)
        case "complex numbers":
            np.savez("bad.npz", image=good.astype(np.complex64), y=labels)
        case "strings":
            np.savez("bad.npz", image=np.full(good.shape, "x"), y=labels)
        case "no samples":
            np.savez("bad.npz", image=good[:0], y=labels[:0])
        case "no arrays":
            np.savez("bad.npz")
        case "other names":
            np.savez("bad.npz", picture=good, y=labels)
        case "fewer labels":
            np.savez("bad.npz", image=good, y=labels[:5])
        case "text":
            Path("bad.npz").write_text("not an archive\n")
        case "truncated":
            Path("bad.npz").write_bytes(Path("data.npz").read_bytes()[:2000])
        case "an object array":
            np.savez("bad.npz", image=trap, y=labels)
        case "objects as labels":
            np.savez("bad.npz", image=good, y=trap)
        case "an object array in .npy":
            np.save("bad.npy", trap)
            return "bad.npy"
        case "a bare pickle":
            Path("bad.npz").write_bytes(pickle.dumps({"image": Trap()}))
        case "an empty folder":
            Path("bad").mkdir()
            return "bad"
    return "bad.npz"


DATA_KINDS = [
    "missing",
    "wrong shape",
    "wrong rank",
    "wrong dtype",
    "complex numbers",
    "strings",
    "no samples",
    "no arrays",
    "other names",
    "text",
    "truncated",
    "an object array",
    "an object array in .npy",
    "a bare pickle",
    "an empty folder",
]


@pytest.mark.parametrize("kind", [*DATA_KINDS, "fewer labels", "objects as labels"])
def test_train_refuses_data_that_does_not_fit(kind: str):
    refused(*TRAIN, name := bad_data(kind), saying=name)
    assert not Path("sprung").exists()


@pytest.mark.parametrize("kind", DATA_KINDS)
def test_slim_refuses_data_that_does_not_fit(kind: str):
    refused(*SLIM, "--data", name := bad_data(kind), saying=name)
    assert not Path("sprung").exists()


@pytest.mark.parametrize("kind", DATA_KINDS)
def test_verify_refuses_data_that_does_not_fit(kind: str):
    refused("verify", "model.onnx", "model.onnx", "--data", name := bad_data(kind), saying=name)
    assert not Path("sprung").exists()


def test_the_trap_of_these_tests_springs_when_it_is_unpickled():
    pickle.loads(pickle.dumps(Trap()))
    assert Path("sprung").exists()


@pytest.mark.parametrize("numbers", ["a,b", "", "1,2", "nan,nan,nan"])
def test_a_mean_that_is_no_list_of_three_numbers_is_refused(numbers: str):
    np.savez("pixels.npz", image=np.zeros((4, 8, 8, 3), np.uint8))
    refused(*SLIM, "--data", "pixels.npz", "--mean", numbers, saying="mean")


def test_resuming_a_run_that_is_not_there_is_refused():
    refused("train", "--resume", "nowhere", saying="nowhere")
    Path("run").mkdir()
    refused("train", "--resume", "run", saying="run")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--limit", "params"], "--limit params: is no pair; write it as NAME=VALUE"),
        (["--limit", "params=much"], "--limit: could not convert string to float"),
        (["--limit", "bytes=0.5"], "limit 'bytes' is none"),
        (["--limit", "channels=0.5"], "limit 'channels' is none: beside the ratio of the channels"),
        (["--limit", "macs=1.5"], "ratio 1.5 of the macs is not a fraction kept"),
        (["--method", "tgl", "--method-option", "slope=steep"], "slope 'steep' is unknown"),
        (["--method-option", "depth=3"], "method fisher has no option 'depth'"),
        (["--method", "finetune", "--gate-lr", "0.1"], "method finetune has no option 'lr'; it has criterion"),
        (["--method", "scp", "--gate-lr", "0.1"], "method scp has no option 'lr'; it has delta"),
        (["--ratio", "2"], "ratio 2.0 is not in (0, 1]"),
        (["--batch-size", "0"], "batch_size is 0"),
        (["--augment", "sharpen"], "augment 'sharpen' is unknown"),
        (["--task", "detection"], "task 'detection' is unknown"),
        (["--task", "nowhere:task"], "nowhere"),
        (["--feature", "no*such"], "no*such"),
        (["--workers", "-1"], "workers is -1"),
        (["--size", "0"], "size is 0"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_train_refuses_settings_that_make_no_sense(words: list[str], says: str):
    np.savez("fine.npz", image=images(24), y=np.arange(24) % 3)
    refused(*TRAIN, "fine.npz", *words, saying=says)


# ---------------------------------------------------------------------- plans


def bad_plan(kind: str) -> str:
    if kind == "missing":
        return "nowhere.json"
    onnx.save(conv_net(width=6), "other.onnx")
    source = "other.onnx" if kind == "of another model" else "model.onnx"
    assert (
        run("slim", source, "--ratio", "0.5", "--save-plan", "plan.json", "-o", "scrap.onnx").exit_code == 0
    )
    Path("scrap.onnx").unlink()
    document = json.loads(Path("plan.json").read_text())
    group = document["groups"][0]
    match kind:
        case "text":
            Path("plan.json").write_text("keep them all")
            return "plan.json"
        case "a list":
            document = [1, 2, 3]
        case "keeping nothing":
            group["kept"] = []
        case "keeping channels that are not there":
            group["kept"] = [0, 999]
        case "keeping channels twice":
            group["kept"] = [1, 1]
        case "keeping a word":
            group["kept"] = "all"
        case "keeping more than int64 holds":
            group["kept"] = [0, 2**80]
        case "of an unknown group":
            group["key"] = "nobody's"
    Path("plan.json").write_text(json.dumps(document))
    return "plan.json"


@pytest.mark.parametrize("command", ["slim", "gate"])
@pytest.mark.parametrize(
    "kind",
    [
        "missing",
        "of another model",
        "text",
        "a list",
        "keeping nothing",
        "keeping channels that are not there",
        "keeping channels twice",
        "keeping a word",
        "keeping more than int64 holds",
        "of an unknown group",
    ],
)
def test_a_plan_that_does_not_fit_is_refused(kind: str, command: str):
    refused(command, "model.onnx", "--plan", name := bad_plan(kind), saying=name)


# ---------------------------------------------------------------------- outputs

WRITERS = {
    "gate": ["gate", "model.onnx"],
    "slim": SLIM,
    "train": [*TRAIN, "data.npz"],
}


@pytest.mark.parametrize("command", WRITERS)
def test_an_output_that_cannot_be_is_refused_before_the_work(command: str):
    words = WRITERS[command]
    Path("file").write_text("in the way")
    Path("here").mkdir()
    refused(*words, "-o", "nowhere/out.onnx", saying="nowhere")
    refused(*words, "-o", "file/out.onnx", saying="file")
    refused(*words, "-o", "here", saying="here")


@pytest.mark.parametrize("command", WRITERS)
def test_an_existing_output_stays_without_force(command: str):
    Path("out.onnx").write_text("mine")
    refused(*WRITERS[command], "-o", "out.onnx", saying="--force")


def test_an_existing_output_is_overwritten_by_force():
    Path("out.onnx").write_text("mine")
    assert run(*SLIM, "-o", "out.onnx", "--force").exit_code == 0
    onnx.checker.check_model("out.onnx")


@pytest.mark.parametrize("option", ["--save-plan", "--save-gated"])
def test_a_second_output_that_cannot_be_is_refused_and_the_first_is_not_written(option: str):
    refused(*SLIM, "-o", "out.onnx", option, "nowhere/second", saying="nowhere")


@pytest.mark.parametrize("command", ["gate", "slim"])
def test_a_disk_that_fills_up_leaves_nothing(command: str, monkeypatch: pytest.MonkeyPatch):
    class Full(io.BufferedWriter):
        def write(self, data: Any) -> int:
            super().write(data[: len(data) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def full(self: Path, mode: str = "r", *options: Any, **named: Any) -> IO[Any]:
        return Full(io.FileIO(self, "w")) if mode == "wb" else as_ever(self, mode, *options, **named)

    as_ever = Path.open
    monkeypatch.setattr(Path, "open", full)
    refused(*WRITERS[command], "-o", "out.onnx", saying="No space left")


@pytest.mark.parametrize("command", ["gate", "slim"])
def test_an_old_output_outlives_a_write_that_fails(command: str, monkeypatch: pytest.MonkeyPatch):
    Path("out.onnx").write_text("the old one")

    def denied(self: Path, target: Path) -> Path:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "replace", denied)
    refused(*WRITERS[command], "-o", "out.onnx", "--force", saying="out.onnx")
    assert Path("out.onnx").read_text() == "the old one"


# ---------------------------------------------------------------------- providers, choice of the model


@pytest.mark.parametrize(
    "words", [["verify", "model.onnx", "model.onnx"], ["bench", "model.onnx", "--runs", "1"]]
)
def test_an_unknown_provider_is_refused(words: list[str]):
    refused(*words, "--provider", "abacus", saying="abacus")


@pytest.mark.skipif(
    "CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="this onnxruntime has CUDA"
)
@pytest.mark.parametrize(
    "words", [["verify", "model.onnx", "model.onnx"], ["bench", "model.onnx", "--runs", "1"]]
)
def test_cuda_without_a_cuda_onnxruntime_is_refused_not_replaced(words: list[str]):
    refused(*words, "--provider", "cuda", saying="onnxruntime-gpu")


def test_slim_without_a_model_wants_exactly_one_gated_model():
    refused("slim", "--ratio", "0.5", saying="*.gated.onnx")
    assert run("gate", "model.onnx").exit_code == 0
    onnx.save(onnx.load("model.gated.onnx"), "other.gated.onnx")
    refused("slim", "--ratio", "0.5", saying="other.gated.onnx")


# ---------------------------------------------------------------------- as real processes


def process(*words: str, limit: int | None = None) -> subprocess.CompletedProcess[str]:
    def file_limit() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    return subprocess.run(
        [sys.executable, "-m", "onnxprune", *words],
        capture_output=True, text=True, timeout=120, check=False, preexec_fn=file_limit,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("words", "saying"),
    [
        (["inspect", "nowhere.onnx"], "nowhere.onnx"),
        (["slim", "data.npz", "--ratio", "0.5"], "data.npz"),
        (["slim", "model.onnx", "--ratio", "nan"], "ratio"),
        (["slim", "--ratio", "0.1"], "*.gated.onnx"),
    ],
)
def test_the_installed_command_refuses_in_one_line(words: list[str], saying: str):
    before = contents(Path())
    done = process(*words)
    assert_refused(done.returncode, done.stdout, done.stderr, saying)
    assert contents(Path()) == before


def test_a_real_write_that_stops_halfway_leaves_nothing():
    before = contents(Path())
    done = process(*SLIM, limit=1000)
    assert_refused(done.returncode, done.stdout, done.stderr, "model.slim.onnx")
    assert contents(Path()) == before


FLIPS = """
import sys, json, random
from pathlib import Path
from click.testing import CliRunner
from onnxprune.cli import main

good = Path("model.onnx").read_bytes()
structure = [*range(500), *range(len(good) - 150, len(good))]  # nodes in front, inputs and outputs behind
for seed in range(int(sys.argv[1]), int(sys.argv[2])):
    rng = random.Random(seed)
    data = bytearray(good)
    spots = structure if rng.random() < 0.7 else range(len(good))  # else nearly all would hit a weight
    for _ in range(rng.choice([1, 1, 2, 5, 20])):
        data[rng.choice(spots)] ^= 1 << rng.randrange(8)
    Path("bad.onnx").write_bytes(data)
    print(seed, end=" ", flush=True)
    done = CliRunner().invoke(main, ["slim", "bad.onnx", "--ratio", "0.5", "-o", "out.onnx", "--json"])
    left = sorted(map(str, Path().iterdir()))
    facts = {"code": done.exit_code, "out": done.stdout, "err": done.stderr, "left": left}
    print(json.dumps(facts), flush=True)
    Path("out.onnx").unlink(missing_ok=True)
"""


def assert_flips_are_safe(first: int, last: int) -> None:
    """Every damaged file is either refused in one line, or slimmed with its proof."""
    names = sorted(["model.onnx", "data.npz", "bad.onnx"])
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", FLIPS, str(first), str(last)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    lines = done.stdout.splitlines()
    assert done.returncode == 0, (lines[-1:], done.stderr[-500:])
    assert len(lines) == last - first
    unsafe = {}
    for line in lines:
        seed, facts = line.split(" ", 1)
        result = json.loads(facts)
        said = [text for text in result["err"].splitlines() if not text.startswith("Warning: ")]
        try:
            if result["code"] == 0:
                proof = json.loads(result["out"])["verified"]
                assert proof["max_rel_error"] <= proof["tolerance"] == 1e-5
                assert result["left"] == sorted([*names, "out.onnx"])
                assert said == []
            else:
                assert_refused(result["code"], result["out"], "\n".join(said), "")
                assert result["left"] == names
        except AssertionError:
            unsafe[seed] = result
    assert unsafe == {}


def test_flipped_bytes_never_crash_and_never_pass_unproven():
    assert_flips_are_safe(0, 80)


@pytest.mark.slow
def test_flipped_bytes_never_crash_and_never_pass_unproven_at_length():
    assert_flips_are_safe(80, 2000)
