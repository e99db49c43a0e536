import numpy as np
import onnx
import pytest
from text_nets import net

from onnxprune import model
from onnxprune.errors import ModelError
from onnxprune.shapes import Shapes, infer
from onnxprune.shapes.binding import BATCH, OTHER, SMALL
from onnxprune.shapes.supposed import FEW


def shapes(text: str, *, opset: int = 18, **values: list[int]) -> Shapes:
    arrays = {name: np.asarray(value, dtype=np.int64) for name, value in values.items()}
    return infer(model.load(net(text, opset=opset, values=arrays)).graph)


def test_static_sizes_are_the_same_at_both_bindings():
    found = shapes(
        "net (float[2,3,8,8] x) => (float[2,3,4,4] y) { y = MaxPool<kernel_shape=[2,2], strides=[2,2]>(x) }"
    )
    assert found.sizes["y"] == ((2, 2), (3, 3), (4, 4), (4, 4))
    assert found.batch == 1


def test_a_dynamic_first_axis_takes_both_batches():
    found = shapes("net (float[N,3] x) => (float[N,3] y) { y = Relu(x) }")
    assert found.sizes["y"] == (BATCH, (3, 3))
    assert found.batch == BATCH[0]


def test_other_dynamic_axes_take_sizes_of_their_own():
    found = shapes(
        "net (float[2,3,H,W] x) => (float[2,3,a,b] y) { y = MaxPool<kernel_shape=[2,2], strides=[2,2]>(x) }"
    )
    half = tuple(size // 2 for size in OTHER)
    assert found.sizes["y"] == ((2, 2), (3, 3), half, half)
    assert found.batch == 1


def test_an_axis_of_the_batchs_name_is_the_batch_wherever_it_stands():
    """Recurrent states are (layers, batch, features)."""
    found = shapes("net (float[N,4] x, float[2,N,4] h) => (float[2,N,4] y) { y = Add(x, h) }")
    assert found.sizes["y"] == ((2, 2), BATCH, (4, 4))


FLATTENING = """net (float[N,3,4,5] x) => (float[N,60] y)
<int64[1] rest = {-1}, int64 first = {0}, int64[1] axes = {0}> {
    s = Shape(x)  n = Gather<axis=0>(s, first)  m = Unsqueeze(n, axes)
    target = Concat<axis=0>(m, rest)  y = Reshape(x, target)
}"""


def test_a_shape_gather_concat_reshape_chain_is_followed():
    found = shapes(FLATTENING)
    assert found.sizes["y"] == (BATCH, (60, 60))


def test_only_values_that_are_the_same_at_both_bindings_are_fixed():
    found = shapes(
        """net (float[N,6,4] x) => (int64[3] y) <int64 zero = {0}, int64 one = {1}, int64[1] axes = {0}> {
            s = Shape(x)  n = Gather<axis=0>(s, zero)  c = Gather<axis=0>(s, one)  d = Mul(c, c)  y = Identity(s)
        }"""
    )
    assert {name: value.tolist() for name, value in found.fixed.items()} == {"c": 6, "d": 36}


def test_a_batch_that_is_split_in_parts_stays_dynamic():
    found = shapes(
        """net (float[N,6] x) => (float[M,2,6] y)
        <int64[2] rest = {2, 6}, int64 two = {2}, int64 zero = {0}, int64[1] axes = {0}> {
            s = Shape(x)  n = Gather<axis=0>(s, zero)  h = Div(n, two)  m = Unsqueeze(h, axes)
            target = Concat<axis=0>(m, rest)  y = Reshape(x, target)
        }"""
    )
    assert found.sizes["y"] == ((BATCH[0] // 2, BATCH[1] // 2), (2, 2), (6, 6))
    assert "h" not in found.fixed


def test_a_reshape_by_minus_one_keeps_the_batch_dynamic():
    found = shapes("net (float[N,2,3] x) => (float[M,3] y) <int64[2] to = {-1, 3}> { y = Reshape(x, to) }")
    assert found.sizes["y"] == (tuple(2 * n for n in BATCH), (3, 3))


@pytest.mark.parametrize(
    ("attributes", "value"),
    [("", [2, 3, 4]), ("<start=1>", [3, 4]), ("<end=-1>", [2, 3]), ("<start=-2, end=2>", [3])],
)
def test_shape_reads_the_part_it_is_asked_for(attributes: str, value: list[int]):
    found = shapes(f"net (float[2,3,4] x) => (int64[K] y) {{ s = Shape{attributes}(x)  y = Identity(s) }}")
    assert found.fixed["s"].tolist() == value


def test_size_counts_all_entries():
    found = shapes("net (float[2,3,4] x) => (int64 y) { s = Size(x)  y = Identity(s) }")
    assert found.fixed["s"].tolist() == 24


def test_long_values_are_not_computed():
    found = shapes(
        f"""net (float[2] x) => (float[2] y, float[M] z) <int64[1] n = {{{SMALL + 1}}}, int64[1] few = {{7}}> {{
            long = ConstantOfShape(n)  short = ConstantOfShape(few)  y = Relu(x)  z = Concat<axis=0>(long, short)
        }}"""
    )
    assert "short" in found.fixed
    assert "long" not in found.fixed
    assert found.sizes["z"] == ((SMALL + 8, SMALL + 8),)


def test_sizes_that_depend_on_data_are_dynamic_and_nothing_else_is():
    found = shapes("net (float[2,3] x) => (int64[2,K] y, float[2,3] z) { y = NonZero(x)  z = Relu(x) }")
    assert found.sizes["y"] == ((2, 2), FEW)
    assert found.sizes["z"] == ((2, 2), (3, 3))


def test_a_contradiction_that_inference_finds_is_one_line(monkeypatch: pytest.MonkeyPatch):
    def refuse(proto: onnx.ModelProto, **options: bool) -> onnx.ModelProto:
        raise onnx.shape_inference.InferenceError("sizes differ:\n  3\n  4")

    monkeypatch.setattr("onnxprune.shapes.binding.infer_shapes", refuse)
    with pytest.raises(ModelError, match=r"contradict each other: sizes differ: 3 4$"):
        shapes("net (float[2,3] x) => (float[2,3] y) { y = Relu(x) }")


def test_weights_are_not_copied_to_infer_shapes(monkeypatch: pytest.MonkeyPatch):
    largest = 0
    infer_shapes = onnx.shape_inference.infer_shapes

    def watched(proto: onnx.ModelProto, **options: bool) -> onnx.ModelProto:
        nonlocal largest
        largest = max(largest, proto.ByteSize())
        return infer_shapes(proto, **options)

    monkeypatch.setattr("onnxprune.shapes.binding.infer_shapes", watched)
    infer(
        model.load(
            net("net (float[N,3,8,8] x) => (float[N,400,6,6] y) { y = Conv(x, w) }", w=(400, 3, 3, 3))
        ).graph
    )
    assert 0 < largest < 2000


def test_a_value_of_unknown_rank_has_no_sizes():
    found = shapes("net (float[2,6] x, int64[K] to) => (float[A,B] y) { r = Reshape(x, to)  y = Relu(r) }")
    assert not {"r", "y"} & found.sizes.keys()


def test_a_concat_counted_from_the_end_is_understood_in_old_files():
    """torch writes `torch.cat(..., -1)` so at opsets at which ONNX did not allow it; onnxruntime runs it."""
    found = shapes(
        """net (float[N,3] x) => (float[N,c] y) {
            a = Concat<axis=-1>(x, x)  b = Relu(a)  c = Concat<axis=-1>(a, b)  y = Concat<axis=-2>(c, c)
        }""",
        opset=9,
    )
    assert found.sizes["c"] == (BATCH, (12, 12))
    assert found.sizes["y"] == (tuple(2 * size for size in BATCH), (12, 12))


def test_what_onnx_fails_to_infer_of_its_own_function_is_known():
    found = shapes(
        "net (float[N,3,4,5] x) => (float[a,b,c,d] y) { h = MeanVarianceNormalization(x)  y = Relu(h) }"
    )
    assert found.sizes["y"] == (BATCH, (3, 3), (4, 4), (5, 5))


def test_a_table_of_positions_that_ends_soon_does_not_make_the_tokens_static():
    proto = net(
        """net (int64[N,tokens] x) => (float[N,length,8] y) {
            size = Shape<start=1>(x)  part = Slice(table, zero, size, zero)  e = Gather(words, x)  y = Add(e, part)
        }""",
        values={"zero": np.asarray([0])},
        table=(64, 8),
        words=(10, 8),
    )
    (first, second) = infer(model.load(proto).graph).sizes["part"][0]
    assert first != second
