"""Methods are found by name: those of the package, and those other packages register."""

from pathlib import Path

import numpy as np
import pytest
from onnx import numpy_helper

import onnxprune
from onnxprune.errors import TrainingError
from onnxprune.methods import registry

DIGITS = Path(__file__).parents[2] / "models" / "digits" / "digits.onnx"
GATES = {f"gate/{group.name}" for group in onnxprune.inspect(DIGITS).groups if group.prunable}
MINE = """
from dataclasses import dataclass
import numpy as np
from onnxprune.methods.method import Method

@dataclass
class Alternate(Method):
    every: int = 2
    closed: bool = True

    @property
    def trains(self):
        return False

    @property
    def scored(self):
        return False

    def begin(self, scores):
        count = sum(self.gates.sizes.values())
        return np.where(np.arange(count) % self.every == 0, 0.1, 0.01).astype(np.float32)
"""


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Another package, `pruners`, with a method "alternate"."""

    def install(entry="pruners:Alternate", package="pruners", code=MINE):
        (tmp_path / f"{package}.py").write_text(code)
        info = tmp_path / f"{package}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[onnxprune.methods]\nalternate = {entry}\n")
        monkeypatch.syspath_prepend(str(tmp_path))

    return install


def test_the_methods_of_the_papers_are_there():
    assert registry.names() == ("tgl", "scp", "fisher", "finetune")


@pytest.mark.parametrize("name", registry.BUILT_IN)
def test_a_method_is_made_with_its_defaults(name):
    assert registry.make(name, {}).scored


def test_options_are_read_as_the_type_of_their_default():
    method = registry.make("tgl", {"lr": "0.5", "budget": "penalty"})
    assert method.lr == 0.5 and method.budget == "penalty"


def test_another_packages_method_is_found_and_takes_its_options(installed):
    installed()
    assert registry.names() == ("tgl", "scp", "fisher", "finetune", "alternate")
    method = registry.make("alternate", {"every": "3", "closed": "false"})
    assert (method.every, method.closed) == (3, False)


def test_a_run_trains_by_another_packages_method(installed):
    installed()
    rng = np.random.default_rng(0)
    samples = {"x": rng.uniform(0, 1, (96, 1, 8, 8)).astype(np.float32)}
    trained = onnxprune.train(
        DIGITS, samples, method="alternate", method_options={"every": "2"}, ratio=0.5, multiple_of=1,
        floor_share=0, epochs=1, batch_size=32, device="cpu",
    )  # fmt: skip
    assert trained.reached == 0.5
    latents = {w.name: numpy_helper.to_array(w) for w in trained.model.graph.initializer if w.name in GATES}
    assert latents.keys() == GATES
    assert all(((w > 0) == (np.arange(len(w)) % 2 == 0)).all() for w in latents.values())


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("magic", {}, "method 'magic' is unknown: give one of tgl, scp, fisher, finetune"),
        ("tgl", {"speed": 1}, "method tgl has no option 'speed'; it has lr, clip"),
        ("tgl", {"lr": "fast"}, "option lr of method tgl is 'fast': give it as float, such as 0.1"),
        ("tgl", {"lr": -1.0}, "lr of the gates is -1.0: give a positive number"),
        ("tgl", {"slope": "steep"}, "slope 'steep' is unknown: give one of one, sigmoid, tanh"),
        ("tgl", {"budget": "none"}, "budget 'none' is unknown"),
        ("scp", {"delta": 0.7}, "delta is 0.7: give a probability"),
        ("scp", {"tau": 0.0}, "tau of scp is 0.0"),
        ("finetune", {"criterion": "luck"}, "criterion 'luck' is unknown: give one of taylor, l1, l2, gm, bn"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(name, options, says):
    with pytest.raises(TrainingError) as caught:
        registry.make(name, options)
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_a_method_that_cannot_be_imported_says_where_it_comes_from(installed):
    installed(entry="pruners:Nothing")
    with pytest.raises(TrainingError, match=r"'alternate' \(pruners:Nothing\) cannot be imported"):
        registry.make("alternate", {})


def test_a_flag_that_is_none_is_refused(installed):
    installed()
    with pytest.raises(TrainingError, match="give it as true or false, such as True"):
        registry.make("alternate", {"closed": "maybe"})


def test_two_packages_may_not_register_one_name(installed):
    installed()
    installed(package="others", entry="others:Alternate")
    with pytest.raises(TrainingError, match="registered by several packages: others:Alternate, pruners:Alternate"):
        registry.make("alternate", {})
