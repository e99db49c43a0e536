import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from small_models import conv_net
from text_nets import analysed, net

from onnxprune.errors import ModelError, PlanError
from onnxprune.methods import distances
from onnxprune.methods.magnitude import CRITERIA, NORMS, magnitude
from onnxprune.norms import norms as batch_norms


def with_weight(proto: onnx.ModelProto, name: str, value: np.ndarray) -> onnx.ModelProto:
    (tensor,) = (tensor for tensor in proto.graph.initializer if tensor.name == name)
    tensor.CopyFrom(numpy_helper.from_array(value.astype(np.float32), name))
    return proto


def two_layers(first: np.ndarray, second: np.ndarray) -> onnx.ModelProto:
    """x -> w1 -> ReLU -> w2 -> y: the channels between are group w1."""
    return net(
        f"net (float[N,{len(first)}] x) => (float[N,{second.shape[1]}] y) "
        "{ a = MatMul(x, w1)  h = Relu(a)  y = MatMul(h, w2) }",
        values={"w1": first.astype(np.float32), "w2": second.astype(np.float32)},
    )


@pytest.mark.parametrize(("criterion", "norms"), [("l1", [7.0, 3.0, 1.0, 1.0]), ("l2", [5.0, 3.0, 1.0, 1.0])])
def test_a_score_is_the_norm_of_all_that_a_channel_owns(criterion: str, norms: list[float]):
    first = np.asarray([[3.0, 0, 1, 0], [4, 3, 0, 0], [0, 0, 0, 1]])
    scores = magnitude(analysed(two_layers(first, np.ones((4, 2)))), criterion)["w1"]
    expected = (
        np.asarray(norms) / np.mean(norms) + 1
    )  # each weight relative to its own mean; w2 likes all alike
    np.testing.assert_allclose(scores, expected / expected.mean(), rtol=1e-6)


def test_both_sides_of_a_layer_count_the_same():
    """What reads a channel is as much its own as what makes it, however large the weights are."""
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(3, 4)), rng.normal(size=(4, 2))
    scores = [magnitude(analysed(two_layers(a * first, b * second)))["w1"] for a, b in [(1, 1), (100, 0.01)]]
    np.testing.assert_allclose(scores[0], scores[1], rtol=1e-5)


def test_biases_and_statistics_do_not_count():
    scores = [
        magnitude(analysed(with_weight(conv_net(), "first.bias", np.full(8, bias) * np.arange(8))))["first"]
        for bias in (0.0, 100.0)
    ]
    np.testing.assert_array_equal(*scores)


def test_whole_numbers_count_as_what_they_stand_for():
    """The same entries at other scales, and entries that are all the zero point."""
    proto = net(
        """net (float[N,3] x) => (float[N,2] y) {
            d = DequantizeLinear<axis=0>(w1, s, z)  h = Gemm<transB=1>(x, d)  y = MatMul(h, w2)
        }""",
        values={
            "w1": np.int8([[3, 4, 0], [3, 4, 0], [7, 7, 7]]), "s": np.float32([1, 2, 1]), "z": np.int8([0, 0, 7]),
            "w2": np.ones((3, 2), np.float32),
        },
    )  # fmt: skip
    expected = np.asarray([1.0, 2.0, 0.0]) + 1
    np.testing.assert_allclose(magnitude(analysed(proto))["w1"], expected / expected.mean(), rtol=1e-6)


@pytest.mark.parametrize("criterion", sorted(CRITERIA))
def test_every_group_has_one_score_a_channel_of_mean_one(criterion: str):
    found = analysed(conv_net())
    scores = magnitude(found, criterion)
    assert {name: values.shape for name, values in scores.items()} == {"first": (8,), "second": (16,)}
    assert all(values.mean() == pytest.approx(1) and (values > 0).all() for values in scores.values())


@pytest.mark.parametrize("criterion", sorted(NORMS))
def test_a_channel_of_zeros_is_the_first_to_go(criterion: str):
    proto = conv_net()
    first, second = (numpy_helper.to_array(proto.graph.initializer[k]).copy() for k in (0, 2))
    first[5], second[:, 5] = 0, 0
    found = analysed(with_weight(with_weight(proto, "first.weight", first), "second.weight", second))
    scores = magnitude(found, criterion)["first"]
    assert scores.argmin() == 5 and scores[5] == 0


def test_weights_that_are_all_zero_like_every_channel_alike():
    found = analysed(two_layers(np.zeros((3, 4)), np.zeros((4, 2))))
    assert magnitude(found)["w1"].tolist() == [1.0] * 4


def test_channels_of_a_grid_count_with_all_their_combinations():
    weight = np.ones((8, 3, 3, 3), np.float32)
    weight[[1, 5]] = 10  # channel 1 of both groups
    proto = net(
        "net (float[N,3,8,8] x) => (float[N,2,4,4] y) { a = Conv(x, w1)  h = Conv<group=2>(a, w2)  y = Conv(h, w3) }",
        values={"w2": weight},
        w1=(6, 3, 3, 3),
        w3=(2, 8, 1, 1),
    )
    found = analysed(proto)
    (outputs,) = (group.name for group in found if group.size == 4)
    assert magnitude(found)[outputs].argmax() == 1


def test_an_unknown_criterion_is_refused():
    with pytest.raises(PlanError, match="criterion 'l7' is unknown; choose one of l1, l2, gm, bn"):
        magnitude(analysed(conv_net()), "l7")


@pytest.fixture(params=[1, 100, 1 << 18])
def block(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Entries of a weight that are read at a time."""
    monkeypatch.setattr("onnxprune.weights.blocks.__defaults__", (request.param,))
    return request.param


@pytest.mark.parametrize("criterion", sorted(NORMS))
@pytest.mark.usefixtures("block")
def test_a_weight_read_in_parts_has_the_norms_of_the_whole(criterion: str):
    weights = [numpy_helper.to_array(conv_net().graph.initializer[k]).astype(np.float64) for k in (0, 2, 3)]
    order = 1 if criterion == "l1" else 2
    first, second = (np.linalg.norm(w.reshape(w.shape[0], -1), order, 1) for w in weights[:2])
    seen = [np.linalg.norm(np.moveaxis(w, 1, 0).reshape(w.shape[1], -1), order, 1) for w in weights[1:]]
    scores = magnitude(analysed(conv_net()), criterion)
    for name, parts in (("first", (first, seen[0])), ("second", (second, seen[1]))):
        expected = sum(part / part.mean() for part in parts)
        np.testing.assert_allclose(scores[name], expected / expected.mean(), rtol=1e-5)


@pytest.mark.parametrize("criterion", sorted(CRITERIA))
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("place", [(0, 0, 0, 0), (7, 3, 1, 1), (15, 7, 2, 2)])
@pytest.mark.usefixtures("block")
def test_weights_that_are_no_numbers_are_refused(value: float, place: tuple[int, ...], criterion: str):
    weight = numpy_helper.to_array(conv_net().graph.initializer[2]).copy()
    weight[place] = value
    with pytest.raises(ModelError, match=r"weight 'second\.weight' holds NaN or infinity"):
        magnitude(analysed(with_weight(conv_net(), "second.weight", weight)), criterion)


def test_large_weights_do_not_overflow():
    scores = magnitude(analysed(two_layers(np.full((3, 4), 1e30), np.ones((4, 2)))))["w1"]
    assert np.isfinite(scores).all()


# ---- gm


def summed_distances(weight: np.ndarray, axis: int) -> np.ndarray:
    slices = np.moveaxis(weight.astype(np.float64), axis, 0).reshape(weight.shape[axis], -1)
    return np.linalg.norm(slices[:, None] - slices, axis=2).sum(1)


@pytest.mark.parametrize(("channels", "entries"), [(1024, 1 << 22), (3, 1 << 22), (5, 20), (1, 1)])
def test_gm_is_how_far_a_channel_is_from_all_others(
    channels: int, entries: int, monkeypatch: pytest.MonkeyPatch
):
    """However many are compared at a time."""
    monkeypatch.setattr(distances, "CHANNELS", channels)
    monkeypatch.setattr(distances, "ENTRIES", entries)
    first, second, last = (numpy_helper.to_array(conv_net().graph.initializer[k]) for k in (0, 2, 3))
    scores = magnitude(analysed(conv_net()), "gm")
    for name, made, read in (("first", first, second), ("second", second, last)):
        parts = [summed_distances(made, 0), summed_distances(read, 1)]
        expected = sum(part / part.mean() for part in parts)
        np.testing.assert_allclose(scores[name], expected / expected.mean(), rtol=1e-9)


def test_channels_that_others_can_stand_for_go_first():
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(64, 8)), rng.normal(size=(8, 64))
    first[:, [4, 6]], second[[4, 6]] = first[:, [1]], second[1]
    scores = magnitude(analysed(two_layers(first, second)), "gm")["w1"]
    assert set(scores.argsort()[:3]) == {1, 4, 6}
    assert scores[1] == scores[4] == scores[6]


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_equal_channels_are_at_no_distance(scale: float):
    """Rounding gives them none: each of three that are equal is one distance from the fourth, that one is three."""
    first = np.repeat(np.random.default_rng(0).normal(size=(3000, 1)), 4, 1) * scale
    first[:, 2] *= 1.01
    scores = magnitude(analysed(two_layers(first, np.ones((4, 2)))), "gm")["w1"]
    np.testing.assert_allclose(scores, (np.asarray([2 / 3, 2 / 3, 2, 2 / 3]) + 1) / 2, rtol=1e-12)


def test_a_channels_slice_is_all_that_it_has_of_a_weight():
    """After Flatten channel c is entries 4 c to 4 c + 3 of the next weight: all of those of 0 and 2 agree."""
    rng = np.random.default_rng(0)
    made = rng.normal(size=(3, 2, 1, 1))
    read = np.stack([np.roll(np.arange(4.0), k) for k in (0, 1, 0)]).reshape(12, 1) * [[1.0, 2.0]]
    made[2] = made[0]
    proto = net(
        "net (float[N,2,2,2] x) => (float[N,2] y) { a = Conv(x, w1)  f = Flatten(a)  y = MatMul(f, w2) }",
        values={"w1": made.astype(np.float32), "w2": read.astype(np.float32)},
    )
    scores = magnitude(analysed(proto), "gm")["w1"]
    assert scores[0] == scores[2]
    np.testing.assert_allclose(scores, [0.75, 1.5, 0.75])


# ---- bn


def normalised(*scales: np.ndarray) -> onnx.ModelProto:
    """x (3) -> w1 -> one BatchNormalization after another -> w2 -> y (2)."""
    steps = "".join(
        f"  h{k + 1} = BatchNormalization(h{k}, scale{k}, ones, zeros, ones)" for k in range(len(scales))
    )
    size = len(scales[0])
    return net(
        f"net (float[N,3,4,4] x) => (float[N,2,4,4] y) {{ h0 = Conv(x, w1) {steps}  y = Conv(h{len(scales)}, w2) }}",
        values={
            **{f"scale{k}": np.float32(scale) for k, scale in enumerate(scales)},
            "ones": np.ones(size, np.float32),
            "zeros": np.zeros(size, np.float32),
        },
        w1=(size, 3, 1, 1),
        w2=(2, size, 1, 1),
    )


def test_bn_ranks_by_how_large_the_scales_are():
    scores = magnitude(analysed(normalised(np.asarray([0.5, -3.0, 0.0, 0.5]))), "bn")["w1"]
    np.testing.assert_allclose(scores, [0.5, 3, 0, 0.5])


def test_every_norm_on_the_way_counts_the_same():
    proto = normalised(np.asarray([1.0, 2.0, 3.0]), np.asarray([300.0, 0.0, 300.0]))
    np.testing.assert_allclose(magnitude(analysed(proto), "bn")["w1"], [1.0, 0.5, 1.5])


def test_bn_falls_back_to_l2_where_there_is_none():
    found = analysed(conv_net())
    without = {name for name, passed in batch_norms(found).items() if not passed}
    assert without
    scores = magnitude(found, "bn")
    assert all((scores[name] == magnitude(found, "l2")[name]).all() for name in without)


@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_scales_that_are_no_numbers_are_refused(value: float):
    with pytest.raises(ModelError, match="weight 'scale0' holds NaN or infinity"):
        magnitude(analysed(normalised(np.asarray([1.0, value, 1.0]))), "bn")
