import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from small_models import conv_net
from text_nets import analysed, net

from onnxprune.errors import ModelError, PlanError
from onnxprune.methods.magnitude import CRITERIA, magnitude


def with_weight(proto: onnx.ModelProto, name: str, value: np.ndarray) -> onnx.ModelProto:
    (tensor,) = (tensor for tensor in proto.graph.initializer if tensor.name == name)
    tensor.CopyFrom(numpy_helper.from_array(value.astype(np.float32), name))
    return proto


def two_layers(first: np.ndarray, second: np.ndarray) -> onnx.ModelProto:
    """x (3) -> w1 -> ReLU -> w2 -> y: the channels between are group w1."""
    return net(
        "net (float[N,3] x) => (float[N,2] y) { a = MatMul(x, w1)  h = Relu(a)  y = MatMul(h, w2) }",
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


@pytest.mark.parametrize("criterion", sorted(CRITERIA))
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
    with pytest.raises(PlanError, match="criterion 'l7' is unknown; choose one of l1, l2"):
        magnitude(analysed(conv_net()), "l7")


@pytest.fixture(params=[1, 100, 1 << 18])
def block(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Entries of a weight that are read at a time."""
    monkeypatch.setattr("onnxprune.weights.blocks.__defaults__", (request.param,))
    return request.param


@pytest.mark.parametrize("criterion", sorted(CRITERIA))
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


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("place", [(0, 0, 0, 0), (7, 3, 1, 1), (15, 7, 2, 2)])
@pytest.mark.usefixtures("block")
def test_weights_that_are_no_numbers_are_refused(value: float, place: tuple[int, ...]):
    weight = numpy_helper.to_array(conv_net().graph.initializer[2]).copy()
    weight[place] = value
    with pytest.raises(ModelError, match=r"weight 'second\.weight' holds NaN or infinity"):
        magnitude(analysed(with_weight(conv_net(), "second.weight", weight)))


def test_large_weights_do_not_overflow():
    scores = magnitude(analysed(two_layers(np.full((3, 4), 1e30), np.ones((4, 2)))))["w1"]
    assert np.isfinite(scores).all()
