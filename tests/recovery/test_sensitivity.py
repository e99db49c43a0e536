"""How far the outputs move as each group is narrowed, and what is kept of each for it."""

import numpy as np
import onnx
import pytest
from small_models import conv_net, images
from text_nets import net

from onnxprune import model
from onnxprune.calibration import Batches, Calibration
from onnxprune.choose import Wish
from onnxprune.cost import CostModel
from onnxprune.plan import Plan
from onnxprune.recovery import allocation, sensitivity
from onnxprune.recovery.anatomy import Anatomy
from onnxprune.recovery.criteria import BY_INPUTS, scored
from onnxprune.recovery.oneshot import distances, one_shot
from onnxprune.recovery.sensitivity import (
    EIGHTHS,
    FEWEST,
    MOST,
    QUARTERS,
    Curve,
    Extent,
    curves,
    measured_curves,
)


def measured(proto: onnx.ModelProto, data: dict[str, np.ndarray]) -> tuple[Anatomy, Batches]:
    anatomy = Anatomy.of(model.export(model.load(proto)), {}, 0)
    batches = Calibration(data).draw(proto, 0)
    anatomy.measure(batches)
    return anatomy, batches


@pytest.fixture(scope="module")
def conv() -> tuple[Anatomy, Batches]:
    return measured(conv_net(16), {"image": images(64)})


# ---- the curves


def test_a_curve_says_what_cutting_and_repairing_one_group_alone_does(conv: tuple[Anatomy, Batches]):
    anatomy, batches = conv
    found = curves(anatomy, batches, [g.name for g in anatomy.groups], (6, 4, 1), {})
    assert [curve.group for curve in found] == [g.name for g in anatomy.groups]
    for group, curve in zip(anatomy.groups, found, strict=True):
        assert curve.size == group.size and curve.kept == (group.size, *(group.size * k // 8 for k in (6, 4, 1)))
        assert curve.discrepancy[0] == 0
        for kept, said in zip(curve.kept[1:], curve.discrepancy[1:], strict=True):
            left = np.setdiff1d(np.arange(group.size), curve.order[: group.size - kept])
            elimination = anatomy.elimination(group)
            elimination.down_to(kept)
            weights = {}
            for (one, _), layer in zip(anatomy.readers[group.name], elimination.layers, strict=True):
                weights |= anatomy.moved(one, layer.weight)
            plan = Plan({group.name: left})
            assert said == pytest.approx(distances(anatomy, batches, plan, weights).mean(), rel=1e-3)
            assert said < distances(anatomy, batches, plan, {}).mean(), "repaired it is nearer than cut"


def test_given_scores_say_which_channels_go_first(conv: tuple[Anatomy, Batches]):
    anatomy, batches = conv
    scores = {g.name: np.random.default_rng(0).permutation(g.size).astype(float) for g in anatomy.groups}
    for curve in curves(anatomy, batches[:1], list(scores), (4, 2), scores):
        assert list(curve.order) == np.argsort(scores[curve.group])[: len(curve.order)].tolist()


def test_only_the_groups_asked_for_are_measured(conv: tuple[Anatomy, Batches]):
    anatomy, batches = conv
    name = anatomy.groups.groups[1].name
    assert [curve.group for curve in measured_curves(anatomy, batches, [name])[0]] == [name]


def test_more_is_measured_where_there_is_time_for_it(conv: tuple[Anatomy, Batches], monkeypatch: pytest.MonkeyPatch):
    anatomy, _ = conv
    names = [g.name for g in anatomy.groups]
    assert Extent.of(anatomy, names, 10**6) == Extent(MOST, EIGHTHS)
    assert Extent.of(anatomy, names, 20) == Extent(20, EIGHTHS)
    whole = anatomy.costs.total["macs"] * len(names)
    monkeypatch.setattr(sensitivity, "WORK", whole * len(QUARTERS) * 40)
    tight = Extent.of(anatomy, names, 10**6)
    rest = sum(1 - anatomy.pieces.first(name) / len(anatomy.pieces.nodes) for name in names)
    assert tight.inputs * len(tight.eighths) * rest * anatomy.costs.total["macs"] <= sensitivity.WORK
    monkeypatch.setattr(sensitivity, "WORK", 1)
    assert Extent.of(anatomy, names, 10**6) == Extent(FEWEST, QUARTERS)


# ---- from curves to scores


def test_slopes_are_those_of_the_lower_hull():
    #  gone 0 1 2 4 6 7, height 0 1 4 4 9 20: from (0, 0) over (1, 1), (4, 4) and (6, 9) to (7, 20)
    curve = Curve("g", 8, (8, 7, 6, 4, 2, 1), (0.0, 1.0, 4.0, 4.0, 9.0, 20.0), tuple(range(7)))
    assert allocation.slopes(curve).tolist() == [1, 1, 1, 1, 2.5, 2.5, 11]


@pytest.mark.parametrize("seed", range(5))
def test_slopes_ascend_and_never_promise_more_than_was_measured(seed: int):
    rng = np.random.default_rng(seed)
    heights = (0.0, *np.cumsum(rng.exponential(size=7) * (rng.random(7) < 0.7)))
    curve = Curve("g", 16, (16, 14, 12, 10, 8, 6, 4, 2), heights, tuple(range(14)))
    slopes = allocation.slopes(curve)
    assert len(slopes) == 14 and (np.diff(slopes) >= -1e-12).all()
    reached = np.concatenate([[0], np.cumsum(slopes)])
    assert all(reached[16 - n] <= h + 1e-9 for n, h in zip(curve.kept, heights, strict=True))
    assert reached[-1] == pytest.approx(heights[-1])


def test_a_measurement_that_falls_again_is_noise():
    curve = Curve("g", 4, (4, 3, 2, 1), (0.0, 3.0, 2.0, 9.0), (0, 1, 2))
    assert allocation.slopes(curve).tolist() == [1.5, 1.5, 6]


@pytest.mark.parametrize("heights", [(0.0, 1.0, 2.0), (0.0, 0.0, 0.0), (0.0, 0.0, 5.0), (0.0, np.inf, np.inf)])
def test_scores_follow_the_order_in_which_channels_went(heights: tuple[float, ...]):
    anatomy, _ = measured(conv_net(4), {"image": images(8)})
    name = anatomy.groups.groups[0].name
    curve = Curve(name, 4, (4, 2, 1), heights, (3, 0, 2))
    found = allocation.scores([curve], anatomy.costs, "macs", 0.5)
    assert np.argsort(found[name], kind="stable").tolist() == [3, 0, 2, 1]
    assert not np.isnan(found[name]).any()
    assert all(np.isinf(found[g.name]).all() for g in anatomy.groups if g.name != name)


def test_what_saves_more_is_worth_less():
    anatomy, _ = measured(conv_net(8), {"image": images(8)})
    first, second = (g.name for g in anatomy.groups)
    alike = [Curve(name, size, (size, size // 2), (0.0, 1.0), tuple(range(size // 2))) for name, size in
             zip((first, second), anatomy.costs.sizes, strict=True)]  # fmt: skip
    unit = CostModel(anatomy.groups).unit_costs("macs", [n * 0.5**0.5 for n in anatomy.costs.sizes])
    found = allocation.scores(alike, anatomy.costs, "macs", 0.5)
    per_channel = [2 / size for size in anatomy.costs.sizes]
    wanted = per_channel[0] / unit[0] / (per_channel[1] / unit[1])
    assert found[first][0] / found[second][0] == pytest.approx(wanted, rel=1e-5)


def test_channels_that_no_output_depends_on_go_first():
    text = """net (float[N,6] x) => (float[N,3] y) {
        a = MatMul(x, u)  r = Relu(a)  b = MatMul(x, v)  s = Relu(b)  t = MatMul(s, nought)
        h = MatMul(r, w)  y = Add(h, t) }"""
    proto = net(text, u=(6, 8), v=(6, 8), w=(8, 3), values={"nought": np.zeros((8, 3), dtype=np.float32)})
    rng = np.random.default_rng(0)
    anatomy, batches = measured(proto, {"x": rng.normal(size=(64, 6)).astype(np.float32)})
    used, unused = anatomy.groups
    found = one_shot(anatomy, batches, Wish(0.6, multiple_of=1, scope="sensitivity"))
    assert (len(found.plan.kept[unused.name]), len(found.plan.kept[used.name])) == (2, 8)
    assert found.recovery["repaired"] == pytest.approx(0, abs=1e-9)


# ---- other ways to rank


@pytest.mark.parametrize("criterion", [*BY_INPUTS, "l2"])
def test_every_criterion_scores_every_channel(criterion: str, conv: tuple[Anatomy, Batches]):
    anatomy, batches = conv
    found = scored(anatomy, batches, criterion)
    assert {name: len(values) for name, values in found.items()} == {g.name: g.size for g in anatomy.groups}
    assert all(np.isfinite(values).all() and (values >= 0).all() for values in found.values())


def test_scores_of_reconstruction_follow_the_elimination(conv: tuple[Anatomy, Batches]):
    anatomy, batches = conv
    for group in anatomy.groups:
        elimination = anatomy.elimination(group)
        elimination.down_to(1)
        order = [*elimination.order, *elimination.left.tolist()]
        assert np.argsort(scored(anatomy, batches, "reconstruction")[group.name], kind="stable").tolist() == order


def test_wanda_is_weight_times_input():
    proto = net("net (float[N,4] x) => (float[N,3] y) { h = MatMul(x, v)  y = MatMul(h, w) }", v=(4, 5), w=(5, 3))
    x = np.random.default_rng(0).normal(size=(32, 4)).astype(np.float32)
    anatomy, batches = measured(proto, {"x": x})
    (group,) = anatomy.groups
    v, w = (anatomy.pieces.constant(name).astype(float) for name in ("v", "w"))
    wanted = np.square(x @ v).sum(axis=0) * np.square(w).sum(axis=1)
    found = scored(anatomy, batches, "wanda")[group.name]
    np.testing.assert_allclose(found, wanted / wanted.sum(), rtol=1e-4)
