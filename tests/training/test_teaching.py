"""How a learning rate is chosen."""

import math

import pytest

from onnxprune.training.teaching import ENOUGH, _rate


@pytest.mark.parametrize(
    ("gains", "taken"),
    [
        ((0.09, 0.3, 0.2), 3e-4),
        ((0.3 * ENOUGH + 1e-9, 0.3, 0.2), 1e-3),
        ((-math.inf, 0.05, 0.2), 1e-4),
        ((-0.3, -0.2, -0.1), 1e-4),
        ((-math.inf, -math.inf, -math.inf), 1e-3),
    ],
)
def test_it_is_the_highest_of_those_that_gain_enough_beside_the_best(gains: tuple[float, ...], taken: float):
    assert _rate(dict(zip((1e-3, 3e-4, 1e-4), gains, strict=True))) == taken
