import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_text import RELU
from small_models import conv_net, images
from strategies import random_inputs, random_model
from text_nets import net

from onnxprune import gates, groups, model
from onnxprune.groups import Groups
from onnxprune.prepare import prepare


def run(proto: onnx.ModelProto, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, feed)


def gated(
    proto: onnx.ModelProto, latents: dict[str, np.ndarray] | None = None
) -> tuple[Groups, onnx.ModelProto]:
    found = groups.find(model.load(proto))
    gates.insert(found, latents or {})
    return found, model.to_proto(found.model)


def gate_nodes(proto: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [node for node in proto.graph.node if node.op_type == "Gate" and node.domain == gates.DOMAIN]


# ---- the function


@pytest.mark.parametrize("opset", [7, 9, 13, 18, 21])
@pytest.mark.parametrize("dtype", [TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16])
def test_a_gate_lets_through_where_its_weight_is_above_zero(opset: int, dtype: int):
    graph = helper.make_graph(
        [helper.make_node("Gate", ["x", "w"], ["y"], domain=gates.DOMAIN, to=dtype)],
        "one",
        [
            helper.make_tensor_value_info("x", dtype, [2, 4]),
            helper.make_tensor_value_info("w", TensorProto.FLOAT, [4]),
        ],
        [helper.make_tensor_value_info("y", dtype, [2, 4])],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid(gates.DOMAIN, 1)]
    proto = helper.make_model(
        graph, opset_imports=opsets, functions=[gates.gate_function(opset)], ir_version=8
    )
    x = np.arange(1, 9).reshape(2, 4).astype(helper.tensor_dtype_to_np_dtype(dtype))
    (y,) = run(proto, {"x": x, "w": np.asarray([1e-3, -1e-3, 0, 5], np.float32)})
    assert y.dtype == x.dtype
    assert y.tolist() == (x * np.asarray([1, 0, 0, 1], x.dtype)).tolist()


def test_what_a_closed_channel_holds_does_not_matter():
    """Channel 0 of `a` is -1 and its logarithm no number: the slim model knows nothing of it."""
    proto = net(
        "net (float[N,3,4,4] x) => (float[N,2,4,4] y) { a = Conv(x, w1, b)  l = Log(a)  y = Conv(l, w2) }",
        values={"w1": np.zeros((4, 3, 1, 1), np.float32), "b": np.float32([-1, 2, 3, 4])},
        w2=(2, 4, 1, 1),
    )
    feed = random_inputs(proto, 0)
    assert np.isnan(run(proto, feed)[0]).all()
    found = groups.find(model.load(proto))
    (group,) = found
    _, closed = gated(proto, {group.name: np.float32([-1, 1, 1, 1])})
    assert np.isfinite(run(closed, feed)[0]).all()


@pytest.mark.parametrize(
    ("shape", "norm"),
    [
        ("N,3", "LayerNormalization({}, scale)"),
        ("N,3", "RMSNormalization({}, scale)"),
        ("N,3,1", "GroupNormalization<num_groups=1>({}, scale, scale)"),
    ],
)
def test_closed_channels_do_not_grow_from_norm_to_norm(shape: str, norm: str):
    """Each block squares what it is given; what a norm makes of closed channels has to stay of the size of the rest."""
    first, last = ("MatMul(x, w1)", "MatMul(h12, w2)") if shape == "N,3" else ("Conv(x, w1)", "Conv(h12, w2)")
    block = f"n{{0}} = {norm.format('h{0}')}  q{{0}} = Mul(n{{0}}, n{{0}})  h{{1}} = Add(h{{0}}, q{{0}}) "
    blocks = "".join(block.format(k, k + 1) for k in range(12))
    weights = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    weights[0] *= 1e3
    proto = net(
        f"net (float[{shape}] x) => (float[{shape.replace('3', '2', 1)}] y) {{ h0 = {first}  {blocks}  y = {last} }}",
        opset=23,
        values={"w1": weights.T if shape == "N,3" else weights[..., None]},
        scale=(6,),
        w2=(6, 2) if shape == "N,3" else (2, 6, 1),
    )
    found = groups.find(model.load(proto))
    (group,) = found
    _, closed = gated(proto, {group.name: np.float32([-1, 1, 1, 1, 1, 1])})
    assert np.abs(run(closed, random_inputs(proto, 0))[0]).max() < 1e6


# ---- inserting


def test_open_gates_change_nothing():
    proto = conv_net()
    _, opened = gated(proto)
    onnx.checker.check_model(opened, full_check=True)
    feed = {"image": images(3)}
    np.testing.assert_array_equal(run(opened, feed)[0], run(proto, feed)[0])
    assert len(gate_nodes(opened)) == 2


def test_a_closed_gate_takes_its_channel_out_of_the_next_sum():
    proto = conv_net()
    closed = np.ones(8)
    closed[[1, 4]] = -1
    without = onnx.ModelProto()
    without.CopyFrom(proto)
    weight = numpy_helper.to_array(without.graph.initializer[2]).copy()
    weight[:, [1, 4]] = 0  # what the second layer reads of them
    without.graph.initializer[2].CopyFrom(numpy_helper.from_array(weight, "second.weight"))
    feed = {"image": images(3)}
    _, half = gated(proto, {"first": closed})
    np.testing.assert_allclose(run(half, feed)[0], run(without, feed)[0], rtol=1e-6)
    assert not np.allclose(run(half, feed)[0], run(proto, feed)[0])


def test_gates_lie_right_before_the_op_that_sums():
    _, opened = gated(conv_net())
    order = [node.op_type for node in opened.graph.node if node.op_type != "Reshape"]
    assert order == ["Conv", "Relu", "Gate", "Conv", "Relu", "GlobalAveragePool", "Flatten", "Gate", "Gemm"]


def test_readers_of_one_tensor_share_its_gate():
    proto = net(
        """net (float[N,3,8,8] x) => (float[N,2,6,6] y, float[N,2,6,6] z) {
            a = Conv(x, w1)  h = Relu(a)  y = Conv(h, w2)  z = Conv(h, w3)
        }""",
        w1=(6, 3, 3, 3),
        w2=(2, 6, 1, 1),
        w3=(2, 6, 1, 1),
    )
    _, opened = gated(proto)
    (gate,) = gate_nodes(opened)
    assert [node.input[0] for node in opened.graph.node if node.op_type == "Conv"][1:] == [gate.output[0]] * 2


def test_all_sites_of_a_group_share_one_latent():
    proto = net(
        """net (float[N,3,8,8] x) => (float[N,2,6,6] y, float[N,2,6,6] z) {
            a = Conv(x, w1)  h = Relu(a)  g = Tanh(a)  y = Conv(h, w2)  z = Conv(g, w3)
        }""",
        w1=(6, 3, 3, 3),
        w2=(2, 6, 1, 1),
        w3=(2, 6, 1, 1),
    )
    _, opened = gated(proto)
    assert len(gate_nodes(opened)) == 2
    latents = [t for t in opened.graph.initializer if t.name.startswith(gates.PREFIX) and t.data_type == 1]
    assert [(tensor.name, list(tensor.dims)) for tensor in latents] == [("gate/w1", [6])]


@pytest.mark.parametrize("dtype", ["float16", "double"])
@pytest.mark.parametrize("noted", [True, False])
def test_gates_have_the_type_of_what_they_gate(dtype: str, noted: bool):
    """Files need not say the types of their inner tensors."""
    numpy_type = {"float16": np.float16, "double": np.float64}[dtype]
    rng = np.random.default_rng(0)
    proto = net(
        f"net ({dtype}[N,5] x) => ({dtype}[N,2] y) {{ a = MatMul(x, w1)  h = Relu(a)  y = MatMul(h, w2) }}",
        values={
            "w1": rng.normal(size=(5, 6)).astype(numpy_type),
            "w2": rng.normal(size=(6, 2)).astype(numpy_type),
        },
    )
    if noted:
        proto = onnx.shape_inference.infer_shapes(proto)
    _, opened = gated(proto)
    assert len(gate_nodes(opened)) == 1
    feed = {"x": rng.normal(size=(3, 5)).astype(numpy_type)}
    np.testing.assert_array_equal(run(opened, feed)[0], run(proto, feed)[0])


def test_a_model_without_groups_gets_no_gates_and_no_function():
    _, opened = gated(RELU)
    assert not gate_nodes(opened) and not opened.functions
    assert opened.opset_import == model.to_proto(model.load(RELU)).opset_import


def test_an_entry_over_which_several_groups_decide_is_open_where_all_are():
    proto = net(
        "net (float[N,3,8,8] x) => (float[N,2,4,4] y) { a = Conv(x, w1)  h = Conv<group=2>(a, w2)  y = Conv(h, w3) }",
        w1=(6, 3, 3, 3),
        w2=(8, 3, 3, 3),
        w3=(2, 8, 1, 1),
    )
    names = {group.size: group.name for group in groups.find(model.load(proto))}
    latents = {names[2]: np.asarray([1.0, -1]), names[4]: np.asarray([1.0, -1, 1, 1])}
    _, closed = gated(proto, latents)
    inner = gate_nodes(closed)[-1]
    closed.graph.output.append(helper.make_tensor_value_info(inner.output[0], TensorProto.FLOAT, None))
    made = run(closed, {"x": np.ones((1, 3, 8, 8), np.float32)})[-1]
    assert (made != 0).any(axis=(0, 2, 3)).tolist() == [True, False, True, True, False, False, False, False]


# ---- stripping


@pytest.mark.parametrize("proto", [conv_net(), random_model(3), random_model(8)], ids=["conv_net", "3", "8"])
def test_stripping_restores_the_model_exactly(proto: onnx.ModelProto):
    loaded = model.load(proto)
    prepare(loaded)
    plain = model.to_proto(loaded)
    _, opened = gated(proto)
    again = model.load(opened)
    gates.strip(again)
    assert model.to_proto(again) == plain


@pytest.mark.parametrize("ir_version", [4, 7, 8, 10])
def test_the_file_goes_back_to_its_ir_version(ir_version: int):
    proto = conv_net()
    proto.ir_version = ir_version
    helper.set_model_props(proto, {"author": "me"})
    _, opened = gated(proto)
    assert opened.ir_version == max(8, ir_version)
    again = model.load(opened)
    gates.strip(again)
    plain = model.to_proto(again)
    assert plain.ir_version == ir_version
    assert [(entry.key, entry.value) for entry in plain.metadata_props] == [("author", "me")]
    assert not plain.functions
    assert {entry.domain for entry in plain.opset_import} == {""}


@pytest.mark.parametrize("seed", range(12))
def test_latents_survive_the_file(seed: int):
    proto = random_model(seed)
    found = groups.find(model.load(proto))
    rng = np.random.default_rng(seed)
    latents = {group.name: rng.normal(size=group.size).astype(np.float32) for group in found}
    _, closed = gated(proto, latents)
    again = gates.strip(model.load(closed))
    assert {name: again[name].tolist() for name in again} == {
        n: w.tolist() for n, w in latents.items() if n in again
    }
    sited = {name for name in latents if any(t.name == f"gate/{name}" for t in closed.graph.initializer)}
    assert again.keys() == sited


@pytest.mark.parametrize("seed", range(12))
def test_a_gated_model_is_told_from_a_plain_one(seed: int):
    proto = random_model(seed)
    _, opened = gated(proto)
    assert not gates.is_gated(model.load(proto))
    assert gates.is_gated(model.load(opened)) is bool(gate_nodes(opened))


def test_stripping_a_plain_model_changes_nothing():
    loaded = model.load(conv_net())
    assert gates.strip(loaded) == {}
    assert model.to_proto(loaded) == model.to_proto(model.load(conv_net()))


@pytest.mark.parametrize("seed", range(6))
def test_gating_changes_no_output_of_random_graphs(seed: int):
    proto = random_model(seed)
    _, opened = gated(proto)
    feed = random_inputs(proto, seed)
    for ours, theirs in zip(run(opened, feed), run(proto, feed), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
