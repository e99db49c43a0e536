"""LSTM, GRU and RNN: torch's kernels, the loop over time, and which of the two a node gets."""

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from small import Array, draw, in_onnxruntime, in_torch, model

from onnxprune.to_torch import load
from onnxprune.to_torch.ops import recurrence

STATES = {"LSTM": 2, "GRU": 1, "RNN": 1}
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
KINDS = [("LSTM", {}), ("GRU", {"linear_before_reset": 1}), ("RNN", {})]
WAYS = {"forward": 1, "reverse": 1, "bidirectional": 2}
TIME, BATCH, WIDTH, HIDDEN = 5, 2, 4, 3


def layer(
    op: str,
    direction: str = "forward",
    *,
    bias: bool = True,
    initial: bool = True,
    lengths: list[int] | None = None,
    **attributes: Any,
) -> onnx.ModelProto:
    """One recurrent node with all its outputs; x [time, batch, width] (with `layout` 1 the batch first)."""
    ways, gates, states = WAYS[direction], GATES[op], STATES[op]
    batch_first = attributes.get("layout", 0)
    state = (BATCH, ways, HIDDEN) if batch_first else (ways, BATCH, HIDDEN)
    values = {
        "w": draw(ways, gates * HIDDEN, WIDTH, seed=1),
        "r": draw(ways, gates * HIDDEN, HIDDEN, seed=2),
        **({"b": draw(ways, 2 * gates * HIDDEN, seed=3)} if bias else {}),
        **({"lengths": np.array(lengths, np.int32)} if lengths else {}),
        **{f"s{i}": draw(*state, seed=4 + i) for i in range(states if initial else 0)},
    }
    names = ["x", *(n if n in values else "" for n in ("w", "r", "b", "lengths", "s0", "s1")[: 4 + states])]
    outputs = [f"y{i}" for i in range(1 + states)]
    node = helper.make_node(op, names, outputs, hidden_size=HIDDEN, direction=direction, **attributes)
    x = (BATCH, TIME, WIDTH) if batch_first else (TIME, BATCH, WIDTH)
    return model([node], {"x": x}, outputs, values)


def agree(proto: onnx.ModelProto, x: Array, theirs: list[Array] | None = None) -> None:
    theirs = in_onnxruntime(proto, x) if theirs is None else theirs
    for ours, expected in zip(in_torch(load(proto), x), theirs, strict=True):
        assert ours.shape == expected.shape
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)


@pytest.fixture
def no_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("a kernel of torch computes this node")

    monkeypatch.setattr(recurrence.Layer, "by_loop", refuse)


@pytest.mark.usefixtures("no_loop")
@pytest.mark.parametrize("direction", WAYS)
@pytest.mark.parametrize("initial", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("op", "facts"), KINDS)
def test_the_usual_layer_runs_in_one_kernel(
    op: str, facts: dict[str, Any], bias: bool, initial: bool, direction: str
) -> None:
    agree(layer(op, direction, bias=bias, initial=initial, **facts), draw(TIME, BATCH, WIDTH))


@pytest.mark.usefixtures("no_loop")
@pytest.mark.parametrize("direction", WAYS)
def test_a_layer_of_relu_runs_in_one_kernel(direction: str) -> None:
    names = ["Relu"] * WAYS[direction]
    agree(layer("RNN", direction, activations=names), draw(TIME, BATCH, WIDTH))


@pytest.mark.parametrize("direction", WAYS)
@pytest.mark.parametrize("lengths", [None, [4, 2]])
@pytest.mark.parametrize(("op", "facts"), [*KINDS, ("GRU", {})])
def test_with_layout_1_the_batch_comes_first(
    op: str, facts: dict[str, Any], lengths: list[int] | None, direction: str
) -> None:
    """onnxruntime knows layout 0 alone: its answer to that, turned."""
    x = draw(TIME, BATCH, WIDTH)
    first = layer(op, direction, lengths=lengths, **facts)
    y, *states = in_onnxruntime(first, x)
    turned = layer(op, direction, lengths=lengths, layout=1, **facts)
    for mine, other in zip(turned.graph.initializer, first.graph.initializer, strict=True):
        if mine.name.startswith("s"):
            value = onnx.numpy_helper.to_array(other).transpose(1, 0, 2)
            mine.CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(value), mine.name))
    agree(turned, x.transpose(1, 0, 2), [y.transpose(2, 0, 1, 3), *(s.transpose(1, 0, 2) for s in states)])


UNUSUAL = [
    ("LSTM", {"activations": ["HardSigmoid", "Tanh", "Softsign"], "activation_alpha": [0.3]}),
    ("LSTM", {"clip": 0.5}),
    ("LSTM", {"input_forget": 1}),
    ("GRU", {"linear_before_reset": 0}),
    ("GRU", {"linear_before_reset": 1, "clip": 0.5}),
    ("RNN", {"activations": ["LeakyRelu"], "activation_alpha": [0.2]}),
]


@pytest.mark.parametrize(("op", "facts"), UNUSUAL, ids=str)
def test_what_no_kernel_computes_runs_in_the_loop(op: str, facts: dict[str, Any]) -> None:
    agree(layer(op, **facts), draw(TIME, BATCH, WIDTH))


def gradients(proto: onnx.ModelProto) -> dict[str, torch.Tensor]:
    """Of every weight, for a sum in which no entry of any output counts like another."""
    module = load(proto)
    total = torch.zeros(())
    for i, y in enumerate(module(torch.from_numpy(draw(TIME, BATCH, WIDTH)))):
        total = total + (y * torch.from_numpy(draw(*y.shape, seed=10 + i))).sum()
    total.backward()
    return {name: p.grad for name, p in module.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("direction", WAYS)
@pytest.mark.parametrize(("op", "facts"), KINDS)
def test_kernel_and_loop_have_the_same_gradients(op: str, facts: dict[str, Any], direction: str) -> None:
    by_kernel = gradients(layer(op, direction, **facts))
    by_loop = gradients(layer(op, direction, lengths=[TIME, TIME], **facts))
    assert by_kernel.keys() == by_loop.keys() >= {"w", "r", "b", "s0"}
    for name, gradient in by_kernel.items():
        assert gradient.abs().max() > 0
        torch.testing.assert_close(gradient, by_loop[name], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("op", "facts"), [*KINDS, ("GRU", {})])
def test_a_recurrent_layer_compiles_whole(op: str, facts: dict[str, Any]) -> None:
    module = load(layer(op, "bidirectional", **facts))
    x = torch.from_numpy(draw(TIME, BATCH, WIDTH))
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), module(x))
    compiled(x)[0].sum().backward()
    assert all(p.grad is not None for p in module.parameters())


@pytest.mark.parametrize(("op", "facts"), KINDS)
def test_a_recurrent_layer_exports_as_one_op(op: str, facts: dict[str, Any]) -> None:
    module = load(layer(op, "bidirectional", **facts))
    x = torch.from_numpy(draw(TIME, BATCH, WIDTH))
    exported = torch.export.export(module, (x,))
    torch.testing.assert_close(exported.module()(x), module(x))
    assert sum(f"aten.{op.lower()}" in str(n.target) for n in exported.graph.nodes) == 1
