"""Views that merge axes only for a time are written without the merging."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from test_law import both_sides
from text_nets import analysed, net, sizes

from onnxprune import model
from onnxprune.prepare import prepare
from onnxprune.verify import verify

ROUNDABOUT = """net (float[N,T,6] x) => (float[N,2,3,T] y) {
    a = Reshape(x, heads)  b = Transpose<perm=[0,2,1,3]>(a)
    s = Shape(b)  n = Slice(s, zero, two)  t = Slice(s, two, three)  d = Slice(s, three, four)
    merged = Concat<axis=0>(minus, t, d)  c = Reshape(b, merged)  e = Transpose<perm=[0,2,1]>(c)
    back = Concat<axis=0>(n, d, t)  y = Reshape(e, back)
}"""
"""How torch's exporter transposes keys of any rank: (N, h, T, d) to (N h, T, d) to (N h, d, T) to (N, h, d, T)."""
NUMBERS = {
    "heads": np.array([0, 0, 2, 3]), "zero": np.array([0]), "two": np.array([2]), "three": np.array([3]),
    "four": np.array([4]), "minus": np.array([-1]),
}  # fmt: skip


def prepared(proto: onnx.ModelProto) -> onnx.ModelProto:
    loaded = model.load(proto)
    prepare(loaded)
    return model.to_proto(loaded)


def ops(proto: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in proto.graph.node]


def views(text: str, *targets: list[int], opset: int = 18) -> onnx.ModelProto:
    """The chain of Reshapes and Transposes, with these targets as r0, r1, ..."""
    return net(text, opset=opset, values={f"r{k}": np.array(target) for k, target in enumerate(targets)})


def test_keys_that_are_transposed_by_way_of_merged_heads_are_transposed_directly():
    proto = net(ROUNDABOUT, values=NUMBERS)
    plain = prepared(proto)
    assert ops(plain) == ["Reshape", "Transpose", "Transpose"]
    assert verify(proto, plain).max_rel_error == 0
    assert prepared(plain) == plain


@pytest.mark.parametrize("batch", ["N", "2"])
def test_heads_that_are_merged_with_the_batch_for_a_time_may_go(batch: str):
    """torch.nn.MultiheadAttention: (T, N, h d) to (T, N h, d), then (N h, T, d), then (N, h, T, d)."""
    text = f"""net (float[5,{batch},4] x) => (float[5,{batch},2] y) {{
        q = MatMul(x, wq)  qm = Reshape(q, merged)  qt = Transpose<perm=[1,0,2]>(qm)  qh = Reshape(qt, heads)
        k = MatMul(x, wk)  km = Reshape(k, merged)  kt = Transpose<perm=[1,0,2]>(km)  kh = Reshape(kt, heads)
        v = MatMul(x, wv)  vm = Reshape(v, merged)  vt = Transpose<perm=[1,0,2]>(vm)  vh = Reshape(vt, heads)
        kd = Transpose<perm=[0,1,3,2]>(kh)  s = MatMul(qh, kd)  p = Softmax(s)  o = MatMul(p, vh)
        ot = Transpose<perm=[2,0,1,3]>(o)  f = Reshape(ot, flat)  y = MatMul(f, wo)
    }}"""
    values = {
        "merged": np.array([5, -1, 3]), "heads": np.array([-1, 2, 5, 3]), "flat": np.array([5, -1, 6])
    }  # fmt: skip
    proto = net(text, values=values, wq=(4, 6), wk=(4, 6), wv=(4, 6), wo=(6, 2))
    found = sizes(analysed(proto))
    assert sorted(found.values()) == [2, 3, 3]
    for kept in ([0], [1]):
        opened, closed = both_sides(proto, {name: tuple(kept) for name in found})
        assert opened.equal and closed.equal


@pytest.mark.parametrize(
    ("text", "targets", "left"),
    [
        (  # cut, turned and merged in the end: nothing is merged for a time
            "a = Reshape(x, r0)  b = Transpose<perm=[0,2,1,3]>(a)  y = Reshape(b, r1)",
            [[-1, 4, 2, 3], [-1, 2, 12]],
            ["Reshape", "Transpose", "Reshape"],
        ),
        (  # merged and taken apart where nothing was moved
            "a = Reshape(x, r0)  b = Relu(a)  y = Reshape(b, r1)",
            [[-1, 6], [-1, 4, 6]],
            ["Reshape", "Relu", "Reshape"],
        ),
        (  # merged, turned, taken apart: one transposition
            "a = Reshape(x, r0)  b = Transpose<perm=[1,0]>(a)  y = Reshape(b, r1)",
            [[-1, 6], [6, -1, 4]],
            ["Transpose"],
        ),
        (  # the same and merged anew
            "a = Reshape(x, r0)  b = Transpose<perm=[1,0]>(a)  c = Reshape(b, r1)  d = Transpose<perm=[1,0,2]>(c) "
            "y = Reshape(d, r2)",
            [[-1, 6], [6, -1, 4], [-1, 24]],
            ["Transpose", "Reshape"],
        ),
        (  # there and back again
            "a = Reshape(x, r0)  y = Reshape(a, r1)",
            [[-1, 6], [-1, 4, 6]],
            ["Identity"],
        ),
    ],
)
def test_only_what_is_merged_for_a_time_is_rewritten(text: str, targets: list[list[int]], left: list[str]):
    proto = views(f"net (float[N,4,6] x) => (float[a,b,c] y) {{ {text} }}", *targets)
    plain = prepared(proto)
    assert ops(plain) == left
    assert verify(proto, plain).max_rel_error == 0


def test_height_and_width_of_unknown_size_are_not_told_apart():
    """Reshape(x, (N, C, W, H)) is no Transpose, though both sizes are bound to the same number."""
    text = """net (float[N,2,H,W] x) => (float[N,a,b,2] y) <int64[1] flat = {-1}, int64 axis = {0}> {
        s = Shape(x)  n = Slice(s, r0, r1)  h = Slice(s, r2, r3)  w = Slice(s, r3, r4)
        fs = Concat<axis=0>(n, r2, flat)  f = Reshape(x, fs)  t = Transpose<perm=[0,2,1]>(f)
        ts = Concat<axis=0>(n, w, h, r2)  y = Reshape(t, ts)
    }"""
    proto = views(text, [0], [1], [2], [3], [4])
    assert ops(prepared(proto)).count("Reshape") == 2


def test_what_is_read_in_between_stays():
    text = """net (float[N,4,6] x) => (float[6,a,4] y, float[c,6] z) {
        a = Reshape(x, r0)  b = Transpose<perm=[1,0]>(a)  y = Reshape(b, r1)  z = Relu(a)
    }"""
    proto = views(text, [-1, 6], [6, -1, 4])
    plain = prepared(proto)
    assert sorted(ops(plain)) == ["Relu", "Reshape", "Reshape", "Transpose"]


def test_sizes_that_are_not_static_are_copied():
    proto = views(
        """net (float[N,4,6] x) => (float[a,b] y) {
            a = Reshape(x, r0)  b = Transpose<perm=[1,0]>(a)  c = Reshape(b, r1)  d = Transpose<perm=[1,0,2]>(c)
            y = Reshape(d, r2)
        }""",
        [-1, 6], [6, -1, 4], [-1, 24],
    )  # fmt: skip
    (target,) = prepared(proto).graph.initializer
    assert numpy_helper.to_array(target).tolist() == [0, 24]
