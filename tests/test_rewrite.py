import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper
from small_models import conv_net, images
from strategies import random_model, random_plan
from text_nets import analysed, net

from onnxprune import model, rewrite
from onnxprune.groups import Groups
from onnxprune.plan import Plan


def cut(found: Groups, **kept: list[int]) -> onnx.ModelProto:
    rewrite.apply(found, Plan({name: np.asarray(indices) for name, indices in kept.items()}))
    return model.to_proto(found.model)


def weights(proto: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}


def test_every_coupled_weight_loses_the_same_channels():
    before, after = weights(conv_net()), weights(cut(analysed(conv_net()), first=[1, 2, 6], second=[0, 15]))
    np.testing.assert_array_equal(after["first.weight"], before["first.weight"][[1, 2, 6]])
    np.testing.assert_array_equal(after["first.bias"], before["first.bias"][[1, 2, 6]])
    np.testing.assert_array_equal(after["second.weight"], before["second.weight"][[0, 15]][:, [1, 2, 6]])
    np.testing.assert_array_equal(after["head.weight"], before["head.weight"][:, [0, 15]])
    np.testing.assert_array_equal(after["head.bias"], before["head.bias"])


def test_a_plan_that_keeps_all_changes_nothing():
    untouched = model.to_proto(analysed(conv_net()).model)
    assert cut(analysed(conv_net()), first=list(range(8)), second=list(range(16))) == untouched
    assert cut(analysed(conv_net())) == untouched


def test_declared_sizes_of_inner_tensors_follow():
    proto = onnx.shape_inference.infer_shapes(conv_net())
    slim = cut(analysed(proto), first=[0, 3])
    declared = {
        info.name: [d.dim_value for d in info.type.tensor_type.shape.dim] for info in slim.graph.value_info
    }
    assert declared["a"][1] == declared["b"][1] == 2
    assert declared["c"][1] == 16
    onnx.checker.check_model(slim, full_check=True)


@pytest.mark.parametrize(
    ("op", "shapes", "kept", "attribute", "value"),
    [
        ("h = Conv<group=6>(a, w2)", {"w2": (6, 1, 1, 1)}, {6: [0, 5]}, "group", 2),
        ("h = Conv<group=3>(a, w2)", {"w2": (6, 2, 1, 1)}, {3: [2]}, "group", 1),
        ("h = ConvTranspose<group=3>(a, w2)", {"w2": (6, 2, 1, 1)}, {3: [0, 2]}, "group", 2),
    ],
)
def test_as_many_groups_as_are_left(
    op: str, shapes: dict[str, tuple[int, ...]], kept: dict[int, list[int]], attribute: str, value: int
):
    proto = net(
        f"net (float[N,3,4,4] x) => (float[N,2,4,4] y) {{ a = Conv(x, w1)  {op}  y = Conv(h, w3) }}",
        w1=(6, 3, 1, 1),
        w3=(2, 6, 1, 1),
        **shapes,
    )
    found = analysed(proto)
    names = {group.size: group.name for group in found}
    slim = cut(found, **{names[size]: indices for size, indices in kept.items()})
    (number,) = (a.i for node in slim.graph.node[1:2] for a in node.attribute if a.name == attribute)
    assert number == value
    onnx.checker.check_model(slim, full_check=True)


def test_weights_tied_between_layers_are_cut_once():
    proto = net(
        """net (float[N,80] x) => (float[N,2] y) {
            a = MatMul(x, w0)  b = MatMul(a, w)  c = MatMul(b, w)  y = MatMul(c, w1)
        }""",
        w0=(80, 80),
        w=(80, 80),
        w1=(80, 2),
    )
    found = analysed(proto)
    (name,) = (group.name for group in found)
    slim = weights(cut(found, **{name: list(range(0, 80, 2))}))
    np.testing.assert_array_equal(slim["w"], weights(proto)["w"][::2, ::2])


@pytest.mark.parametrize("seed", range(12))
def test_shapes_of_the_slim_model_are_consistent_and_its_interface_is_the_originals(seed: int):
    proto = random_model(seed)
    found = analysed(proto)
    slim = cut(
        found, **{n: list(kept) for n, kept in random_plan(seed, [(g.name, g.size) for g in found]).items()}
    )
    onnx.checker.check_model(slim, full_check=True)
    assert [value.name for value in slim.graph.output] == [value.name for value in proto.graph.output]


def test_the_slim_model_runs_at_every_batch():
    slim = cut(analysed(conv_net()), first=[2], second=[3])
    session = onnxruntime.InferenceSession(slim.SerializeToString(), providers=["CPUExecutionProvider"])
    assert [session.run(None, {"image": images(n)})[0].shape for n in (1, 7)] == [(1, 3), (7, 3)]
