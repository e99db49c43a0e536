"""`slim` with calibration inputs, as a user calls it."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from onnx import numpy_helper
from small_models import conv_net, images
from strategies import describe, models
from text_nets import analysed, net
from torch_nets import Attentive, torch_export

from onnxprune import gate, gates, slim, verify
from onnxprune.calibration import Calibration
from onnxprune.errors import PlanError
from onnxprune.recovery import rebuild, sensitivity, store
from onnxprune.recovery.discrepancy import discrepancies, heads
from onnxprune.recovery.oneshot import epochs_that_pay
from onnxprune.session import open_session, random_inputs
from onnxprune.slimming import Slimmed


def samples(proto: onnx.ModelProto, count: int = 48, **sizes: int) -> dict[str, np.ndarray]:
    return random_inputs(proto, batch=count, seed=0, dynamic=sizes)


def same_weights(a: onnx.ModelProto, b: onnx.ModelProto) -> bool:
    return a.SerializeToString(deterministic=True) == b.SerializeToString(deterministic=True)


def found_apart(proto: onnx.ModelProto, slim_one: onnx.ModelProto, feeds: Mapping[str, np.ndarray]) -> float:
    wanted, made = (open_session(p).run(None, dict(feeds)) for p in (proto, slim_one))
    return float(discrepancies(heads(wanted), made, wanted).mean())


def repaired(proto: onnx.ModelProto, data: dict[str, np.ndarray], **options: Any) -> Slimmed:
    result = slim(proto, ratio=0.5, calibration=Calibration(data), **{"distill": 0, **options})
    assert result.verified.equal and verify(result.gated, result.model).equal
    onnx.checker.check_model(result.model)
    return result


# ---- on any graph


@settings(max_examples=8)
@given(models(most=6))
def test_any_graph_that_can_be_pruned_can_be_repaired(proto: onnx.ModelProto) -> None:
    try:
        plain = slim(proto, ratio=0.5, scope="global")
    except PlanError:
        return
    result = slim(proto, ratio=0.5, calibration=Calibration(samples(proto, 24)), distill=0)
    assert result.verified.equal and dict(result.frozen) == dict(plain.frozen), describe(proto)
    assert result.recovery["repaired"] <= result.recovery["cut"], describe(proto)
    assert abs(result.kept["channels"] - 0.5) <= abs(plain.kept["channels"] - 0.5) + 0.15, describe(proto)


# ---- what it is good for


@pytest.mark.parametrize("scope", ["layer", "global", "sensitivity"])
@pytest.mark.parametrize("criterion", ["reconstruction", "wanda", "l2"])
def test_repaired_is_nearer_than_cut(scope: str, criterion: str):
    result = repaired(conv_net(16), {"image": images(256)}, scope=scope, criterion=criterion)
    assert 0 < result.recovery["repaired"] < 0.6 * result.recovery["cut"]


def test_a_transformer_is_repaired():
    proto = torch_export(Attentive, input_names=["x"], dynamic_axes={"x": {0: "n"}})
    result = repaired(proto, {"x": np.random.default_rng(0).normal(size=(128, 6, 16)).astype(np.float32)})
    assert 0 < result.recovery["repaired"] < 0.3 * result.recovery["cut"]


def test_what_is_said_of_the_result_is_true_of_the_file():
    """All samples are alike, so that those held out are those that it is fitted on."""
    proto, data = conv_net(16), np.tile(images(8), (16, 1, 1, 1))
    result = slim(proto, ratio=0.5, calibration=Calibration({"image": data}), distill=0)
    assert result.recovery["repaired"] == pytest.approx(found_apart(proto, result.model, {"image": data}), rel=0.3)
    assert result.recovery["repaired"] < result.recovery["cut"]


def test_biases_bring_back_the_means_of_outputs_and_statistics_the_variances_too():
    proto, data = conv_net(16), {"image": images(512)}
    told = {"ratio": 0.5, "calibration": Calibration(data), "criterion": "l2", "scope": "layer", "distill": 0}
    before, *after = (
        np.asarray(open_session(model).run(None, data)[0])
        for model in (proto, *(slim(proto, repair=r, **told).model for r in ("none", "biases", "statistics")))
    )
    mean, spread = (
        [float(np.abs(of(found, axis=0) - of(before, axis=0)).max()) for found in after] for of in (np.mean, np.std)
    )
    assert max(mean[1:]) < 0.05 * mean[0]
    assert spread[2] < 0.2 * min(spread[:2])


def test_a_repair_that_is_none_is_named():
    with pytest.raises(PlanError, match="repair 'bias' is unknown; choose one of auto, weights, statistics, biases"):
        slim(conv_net(16), ratio=0.5, calibration=Calibration({"image": images(64)}), repair="bias")


def test_without_repair_the_weights_are_those_of_the_model():
    proto = conv_net(16)
    result = repaired(proto, {"image": images(64)}, repair="none")
    assert result.recovery.keys() == {"cut"}
    plan = {entry["name"]: entry["kept"] for entry in result.plan["groups"]}
    first = plan[analysed(proto).groups[0].name]
    before, after = (
        {t.name: numpy_helper.to_array(t) for t in p.graph.initializer} for p in (proto, result.model)
    )
    assert np.array_equal(after["first.weight"], before["first.weight"][first])
    assert np.array_equal(after["second.weight"], before["second.weight"][np.ix_(after_rows(plan), first)])


def after_rows(plan: Mapping[str, list[int]]) -> list[int]:
    return list(plan.values())[1]


def test_the_same_seed_gives_the_same_file():
    data = {"image": images(96)}
    first, again = (repaired(conv_net(16), data, seed=3) for _ in range(2))
    assert same_weights(first.model, again.model) and first.recovery == again.recovery


# ---- what others have decided


def test_a_plan_is_kept_and_repaired_where_that_is_asked(tmp_path: Any):
    proto, data, path = conv_net(16), {"image": images(128)}, tmp_path / "plan.json"
    plain = slim(proto, ratio=0.5, save_plan=path)
    told = slim(proto, plan=path, calibration=Calibration(data))
    assert same_weights(told.model, plain.model) and not told.recovery
    better = slim(proto, plan=path, calibration=Calibration(data), repair="weights")
    assert better.plan == plain.plan and better.verified.equal
    assert better.recovery["repaired"] < 0.7 * better.recovery["cut"]


@pytest.mark.parametrize("repair", ["auto", "biases", "weights"])
def test_trained_gates_decide(repair: str):
    gated = gate(conv_net(16)).parts
    name = next(t.name for t in gated.light.graph.initializer if t.name.startswith(gates.PREFIX))
    latents = np.ones(16, dtype=np.float32)
    latents[[1, 5, 6, 11]] = -0.5
    gated.put({name: latents})
    proto = gated.whole()
    result = slim(proto, calibration=Calibration({"image": images(128)}), repair=repair)
    entry = next(e for e in result.plan["groups"] if gates.PREFIX + e["name"] == name)
    assert entry["kept"] == np.flatnonzero(latents > 0).tolist()
    assert bool(result.recovery) == (repair != "auto")
    assert same_weights(result.model, slim(proto).model) == (repair == "auto")


def test_what_is_to_be_kept_is_kept_whole():
    groups = [group.name for group in analysed(conv_net(16))]
    result = repaired(conv_net(16), {"image": images(64)}, keep=(groups[0],))
    assert [len(entry["kept"]) for entry in result.plan["groups"] if entry["name"] == groups[0]] in ([], [16])


# ---- models of all kinds


def test_a_model_that_prescribes_its_batch():
    proto = conv_net(8)
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 3
    result = repaired(proto, {"image": images(200)})
    assert result.recovery["repaired"] < result.recovery["cut"]


def test_several_inputs_and_outputs():
    text = """net (float[N,6] a, float[N,5] b) => (float[N,4] p, float[N,3,1] q) {
        c = MatMul(a, u)  d = MatMul(b, v)  e = Add(c, d)  f = Relu(e)  g = Gemm(f, w, wb)  p = Softmax(g)
        h = MatMul(f, z)  k = Tanh(h)  m = MatMul(k, s)  axes = Constant<value_ints=[2]>()  q = Unsqueeze(m, axes) }"""
    proto = net(text, u=(6, 16), v=(5, 16), w=(16, 4), wb=(4,), z=(16, 8), s=(8, 3))
    result = repaired(proto, samples(proto, 256))
    assert result.recovery["repaired"] < 0.6 * result.recovery["cut"]


def test_tokens():
    text = """net (int64[N,7] ids) => (float[N,7,4] y) {
        e = Gather(table, ids)  h = MatMul(e, v)  r = Relu(h)  y = MatMul(r, w) }"""
    proto = net(text, table=(40, 12), v=(12, 16), w=(16, 4))
    ids = np.random.default_rng(0).integers(0, 40, size=(256, 7))
    result = repaired(proto, {"ids": ids})
    assert result.recovery["repaired"] < 0.8 * result.recovery["cut"]


@pytest.mark.parametrize("dtype", ["float16", "double"])
def test_other_float_types(dtype: str):
    numpy_type = np.float16 if dtype == "float16" else np.float64
    rng = np.random.default_rng(0)
    text = f"""net ({dtype}[N,6] x) => ({dtype}[N,3] y) {{ h = MatMul(x, v)  r = Relu(h)  y = Gemm(r, w, b) }}"""
    values = {n: rng.normal(0, 0.5, s).astype(numpy_type) for n, s in (("v", (6, 16)), ("w", (16, 3)), ("b", (3,)))}
    result = repaired(net(text, values=values), {"x": rng.normal(size=(256, 6)).astype(numpy_type)})
    assert result.recovery["repaired"] < 0.8 * result.recovery["cut"]
    assert {t.data_type for t in result.model.graph.initializer} == {
        onnx.helper.np_dtype_to_tensor_dtype(np.dtype(numpy_type))
    }


BODIES = """net (float[N,6] x) => (float[N,3] y) {
    h = MatMul(x, v)  r = Relu(h)
    m = ReduceMax<keepdims=0>(x)  zero = Constant<value_float=0.0>()  c = Greater(m, zero)
    t = If (c) <
        then_branch = g1 () => (a) { a = Tanh(r) },
        else_branch = g2 () => (b) { b = Sigmoid(r) }>
    y = Gemm(t, w, wb) }"""


def test_a_model_with_branches():
    proto = net(BODIES, v=(6, 16), w=(16, 3), wb=(3,))
    result = repaired(proto, samples(proto, 128))
    assert result.recovery["repaired"] <= result.recovery["cut"]


def test_groups_that_no_product_reads():
    text = """net (float[N,3,6,6] x) => (float[N,1,6,6] y) {
        h = Conv(x, v)  r = Relu(h)  axes = Constant<value_ints=[1]>()  y = ReduceL2(r, axes) }"""
    proto = net(text, v=(8, 3, 1, 1))
    result = repaired(proto, samples(proto, 64))
    assert result.recovery["repaired"] == result.recovery["cut"] > 0
    assert result.kept["channels"] == 0.5


def test_a_model_whose_outputs_say_nothing():
    text = """net (float[N,6] x) => (int64[N] y) {
        h = MatMul(x, v)  r = Relu(h)  l = MatMul(r, w)  y = ArgMax<axis=1, keepdims=0>(l) }"""
    proto = net(text, v=(6, 16), w=(16, 3))
    result = repaired(proto, samples(proto, 64))
    assert result.recovery == {"cut": 0, "repaired": 0} and result.kept["channels"] == 0.5


def test_activations_that_are_no_numbers_on_some_inputs():
    text = """net (float[N,6] x) => (float[N,3] y, float[N,16] z) {
        l = Log(x)  h = MatMul(l, v)  r = Relu(h)  y = MatMul(r, w)
        g = MatMul(x, u)  k = Relu(g)  z = MatMul(k, s) }"""
    proto = net(text, v=(6, 16), w=(16, 3), u=(6, 16), s=(16, 16))
    x = np.random.default_rng(0).uniform(0.1, 2, size=(64, 6)).astype(np.float32)
    x[17, 2] = -1
    result = slim(proto, ratio=0.5, calibration=Calibration({"x": x}), feeds=lambda model: iter([{"x": x[:2]}]))
    assert all(np.isfinite(numpy_helper.to_array(t)).all() for t in result.model.graph.initializer)
    assert result.kept["channels"] == 0.5


# ---- room


def test_what_lies_on_disk_gives_the_same_as_what_lies_in_memory(monkeypatch: pytest.MonkeyPatch):
    data = {"image": images(96)}
    before = repaired(conv_net(16), data)
    stores: list[store.Store] = []

    class Small(store.Store):
        def __init__(self) -> None:
            super().__init__(room=20_000)
            stores.append(self)

    for module in (sensitivity, rebuild):
        monkeypatch.setattr(module, "Store", Small)
    after = repaired(conv_net(16), data)
    assert same_weights(before.model, after.model)
    assert len(stores) > 2 and all(s.written and s.used <= 20_000 for s in stores)
    assert not any(s.folder is not None and s.folder.exists() for s in stores)


# ---- how long an unasked distillation goes


def test_it_is_longer_where_less_is_left_and_the_network_deeper():
    small = 1024, 4e7, 8e5  # ResNet-20
    assert epochs_that_pay(*small, 0.5, 20) == 40
    assert epochs_that_pay(*small, 0.7, 20) < 40 < epochs_that_pay(*small, 0.3, 20)
    assert epochs_that_pay(*small, 0.5, 57) == 57
    assert 57 > epochs_that_pay(3 * 1024, 4e7, 8e5, 0.5, 57) > 50  # what it may cost comes first


def test_it_is_shorter_for_large_models_and_not_begun_for_the_largest():
    resnet18, resnet50 = (1.8e9, 7e6), (4.1e9, 4e7)
    assert [epochs_that_pay(samples, *resnet18, 0.5, 20) for samples in (64, 256, 1024)] == [40, 14, 3]
    assert [epochs_that_pay(samples, *resnet50, 0.5, 54) for samples in (64, 256, 1024)] == [25, 6, 1]
    assert [epochs_that_pay(samples, 1.76e10, 5e7, 0.5, 96) for samples in (64, 256, 1024)] == [0, 0, 0]  # ViT-B/16
    assert epochs_that_pay(64, 0, 0, 0.5, 2) == 40  # of a model without products


def test_networks_of_few_products_pay_for_what_they_move():
    mobile = 1024, 3e8, 2.7e7  # MobileNetV2
    assert 6 <= epochs_that_pay(*mobile, 0.5, 53) < epochs_that_pay(*mobile[:2], 0, 0.5, 53) / 2


# ---- what cannot be asked


@pytest.mark.parametrize("options", [{"repair": "statistics"}, {"scope": "sensitivity"}, {"distill": 1}])
def test_what_takes_inputs_says_so(options: dict[str, Any]):
    with pytest.raises(PlanError, match="--data"):
        slim(conv_net(), ratio=0.5, **options)


@pytest.mark.parametrize("scope", ["layer", "global", "sensitivity"])
@pytest.mark.parametrize("data", [None, {"image": images(16)}])
def test_an_unknown_criterion_is_told(scope: str, data: dict[str, np.ndarray] | None):
    if scope == "sensitivity" and data is None:
        return
    with pytest.raises(PlanError, match="criterion 'best' is unknown"):
        calibration = Calibration(data) if data else None
        slim(conv_net(), ratio=0.5, criterion="best", scope=scope, calibration=calibration)
