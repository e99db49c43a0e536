import numpy as np
import pytest
from onnx import helper
from small import draw, in_onnxruntime, in_torch, model

from onnxprune.errors import ConversionError
from onnxprune.to_torch import load

NODE = helper.make_node


@pytest.mark.parametrize(
    ("split", "attributes"),
    [(2, {}), ([1, 4], {}), (None, {}), (None, {"keepdims": 0})],
    ids=["one size", "sizes", "one by one", "without the axis"],
)
def test_parts_of_a_tensor_can_be_picked(split: object, attributes: dict[str, int]) -> None:
    nodes = [
        NODE("SplitToSequence", ["x", "" if split is None else "split"], ["s"], axis=1, **attributes),
        NODE("SequenceAt", ["s", "last"], ["y"]),
        NODE("SequenceLength", ["s"], ["n"]),
    ]
    values = {"last": np.array(-1)} | ({} if split is None else {"split": np.array(split)})
    made = model(nodes, {"x": [2, 5]}, ["y", "n"], values)
    x = draw(2, 5)
    for ours, theirs in zip(in_torch(load(made), x), in_onnxruntime(made, x), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("new_axis", [0, 1])
@pytest.mark.parametrize("position", [None, 0, -1, 1])
def test_entries_come_in_and_go_out_where_they_should(position: int | None, new_axis: int) -> None:
    place = "" if position is None else "place"
    nodes = [
        NODE("Neg", ["x"], ["minus"]),
        NODE("Exp", ["x"], ["e"]),
        NODE("SequenceConstruct", ["x", "minus"], ["s"]),
        NODE("SequenceInsert", ["s", "e", place], ["longer"]),
        NODE("ConcatFromSequence", ["longer"], ["y"], axis=1, new_axis=new_axis),
        NODE("SequenceErase", ["longer", place], ["shorter"]),
        NODE("ConcatFromSequence", ["shorter"], ["z"], axis=0, new_axis=new_axis),
    ]
    made = model(nodes, {"x": [2, 3]}, ["y", "z"], {} if position is None else {"place": np.array(position)})
    x = draw(2, 3)
    for ours, theirs in zip(in_torch(load(made), x), in_onnxruntime(made, x), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_a_sequence_that_leaves_the_graph_is_refused() -> None:
    made = model([NODE("SequenceConstruct", ["x"], ["s"], name="pack")], {"x": [2]}, ["s"])
    assert made.graph.output[0].type.WhichOneof("value") == "sequence_type"
    with pytest.raises(ConversionError, match=r"'pack' \(SequenceConstruct-17: 's' is not a tensor\)"):
        load(made)
