"""A plan is for a network, not for a file: it replays on every export of it, and on nothing else."""

import json
import logging
from collections.abc import Callable
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import onnx
import onnxruntime
import pytest
from disguise import disguised
from hypothesis import given, settings
from small_models import conv_net
from strategies import describe, models, plans, random_inputs, random_model, random_plan
from text_nets import analysed, net

from onnxprune import gate, groups, model, rewrite, slim
from onnxprune.errors import PlanError
from onnxprune.groups import Groups
from onnxprune.plan import Plan, check, load
from onnxprune.structure import structure

Decide = Callable[[Groups], Plan]


def slimmed(proto: onnx.ModelProto, decide: Decide) -> onnx.ModelProto:
    loaded = model.load(proto)
    found = groups.find(loaded)
    rewrite.apply(found, check(decide(found), found))
    return model.to_proto(loaded)


def run(proto: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(proto.SerializeToString(), options).run(None, feeds)


def random_half(found: Groups) -> Plan:
    """Half of each group's channels, drawn at random."""
    rng = np.random.default_rng(7)
    return Plan({g.name: np.sort(rng.permutation(g.size)[: (g.size + 1) // 2]) for g in found})


def saved(proto: onnx.ModelProto, decide: Decide, folder: Path) -> Path:
    found = analysed(proto)
    path = folder / "plan.json"
    path.write_text(json.dumps(decide(found).to_json(found)))
    return path


def replays(proto: onnx.ModelProto, seed: int, decide: Decide, folder: Path) -> None:
    """The plan replays on a disguised file, and both slim models are one function."""
    again = disguised(proto, seed)
    path = saved(proto, decide, folder)
    feeds = random_inputs(proto, seed)
    ours = run(slimmed(proto, decide), feeds)
    renamed = {again.names[name]: value for name, value in feeds.items()}
    theirs = run(slimmed(again.model, lambda found: load(path, found)), renamed)
    for a, b in zip(ours, theirs, strict=True):
        assert a.shape == b.shape, describe(proto)
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * float(np.abs(a).max(initial=1e-9)))


@settings(max_examples=50)
@given(models(), st.integers(0, 99), st.data())
def test_a_plan_replays_under_other_names_and_in_another_order(
    tmp_path_factory: pytest.TempPathFactory, proto: onnx.ModelProto, seed: int, data: st.DataObject
):
    plan = data.draw(plans([(g.name, g.size) for g in analysed(proto)]))
    kept = {name: np.asarray(indices) for name, indices in plan.items()}
    replays(proto, seed, lambda _: Plan(kept), tmp_path_factory.mktemp("plans"))


@pytest.mark.slow
@pytest.mark.parametrize("start", range(0, 2000, 250))
def test_plans_of_thousands_of_random_graphs_replay(start: int, tmp_path: Path):
    """Or are refused, once in a while: a disguise may hide what may go, and the plan then says which group."""
    refused = []
    for seed in range(start, start + 250):
        proto = random_model(seed)
        plan = random_plan(seed, [(g.name, g.size) for g in analysed(proto)])
        kept = {name: np.asarray(indices) for name, indices in plan.items()}
        try:
            replays(proto, seed, lambda _, kept=kept: Plan(kept), tmp_path)
        except PlanError as error:
            assert "which this export of the network keeps whole" in str(error), f"seed {seed}"
            refused.append(seed)
    assert len(refused) <= 2, refused


# ---- the same network


def test_a_plan_of_the_gated_file_replays_on_the_plain_one_and_back(tmp_path: Path):
    plain = conv_net(8)
    gated = gate(plain).model
    path = saved(plain, random_half, tmp_path)
    slim_plain = slim(plain, plan=path, save_plan=tmp_path / "again.json")
    slim_gated = slim(gated, plan=path)
    assert slim_plain.model.graph == slim_gated.model.graph
    assert slim(gated, plan=tmp_path / "again.json").model.graph == slim_plain.model.graph
    assert slim(gated, ratio=0.5).plan == slim(plain, ratio=0.5).plan


def test_the_gated_side_of_a_renamed_model_has_the_same_gates_closed(tmp_path: Path):
    """`gate --plan` and `slim --plan` are the two sides of the law, on a re-export as well."""
    proto = conv_net(8)
    path = saved(proto, random_half, tmp_path)
    again = disguised(proto, 3)
    feeds = random_inputs(proto, 0)
    renamed = {again.names[name]: value for name, value in feeds.items()}
    (ours,), (theirs,) = run(gate(proto, plan=path).model, feeds), run(gate(again.model, plan=path).model, renamed)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_more_training_changes_nothing():
    before, after = (structure(analysed(conv_net(8, seed=seed))) for seed in (0, 7))
    assert before.key == after.key
    assert [g.key for g in before.groups.values()] == [g.key for g in after.groups.values()]


def product(transposed: bool) -> onnx.ModelProto:
    """A linear layer as Gemm with the weight as torch keeps it, or as MatMul and Add."""
    rng = np.random.default_rng(0)
    weights = {name: rng.normal(size=shape).astype(np.float32) for name, shape in [("v", (8, 3)), ("w", (2, 8))]}
    if transposed:
        text = "net (float[N,3] x) => (float[N,2] y) { a = Gemm<transB=1>(x, v, b)  y = Gemm<transB=1>(a, w) }"
    else:
        text = "net (float[N,3] x) => (float[N,2] y) { m = MatMul(x, v)  a = Add(b, m)  y = MatMul(a, w) }"
        weights = {name: np.ascontiguousarray(weight.T) for name, weight in weights.items()}
    return net(text, values=weights | {"b": np.ones(8, np.float32)})


def test_a_linear_layer_is_one_however_it_is_written(tmp_path: Path):
    path = saved(product(True), random_half, tmp_path)
    feeds = random_inputs(product(True), 0)
    (ours,) = run(slimmed(product(True), random_half), feeds)
    (theirs,) = run(slimmed(product(False), lambda found: load(path, found)), feeds)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


GELU = [
    "a = Conv(x, v)  b = Gelu(a)  y = Conv(b, w)",
    """a = Conv(x, v)  r = Constant<value_float = 1.4142135>()  o = Constant<value_float = 1.0>()
       h = Constant<value_float = 0.5>()  d = Div(a, r)  e = Erf(d)  f = Add(e, o)  g = Mul(a, f)  b = Mul(g, h)
       y = Conv(b, w)""",
]


def test_an_activation_is_one_however_it_is_written(tmp_path: Path):
    protos = [
        net(f"net (float[N,3,4,4] x) => (float[N,2,4,4] y) {{ {body} }}", opset=20, v=(8, 3, 1, 1), w=(2, 8, 1, 1))
        for body in GELU
    ]
    path = saved(protos[0], random_half, tmp_path)
    assert list(load(path, analysed(protos[1])).kept) == ["v"]


# ---- another network

TWO = "a = Conv(x, v1)  b = Conv(a, v2)  y = Conv(b, last)"
SKIPPED = "a = Conv(x, v1)  b = Conv(a, v2)  c = Add(a, b)  d = Conv(c, v3)  e = Add({}, d)  y = Conv(e, last)"
JOINED = "a = Conv(x, v1)  b = Conv(a, v2)  c = Concat<axis = 1>({})  y = Conv(c, wide)"
SQUARE = {"v1": (8, 3, 1, 1), "v2": (8, 8, 1, 1), "v3": (8, 8, 1, 1), "last": (2, 8, 1, 1), "wide": (2, 16, 1, 1)}


def image_net(body: str, **shapes: tuple[int, ...]) -> onnx.ModelProto:
    proto = net(f"net (float[N,3,4,4] x) => (float[N,2,h,w] y) {{ {body} }}", **{**SQUARE, **shapes})
    read = {name for node in proto.graph.node for name in node.input}
    for tensor in [tensor for tensor in proto.graph.initializer if tensor.name not in read]:
        proto.graph.initializer.remove(tensor)
    return proto


PAIRS = {
    "deeper": (TWO, {}, "a = Conv(x, v1)  b = Conv(a, v2)  c = Conv(b, v3)  y = Conv(c, last)", {}),
    "wider": (TWO, {}, TWO, {"v1": (9, 3, 1, 1), "v2": (8, 9, 1, 1)}),
    "widths in another order": (
        TWO,
        {"v1": (6, 3, 1, 1), "v2": (8, 6, 1, 1)},
        TWO,
        {"v1": (8, 3, 1, 1), "v2": (6, 8, 1, 1), "last": (2, 6, 1, 1)},
    ),
    "layers in another order": (
        "a = Conv(x, v1)  b = Conv(a, v2)  c = Conv<pads = [1, 1, 1, 1]>(b, v3)  y = Conv(c, last)",
        {"v3": (8, 8, 3, 3)},
        "a = Conv(x, v1)  b = Conv<pads = [1, 1, 1, 1]>(a, v3)  c = Conv(b, v2)  y = Conv(c, last)",
        {"v3": (8, 8, 3, 3)},
    ),
    "another branch": (TWO, {}, "a = Conv(x, v1)  b = Conv(a, v2)  c = Add(a, b)  y = Conv(c, last)", {}),
    "from another place": (SKIPPED.format("c"), {}, SKIPPED.format("a"), {}),
    "joined in another order": (JOINED.format("a, b"), {}, JOINED.format("b, a"), {}),
    "other kernels": (TWO, {}, TWO, {"v2": (8, 8, 3, 3)}),
    "other strides": (TWO, {}, TWO.replace("b = Conv", "b = Conv<strides = [2, 2]>"), {}),
    "another head": (TWO, {}, TWO + "  z = Conv(b, head)", {"head": (2, 8, 1, 1)}),
    "shuffled": (
        "a = Conv(x, v1)  y = Conv(a, last)",
        {},
        """a = Conv(x, v1)  s = Constant<value_ints = [0, 2, 4, 4, 4]>()  t = Constant<value_ints = [0, 8, 4, 4]>()
           r = Reshape(a, s)  p = Transpose<perm = [0, 2, 1, 3, 4]>(r)  q = Reshape(p, t)  y = Conv(q, last)""",
        {},
    ),
}


@pytest.mark.parametrize("way", ["there", "back"])
@pytest.mark.parametrize("pair", PAIRS)
def test_a_plan_of_another_network_is_refused(pair: str, way: str, tmp_path: Path):
    one, its, other, others = PAIRS[pair]
    ours, theirs = image_net(one, **its), image_net(other, **others)
    if pair == "another head":
        theirs.graph.output.add().name = "z"
        theirs.graph.output[1].type.CopyFrom(theirs.graph.output[0].type)
    if way == "back":
        ours, theirs = theirs, ours
    path = saved(ours, random_half, tmp_path)
    assert load(path, analysed(ours)).kept
    with pytest.raises(PlanError, match=r"was made for another model: .* (none like it|layers|are others)") as refused:
        load(path, analysed(theirs))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("pair", "saying"),
    [
        ("deeper", "the model has a group of 8 channels 'v2' on weights 2 of 8x8, the plan none like it"),
        ("wider", "the plan has a group of 8 channels 'v1' on weights 8x3, 8x8, the model none like it"),
        ("from another place", "other layers follow the 8 channels of 'v1'"),
    ],
)
def test_a_refusal_says_what_differs_first(pair: str, saying: str, tmp_path: Path):
    one, its, other, others = PAIRS[pair]
    path = saved(image_net(one, **its), random_half, tmp_path)
    with pytest.raises(PlanError, match=saying):
        load(path, analysed(image_net(other, **others)))


# ---- parts that stand alike


def towers(seed: int = 0) -> onnx.ModelProto:
    return net(
        """net (float[N,3,4,4] x) => (float[N,2,4,4] y) {
            a = Conv(x, left1)  b = Relu(a)  c = Conv(b, left2)
            d = Conv(x, right1)  e = Relu(d)  f = Conv(e, right2)
            g = Add(c, f)  y = Conv(g, last)
        }""",
        left1=(6, 3, 1, 1), left2=(4, 6, 1, 1), right1=(6, 3, 1, 1), right2=(4, 6, 1, 1), last=(2, 4, 1, 1), seed=seed,
    )  # fmt: skip


def uneven(found: Groups) -> Plan:
    return Plan({"left1": np.asarray([0, 5]), "right1": np.asarray([1, 2, 3])})


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    monkeypatch.setattr(logging.getLogger("onnxprune"), "propagate", True)
    caplog.set_level(logging.WARNING, "onnxprune")
    return caplog


@pytest.mark.parametrize("seed", range(8))
def test_parts_that_stand_alike_are_known_by_their_weights(
    seed: int, tmp_path: Path, warnings: pytest.LogCaptureFixture
):
    replays(towers(), seed, uneven, tmp_path)
    assert not warnings.records


def test_groups_on_no_weight_are_known_by_their_constants(tmp_path: Path):
    """Tables that are read by constant indices: nothing that computes with weights stands around their rows."""
    proto = net(
        """net (float[N,1100,64] x) => (float[N,1100,64] y) {
            a = Gather<axis = 0>(left, rows)  b = Gather<axis = 0>(right, rows)  c = Neg(a)  d = Add(c, b)
            y = Add(x, d)
        }""",
        left=(100, 64), right=(100, 64), values={"rows": np.arange(1100) % 50},
    )  # fmt: skip
    assert [group.size for group in analysed(proto)] == [50, 50]  # the rows that nobody reads
    alike = structure(analysed(proto)).groups.values()
    assert len({identity.key for identity in alike}) == 1
    assert len({tuple(identity.norms()) for identity in alike}) == 2
    for seed in range(4):
        replays(proto, seed, random_half, tmp_path)


def test_after_more_training_they_are_known_by_their_names(
    tmp_path: Path, warnings: pytest.LogCaptureFixture
):
    path = saved(towers(), uneven, tmp_path)
    trained = towers(seed=1)
    trained.graph.node.reverse()
    trained.graph.node.sort(key=lambda node: "abdegcfy".index(node.output[0]) if node.output[0] in "gy" else 0)
    kept = load(path, analysed(towers(seed=1))).kept
    assert {name: indices.tolist() for name, indices in kept.items()} == {
        "left1": [0, 5],
        "right1": [1, 2, 3],
        "left2": [0, 1, 2, 3],
    }
    assert not warnings.records


def test_with_other_weights_and_other_names_they_are_taken_in_order_and_said_so(
    tmp_path: Path, warnings: pytest.LogCaptureFixture
):
    path = saved(towers(), uneven, tmp_path)
    trained = towers(seed=1)
    for tensor in trained.graph.initializer:
        for node in trained.graph.node:
            for k, name in enumerate(node.input):
                if name == tensor.name:
                    node.input[k] = f"w_{name[::-1]}"
        tensor.name = f"w_{tensor.name[::-1]}"
    kept = load(path, analysed(trained)).kept
    assert kept["w_1tfel"].tolist() == [0, 5]
    assert "cannot tell 'w_1tfel', 'w_1thgir' apart" in warnings.text


# ---- channels


def test_channels_are_counted_along_the_first_weight_not_by_the_files_order(tmp_path: Path):
    """A shuffle lies between two weights of one group; which of them the file has first must not matter."""
    text = """net (float[N,3,4,4] x, float[N,5,4,4] z) => (float[N,2,4,4] y) <int64[6] order = {{3, 0, 4, 1, 5, 2}}> {{
        {}  c = Gather<axis = 1>(a, order)  d = Add(b, c)  y = Conv(d, last)
    }}"""
    steps = ["a = Conv(x, left)", "b = Conv(z, right)"]
    shapes = {"left": (6, 3, 1, 1), "right": (6, 5, 1, 1), "last": (2, 6, 1, 1)}
    one, other = (net(text.format("  ".join(order)), **shapes) for order in (steps, steps[::-1]))
    path = saved(one, random_half, tmp_path)
    feeds = random_inputs(one, 0)
    np.testing.assert_allclose(
        run(slimmed(one, random_half), feeds)[0],
        run(slimmed(other, lambda found: load(path, found)), feeds)[0],
        rtol=1e-5, atol=1e-6,
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(6))
def test_channels_are_counted_by_content_where_all_weights_stand_alike(seed: int, tmp_path: Path):
    """`left` and `right` meet in two orders, and so do `up` and `down`: only their entries tell them apart."""
    proto = net(
        """net (float[N,3,4,4] x) => (float[N,2,4,4] y) <int64[6] order = {3, 0, 4, 1, 5, 2}> {
            a = Conv(x, left)  b = Conv(x, right)  c = Gather<axis = 1>(a, order)  d = Add(b, c)
            e = Conv(d, up)  f = Gather<axis = 1>(d, order)  g = Conv(f, down)  y = Add(e, g)
        }""",
        left=(6, 3, 1, 1), right=(6, 3, 1, 1), up=(2, 6, 1, 1), down=(2, 6, 1, 1),
    )  # fmt: skip
    replays(proto, seed, random_half, tmp_path)


def test_a_networks_key_is_short_and_every_group_has_one():
    found = analysed(conv_net(8))
    known = structure(found)
    assert len(known.key) == 16
    assert set(known.groups) == {group.name for group in found}
    assert len({identity.key for identity in known.groups.values()}) == len(found.groups)
    for identity in known.groups.values():
        assert sorted(identity.order.tolist()) == list(range(len(identity.order)))


# ---- exporters

WAYS = {
    "other names": {"input_names": ["picture"], "output_names": ["score"], "keep_initializers_as_inputs": True},
    "any batch": {"input_names": ["x"], "dynamic_axes": {"x": {0: "batch"}}},
    "nothing folded": {"training": 1, "do_constant_folding": False},
    "an old opset": {"opset_version": 13},
    "a newer opset": {"opset_version": 20},
}


def replays_on(network: str, tmp_path: Path, **options: object) -> None:
    """A plan of the usual export replays on another one, and both slim models are one function."""
    import torch
    import torch_nets

    if options.get("training") == 1:
        options["training"] = torch.onnx.TrainingMode.PRESERVE
    made = getattr(torch_nets, network)
    usual, other = torch_nets.torch_export(made), torch_nets.torch_export(made, **options)
    assert len(analysed(usual).groups) >= 5
    path = saved(usual, random_half, tmp_path)
    sample = np.random.default_rng(0).normal(size=made.sample).astype(np.float32)
    (ours,), (theirs,) = (
        run(slim_model, {slim_model.graph.input[0].name: sample})
        for slim_model in (slimmed(usual, random_half), slimmed(other, lambda found: load(path, found)))
    )
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5 * np.abs(ours).max())


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("network", ["Residual", "Attentive"])
def test_a_plan_replays_on_another_export(network: str, way: str, tmp_path: Path):
    replays_on(network, tmp_path, **WAYS[way])


@pytest.mark.slow
@pytest.mark.parametrize("network", ["Residual", "Attentive"])
def test_a_plan_replays_on_the_other_exporters_file(network: str, tmp_path: Path):
    replays_on(network, tmp_path, dynamo=True)
