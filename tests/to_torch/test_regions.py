"""Boxes and the regions they bound."""

from typing import Any

import numpy as np
import pytest
import torch
from onnx import helper
from small import Array, draw, in_onnxruntime, in_torch

from onnxprune.to_torch import load
from onnxprune.to_torch.ops.deform import deform_conv
from onnxprune.to_torch.ops.regions import max_roi_pool, roi_align

DEFORMED: list[dict[str, Any]] = [
    {"pads": [1, 1, 1, 1]},
    {"strides": [2, 1], "pads": [1, 0, 1, 2], "dilations": [1, 2]},
    {"group": 2, "pads": [1, 1, 1, 1]},
    {"offset_group": 2, "pads": [1, 1, 1, 1]},
]


def agree(op: str, *inputs: Array, opset: int = 16, **attributes: Any) -> None:
    code = helper.np_dtype_to_tensor_dtype
    names = [f"x{i}" for i in range(len(inputs))]
    ends = [
        helper.make_tensor_value_info(n, code(v.dtype), v.shape) for n, v in zip(names, inputs, strict=True)
    ]
    out = [helper.make_empty_tensor_value_info("y")]
    graph = helper.make_graph([helper.make_node(op, names, ["y"], **attributes)], "g", ends, out)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    (ours,), (theirs,) = in_torch(load(made), *inputs), in_onnxruntime(made, *inputs)
    assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def boxes(batch: int, count: int, seed: int = 0) -> Array:
    drawn = np.random.default_rng(seed)
    corner, size = drawn.uniform(0, 20, (batch, count, 2)), drawn.uniform(1, 8, (batch, count, 2))
    return np.concatenate([corner, corner + size], -1).astype(np.float32)


@pytest.mark.parametrize("count", [1, 40, 1500])
@pytest.mark.parametrize("overlap", [0.0, 0.3, 0.9])
def test_the_same_boxes_are_kept(overlap: float, count: int) -> None:
    scores = np.random.default_rng(1).uniform(size=(2, 3, count)).astype(np.float32).round(2)  # with ties
    limits = np.array([10_000]), np.array([overlap], np.float32), np.array([0.2], np.float32)
    agree("NonMaxSuppression", boxes(2, count), scores, *limits, opset=11)


@pytest.mark.parametrize("centered", [0, 1])
@pytest.mark.parametrize("most", [0, 3])
def test_few_boxes_are_kept_from_either_format(most: int, centered: int) -> None:
    scores = draw(1, 2, 40)
    limits = np.array([most]), np.array([0.5], np.float32)
    agree("NonMaxSuppression", boxes(1, 40), scores, *limits, opset=11, center_point_box=centered)


ROIS = np.array([[0, 0, 3, 4], [1.5, 2.2, 9, 7.7], [-3, -2, 30, 2], [4, 4, 4.2, 4.1]], np.float32)


@pytest.mark.parametrize("ratio", [0, 2])
@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize(
    ("opset", "shift"), [(10, {}), (16, {}), (16, {"coordinate_transformation_mode": "output_half_pixel"})]
)
def test_roi_align(opset: int, shift: dict[str, str], mode: str, ratio: int) -> None:
    agree(
        "RoiAlign", draw(2, 3, 10, 12), ROIS, np.array([0, 1, 1, 0]), opset=opset, mode=mode,
        sampling_ratio=ratio, output_height=3, output_width=2, spatial_scale=0.8, **shift,
    )  # fmt: skip


def test_no_regions_give_an_empty_result() -> None:
    y = roi_align(torch.ones(1, 3, 8, 8), torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    assert y.shape == (0, 3, 1, 1)


def test_max_roi_pool() -> None:
    rois = np.concatenate([np.array([[0], [1], [1], [0]], np.float32), ROIS.round()], 1)
    agree("MaxRoiPool", draw(2, 3, 10, 12), rois, pooled_shape=[3, 2], spatial_scale=0.7)


@pytest.mark.parametrize("attributes", DEFORMED, ids=str)
@pytest.mark.parametrize("masked", [False, True])
def test_deformable_convolution(masked: bool, attributes: dict[str, Any]) -> None:
    offsets, pads = attributes.get("offset_group", 1), attributes.get("pads", [0] * 4)
    strides, dilations = attributes.get("strides", [1, 1]), attributes.get("dilations", [1, 1])
    size = [(n + pads[i] + pads[i + 2] - 2 * dilations[i] - 1) // strides[i] + 1 for i, n in enumerate((7, 8))]
    inputs = [
        draw(2, 4, 7, 8),
        draw(6, 4 // attributes.get("group", 1), 3, 3),
        2 * draw(2, offsets * 18, *size, seed=1),
        draw(6, seed=2),
        *([np.abs(draw(2, offsets * 9, *size, seed=3))] if masked else []),
    ]
    agree("DeformConv", *inputs, opset=19, **attributes)


def test_offsets_of_zero_are_a_convolution_in_three_dimensions() -> None:
    x, w = torch.from_numpy(draw(1, 2, 5, 6, 7)), torch.from_numpy(draw(3, 2, 2, 3, 2))
    want = torch.nn.functional.conv3d(x, w)
    ours = deform_conv(x, w, torch.zeros(1, 12 * 3, *want.shape[2:]))
    torch.testing.assert_close(ours, want, rtol=1e-4, atol=1e-5)


def test_gradients() -> None:
    image = torch.from_numpy(draw(1, 2, 5, 5)).double().requires_grad_()
    rois = torch.tensor([[0.3, 0.4, 3.1, 3.7]], dtype=torch.float64, requires_grad=True)
    batch = torch.zeros(1, dtype=torch.int64)
    for ratio in (0, 2):
        assert torch.autograd.gradcheck(
            lambda x, r, n=ratio: roi_align(x, r, batch, output_height=2, output_width=2, sampling_ratio=n),
            (image, rois),
        )
    pooled = torch.tensor([[0, 0, 1, 3, 4]], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: max_roi_pool(x, pooled, pooled_shape=[2, 2]), image)
    weight = torch.from_numpy(draw(2, 2, 2, 2)).double().requires_grad_()
    offset = torch.from_numpy(draw(1, 8, 4, 4, seed=3)).double().requires_grad_()
    mask = torch.from_numpy(draw(1, 4, 4, 4, seed=4)).double().requires_grad_()
    assert torch.autograd.gradcheck(deform_conv, (image, weight, offset, None, mask))
