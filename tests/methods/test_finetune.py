"""The baseline ranks once and leaves the gates alone."""

from pathlib import Path

import numpy as np
import pytest
from gates import gates

from onnxprune import model as files
from onnxprune.groups import find
from onnxprune.methods.finetune import Finetune
from onnxprune.methods.magnitude import magnitude

DIGITS = Path(__file__).parents[2] / "models" / "digits" / "digits.onnx"


def test_its_gates_do_not_train():
    assert not Finetune().trains


def test_taylor_ranks_by_importance_per_cost_over_all_groups():
    method = Finetune()
    method.attach(gates({"a": 2, "b": 1}, unit=np.asarray([1.0, 1.0, 10.0])))
    assert method.scored
    assert np.argsort(method.begin(np.asarray([4.0, 1.0, 9.0]))).tolist() == [2, 1, 0]


def test_without_scores_the_files_gates_stay():
    method = Finetune()
    method.attach(gates({"a": 2}))
    assert method.begin(None) is None


@pytest.mark.parametrize("criterion", ["l1", "l2"])
def test_norms_rank_within_each_group(criterion):
    groups = find(files.load(DIGITS))
    method = Finetune(criterion=criterion)
    sizes = {group.name: group.size for group in groups}
    method.attach(gates(sizes, groups=lambda: groups))
    assert not method.scored
    start = method.begin(None)
    norms = magnitude(groups, criterion)
    for group, w in zip(groups, np.split(start, np.cumsum(list(sizes.values()))[:-1]), strict=True):
        assert (np.argsort(w) == np.argsort(norms[group.name], kind="stable")).all()
        assert w.min() == pytest.approx(0.01) and w.max() == pytest.approx(0.19)
