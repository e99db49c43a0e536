"""Convolutions and products as matrix products of patches."""

import numpy as np
import onnx
import pytest
from onnx import helper
from text_nets import analysed, net

from onnxprune.model import array
from onnxprune.recovery.contractions import Contraction, contractions, units
from onnxprune.session import open_session


def found(proto: onnx.ModelProto) -> list[Contraction]:
    return contractions(analysed(proto))


def only(proto: onnx.ModelProto) -> Contraction:
    (one,) = found(proto)
    return one


def weights_of(proto: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {name: array(t) for name, t in analysed(proto).model.graph.tensors().items() if hasattr(t, "values")}


def assert_product_is_y(proto: onnx.ModelProto, x_shape: tuple[int, ...], most: int = 7) -> None:
    """At positions drawn at random, and at all of them."""
    one, weights = only(proto), weights_of(proto)
    x = np.random.default_rng(1).normal(size=x_shape).astype(np.float32)
    (y,) = open_session(proto).run(["y"], {"x": x})
    bias = 0.0
    if one.offset is not None and one.offset.own:
        bias = weights[one.offset.name].reshape(one.blocks, 1, one.outputs)
    matrix = one.matrix(weights[one.weight])
    assert matrix.shape == (one.blocks, one.rows, one.outputs)
    assert np.array_equal(one.weights(matrix), weights[one.weight])
    for count in (most, 10**6):
        chosen = one.pick(x.shape, count, np.random.default_rng(0))
        made = one.patches(x, chosen) @ matrix + bias
        np.testing.assert_allclose(made, one.results(y, chosen), rtol=1e-4, atol=1e-5)
    assert one.results(y, chosen).size == y.size, "all positions are the whole output"


CONVS = {
    "plain": ("", (6, 4, 3, 3), (2, 4, 7, 6)),
    "pointwise": ("", (6, 4, 1, 1), (2, 4, 5, 4)),
    "strides": ("<strides=[2,3]>", (6, 4, 3, 2), (2, 4, 9, 8)),
    "dilations": ("<dilations=[2,1],pads=[1,0,2,1]>", (6, 4, 3, 2), (2, 4, 9, 8)),
    "uneven pads": ("<pads=[0,2,3,1],strides=[2,2]>", (6, 4, 3, 3), (2, 4, 6, 6)),
    "valid": ('<auto_pad="VALID",strides=[2,1]>', (6, 4, 3, 3), (2, 4, 6, 5)),
    "same upper": ('<auto_pad="SAME_UPPER",strides=[2,1]>', (6, 4, 4, 2), (2, 4, 7, 6)),
    "same lower": ('<auto_pad="SAME_LOWER",strides=[2,1]>', (6, 4, 4, 2), (2, 4, 7, 6)),
    "same, longer steps than the kernel": ('<auto_pad="SAME_LOWER",strides=[3,3]>', (6, 4, 2, 1), (2, 4, 8, 7)),
    "groups": ("<group=2,pads=[1,1,1,1]>", (6, 4, 3, 3), (2, 8, 5, 4)),
    "depthwise": ("<group=4,pads=[1,1,1,1],strides=[2,2]>", (4, 1, 3, 3), (2, 4, 6, 5)),
    "depthwise, two each": ("<group=4>", (8, 1, 2, 3), (2, 4, 6, 5)),
    "1d": ("<pads=[2,1],strides=[2],dilations=[2]>", (6, 4, 3), (2, 4, 9)),
    "1d same": ('<auto_pad="SAME_LOWER",strides=[2]>', (6, 4, 4), (2, 4, 9)),
    "3d": ("<pads=[1,0,0,0,1,1]>", (3, 2, 2, 3, 2), (2, 2, 4, 5, 3)),
}


def declared(shape: tuple[int, ...]) -> str:
    return "float[" + ",".join(str(n) if k else "N" for k, n in enumerate(shape)) + "]"


def output(rank: int) -> str:
    return "float[" + ",".join(["N", "M", "H", "W", "D"][:rank]) + "]"


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("case", CONVS)
def test_a_convolution_is_its_patches_times_its_matrix(case: str, bias: bool):
    attributes, shape, x_shape = CONVS[case]
    shapes = {"w": shape, "b": shape[:1]} if bias else {"w": shape}
    text = (
        f"net ({declared(x_shape)} x) => ({output(len(shape))} y)"
        f" {{ y = Conv{attributes}(x, {', '.join(shapes)}) }}"
    )
    assert_product_is_y(net(text, **shapes), x_shape)


TRANSPOSED = {
    "plain": ("", (4, 6, 3, 3), (2, 4, 4, 5)),
    "strides": ("<strides=[2,3]>", (4, 6, 3, 2), (2, 4, 4, 3)),
    "pads": ("<strides=[2,2],pads=[1,0,0,1]>", (4, 6, 3, 3), (2, 4, 4, 3)),
    "pads beyond the kernel": ("<strides=[3,3],pads=[2,3,3,2]>", (4, 6, 2, 2), (2, 4, 5, 5)),
    "output padding": ("<strides=[2,3],output_padding=[1,2],pads=[1,1,1,1]>", (4, 6, 3, 3), (2, 4, 4, 3)),
    "dilations": ("<dilations=[2,3],strides=[1,2],pads=[1,2,1,0]>", (4, 6, 3, 2), (2, 4, 4, 3)),
    "groups": ("<group=2,strides=[2,2]>", (4, 3, 3, 2), (2, 4, 4, 3)),
    "depthwise": ("<group=4,strides=[2,2],pads=[1,1,1,1]>", (4, 1, 4, 4), (2, 4, 4, 3)),
    "1d": ("<strides=[3],pads=[1,2],output_padding=[1]>", (4, 6, 4), (2, 4, 5)),
}


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("case", TRANSPOSED)
def test_a_transposed_convolution_is_its_patches_times_its_matrix(case: str, bias: bool):
    attributes, shape, x_shape = TRANSPOSED[case]
    groups = next((int(p[1]) for p in [attributes.split("group=")] if len(p) > 1 for p in [(0, p[1][0])]), 1)
    shapes = {"w": shape, "b": (shape[1] * groups,)} if bias else {"w": shape}
    text = (
        f"net ({declared(x_shape)} x) => ({output(len(shape))} y)"
        f" {{ y = ConvTranspose{attributes}(x, {', '.join(shapes)}) }}"
    )
    assert_product_is_y(net(text, **shapes), x_shape)


PRODUCTS = {
    "gemm": ("Gemm(x, w)", {"w": (5, 3)}, (4, 5)),
    "gemm, turned": ("Gemm<transB=1>(x, w)", {"w": (3, 5)}, (4, 5)),
    "gemm with bias": ("Gemm<transB=1>(x, w, b)", {"w": (3, 5), "b": (3,)}, (4, 5)),
    "matmul": ("MatMul(x, w)", {"w": (5, 3)}, (4, 5)),
    "matmul of tokens": ("MatMul(x, w)", {"w": (5, 3)}, (4, 6, 5)),
    "matmul of an image": ("MatMul(x, w)", {"w": (5, 3)}, (4, 3, 4, 5)),
}


@pytest.mark.parametrize("case", PRODUCTS)
def test_a_product_is_a_contraction(case: str):
    op, shapes, x_shape = PRODUCTS[case]
    proto = net(f"net ({declared(x_shape)} x) => ({output(len(x_shape))} y) {{ y = {op} }}", **shapes)
    assert_product_is_y(proto, x_shape)


def test_positions_are_drawn_without_repetition_from_all_of_them():
    one = only(net("net (float[N,4,9,9] x) => (float[N,M,H,W] y) { y = Conv(x, w) }", w=(6, 4, 2, 2)))
    drawn = [one.pick((2, 4, 9, 9), 20, np.random.default_rng(seed)) for seed in range(40)]
    assert all(len(np.unique(chosen)) == 20 and (np.diff(chosen) > 0).all() for chosen in drawn)
    assert set(np.concatenate(drawn).tolist()) == set(range(64))


# ---- what can take up a constant


def test_a_bias_of_its_own_is_the_offset():
    one = only(net("net (float[N,4] x) => (float[N,3] y) { y = Gemm(x, w, b) }", w=(4, 3), b=(3,)))
    assert one.offset is not None and (one.offset.name, one.offset.sign, one.offset.own) == ("b", 1.0, True)


@pytest.mark.parametrize("shape", [(3,), (1, 1, 3), (1, 3)])
def test_a_constant_that_is_added_behind_is_the_offset(shape: tuple[int, ...]):
    text = "net (float[N,5,4] x) => (float[N,5,3] y) { h = MatMul(x, w)  y = Add(b, h) }"
    offset = only(net(text, w=(4, 3), b=shape)).offset
    assert offset is not None and (offset.name, offset.sign, offset.own) == ("b", 1.0, False)


BATCH_NORM = "BatchNormalization(h, scale, shift, mean, var)"
CHANNELS = {"scale": (6,), "shift": (6,), "mean": (6,)}


def with_batch_norm(text: str, **shapes: tuple[int, ...]) -> onnx.ModelProto:
    variance = np.linspace(0.5, 2, 6).astype(np.float32)
    return net(text, values={"var": variance}, **CHANNELS, **shapes)


def test_the_mean_of_a_batch_normalization_behind_is_the_offset_with_its_sign_turned():
    text = f"net (float[N,4,5,5] x) => (float[N,6,5,5] y) {{ h = Conv(x, w)  y = {BATCH_NORM} }}"
    offset = only(with_batch_norm(text, w=(6, 4, 1, 1))).offset
    assert offset is not None and (offset.name, offset.sign, offset.own) == ("mean", -1.0, False)


@pytest.mark.parametrize(
    "behind",
    ["h = Relu(c)  y = Add(h, b)", "h = Mul(c, s)  y = Add(h, b)", "h = Identity(c)  d = Add(c, b)  y = Mul(d, c)"],
    ids=["after an activation", "after a scale", "beside another reader"],
)
def test_a_constant_further_away_is_no_offset(behind: str):
    proto = net(
        f"net (float[N,4,5,5] x) => (float[N,6,5,5] y) {{ c = Conv(x, w)  {behind} }}",
        w=(6, 4, 1, 1), b=(6, 1, 1), s=(6, 1, 1),
    )  # fmt: skip
    assert only(proto).offset is None


@pytest.mark.parametrize("shape", [(5, 5), (6, 5, 5), (1,)], ids=["positions", "everything", "a number"])
def test_a_constant_that_is_not_one_number_a_channel_is_no_offset(shape: tuple[int, ...]):
    text = "net (float[N,4,5,5] x) => (float[N,6,5,5] y) { h = Conv(x, w)  y = Add(h, b) }"
    assert only(net(text, w=(6, 4, 1, 1), b=shape)).offset is None


def test_a_constant_that_two_ops_add_is_no_offset():
    text = "net (float[N,4] x) => (float[N,3] y) { h = MatMul(x, w)  g = Add(h, b)  y = Add(g, b) }"
    groups = analysed(net(text, w=(4, 3), b=(3,)))  # which may have copied it for each
    offset = contractions(groups)[0].offset
    assert offset is None or len(groups.model.graph.tensors()[offset.name].outputs) == 1


# ---- residuals


def test_a_residual_is_found_behind_a_batch_normalization_with_its_scale():
    text = (
        f"net (float[N,6,5,5] x) => (float[N,6,5,5] y)"
        f" {{ r = Relu(x)  h = Conv(r, w)  n = {BATCH_NORM}  s = Add(r, n)  y = Relu(s) }}"
    )
    proto = with_batch_norm(text, w=(6, 6, 1, 1))
    one, weights = only(proto), weights_of(proto)
    assert one.sum is not None and one.sum.other == "r"
    np.testing.assert_allclose(one.sum.scale, weights["scale"] / np.sqrt(weights["var"] + 1e-5), rtol=1e-6)


def test_a_product_meets_a_residual_behind_its_bias():
    text = "net (float[N,5,4] x) => (float[N,5,4] y) { h = MatMul(x, w)  n = Add(h, b)  y = Add(n, x) }"
    one = only(net(text, w=(4, 4), b=(4,)))
    assert one.sum is not None and one.sum.other == "x" and (one.sum.scale == 1).all()
    assert one.offset is not None and one.offset.name == "b"


@pytest.mark.parametrize("behind", ["a = Relu(h)  y = Add(a, x)", "y = Add(h, h)", "y = Add(h, p)", "y = Mul(h, x)"])
def test_other_sums_are_no_residuals(behind: str):
    text = f"net (float[N,5,4] x, float[N,1,4] p) => (float[N,5,4] y) {{ h = MatMul(x, w)  {behind} }}"
    assert only(net(text, w=(4, 4))).sum is None


# ---- what is offered


@pytest.mark.parametrize("op", ["y = Gemm(x, w, b)", "h = MatMul(x, w)  y = Add(h, b)", "y = MatMul(x, w)"])
def test_the_last_op_is_offered(op: str):
    shapes = {"w": (4, 3), "b": (3,)} if "b" in op else {"w": (4, 3)}
    one = only(net(f"net (float[N,4] x) => (float[N,3] y) {{ {op} }}", **shapes))
    assert (one.offset is not None) == ("b" in op)


def test_a_result_that_is_an_output_as_well_takes_no_offset_from_behind():
    text = "net (float[N,4] x) => (float[N,3] h, float[N,3] y) { h = MatMul(x, w)  y = Add(h, b) }"
    assert only(net(text, w=(4, 3), b=(3,))).offset is None


NOT_OFFERED = {
    "a weight that two ops read": "h = MatMul(x, w)  y = MatMul(h, w)",
    "a scaled product": "y = Gemm<alpha=0.5>(x, w)",
    "a turned input": "t = Transpose<perm=[1,0]>(x)  y = Gemm<transA=1>(t, w)",
    "a product of activations": "t = Transpose<perm=[1,0]>(x)  h = MatMul(t, x)  y = MatMul(x, h)",
    "a constant first factor": "t = Transpose<perm=[1,0]>(x)  h = MatMul(w, t)  y = Transpose<perm=[1,0]>(h)",
}


@pytest.mark.parametrize("case", NOT_OFFERED)
def test_what_is_no_plain_product_is_not_offered(case: str):
    large = np.random.default_rng(0).normal(size=(400, 400)).astype(np.float32)
    body = NOT_OFFERED[case]
    values = {"w": large} if "w" in body else {}
    proto = net(f"net (float[N,400] x) => (float[N,400] y) {{ {body} }}", values=values)
    assert not found(proto)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_weight_that_is_no_number_is_not_offered(value: float):
    weight = np.ones((4, 3), dtype=np.float32)
    weight[1, 2] = value
    assert not found(net("net (float[N,4] x) => (float[N,3] y) { y = MatMul(x, w) }", values={"w": weight}))


def test_a_bias_that_is_an_output_of_the_model_is_not_offered():
    proto = net("net (float[N,4] x) => (float[N,3] y) { y = Gemm(x, w, b) }", w=(4, 3), b=(3,))
    proto.graph.output.append(helper.make_tensor_value_info("b", onnx.TensorProto.FLOAT, [3]))
    assert only(proto).offset is None


def test_quantised_weights_are_not_offered():
    text = """net (float[N,4] x) => (float[N,3] y) {
        d = DequantizeLinear(w, s, z)  y = MatMul(x, d) }"""
    values = {"w": np.ones((4, 3), dtype=np.int8), "s": np.float32(0.1), "z": np.int8(0)}
    assert not found(net(text, values=values))


# ---- rows of a group


def test_every_channel_of_a_group_has_its_rows():
    text = "net (float[N,3,6,6] x) => (float[N,5,H,W] y) { h = Conv(x, v)  r = Relu(h)  y = Conv(r, w) }"
    groups = analysed(net(text, v=(4, 3, 3, 3), w=(5, 4, 2, 2)))
    first, second = contractions(groups)
    (group,) = groups
    assert units(groups, first, group.atoms) is None, "the op that makes the channels does not lose inputs"
    rows = units(groups, second, group.atoms)
    assert rows is not None and np.array_equal(rows[0], np.arange(16).reshape(4, 4))


def test_a_flattened_channel_takes_all_its_positions_along():
    text = "net (float[N,3,2,2] x) => (float[N,5] y) { h = Conv(x, v)  f = Flatten(h)  y = Gemm(f, w) }"
    groups = analysed(net(text, v=(4, 3, 1, 1), w=(16, 5)))
    (group,) = groups
    rows = units(groups, contractions(groups)[1], group.atoms)
    assert rows is not None and np.array_equal(rows[0], np.arange(16).reshape(4, 4))


def test_channels_of_a_grouped_convolution_have_rows_in_each_of_its_blocks():
    text = "net (float[N,3,5,5] x) => (float[N,6,H,W] y) { h = Conv(x, v)  y = Conv<group=2>(h, w) }"
    groups = analysed(net(text, v=(8, 3, 1, 1), w=(6, 4, 1, 1)))
    second = contractions(groups)[1]
    alike = [rows for group in groups if (rows := units(groups, second, group.atoms)) is not None]
    for rows in alike:
        assert len(rows) == 2 and all(len(np.unique(block)) == block.size for block in rows)
