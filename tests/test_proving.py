"""The second net: what a wrong rule costs."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from small_models import conv_net
from text_nets import analysed, net, sizes

from onnxprune import gate, intake, slim, verify
from onnxprune import model as files
from onnxprune.ops.registry import REPAIRS, RULES, Node


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    monkeypatch.setattr(logging.getLogger("onnxprune"), "propagate", True)
    caplog.set_level(logging.WARNING, "onnxprune")
    return caplog


def widths(proto: onnx.ModelProto) -> dict[str, int]:
    """Output channels by weight."""
    return {tensor.name: tensor.dims[0] for tensor in proto.graph.initializer if len(tensor.dims) == 4}


def branches(op: str, *, opset: int = 18, **values: np.ndarray) -> onnx.ModelProto:
    """Two layers in a row that are understood, then one whose channels go through `h = op`, then two more."""
    return net(
        f"""net (float[N,3,6,6] x) => (float[N,2,6,6] y) {{
            a = Conv(x, w1)  b = Relu(a)  c = Conv(b, w2)  d = Relu(c)  e = Conv(d, w3)  {op}
            f = Conv(h, w4)  g = Relu(f)  y = Conv(g, w5)
        }}""",
        opset=opset,
        values=values,
        w1=(8, 3, 1, 1),
        w2=(8, 8, 1, 1),
        w3=(8, 8, 1, 1),
        w4=(8, 8, 1, 1),
        w5=(2, 8, 1, 1),
    )


def passes(node: Node) -> str:
    """A rule that lets every axis pass, however the op mixes them."""
    names = " ".join(f"x{axis}" for axis in range(len(node.shape())))
    others = ", _" * (len(node.inputs) - 1)
    return f"{names}{others} -> {names}"


@pytest.mark.parametrize(
    ("op", "kind"),
    [
        ("h = Softmax<axis=1>(e)", "Softmax"),
        ("h = LpNormalization<axis=1>(e)", "LpNormalization"),
        ("h = CumSum(e, one)", "CumSum"),
        ("h = LRN<size=3, alpha=1.0>(e)", "LRN"),
    ],
)
def test_a_wrong_rule_costs_a_group_and_never_exactness(
    op: str, kind: str, monkeypatch: pytest.MonkeyPatch, warnings: pytest.LogCaptureFixture
):
    monkeypatch.setitem(RULES, ("", kind), passes)
    proto = branches(op, one=np.asarray(1))
    assert "w3" in sizes(analysed(proto))
    result = slim(proto, ratio=0.5, multiple_of=1)
    assert list(result.frozen) == ["w3"]
    assert "not understood" in result.frozen["w3"]
    assert "group 'w3' is frozen" in warnings.text
    assert result.verified.equal
    assert widths(result.model) == {"w1": 4, "w2": 4, "w3": 8, "w4": 4, "w5": 2}
    assert verify(result.gated, result.model, seed=7).equal
    assert result.to_json()["frozen"] == dict(result.frozen)


def test_a_slice_off_by_one_is_found_out(monkeypatch: pytest.MonkeyPatch):
    rule = RULES["", "Slice"]

    def off_by_one(node: Node) -> Any:
        links = rule(node)
        first = next(same for same in links.same if same.a_index is not None)
        moved = range(first.a_index.start + 1, first.a_index.stop + 1)
        links.same = [same for same in links.same if same is not first] + [
            type(first)(first.a, first.b, moved)
        ]
        return links

    monkeypatch.setitem(RULES, ("", "Slice"), off_by_one)
    proto = net(
        """net (float[N,3,6,6] x) => (float[N,2,6,6] y) <int64[1] zero = {0}, int64[1] six = {6}, int64[1] one = {1}> {
            a = Conv(x, w1)  b = Relu(a)  c = Conv(b, w2)  s = Slice(c, zero, six, one)
            d = Conv(s, w3)  e = Conv(c, w4)  f = Add(d, e)  g = Relu(f)  y = Conv(g, w5)
        }""",
        w1=(8, 3, 1, 1),
        w2=(8, 8, 1, 1),
        w3=(8, 6, 1, 1),
        w4=(8, 8, 1, 1),
        w5=(2, 8, 1, 1),
    )
    result = slim(proto, ratio=0.5, multiple_of=1)
    assert result.frozen
    assert result.verified.equal
    assert verify(result.gated, result.model, seed=7).equal
    assert widths(result.model)["w1"] == 4


def test_two_wrong_rules_are_both_found_out(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(RULES, ("", "Softmax"), passes)
    monkeypatch.setitem(RULES, ("", "LpNormalization"), passes)
    proto = branches("h = Softmax<axis=1>(e)")
    proto.graph.node[1].CopyFrom(helper.make_node("LpNormalization", ["a"], ["b"], name="norm", axis=1))
    result = slim(proto, ratio=0.5, multiple_of=1)
    assert sorted(result.frozen) == ["w1", "w3"]
    assert widths(result.model) == {"w1": 8, "w2": 4, "w3": 8, "w4": 4, "w5": 2}


def test_a_plan_is_carried_out_without_the_group_that_was_found_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setitem(RULES, ("", "Softmax"), passes)
    proto = branches("h = Softmax<axis=1>(e)")
    first = slim(proto, ratio=0.5, multiple_of=1, save_plan=tmp_path / "plan.json")
    second = slim(proto, plan=tmp_path / "plan.json")
    assert second.model == first.model
    assert verify(gate(proto, plan=tmp_path / "plan.json").model, second.model).equal


def test_a_repair_that_fails_costs_a_group_too(monkeypatch: pytest.MonkeyPatch):
    def refuse(node: Node, kept: Any) -> None:
        raise ValueError("cannot be mended")

    monkeypatch.setitem(REPAIRS, ("", "Softmax"), refuse)
    monkeypatch.setitem(RULES, ("", "Softmax"), passes)
    result = slim(branches("h = Softmax<axis=1>(e)"), ratio=0.5, multiple_of=1)
    assert list(result.frozen) == ["w3"]
    assert result.verified.equal


def test_a_model_proves_itself_with_its_weights_apart(monkeypatch: pytest.MonkeyPatch):
    whole = slim(conv_net(16), ratio=0.5)
    monkeypatch.setattr("onnxprune.apart.LARGE", 64)
    apart = slim(conv_net(16), ratio=0.5)
    assert apart.slim_parts.weights
    assert apart.model == whole.model
    assert apart.gated == whole.gated
    assert verify(apart.gated, apart.model, seed=7).equal


def test_finding_the_culprit_reads_the_file_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    onnx.save(branches("h = LRN<size=3, alpha=1.0>(e)"), tmp_path / "model.onnx")
    read = []
    monkeypatch.setattr(files, "read", lambda path: read.append(path) or intake.read(path))
    monkeypatch.setitem(RULES, ("", "LRN"), passes)
    assert slim(tmp_path / "model.onnx", ratio=0.5, multiple_of=1).frozen
    assert read == [tmp_path / "model.onnx"]
