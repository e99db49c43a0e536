import numpy as np
import pytest
import torch
from onnx import helper
from small import draw, model

from onnxprune.to_torch import load

X = torch.from_numpy(np.abs(draw(100, 100)) + 1)


def dropout(opset: int) -> object:
    if opset < 12:
        return model(
            [helper.make_node("Dropout", ["x"], ["y"], ratio=0.25)], {"x": [100, 100]}, ["y"], opset=opset
        )
    nodes = [helper.make_node("Dropout", ["x", "ratio", "mode"], ["y"])]
    values = {"ratio": np.array(0.25, np.float32), "mode": np.array(True)}
    return model(nodes, {"x": [100, 100]}, ["y"], values, opset=opset)


@pytest.mark.parametrize("opset", [7, 10, 12, 13, 22])
def test_dropout_drops_its_ratio_in_train_mode_and_keeps_the_mean(opset: int) -> None:
    torch.manual_seed(0)
    y = load(dropout(opset)).train()(X)
    kept = y != 0
    assert kept.double().mean().item() == pytest.approx(0.75, abs=0.02)
    torch.testing.assert_close(y[kept], X[kept] / 0.75)


@pytest.mark.parametrize("opset", [7, 10, 12, 13, 22])
def test_dropout_leaves_its_input_in_eval_mode(opset: int) -> None:
    assert torch.equal(load(dropout(opset))(X), X)


def test_the_mask_of_dropout_is_what_it_kept() -> None:
    made = model(
        [helper.make_node("Dropout", ["x"], ["y", "mask"])], {"x": [100, 100]}, ["y", "mask"], opset=13
    )
    y, mask = load(made).train()(X)
    assert torch.equal(mask, y != 0)
