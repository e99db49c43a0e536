"""How far outputs are from the original's, in one number."""

import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import entropy

from onnxprune.recovery.discrepancy import TEMPERATURE, Head, discrepancies, heads

RNG = np.random.default_rng(0)
LOGITS, OTHERS = (RNG.normal(0, 3, size=(6, 5)).astype(np.float32) for _ in range(2))


@pytest.mark.parametrize(
    "output, kind, axis",
    [
        (LOGITS, "logits", 1),
        (softmax(LOGITS, axis=1), "probabilities", 1),
        (softmax(RNG.normal(size=(2, 4, 3)), axis=-1), "probabilities", -1),
        (softmax(RNG.normal(size=(2, 4, 3, 3)), axis=1), "probabilities", 1),
        (RNG.uniform(size=(6, 5)), "values", 1),
        (RNG.normal(size=(6, 1)), "values", 1),
        (RNG.normal(size=(2, 3, 4)), "values", 1),
        (RNG.normal(size=6), "values", 1),
        (np.ones((6, 5)), "nothing", 1),
        (np.zeros((0, 5)), "nothing", 1),
        (np.array(1.5), "nothing", 1),
        (np.full((2, 3), np.nan), "nothing", 1),
        (RNG.integers(0, 9, size=(6, 5)), "nothing", 1),
        (RNG.normal(size=(6, 5)) > 0, "nothing", 1),
    ],
)
def test_what_an_output_is_shows_in_its_numbers(output: np.ndarray, kind: str, axis: int):
    if kind != "nothing":
        output = output.astype(np.float32)
    head = Head.of(output)
    assert (head.kind, head.axis) == (kind, axis)


def test_logits_are_compared_by_the_divergence_of_their_softened_classes():
    p, q = (softmax(logits.astype(np.float64) / TEMPERATURE, 1) for logits in (LOGITS, OTHERS))
    wanted = np.mean([entropy(*pair) for pair in zip(p, q, strict=True)]) * TEMPERATURE**2
    assert Head.of(LOGITS).distances(OTHERS, LOGITS).mean() == pytest.approx(wanted, rel=1e-5)
    by_hand = (p * (np.log(p) - np.log(q))).sum(axis=1).mean() * TEMPERATURE**2
    assert Head.of(LOGITS).distances(OTHERS, LOGITS).mean() == pytest.approx(by_hand, rel=1e-5)


def test_near_class_scores_are_half_their_squared_error_apart_but_for_what_all_classes_share():
    small = LOGITS / 100
    near = small + OTHERS / 1000
    error = (near - small).astype(np.float64)
    error -= error.mean(axis=1, keepdims=True)
    half = np.square(error).mean(axis=1) / 2
    assert Head.of(LOGITS).distances(near, small) == pytest.approx(half, rel=3e-2)


@pytest.mark.parametrize("axis", [1, -1])
def test_probabilities_are_compared_as_the_scores_that_they_come_from(axis: int):
    shape = (2, 4, 3)
    scores = RNG.normal(size=shape), RNG.normal(size=shape)
    p, q = (softmax(x, axis=axis).astype(np.float32) for x in scores)
    soft = (softmax(x / TEMPERATURE, axis=axis) for x in scores)
    wanted = entropy(*soft, axis=axis).mean() * TEMPERATURE**2
    assert Head.of(p).distances(q, p).mean() == pytest.approx(wanted, rel=1e-4)


def test_probabilities_of_nought_are_no_end_of_the_world():
    p = np.array([[1, 0, 0], [0, 1, 0]], dtype=np.float32)
    found = Head.of(p).distances(p[::-1], p).mean()
    least = softmax(np.array([0, np.log(1e-12), np.log(1e-12)]) / TEMPERATURE)
    assert found == pytest.approx(TEMPERATURE**2 * entropy(least, least[[1, 0, 2]]), rel=1e-3)


def test_values_are_compared_by_their_squared_error_per_variance():
    a, b = (RNG.normal(2, 3, size=(4, 3, 5)).astype(np.float32) for _ in range(2))
    assert Head.of(a).distances(b, a).mean() == pytest.approx(np.mean((a - b) ** 2) / np.var(a), rel=1e-5)
    assert Head.of(a).distances(np.full_like(a, a.mean()), a).mean() == pytest.approx(1.0, rel=1e-5)


@pytest.mark.parametrize("output", [LOGITS, softmax(LOGITS, 1), RNG.normal(size=(2, 3, 4)).astype(np.float32)])
def test_the_same_outputs_are_no_distance_apart(output: np.ndarray):
    assert Head.of(output).distances(output, output).mean() == pytest.approx(0, abs=1e-12)


def test_several_outputs_count_alike_and_those_that_say_nothing_not_at_all():
    values = RNG.normal(size=(2, 3, 4)).astype(np.float32)
    wanted = [LOGITS, np.arange(6), values]
    made = [OTHERS, np.zeros(6, dtype=int), values + 1]
    found = heads(wanted)
    parts = [found[0].distances(OTHERS, LOGITS).mean(), found[2].distances(values + 1, values).mean()]
    assert discrepancies(found, made, wanted).mean() == pytest.approx(np.mean(parts))
    assert discrepancies(heads([np.arange(3)]), [np.arange(3)], [np.arange(3) + 1]).mean() == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("wanted", [LOGITS, RNG.normal(size=(2, 3, 4)).astype(np.float32)], ids=["logits", "values"])
def test_what_is_no_number_is_infinitely_far(bad: float, wanted: np.ndarray):
    made = wanted.copy()
    made[0, 0] = bad
    assert discrepancies(heads([wanted]), [made], [wanted]).mean() == np.inf
