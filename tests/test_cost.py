from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx_text import RELU
from small_models import conv_net
from strategies import random_model, random_plan
from text_nets import analysed, net

from onnxprune import model, rewrite
from onnxprune.cost import BY, CostModel
from onnxprune.groups import Groups
from onnxprune.plan import Plan

DIGITS = Path(__file__).parents[1] / "models" / "digits" / "digits.onnx"


def costs(text: str, **shapes: tuple[int, ...]) -> CostModel:
    return CostModel(analysed(net(text, **shapes)))


# ---- by hand


@pytest.mark.parametrize(
    ("op", "shapes", "macs"),
    [
        ("Conv(x, w)", {"w": (5, 4, 3, 3)}, 5 * 6 * 6 * 4 * 9),
        ("Conv(x, w, b)", {"w": (5, 4, 3, 3), "b": (5,)}, 5 * 6 * 6 * 4 * 9),
        ("Conv<strides=[2,2], pads=[1,1,1,1]>(x, w)", {"w": (5, 4, 3, 3)}, 5 * 4 * 4 * 4 * 9),
        ("Conv<dilations=[2,2]>(x, w)", {"w": (5, 4, 3, 3)}, 5 * 4 * 4 * 4 * 9),
        ("Conv<group=2>(x, w)", {"w": (6, 2, 3, 3)}, 6 * 6 * 6 * 2 * 9),
        ("Conv<group=4>(x, w)", {"w": (8, 1, 3, 3)}, 8 * 6 * 6 * 9),
        ("ConvTranspose<strides=[2,2]>(x, w)", {"w": (4, 5, 2, 2)}, 4 * 5 * 8 * 8 * 4),
        ("ConvTranspose<group=2>(x, w)", {"w": (4, 3, 2, 2)}, 4 * 3 * 8 * 8 * 4),
        ("ConvTranspose<group=4>(x, w)", {"w": (4, 2, 2, 2)}, 4 * 2 * 8 * 8 * 4),
        ("Relu(x)", {}, 0),
        ("MaxPool<kernel_shape=[2,2]>(x)", {}, 0),
        ("Mul(x, s)", {"s": (4, 1, 1)}, 0),
        ("MatMul(x, m)", {"m": (8, 3)}, 4 * 8 * 8 * 3),
    ],
)
@pytest.mark.parametrize("batch", ["N", "1"])
def test_macs_of_one_sample(op: str, shapes: dict[str, tuple[int, ...]], macs: int, batch: str):
    found = costs(f"net (float[{batch},4,8,8] x) => (float[{batch},C,H,W] y) {{ y = {op} }}", **shapes)
    assert found.total["macs"] == pytest.approx(macs)
    assert found.total["params"] == sum(np.prod(shape) for shape in shapes.values())


@pytest.mark.parametrize(
    ("text", "shapes", "macs"),
    [
        ("y = Gemm(x, w, b)", {"w": (8, 5), "b": (5,)}, 40),
        ("y = Gemm<transB=1>(x, w)", {"w": (5, 8)}, 40),
        ("y = MatMul(x, w)", {"w": (8, 5)}, 40),
        ('y = Einsum<equation="ni,io->no">(x, w)', {"w": (8, 5)}, 40),
    ],
)
def test_macs_of_a_linear_layer(text: str, shapes: dict[str, tuple[int, ...]], macs: int):
    assert costs(f"net (float[N,8] x) => (float[N,5] y) {{ {text} }}", **shapes).total[
        "macs"
    ] == pytest.approx(macs)


def test_products_of_activations_count_too():
    """Attention: queries times keys."""
    found = costs("net (float[N,2,5,8] q, float[N,2,8,6] k) => (float[N,2,5,6] y) { y = MatMul(q, k) }")
    assert found.total["macs"] == pytest.approx(2 * 5 * 6 * 8)


def test_a_static_batch_is_counted_whole():
    found = costs("net (float[3,8] x) => (float[3,5] y) { y = MatMul(x, w) }", w=(8, 5))
    assert found.total["macs"] == 3 * 40


def test_integers_are_no_parameters():
    found = costs(
        "net (float[N,8] x) => (float[N,2,4] y) <int64[3] to = {-1, 2, 4}> { h = MatMul(x, w)  y = Reshape(h, to) }",
        w=(8, 8),
    )
    assert found.total["params"] == 64


def test_a_model_that_costs_nothing_keeps_all_of_it():
    found = CostModel(analysed(RELU))
    assert found.total == {"channels": 0, "params": 0, "macs": 0}
    assert found.exact(np.zeros(found.groups.atoms.count, bool)) == {
        "channels": 1.0,
        "params": 1.0,
        "macs": 1.0,
    }
    assert found.unit_costs("macs", []).shape == (0,)


def test_half_of_the_channels_by_hand():
    found = CostModel(analysed(conv_net(8)))
    assert found.names == ("first", "second")
    assert found.count("channels", [4, 8]) == pytest.approx(12)
    assert found.count("macs", [4, 8]) == pytest.approx(4 * 64 * 27 + 8 * 9 * 4 * 9 + 3 * 8)
    assert found.count("params", [4, 8]) == pytest.approx(4 * 27 + 4 + 8 * 4 * 9 + 3 * 8 + 3)


# ---- a plan's cost is the slim model's cost


def slim(found: Groups, plan: Plan) -> CostModel:
    rewrite.apply(found, plan)
    return CostModel(analysed(model.to_proto(found.model)))


def random_choice(found: Groups, seed: int) -> Plan:
    kept = random_plan(seed, [(group.name, group.size) for group in found])
    return Plan({name: np.asarray(indices) for name, indices in kept.items()})


@pytest.mark.parametrize("seed", range(25))
def test_the_exact_cost_of_a_plan_is_the_cost_of_the_slim_model(seed: int):
    found = analysed(random_model(seed))
    before, plan = CostModel(found), random_choice(found, seed)
    told = before.exact(found.removed(plan.kept))
    after = slim(found, plan)
    for by in ("params", "macs"):
        assert told[by] * before.total[by] == pytest.approx(after.total[by] if before.total[by] else 0)


@pytest.mark.parametrize("seed", range(25))
def test_the_count_is_exact_where_no_grid_is_seen_in_part(seed: int):
    found = analysed(random_model(seed))
    if found.atoms.derived:
        found = analysed(conv_net(8 + seed))
    before, plan = CostModel(found), random_choice(found, seed)
    exact = before.exact(found.removed(plan.kept))
    for by in BY:
        assert before.fraction(by, plan.counts(found)) == pytest.approx(exact[by] if before.total[by] else 0)


@pytest.mark.parametrize("ratio", [0.3, 0.8])
def test_the_count_of_the_digits_network_is_the_slim_networks(ratio: float):
    found = analysed(onnx.load(DIGITS))
    before = CostModel(found)
    plan = Plan({group.name: np.arange(max(1, round(ratio * group.size))) for group in found})
    after = slim(found, plan)
    for by in ("params", "macs"):
        assert before.count(by, plan.counts(found)) == pytest.approx(after.total[by])


def test_the_count_of_a_grid_is_the_product_of_its_factors():
    """Half of the groups and a third of the channels of each."""
    proto = net(
        """net (float[N,3,8,8] x) => (float[N,2,4,4] y) {
            a = Conv(x, w1)  h = Conv<group=2>(a, w2)  y = Conv(h, w3)
        }""",
        w1=(6, 3, 3, 3),
        w2=(8, 3, 3, 3),
        w3=(2, 8, 1, 1),
    )
    found = analysed(proto)
    left = {2: 1, 3: 1, 4: 3}  # groups, channels into each, channels out of each
    counts = [left[group.size] for group in found]
    before = CostModel(found)
    assert before.count("macs", counts) == pytest.approx(1 * 36 * 27 + 3 * 16 * 1 * 9 + 2 * 16 * 3)
    after = slim(found, Plan({group.name: np.arange(left[group.size]) for group in found}))
    assert before.count("macs", counts) == pytest.approx(after.total["macs"])


# ---- slopes


def some_model(seed: int) -> CostModel:
    return CostModel(analysed(random_model(seed)))


@pytest.mark.parametrize("by", BY)
@pytest.mark.parametrize("seed", range(8))
def test_unit_costs_are_the_slopes_of_the_count(seed: int, by: str):
    found = some_model(seed)
    rng = np.random.default_rng(seed)
    point = [rng.uniform(0.3, 1) * size for size in found.sizes]
    step = 1e-4
    slopes = []
    for g in range(len(point)):
        up, down = ([n + sign * step * (k == g) for k, n in enumerate(point)] for sign in (1, -1))
        slopes.append((found.count(by, up) - found.count(by, down)) / (2 * step))
    np.testing.assert_allclose(found.unit_costs(by, point), slopes, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("by", BY)
def test_gradients_of_torch_scalars_are_the_unit_costs(by: str):
    found = CostModel(analysed(onnx.load(DIGITS)))
    point = [0.7 * size for size in found.sizes]
    numbers = [torch.tensor(n, dtype=torch.float64, requires_grad=True) for n in point]
    count = found.count(by, numbers)
    assert float(count.detach()) == pytest.approx(found.count(by, point))
    slopes = [float(gradient) for gradient in torch.autograd.grad(count, numbers)]
    np.testing.assert_allclose(slopes, found.unit_costs(by, point), rtol=1e-9)


@pytest.mark.parametrize("by", BY)
def test_closing_channels_never_costs_more(by: str):
    found = CostModel(analysed(onnx.load(DIGITS)))
    fractions = [
        float(found.fraction(by, [t * size for size in found.sizes])) for t in (0.0, 0.25, 0.5, 0.75, 1.0)
    ]
    assert fractions == sorted(fractions)
    assert fractions[-1] == pytest.approx(1.0)


def test_shares_are_between_none_and_all():
    found = CostModel(analysed(onnx.load(DIGITS)))
    shares = found.shares("macs")
    assert shares.min() >= 0 and shares.max() <= 1
    assert sum(shares[group.atoms].sum() for group in found.groups) > 0.5
