"""What the tests of training share: a small gated net, its costs, and data it can learn."""

import numpy as np
import onnx
import pytest
import torch
from chain import ChainCosts
from small_net import SIZES, gated_cnn

from onnxprune.training import Data, Settings, train
from onnxprune.training.data import from_arrays


@pytest.fixture
def chain() -> ChainCosts:
    return ChainCosts(("a", "b", "c"), (16, 64, 32), (1024, 256, 64, 1))


@pytest.fixture
def wide() -> ChainCosts:
    """Like VGG: many positions where there are few weights, and the other way round."""
    sizes = (64, 64, 128, 128, 256, 256, 512, 512)
    areas = (1024, 1024, 256, 256, 64, 64, 16, 16, 1)
    return ChainCosts(tuple("abcdefgh"), sizes, areas)


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Nets as small as these only wait for each other's threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def toy_costs() -> ChainCosts:
    return ChainCosts(tuple(SIZES), tuple(SIZES.values()), (64, 64, 1), (1, 3))


@pytest.fixture(scope="session")
def bars() -> dict[str, np.ndarray]:
    """Images with a horizontal, a vertical or a diagonal bar in noise, and which of them it is."""
    rng = np.random.default_rng(1)
    y = np.arange(480) % 3
    x = rng.normal(0, 0.3, (480, 1, 8, 8)).astype(np.float32)
    for image, label, at in zip(x[:, 0], y, rng.integers(1, 7, 480), strict=True):
        image[(at, slice(None), np.arange(8))[label], (slice(None), at, np.arange(8))[label]] += 1.5
    return {"x": x, "y": y}


@pytest.fixture(scope="session")
def labelled(bars) -> Data:
    return from_arrays(bars, [("x", np.float32, (None, 1, 8, 8))])


@pytest.fixture(scope="session")
def unlabelled(bars) -> Data:
    return from_arrays({"x": bars["x"]}, [("x", np.float32, (None, 1, 8, 8))])


@pytest.fixture(scope="session")
def trained_cnn(labelled, toy_costs) -> onnx.ModelProto:
    """The gated net, trained with its gates open."""
    settings = Settings(
        method="finetune", start="given", task="classification", epochs=6, batch_size=32, lr=0.05, device="cpu"
    )
    outcome = train(gated_cnn(), toy_costs, labelled, settings)
    assert outcome.after["accuracy"] > 0.97
    return outcome.model
