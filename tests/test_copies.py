import numpy as np
import onnx
import pytest
from onnx_text import parsed
from text_nets import analysed, net, sizes

from onnxprune import model, slim
from onnxprune.prepare import prepare


def ops(text: str, **options: int) -> list[str]:
    loaded = model.load(parsed(text, **options))
    prepare(loaded)
    onnx.checker.check_model(model.to_proto(loaded), full_check=True)
    return [node.op for node in loaded.graph.nodes]


@pytest.mark.parametrize("copy", ["Identity(x)", "Dropout(x)", "Dropout(x, half)", "Dropout(x, half, no)"])
def test_what_hands_on_what_it_is_given_goes(copy: str):
    text = f"""net (float[N,3] x) => (float[N,3] y)
        <float half = {{0.5}}, bool no = {{0}}> {{ a = {copy}  b = Relu(a)  y = Add(a, b) }}"""
    assert ops(text) == ["Relu", "Add"]


def test_a_dropout_that_trains_stays():
    text = """net (float[N,3] x, bool train) => (float[N,3] y)
        <float half = {0.5}> { a = Dropout(x, half, train)  y = Relu(a) }"""
    assert ops(text) == ["Dropout", "Relu"]


def test_a_mask_that_is_read_keeps_its_dropout():
    assert ops("net (float[N,3] x) => (float[N,3] y, bool[N,3] m) { y, m = Dropout(x) }") == ["Dropout"]
    text = "net (float[N,3] x) => (bool[N,3] y) { a, m = Dropout(x)  y = Not(m) }"
    assert ops(text) == ["Dropout", "Not"]


def test_an_output_of_the_model_keeps_its_name():
    assert ops("net (float[N,3] x) => (float[N,3] y, float[N,3] z) { y = Identity(x)  z = Relu(y) }") == [
        "Identity",
        "Relu",
    ]


def test_a_subgraph_reads_the_original_as_well():
    text = """net (bool c, float[N,3] x) => (float[N,3] y) {
        a = Identity(x)
        y = If(c) <
            then_branch = t () => (float[N,3] p) { p = Relu(a) },
            else_branch = e () => (float[N,3] q) { q = Neg(a) }
        >
    }"""
    assert ops(text) == ["If"]


def test_channels_are_pruned_through_shape_arithmetic_behind_a_copy():
    """The shape is taken of a copy; no rule looks behind it."""
    proto = net(
        """net (float[N,3,4,4] x) => (float[N,2] y) <int64[1] zero = {0}, int64[1] rest = {-1}> {
            a = Conv(x, v)  b = Identity(a)  s = Shape(b)  d = Identity(s)  n = Gather(d, zero)
            t = Concat<axis = 0>(n, rest)  c = Reshape(a, t)  y = Gemm(c, w)
        }""",
        v=(8, 3, 1, 1),
        w=(128, 2),
    )
    assert sizes(analysed(proto)) == {"v": 8}
    slimmed = slim(proto, ratio=0.5, multiple_of=1)
    assert [t.dims[0] for t in slimmed.model.graph.initializer if t.name == "v"] == [4]
    assert np.isfinite(slimmed.verified.max_rel_error)
