import logging
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx_text import RELU
from small_models import conv_net
from text_nets import analysed, net

from onnxprune.choose import Wish, choose, protected
from onnxprune.cost import CostModel
from onnxprune.errors import PlanError
from onnxprune.groups import Groups, Member
from onnxprune.methods.magnitude import magnitude
from onnxprune.ops import RULES
from onnxprune.plan import Plan, check
from onnxprune.settle import WIDTHS, allowed, settle


def chain(*widths: int) -> onnx.ModelProto:
    """Gemms one after another, of weights w0.weight, ...; their outputs are groups of these sizes: w0, w1, ..."""
    steps = "".join(f"  h{k + 1} = Gemm(h{k}, w{k})" for k in range(len(widths)))
    shapes = {f"w{k}": (a, b) for k, (a, b) in enumerate(zip((5, *widths), widths, strict=False))}
    proto = net(
        f"net (float[N,5] h0) => (float[N,2] y) {{ {steps}  y = Gemm(h{len(widths)}, last) }}",
        last=(widths[-1], 2),
        **shapes,
    )
    for node in proto.graph.node:
        node.input[1] += ".weight"
    for tensor in proto.graph.initializer:
        tensor.name += ".weight"
    return proto


def chosen(proto: onnx.ModelProto, **wish: Any) -> tuple[Groups, Plan, float]:
    """The groups, the plan, and the fraction of `by` that it keeps."""
    found = analysed(proto)
    costs = CostModel(found)
    asked = Wish(**wish)
    plan = check(choose(found, costs, magnitude(found), asked), found)
    return found, plan, float(costs.fraction(asked.by, plan.counts(found)))


def counts(found: Groups, plan: Plan) -> dict[str, int]:
    return dict(zip([group.name for group in found], plan.counts(found), strict=True))


# ---- the ratio is met


@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize("by", ["channels", "params", "macs"])
@pytest.mark.parametrize("ratio", [0.1, 0.25, 0.5, 0.73, 0.9])
def test_the_ratio_is_met_within_one_step(ratio: float, by: str, scope: str):
    found, _, reached = chosen(chain(40, 64, 30), ratio=ratio, by=by, scope=scope, multiple_of=1)
    costs = CostModel(found)
    steps = costs.unit_costs(by, [group.size for group in found]) / costs.total[by]
    assert abs(reached - ratio) <= steps.max()


@pytest.mark.parametrize("by", ["channels", "params", "macs"])
def test_everything_is_kept_at_ratio_one(by: str):
    found, plan, reached = chosen(conv_net(20), ratio=1.0, by=by)
    assert reached == 1.0
    assert plan.counts(found) == [20, 40]


@pytest.mark.parametrize("ratio", [0.2, 0.5, 0.8])
def test_auto_gives_up_width_to_meet_the_ratio(ratio: float):
    _, _, reached = chosen(chain(40, 64, 30), ratio=ratio, by="macs")
    assert abs(reached - ratio) <= 0.02


def test_every_group_keeps_a_channel():
    found, plan, _ = chosen(chain(6, 8, 4), ratio=1e-9, multiple_of=1)
    assert plan.counts(found) == [1, 1, 1]


def test_layers_keep_the_same_fraction():
    found, plan, _ = chosen(chain(40, 80, 20), ratio=0.3, multiple_of=1)
    assert counts(found, plan) == {"w0": 12, "w1": 24, "w2": 6}


def test_the_best_channels_are_kept_wherever_they_are():
    found = analysed(chain(4, 6))
    scores = {"w0": np.asarray([9.0, 8, 1, 7]), "w1": np.asarray([0.1, 0.2, 6.0, 0.3, 0.4, 0.5])}
    plan = choose(found, CostModel(found), scores, Wish(0.4, scope="global", multiple_of=1))
    assert {name: kept.tolist() for name, kept in plan.kept.items()} == {"w0": [0, 1, 3], "w1": [2]}


def test_within_a_group_the_best_channels_are_kept():
    found = analysed(chain(5))
    plan = choose(found, CostModel(found), {"w0": np.asarray([1.0, 5, 2, 4, 3])}, Wish(0.6, multiple_of=1))
    assert plan.kept["w0"].tolist() == [1, 3, 4]


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_equal_scores_are_no_obstacle(scope: str):
    found = analysed(chain(20, 40))
    scores = {group.name: np.ones(group.size) for group in found}
    plan = choose(found, CostModel(found), scores, Wish(0.5, scope=scope, multiple_of=1))
    assert counts(found, plan) == {"w0": 10, "w1": 20}


# ---- bounds


@pytest.mark.parametrize("step", [3, 8, 16])
def test_kept_counts_are_multiples_where_asked(step: int):
    found, plan, _ = chosen(chain(50, 64, 30), ratio=0.5, multiple_of=step)
    assert all(n % step == 0 or n == group.size for group, n in zip(found, plan.counts(found), strict=True))


def test_wide_groups_keep_multiples_of_sixteen_by_default():
    found, plan, _ = chosen(chain(128, 256, 128), ratio=0.5)
    assert all(n % 16 == 0 for n in plan.counts(found))


@pytest.mark.parametrize("least", [1, 4, 100])
def test_a_group_keeps_the_least_that_is_asked_or_all(least: int):
    found, plan, _ = chosen(chain(20, 8), ratio=0.05, multiple_of=1, min_channels=least)
    assert plan.counts(found) == [max(1, min(least, 20)), max(1, min(least, 8))]


@pytest.mark.parametrize(
    ("size", "widest", "options", "counts"),
    [
        (8, 1, {}, [1, 2, 3, 4, 5, 6, 7, 8]),
        (8, 4, {}, [4, 8]),
        (10, 4, {}, [4, 8, 10]),
        (6, 4, {}, [1, 2, 3, 4, 5, 6]),  # too narrow for two steps of 4
        (6, 4, {"exact": True}, [4, 6]),
        (3, 4, {"exact": True}, [3]),
        (40, 16, {}, [16, 32, 40]),
        (20, 16, {}, [8, 16, 20]),
        (8, 1, {"least": 6}, [6, 7, 8]),
        (8, 4, {"least": 9}, [8]),
        (1, 16, {}, [1]),
    ],
)
def test_the_counts_a_group_may_keep(size: int, widest: int, options: dict[str, Any], counts: list[int]):
    assert allowed(size, widest, **options) == counts


def test_the_narrowest_step_is_a_single_channel():
    assert min(WIDTHS) == 1


# ---- patterns


@pytest.mark.parametrize("pattern", ["w1", "w1.weight", "h2", "w?", "*", "gemm1"])
def test_what_a_pattern_matches_stays_whole(pattern: str):
    """By the name of the group, of a tensor that it lies on, or of a node that makes it."""
    found, plan, _ = chosen(chain(10, 20, 30), ratio=0.5, keep=(pattern,), multiple_of=1)
    assert counts(found, plan)["w1"] == 20


def test_the_name_of_a_weight_means_the_channels_that_it_makes():
    """w1.weight lies on the channels of w0 as well: it reads them."""
    found, plan, _ = chosen(chain(10, 20, 30), ratio=0.5, only=("w1.*",), multiple_of=1)
    assert counts(found, plan) == {"w0": 10, "w1": 10, "w2": 30}


@pytest.mark.skipif(("", "DequantizeLinear") not in RULES, reason="DequantizeLinear has no axis rule yet")
def test_a_dequantised_weight_means_the_channels_that_it_makes():
    proto = net(
        """net (float[N,3,4,4] x) => (float[N,2,4,4] y) {
            a = Conv(x, w1)
            w = DequantizeLinear(packed, scale, zero)
            b = Conv(a, w)
            y = Conv(b, w3)
        }""",
        w1=(8, 3, 1, 1),
        w3=(2, 6, 1, 1),
        values={
            "packed": np.ones((6, 8, 1, 1), np.int8), "scale": np.float32(0.1), "zero": np.int8(0)
        },
    )  # fmt: skip
    found = analysed(proto)
    reads, makes = ({group.name for group in found if Member(value, 1) in group.members} for value in "ab")
    assert Member("packed", 0) in next(group.members for group in found if {group.name} == makes)
    for name in ("packed", "w", "b"):
        assert protected(found, Wish(0.5, keep=(name,))) == makes != reads


@pytest.mark.parametrize("shape", ["weight", "bias", "scale"])
def test_whatever_lies_on_what_a_node_makes_names_it(shape: str):
    proto = net(
        """net (float[N,3,4,4] x) => (float[N,2,4,4] y) {
            a = Conv(x, before)
            b = Conv(a, weight, bias)
            c = BatchNormalization(b, scale, shift, mean, var)
            y = Conv(c, last)
        }""",
        before=(8, 3, 1, 1), weight=(6, 8, 1, 1), bias=(6,), scale=(6,), shift=(6,), mean=(6,), var=(6,),
        last=(2, 6, 1, 1),
    )  # fmt: skip
    assert protected(analysed(proto), Wish(0.5, keep=(shape,))) == {"weight"}


def test_a_weight_that_only_reads_names_nothing():
    with pytest.raises(PlanError, match="a weight's name means the channels that it makes"):
        chosen(chain(10, 20), ratio=0.5, keep=("last.weight",))


def test_only_prunes_nothing_else():
    found, plan, _ = chosen(chain(10, 20, 30), ratio=0.5, only=("w1",), multiple_of=1)
    assert counts(found, plan) == {"w0": 10, "w1": 10, "w2": 30}


def test_keep_takes_out_of_only():
    found, plan, _ = chosen(chain(10, 20, 30), ratio=0.5, only=("w*",), keep=("w0", "w2"), multiple_of=1)
    assert counts(found, plan) == {"w0": 10, "w1": 10, "w2": 30}


def test_the_ratio_of_channels_speaks_of_those_that_may_go():
    found, plan, _ = chosen(chain(10, 20, 30), ratio=0.5, keep=("w2",), multiple_of=1)
    assert counts(found, plan) == {"w0": 5, "w1": 10, "w2": 30}


@pytest.mark.parametrize("option", ["keep", "only"])
def test_a_pattern_that_matches_nothing_is_refused(option: str):
    with pytest.raises(PlanError, match="pattern 'nope\\*' matches no prunable group, tensor or node"):
        chosen(chain(10, 20), ratio=0.5, **{option: ("nope*",)})


def test_a_node_that_only_reads_channels_does_not_hold_them():
    found = analysed(chain(10, 20))
    assert protected(found, Wish(0.5, keep=("gemm1",))) == {"w1"}


# ---- what cannot be met, and what is refused


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    monkeypatch.setattr(logging.getLogger("onnxprune"), "propagate", True)
    caplog.set_level(logging.WARNING, "onnxprune")
    return caplog


@pytest.mark.parametrize(
    ("wish", "why"),
    [
        ({"ratio": 0.01, "by": "params"}, "the least that groups may keep, are already more"),
        ({"ratio": 0.1, "keep": ("w1",), "by": "macs"}, "what cannot be pruned"),
        ({"ratio": 0.7, "multiple_of": 5}, "too coarse"),
    ],
)
def test_a_ratio_that_cannot_be_met_is_warned_of(
    wish: dict[str, Any], why: str, warnings: pytest.LogCaptureFixture
):
    _, _, reached = chosen(chain(8, 8), **wish)
    assert abs(reached - wish["ratio"]) > 0.02
    assert why in warnings.text
    assert f"asked for {wish['ratio']:.3f}" in warnings.text and f"reached {reached:.3f}" in warnings.text


def test_a_ratio_that_is_met_is_not_warned_of(warnings: pytest.LogCaptureFixture):
    chosen(chain(40, 40), ratio=0.5)
    assert not warnings.records


@pytest.mark.parametrize("ratio", [0, 1.5, -0.5, math.nan, math.inf, "half"])
def test_a_ratio_outside_its_range_is_refused(ratio: Any):
    with pytest.raises(PlanError, match=r"is not in \(0, 1\]"):
        Wish(ratio)


@pytest.mark.parametrize(
    ("wish", "saying"),
    [
        ({"by": "bytes"}, "by 'bytes' is unknown"),
        ({"scope": "model"}, "scope 'model' is unknown"),
        ({"multiple_of": 0}, "multiple-of 0"),
        ({"multiple_of": "some"}, "multiple-of some"),
        ({"min_channels": 0}, "min-channels 0 must be 1 or more"),
    ],
)
def test_a_wish_that_means_nothing_is_refused(wish: dict[str, Any], saying: str):
    with pytest.raises(PlanError, match=saying):
        Wish(0.5, **wish)


def test_a_model_in_which_nothing_can_be_pruned_is_refused():
    found = analysed(RELU)
    with pytest.raises(PlanError, match="nothing can be pruned"):
        choose(found, CostModel(found), {}, Wish(0.5))


def test_half_of_the_channels_of_a_grid_is_half_of_its_entries():
    """Heads and dims: the dims go, every head stays."""
    proto = net(
        """net (float[N,5,8] x) => (float[N,5,4] y) {
            q = MatMul(x, wq)  s = Reshape(q, split)  h = Transpose<perm=[0,2,1,3]>(s)
            b = Transpose<perm=[0,2,1,3]>(h)  j = Reshape(b, join)  y = MatMul(j, wo)
        }""",
        values={"split": np.asarray([0, 5, 4, 8]), "join": np.asarray([0, 5, 32])},
        wq=(8, 32),
        wo=(32, 4),
    )
    found = analysed(proto)
    costs = CostModel(found)
    assert sorted(costs.sizes) == [4, 8] and costs.total["channels"] == 32
    scores = {group.name: np.arange(group.size) for group in found}
    counts = {
        ratio: sorted(choose(found, costs, scores, Wish(ratio, multiple_of=1)).counts(found))
        for ratio in (0.5, 0.25, 1 / 16)
    }
    assert counts == {0.5: [4, 4], 0.25: [2, 4], 1 / 16: [1, 2]}


def test_heads_that_are_a_grid_themselves_stay_as_long_as_dims_can_go():
    """Heads of keys and values, and those of queries for each: a grid within the grid of heads and dims."""
    proto = net(
        """net (float[N,5,3] x) => (float[N,5,2] y) {
            q = MatMul(x, wq)  k = MatMul(x, wk)  v = MatMul(x, wv)
            a = Attention<q_num_heads: int = 4, kv_num_heads: int = 2>(q, k, v, mask)  y = MatMul(a, wo)
        }""",
        opset=23,
        wq=(3, 32),
        wk=(3, 16),
        wv=(3, 16),
        wo=(32, 2),
        mask=(4, 5, 5),
    )
    found = analysed(proto)
    costs = CostModel(found)
    assert any(len(grid) == 2 and {costs.sizes[g] for g in grid} == {2} for grid in costs.grids)
    scores = {group.name: np.arange(group.size) for group in found}
    assert sorted(choose(found, costs, scores, Wish(0.5, multiple_of=1)).counts(found)) == [2, 2, 4, 4]


def test_hundreds_of_groups_take_few_looks_at_the_cost():
    """Each look is as long as there are groups: one for every step would make large models quadratic."""
    looks = 0
    sizes = [100 + k for k in range(400)]

    def fraction(counts: Sequence[float]) -> float:
        nonlocal looks
        looks += 1
        return sum(counts) / sum(sizes)

    counts = settle(fraction, 0.5, [list(range(1, n + 1)) for n in sizes], lambda t: [t * n for n in sizes])
    assert abs(sum(counts) / sum(sizes) - 0.5) < 2e-4
    assert max(abs(count / n - 0.5) for count, n in zip(counts, sizes, strict=True)) < 0.01
    assert looks < 100
