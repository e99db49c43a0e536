"""Sequences whose tensors are known become these tensors."""

import numpy as np
import onnx
import onnxruntime
import pytest
from strategies import random_inputs
from text_nets import analysed, net, sizes

from onnxprune import model
from onnxprune.prepare import prepare


def through(op: str, *, opset: int = 13, out: str = "float[A,B]", **values: object) -> onnx.ModelProto:
    """Six channels a of a layer, and the op to y."""
    text = f"net (float[N,3] x) => ({out} y) {{ a = MatMul(x, w)  {op} }}"
    return net(text, opset=opset, values={k: np.asarray(v) for k, v in values.items()}, w=(3, 6))


def prepared(proto: onnx.ModelProto) -> onnx.ModelProto:
    loaded = model.load(proto)
    prepare(loaded)
    return model.to_proto(loaded)


def ops(proto: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in prepared(proto).graph.node]


def same_function(proto: onnx.ModelProto) -> bool:
    feed = random_inputs(proto, 1)
    results = [
        onnxruntime.InferenceSession(p.SerializeToString(), providers=["CPUExecutionProvider"]).run(
            None, feed
        )
        for p in (proto, prepared(proto))
    ]
    return all(np.array_equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("opset", [11, 13, 18])
@pytest.mark.parametrize(
    ("op", "values", "left"),
    [
        ("s = SplitToSequence<axis=1>(a, sizes)  y = SequenceAt(s, i)", {"sizes": [2, 4], "i": 1}, "Split"),
        ("s = SplitToSequence<axis=1>(a, sizes)  y = SequenceAt(s, i)", {"sizes": 4, "i": -1}, "Split"),
        ("s = SplitToSequence<axis=-1>(a)  y = SequenceAt(s, i)", {"i": 5}, "Split"),
        ("s = SplitToSequence<axis=1,keepdims=0>(a)  y = SequenceAt(s, i)", {"i": 5}, "Gather"),
        ("s = SequenceConstruct(a, x, a)  y = ConcatFromSequence<axis=1>(s)", {}, "Concat"),
        ("s = SequenceConstruct(a, a)  y = ConcatFromSequence<axis=-1, new_axis=1>(s)", {}, "Concat"),
        (
            "e = SequenceEmpty()  s = SequenceInsert(e, a)  t = SequenceInsert(s, x, i)  y = SequenceAt(t, i)",
            {"i": 0},
            "",
        ),
        ("s = SequenceConstruct(x, a, x)  t = SequenceErase(s, i)  y = SequenceAt(t, i)", {"i": 0}, ""),
        (
            "s = SequenceConstruct(x, a)  t = SequenceErase(s)  y = ConcatFromSequence<axis=0>(t)",
            {},
            "Concat",
        ),
    ],
    ids=["sizes", "size", "ones", "unbind", "concat", "stack", "insert", "erase", "erase the last"],
)
def test_sequences_of_known_tensors_are_unrolled(op: str, values: dict[str, object], left: str, opset: int):
    out = "float[A]" if "keepdims=0" in op else "float[A,B,C]" if "new_axis" in op else "float[A,B]"
    proto = through(op, opset=opset, out=out, **values)
    found = ops(proto)
    assert not any("Sequence" in name for name in found)
    assert not left or left in found
    assert same_function(proto)
    once = prepared(proto)
    assert prepared(once) == once


def test_the_length_of_a_known_sequence_is_a_number():
    proto = through("s = SplitToSequence<axis=1>(a)  n = SequenceLength(s)  f = Cast<to=1>(n)  y = Mul(a, f)")
    assert ops(proto) == ["MatMul", "Mul"]
    assert same_function(proto)


def test_channels_pass_through_a_split_by_a_sequence():
    op = "s = SplitToSequence<axis=1>(a, sizes)  p = SequenceAt(s, z)  q = SequenceAt(s, i)"
    text = f"""net (float[N,3] x) => (float[N,2] y) {{
        a = MatMul(x, w)  {op}  r = Gemm(p, v)  t = Gemm(q, u)  y = Add(r, t)
    }}"""
    values = {"sizes": np.asarray([2, 4]), "z": np.asarray(0), "i": np.asarray(1)}
    found = analysed(net(text, opset=13, values=values, w=(3, 6), v=(2, 2), u=(4, 2)))
    assert sorted(sizes(found).values()) == [2, 4]


def test_a_sequence_with_an_unknown_reader_stays_for_that_reader():
    """One position is a constant, the other is computed."""
    op = "m = ReduceMax<keepdims=0>(x)  z = Mul(m, zero)  c = Cast<to=7>(z)  s = SplitToSequence<axis=1>(a, sizes)"
    proto = through(
        f"{op}  p = SequenceAt(s, i)  q = SequenceAt(s, c)  y = Add(p, q)", sizes=3, i=1, zero=np.float32(0)
    )
    assert ops(proto).count("SequenceAt") == 1
    assert same_function(proto)
    assert not sizes(analysed(proto))


def test_a_split_whose_pieces_cannot_be_counted_stays():
    """As many rows as there are samples."""
    proto = through("s = SplitToSequence<axis=0>(a)  y = SequenceAt(s, i)", i=0)
    assert "SequenceAt" in ops(proto)
