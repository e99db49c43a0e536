"""What onnxruntime's optimizer writes is pruned like what it was made of."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper
from strategies import random_plan
from test_law import both_sides
from text_nets import analysed, because, net, sizes

from onnxprune import model, rewrite
from onnxprune.cost import CostModel
from onnxprune.plan import Plan


def optimized(proto: onnx.ModelProto, folder: Path) -> onnx.ModelProto:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    options.log_severity_level = 4
    onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return onnx.load(folder / "optimized.onnx")


def ops(proto: onnx.ModelProto) -> set[str]:
    return {node.op_type for node in proto.graph.node}


def law(proto: onnx.ModelProto, seeds: int = 3) -> None:
    for seed in range(seeds):
        opened, closed = both_sides(proto, random_plan(seed, [*sizes(analysed(proto)).items()]))
        assert opened.equal and closed.equal


def cut(proto: onnx.ModelProto, kept: dict[str, list[int]]) -> onnx.ModelProto:
    found = analysed(proto)
    rewrite.apply(found, Plan({name: np.asarray(indices) for name, indices in kept.items()}))
    return model.to_proto(found.model)


def attributes(proto: onnx.ModelProto, op: str) -> dict[str, object]:
    (node,) = (node for node in proto.graph.node if node.op_type == op)
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


NORM = """m = ReduceMean<axes: ints = [2], keepdims: int = 1>(s)  d = Sub(s, m)  q = Pow(d, two)
    n = ReduceMean<axes: ints = [2], keepdims: int = 1>(q)  e = Add(n, small)  r = Sqrt(e)  z = Div(d, r)
    g = Mul(z, scale)  h = Add(g, shift)"""
ROOT_NORM = """q = Pow(s, two)  n = ReduceMean<axes: ints = [2], keepdims: int = 1>(q)  e = Add(n, small)  r = Sqrt(e)
    z = Div(s, r)  h = Mul(z, scale)"""
NETS = {
    "FusedConv": (
        """net (float[N,3,8,8] x) => (float[N,2,1,1] y) {
            a = Conv<pads: ints = [1,1,1,1]>(x, w1, b1)  b = Relu(a)  c = Conv<group: int = 2>(b, w2)  d = Sigmoid(c)
            p = GlobalAveragePool(d)  y = Conv(p, w3)
        }""",
        {"w1": (8, 3, 3, 3), "b1": (8,), "w2": (6, 4, 1, 1), "w3": (2, 6, 1, 1)},
    ),
    "FusedGemm": (
        "net (float[N,3] x) => (float[N,2] y) { a = Gemm(x, w1, b1)  b = Relu(a)  y = Gemm(b, w2) }",
        {"w1": (3, 8), "b1": (8,), "w2": (8, 2)},
    ),
    "FusedMatMul": (
        """net (float[N,5,3] x) => (float[N,5,2] y) <float tenth = {0.1}> {
            q = MatMul(x, w1)  k = MatMul(x, w2)  t = Transpose<perm: ints = [0,2,1]>(k)  s = MatMul(q, t)
            u = Mul(s, tenth)  p = Softmax<axis: int = 2>(u)  v = MatMul(x, w3)  o = MatMul(p, v)  y = MatMul(o, w4)
        }""",
        {"w1": (3, 4), "w2": (3, 4), "w3": (3, 6), "w4": (6, 2)},
    ),
    "BiasGelu": (
        """net (float[N,5,3] x) => (float[N,5,2] y) <float half = {0.5}, float one = {1}, float root = {1.4142135}> {
            a = MatMul(x, w1)  b = Add(a, b1)  c = Div(b, root)  d = Erf(c)  e = Add(d, one)  f = Mul(b, e)
            g = Mul(f, half)  y = MatMul(g, w2)
        }""",
        {"w1": (3, 8), "b1": (8,), "w2": (8, 2)},
    ),
    "QuickGelu": (
        """net (float[N,5,3] x) => (float[N,5,2] y) <float slope = {1.7}> {
            a = MatMul(x, w1)  b = Mul(a, slope)  c = Sigmoid(b)  d = Mul(a, c)  y = MatMul(d, w2)
        }""",
        {"w1": (3, 8), "w2": (8, 2)},
    ),
    "SkipLayerNormalization": (
        f"""net (float[N,5,3] x) => (float[N,5,2] y) <float two = {{2}}, float small = {{0.01}}> {{
            a = MatMul(x, w1)  b = MatMul(a, w2)  s = Add(a, b)  {NORM}
            y = MatMul(h, w3)
        }}""",
        {"w1": (3, 8), "w2": (8, 8), "w3": (8, 2), "scale": (8,), "shift": (8,)},
    ),
    "LayerNormalization": (
        f"""net (float[N,5,3] x) => (float[N,5,2] y) <float two = {{2}}, float small = {{0.01}}> {{
            s = MatMul(x, w1)  {NORM}  y = MatMul(h, w2)
        }}""",
        {"w1": (3, 8), "w2": (8, 2), "scale": (8,), "shift": (8,)},
    ),
    "SimplifiedLayerNormalization": (
        f"""net (float[N,5,3] x) => (float[N,5,2] y) <float two = {{2}}, float small = {{0.01}}> {{
            s = MatMul(x, w1)  {ROOT_NORM}  y = MatMul(h, w2)
        }}""",
        {"w1": (3, 8), "w2": (8, 2), "scale": (8,)},
    ),
}


@pytest.mark.parametrize("op", NETS)
def test_an_optimized_model_has_the_channels_of_the_plain_one(op: str, tmp_path: Path):
    """Norms as files of opset 14 have them: ONNX knows neither of the two there."""
    text, shapes = NETS[op]
    plain = net(text, opset=14, **shapes)
    made = optimized(plain, tmp_path)
    assert op in ops(made)
    assert sorted(sizes(analysed(made)).values()) == sorted(sizes(analysed(plain)).values())
    assert CostModel(analysed(made)).total["macs"] == CostModel(analysed(plain)).total["macs"]
    law(made)


def foreign(text: str, *, seed: int = 0, **shapes: tuple[int, ...]) -> onnx.ModelProto:
    """A net with ops of onnxruntime, called `ms.Op`."""
    proto = net(text.replace("ms.", "com.microsoft."), seed=seed, **shapes)
    proto.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return proto


PACKED = """net (float[N,5,3] x) => (float[N,5,2] y) {
    a = MatMul(x, w0)
    b = ms.Attention<num_heads: int = 2, qkv_hidden_sizes: ints = [6,6,8]>(a, w, bias)
    y = MatMul(b, wo)
}"""
PACKED_SHAPES = {"w0": (3, 4), "w": (4, 20), "bias": (20,), "wo": (8, 2)}


def test_packed_projections_lose_heads_keys_and_values_apart():
    proto = foreign(PACKED, **PACKED_SHAPES)
    assert sorted(sizes(analysed(proto)).values()) == [2, 3, 4, 4]  # heads, keys, what goes in, values
    law(proto, 6)


def test_attributes_of_packed_attention_say_what_is_left():
    proto = foreign(PACKED, **PACKED_SHAPES)
    keys, values = (next(n for n, k in sizes(analysed(proto)).items() if k == size) for size in (3, 2))
    left = attributes(cut(proto, {keys: [1], values: [0]}), "Attention")
    assert left["num_heads"] == 1
    assert left["qkv_hidden_sizes"] == [1, 1, 4]
    assert left["scale"] == pytest.approx(3**-0.5)


def test_packed_attention_counts_its_projections_and_both_products():
    costs = CostModel(analysed(foreign(PACKED, **PACKED_SHAPES)))
    assert costs.total["macs"] == 5 * 3 * 4 + 5 * 4 * 20 + 5 * 5 * (6 + 8) + 5 * 8 * 2


def test_a_cache_ties_values_to_keys():
    text = """net (float[N,5,3] x) => (float[N,5,2] y, float[2,N,2,1] z) <int64[1] tokens = {3}> {
        a, p = ms.Attention<num_heads: int = 2>(x, w, bias)
        m = ReduceSum<keepdims: int = 0>(p, tokens)  z = MatMul(m, wz)  y = MatMul(a, wo)
    }"""
    proto = foreign(text, w=(3, 18), bias=(18,), wo=(6, 2), wz=(3, 1))
    assert sizes(analysed(proto))
    assert because(analysed(proto), "p", 4) == set()
    law(proto, 6)


MULTI = """net (float[N,5,3] x) => (float[N,5,2] y) {
    q = MatMul(x, wq)  k = MatMul(x, wk)  v = MatMul(x, wv)
    a = ms.MultiHeadAttention<num_heads: int = 2>(q, k, v, bias)
    y = MatMul(a, wo)
}"""


def test_biases_inside_are_gated_with_what_they_are_added_to():
    """A closed channel of a query is zero only if its bias is."""
    proto = foreign(MULTI, wq=(3, 6), wk=(3, 6), wv=(3, 8), bias=(20,), wo=(8, 2))
    assert sorted(sizes(analysed(proto)).values()) == [2, 3, 4]
    law(proto, 6)


def test_numbers_of_heads_follow_and_the_scale_stays():
    proto = foreign(MULTI, wq=(3, 6), wk=(3, 6), wv=(3, 8), bias=(20,), wo=(8, 2))
    by_size = {size: name for name, size in sizes(analysed(proto)).items()}
    left = attributes(cut(proto, {by_size[2]: [0], by_size[3]: [2]}), "MultiHeadAttention")
    assert left == {"num_heads": 1, "scale": pytest.approx(3**-0.5)}


@pytest.mark.parametrize("packed", [False, True])
def test_grouped_queries_lose_heads_but_no_channels(packed: bool):
    """The kernels take heads of eights only."""
    made = "q = MatMul(x, wq)  k = MatMul(x, wk)  v = MatMul(x, wv)"
    text = f"""net (float[2,5,3] x) => (float[2,5,2] y) <int32[2] lengths = {{4, 4}}, int32 total = {{5}}> {{
        {"q = MatMul(x, w)" if packed else made}
        a = ms.GroupQueryAttention<num_heads: int = 4, kv_num_heads: int = 2>
            (q, {'"", ""' if packed else "k, v"}, "", "", lengths, total)
        y = MatMul(a, wo)
    }}"""
    shapes = {"w": (3, 64)} if packed else {"wq": (3, 32), "wk": (3, 16), "wv": (3, 16)}
    proto = foreign(text, **shapes, wo=(32, 2))
    assert sorted(sizes(analysed(proto)).values()) == [2, 2]
    law(proto, 6)


def test_the_sum_of_embeddings_can_lose_channels_through_its_norm():
    text = """net (int32[N,5] words, int32[N,5] mask) => (float[N,5,2] y, int32[N] index) {
        h, index = ms.EmbedLayerNormalization<epsilon: float = 0.01>(words, "", table, places, "", scale, shift, mask)
        y = MatMul(h, wo)
    }"""
    proto = foreign(text, table=(7, 6), places=(5, 6), scale=(6,), shift=(6,), wo=(6, 2))
    assert sorted(sizes(analysed(proto)).values()) == [6]
    assert CostModel(analysed(proto)).total["macs"] == 5 * 6 * 2
    law(proto)


def test_transposed_batches_are_the_batches():
    """FusedMatMul moves the first axis behind the batch before it multiplies."""
    text = """net (float[4,3,5] x) => (float[3,6,2] y) {
        a = MatMul(x, w)  b = Transpose<perm: ints = [2,1,0]>(a)
        c = ms.FusedMatMul<transBatchA: int = 1, transB: int = 1>(b, v)  y = MatMul(c, u)
    }"""
    proto = foreign(text, w=(5, 6), v=(3, 7, 4), u=(7, 2))
    assert sizes(analysed(proto))
    law(proto)
