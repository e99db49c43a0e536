import numpy as np
import pytest
import torch
from onnx import TensorProto, helper
from small import draw, in_onnxruntime, in_torch, model

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


def test_sequences_come_and_go_as_lists() -> None:
    made = model([NODE("SequenceConstruct", ["x", "x"], ["t"])], {"x": [2]}, ["t"])
    rows = helper.make_tensor_sequence_value_info("s", TensorProto.FLOAT, [2])
    made.graph.input.append(rows)
    made.graph.node[0].CopyFrom(NODE("SequenceInsert", ["s", "x"], ["t"]))
    x, y = torch.ones(2), torch.zeros(2)
    assert [v.tolist() for v in load(made)(x, [y])] == [[0, 0], [1, 1]]
