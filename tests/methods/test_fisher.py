"""Fisher pruning ranks gates by running importance per cost, and closes the last of them as the budget says."""

import numpy as np
import pytest
from gates import gates

from onnxprune.errors import TrainingError
from onnxprune.methods.fisher import Fisher


@pytest.fixture
def method():
    made = Fisher(decay=0.5)
    made.attach(gates({"a": 4}))
    return made


def order(w):
    return np.argsort(w, kind="stable").tolist()


def test_all_gates_start_open_in_the_order_of_their_importance(method):
    w = method.begin(np.asarray([4.0, 1.0, 3.0, 2.0]))
    assert (w > 0).all() and order(w) == [1, 3, 2, 0]


def test_importance_counts_per_cost():
    method = Fisher()
    method.attach(gates({"a": 2}, unit=np.asarray([1.0, 10.0])))
    assert order(method.begin(np.asarray([1.0, 5.0]))) == [1, 0]


def test_gates_with_large_gradients_rise_whatever_the_sign(method):
    w = method.begin(np.ones(4))
    for _ in range(20):
        w = method.step(w, np.asarray([-3.0, 0.1, 2.0, 1.0], np.float32), rho=1.0)
    assert order(w) == [1, 3, 2, 0]


def test_a_common_scale_of_all_gradients_changes_nothing(method):
    other = Fisher(decay=0.5)
    other.attach(gates({"a": 4}))
    starts = [m.begin(np.asarray([4.0, 1.0, 3.0, 2.0])) for m in (method, other)]
    gradient = np.asarray([1.0, 2.0, 0.5, 1.5], np.float32)
    for _ in range(3):
        starts = [m.step(w, gradient * k, 1.0) for m, w, k in zip((method, other), starts, (1, 1e-3), strict=True)]
    np.testing.assert_allclose(method.scores, other.scores, rtol=1e-5)


def test_a_closed_gate_keeps_its_estimate_and_opens_when_others_fall_below_it(method):
    w = method.begin(np.asarray([4.0, 1.0, 3.0, 2.0]))
    w = method.step(w, np.asarray([2.0, 1.0, 1.7, 1.4], np.float32), rho=0.75)
    assert (w > 0).tolist() == [True, False, True, True]
    kept = method.scores[1]
    for _ in range(12):
        w = method.step(w, np.asarray([2.0, 50.0, 1.7, 0.0], np.float32), rho=0.75)
        if w[1] > 0:
            break
        assert method.scores[1] == kept
    assert (w > 0).tolist() == [True, True, True, False]


def test_gradients_of_zero_leave_the_estimates(method):
    w = method.begin(np.asarray([4.0, 1.0, 3.0, 2.0]))
    before = method.scores.copy()
    method.step(w, np.zeros(4, np.float32), rho=1.0)
    np.testing.assert_array_equal(method.scores, before)


def test_its_state_is_taken_up_again(method):
    w = method.begin(np.asarray([4.0, 1.0, 3.0, 2.0]))
    gradient = np.asarray([1.0, 2.0, 0.5, 1.5], np.float32)
    w = method.step(w, gradient, rho=0.75)
    other = Fisher(decay=0.5)
    other.attach(method.gates)
    other.resume({name: tensor.clone() for name, tensor in method.state().items()})
    np.testing.assert_array_equal(method.step(w, gradient, 0.5), other.step(w, gradient, 0.5))


def test_given_gates_are_refused(method):
    with pytest.raises(TrainingError, match="fisher opens all gates"):
        method.begin(None)


def test_a_decay_of_one_would_never_learn():
    with pytest.raises(TrainingError, match="decay of fisher is 1"):
        Fisher(decay=1.0)
