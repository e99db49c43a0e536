"""Ops that move, sample or cut out positions: which channels pass, which stay and why, and what DeformConv costs."""

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator
from test_law import both_sides
from text_nets import analysed, because, net, sizes

from onnxprune import model, rewrite
from onnxprune.cost import CostModel
from onnxprune.plan import Plan

VALUES = {
    "one": np.asarray([1]),
    "four": np.asarray([4]),
    "last": np.asarray(3),
    "shape": np.asarray([8, 6]),
    "grid": np.random.default_rng(0).uniform(-0.9, 0.9, (1, 3, 3, 2)).astype(np.float32),
    "rois": np.asarray([[0, 0, 5, 5], [1, 1, 7, 6]], np.float32),
    "which": np.zeros(2, np.int64),
    "boxes": np.asarray([[0, 0, 0, 5, 5]], np.float32),
    "image": np.asarray([9, 9]),
    "block": np.asarray([2, 2]),
    "flat": np.asarray([0, 0, 64]),
    "lengths": np.asarray([5]),
}


def through(op: str, channels: int = 8, *, opset: int = 20, **shapes: tuple[int, ...]) -> onnx.ModelProto:
    """A layer of so many channels, the op from a to h, and the sum of all channels of h."""
    text = f"net (float[1,3,8,8] x) => (float[B,C,H,W] y) {{ a = Conv(x, w1)  {op}  y = ReduceSum(h, one) }}"
    return net(text, opset=opset, values=VALUES, w1=(channels, 3, 1, 1), **shapes)


def holds(proto: onnx.ModelProto) -> bool:
    """Whether the law holds where the later half of every group's channels stays, and where only the first does."""
    found = sizes(analysed(proto))
    plans = [
        {name: tuple(range(size // 2, size)) for name, size in found.items()},
        dict.fromkeys(found, (0,)),
    ]
    return all(side.equal for plan in plans for side in both_sides(proto, plan))


def cut(proto: onnx.ModelProto, **kept: tuple[int, ...]) -> onnx.ModelProto:
    found = analysed(proto)
    rewrite.apply(found, Plan({name: np.asarray(indices) for name, indices in kept.items()}))
    return model.to_proto(found.model)


def attributes(proto: onnx.ModelProto, op: str) -> dict[str, object]:
    (node,) = (node for node in proto.graph.node if node.op_type == op)
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


# ---- blocks of positions


@pytest.mark.parametrize(
    ("op", "mode", "opset", "count"),
    [
        ("DepthToSpace", "DCR", 13, 2),
        ("DepthToSpace", "CRD", 13, 2),
        ("SpaceToDepth", "DCR", 13, 8),
        ("SpaceToDepth", "DCR", 28, 8),
        ("SpaceToDepth", "CRD", 28, 8),
    ],
)
def test_channels_that_a_block_is_made_of_go_together(op: str, mode: str, opset: int, count: int):
    """Which they are is read off onnx's own evaluation, of channels that hold their own number."""
    given = f', mode="{mode}"' if op == "DepthToSpace" or opset >= 28 else ""
    proto = through(f"h = {op}<blocksize=2{given}>(a)", opset=opset)
    found = analysed(proto)
    assert sizes(found) == {"w1": count}
    node = next(node for node in proto.graph.node if node.op_type == op)
    numbers = np.broadcast_to(np.arange(8.0, dtype=np.float32)[:, None, None], (1, 8, 8, 8))
    (made,) = ReferenceEvaluator(node, opsets={"": opset}).run(None, {"a": numbers})
    source, target = (found.atoms.of[found.labels[name][1]] for name in ("a", "h"))
    for channel in range(made.shape[1]):
        assert set(source[np.unique(made[0, channel]).astype(int)]) == {target[channel]}


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_a_pixel_shuffle_to_a_single_channel_keeps_it(mode: str):
    found = analysed(through(f'h = DepthToSpace<blocksize=2, mode="{mode}">(a)', 4))
    assert not sizes(found)


def test_folding_columns_back_keeps_the_patches_of_each_channel_together():
    """(N, c x 2 x 2, 64) to (N, c, 9, 9), the channel outermost."""
    proto = through("f = Reshape(a, flat)  h = Col2Im(f, image, block)")
    found = analysed(proto)
    assert sizes(found) == {"w1": 2}
    atoms = found.atoms.of[found.labels["a"][1]]
    assert len(set(atoms[:4])) == len(set(atoms[4:])) == 1


# ---- channels pass


@pytest.mark.parametrize(
    ("op", "opset"),
    [
        ("h = GridSample(a, grid)", 20),
        ("h = RoiAlign<output_height=2, output_width=2>(a, rois, which)", 16),
        ("h = MaxRoiPool<pooled_shape=[2,2]>(a, boxes)", 13),
        ("h = ReverseSequence<batch_axis=0, time_axis=1>(t, lengths)", 13),
        ("h = Trilu(a)", 14),
        ("u = Unsqueeze(a, four)  f = DFT<axis=3>(u)  h = ReduceSumSquare<keepdims=0>(f, four)", 19),
        ("u = Unsqueeze(a, four)  f = DFT(u, , last)  h = ReduceSumSquare<keepdims=0>(f, four)", 20),
        ("h = CenterCropPad<axes=[2,3]>(a, image)", 18),
        ("h = CenterCropPad<axes=[1,2]>(a, shape)", 18),
        ("h = LRN<size=3, alpha=0.5>(a)", 13),
    ],
)
def test_channels_pass_one_by_one(op: str, opset: int):
    if "ReverseSequence" in op:
        op = f"t = Transpose<perm=[0,2,1,3]>(a)  {op.replace('h =', 'r =')}  h = Transpose<perm=[0,2,1,3]>(r)"
    proto = through(op, opset=opset)
    assert sizes(analysed(proto)) == {"w1": 8}
    if "DepthToSpace" not in op:
        assert holds(proto)


def test_a_shape_that_repeats_the_channels_repeats_those_that_are_left():
    proto = cut(through("h = CenterCropPad<axes=[1,2]>(a, shape)", opset=18), w1=(1, 4, 6))
    target = next(t for t in proto.graph.initializer if t.dims == [2])
    assert onnx.numpy_helper.to_array(target).tolist() == [3, 6]


@pytest.mark.parametrize(
    ("op", "opset", "why"),
    [
        ("h = ReverseSequence<batch_axis=0, time_axis=1>(a, lengths)", 13, "keeps this axis whole"),
        ("h = CenterCropPad<axes=[1,2]>(a, image)", 18, "cuts or fills it around its middle"),
        ("h = LRN<size=3>(a)", 10, "its window over the channels has a gated form from opset 11 on only"),
        (
            "p, i = MaxPool<kernel_shape=[2,2], strides=[2,2]>(a)"
            " h = MaxUnpool<kernel_shape=[2,2], strides=[2,2]>(p, i)",
            13,
            "its Indices count through all channels",
        ),
    ],
)
def test_what_cannot_pass_stays_and_says_why(op: str, opset: int, why: str):
    proto = through(op, opset=opset)
    if opset < 13:  # where ReduceSum has its axes in an attribute
        del proto.graph.node[-1].input[1]
        proto.graph.node[-1].attribute.append(helper.make_attribute("axes", [1]))
    found = because(analysed(proto), "w1", 0)
    assert any(text.endswith(why) for text in found)


# ---- DeformConv


def deformable(group: int, offset_group: int, out: int, *, masked: bool = True) -> onnx.ModelProto:
    """8 channels; offsets and masks come from layers of their own."""
    mask = "l = Conv(x, w3)  m = Sigmoid(l)" if masked else ""
    names = "a, w, o, b, m" if masked else "a, w, o, b"
    call = f"DeformConv<pads=[1,1,1,1], group={group}, offset_group={offset_group}>({names})"
    masks = {"w3": (9 * offset_group, 3, 1, 1)} if masked else {}
    return through(
        f"o = Conv(x, w2)  {mask}  h = {call}",
        w2=(18 * offset_group, 3, 1, 1),
        **masks,
        w=(out, 8 // group, 3, 3),
        b=(out,),
    )


@pytest.mark.parametrize(
    ("group", "offset_group", "out", "groups"),
    [
        (1, 1, 6, [6, 8]),  # outputs, inputs
        (2, 1, 6, [2, 3, 4]),  # groups, outputs and inputs of each
        (8, 1, 8, [8]),
        (8, 1, 16, [8]),
        (1, 2, 6, [2, 4, 6]),  # offset groups, inputs of each, outputs
        (2, 2, 6, [2, 3, 4]),
        (8, 2, 8, [2, 4]),
        (8, 8, 8, [8]),
        (8, 8, 16, [8]),
        (4, 2, 8, [2, 2, 2, 2]),
        (2, 4, 6, [2, 2, 2, 3]),
    ],
)
@pytest.mark.parametrize("masked", [True, False], ids=["masked", "plain"])
def test_deformable_convolution_is_pruned_by_groups_and_channels(
    group: int, offset_group: int, out: int, groups: list[int], masked: bool
):
    proto = deformable(group, offset_group, out, masked=masked)
    assert sorted(sizes(analysed(proto)).values()) == groups
    assert holds(proto)


def test_groups_and_offset_groups_are_counted_anew():
    proto = deformable(8, 2, 8)
    names = {size: name for name, size in sizes(analysed(proto)).items()}
    whole = attributes(cut(proto, **{names[2]: (1,)}), "DeformConv")
    assert (whole["group"], whole["offset_group"]) == (4, 1)
    part = attributes(cut(proto, **{names[4]: (0, 1, 3)}), "DeformConv")
    assert (part["group"], part["offset_group"]) == (6, 2)


@pytest.mark.parametrize(
    ("group", "offset_group", "out", "inputs_of_each"),
    [(1, 1, 6, 8), (2, 1, 6, 4), (8, 1, 16, 1), (1, 2, 6, 8), (8, 2, 8, 1)],
)
def test_deformable_convolution_costs_what_a_plain_one_does(
    group: int, offset_group: int, out: int, inputs_of_each: int
):
    layers = 64 * 3 * (8 + 18 * offset_group)
    found = CostModel(analysed(deformable(group, offset_group, out, masked=False)))
    assert found.total["macs"] == pytest.approx(layers + 64 * out * inputs_of_each * 9)
