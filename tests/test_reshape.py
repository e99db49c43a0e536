"""Shape: whether an axis may lose channels depends on who reads its size."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from test_law import both_sides
from text_nets import analysed, because, net, sizes


def telling(reads: str, *, opset: int = 18) -> onnx.ModelProto:
    """h (N 6 W) between two layers; what `reads` makes of its shape is added to the result as `f`."""
    return net(
        f"""net (float[N,3,W] x) => (float[N,2,W] y) {{
            h = Conv(x, w)  s = Shape(h)  {reads}  g = Conv(h, v)  y = Add(g, f)
        }}""",
        opset=opset,
        values={
            "zero": np.array([0]), "one": np.array([1]), "two": np.array([2]), "three": np.array([3]),
            "last": np.array([-1]), "outer": np.array([0, 2]), "third": np.array([False, False, True]),
            "hundredth": np.float32(0.01),
        },
        w=(6, 3, 1),
        v=(2, 6, 1),
    )  # fmt: skip


DYNAMIC = {
    "Gather": "a = Gather(s, last)",
    "Slice": "a = Slice(s, two, three)",
    "Slice backwards": "a = Slice(s, last, one, zero, last)",
    "Slice of both": "b = Slice(s, zero, three, zero, two)  a = Slice(b, one, two)",
    "Cast and Slice": "c = Cast<to=6>(s)  b = Slice(c, two, three)  a = Cast<to=7>(b)",
    "start": "a = Shape<start=2>(h)",
    "end": "b = Shape<start=-1, end=9>(h)  a = Identity(b)",
}
STATIC = {
    "whole": "a = ReduceSum(s)",
    "Gather": "b = Gather(s, outer)  d = Gather(s, zero)  c = Concat<axis=0>(b, d, s)  a = ReduceSum(c)",
    "Slice": "b = Slice(s, zero, two)  a = ReduceSum(b)",
    "Slice backwards": "b = Slice(s, last, zero, zero, last)  a = ReduceSum(b)",
    "Cast": "b = Cast<to=7>(s)  c = Slice(b, one, three)  a = ReduceSum(c)",
    "Where": "b = Where(third, s, s)  a = ReduceSum(b)",
    "start": "b = Shape<start=1>(h)  a = ReduceSum(b)",
}
FILL = "  q = Concat<axis=0>(one, one, a)  f = ConstantOfShape<value = float[1] {0.5}>(q)"
NUMBER = "  i = Cast<to=1>(a)  f = Mul(i, hundredth)"


@pytest.mark.parametrize("reads", DYNAMIC)
def test_a_dynamic_size_may_be_read_however_it_is_taken(reads: str):
    proto = telling(DYNAMIC[reads] + (NUMBER if "backwards" in reads else FILL))
    assert sizes(analysed(proto)) == {"w": 6}
    opened, closed = both_sides(proto, {"w": (0, 2, 5)})
    assert opened.equal and closed.equal


def test_old_slices_of_a_shape_are_understood():
    proto = telling("a = Slice<starts=[2], ends=[3]>(s)" + FILL, opset=9)
    assert sizes(analysed(proto)) == {"w": 6}


@pytest.mark.parametrize("reads", STATIC)
def test_a_static_size_that_is_read_with_dynamic_ones_keeps_its_axis(reads: str):
    found = analysed(telling(STATIC[reads] + NUMBER))
    assert sizes(found) == {}
    assert {text.split(": ")[1] for text in because(found, "h", 1)} == {"hands its size on as a value"}


@pytest.mark.parametrize("output", ["s", "c"])
def test_a_shape_that_is_an_output_keeps_its_axes(output: str):
    proto = telling("c = Cast<to=6>(s)  a = Gather(c, last)" + NUMBER)
    kind = TensorProto.INT64 if output == "s" else TensorProto.INT32
    proto.graph.output.append(helper.make_tensor_value_info(output, kind, [3]))
    assert sizes(analysed(proto)) == {}
