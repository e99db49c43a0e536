"""What the tests of training share: a small gated net, its costs, and data it can learn."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from small_net import SIZES, gated_cnn

from onnxprune.training import Data, Settings, train
from onnxprune.training.data import from_arrays


@dataclass(frozen=True)
class ChainCosts:
    """A chain of 3x3 convolutions: `sizes[i]` channels between them, `areas[i]` positions of layer i."""

    names: tuple[str, ...]
    sizes: tuple[int, ...]
    areas: tuple[int, ...]
    ends: tuple[int, int] = (3, 10)

    def count(self, by: str, opened: Sequence[Any]) -> Any:
        if by == "channels":
            return sum(opened)
        widths = [self.ends[0], *opened, self.ends[1]]
        per_weight = self.areas if by == "macs" else (1,) * len(self.areas)
        return sum(9 * n * i * o for n, i, o in zip(per_weight, widths[:-1], widths[1:], strict=True))

    def unit_costs(self, by: str, opened: Any) -> Any:
        opened = list(opened)
        fewer = [[n - (i == g) for i, n in enumerate(opened)] for g in range(len(opened))]
        return np.asarray([self.count(by, opened) - self.count(by, less) for less in fewer], float)


@pytest.fixture
def chain() -> ChainCosts:
    return ChainCosts(("a", "b", "c"), (16, 64, 32), (1024, 256, 64, 1))


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
