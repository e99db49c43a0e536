"""What the tests of training share: a small gated net, its costs, and data it can learn."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import pytest
import torch

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


SIZES = {"a": 24, "b": 40}


def gate_function():
    make = onnx.helper.make_node
    cast = make("Cast", ["open"], ["mask"])
    cast.attribute.add(name="to", ref_attr_name="to", type=onnx.AttributeProto.INT)
    zero = onnx.numpy_helper.from_array(np.float32(0), "zero")
    nodes = [
        make("Constant", [], ["zero"], value=zero),
        make("Greater", ["w", "zero"], ["open"]),
        cast,
        make("Mul", ["x", "mask"], ["y"]),
    ]
    opset = [onnx.helper.make_opsetid("", 18)]
    return onnx.helper.make_function("onnxprune", "Gate", ["x", "w"], ["y"], nodes, opset, attributes=["to"])


def gated_cnn(classes: int = 3, softmax: bool = False) -> onnx.ModelProto:
    """Two convolutions with BatchNorm and a linear layer, (n, 1, 8, 8) -> (n, classes); random weights."""
    rng, make = np.random.default_rng(0), onnx.helper.make_node
    a, b = SIZES.values()
    arrays = {
        "conv1.weight": rng.normal(0, 0.5, (a, 1, 3, 3)),
        "conv2.weight": rng.normal(0, 0.1, (b, a, 3, 3)),
        "linear.weight": rng.normal(0, 0.2, (classes, b)),
        "linear.bias": np.zeros(classes),
        **{f"bn{i}.{part}": np.full(n, part in ("scale", "var"), float)
           for i, n in ((1, a), (2, b)) for part in ("scale", "bias", "mean", "var")},
        "gate/a": np.ones(a), "gate/b": np.ones(b),
    }  # fmt: skip
    nodes = [
        make("Conv", ["x", "conv1.weight"], ["c1"], pads=[1, 1, 1, 1]),
        make("BatchNormalization", ["c1", "bn1.scale", "bn1.bias", "bn1.mean", "bn1.var"], ["n1"]),
        make("Relu", ["n1"], ["r1"]),
        make("Reshape", ["gate/a", "laid_out"], ["wa"]),
        make("Gate", ["r1", "wa"], ["g1"], domain="onnxprune", to=1),
        make("Conv", ["g1", "conv2.weight"], ["c2"], pads=[1, 1, 1, 1]),
        make("BatchNormalization", ["c2", "bn2.scale", "bn2.bias", "bn2.mean", "bn2.var"], ["n2"]),
        make("Relu", ["n2"], ["r2"]),
        make("GlobalMaxPool", ["r2"], ["p"]),
        make("Flatten", ["p"], ["f"]),
        make("Gate", ["f", "gate/b"], ["g2"], domain="onnxprune", to=1),
        make("Gemm", ["g2", "linear.weight", "linear.bias"], ["logits"], transB=1),
        *([make("Softmax", ["logits"], ["probabilities"], axis=1)] if softmax else []),
    ]
    initializers = [onnx.numpy_helper.from_array(v.astype(np.float32), k) for k, v in arrays.items()]
    initializers.append(onnx.numpy_helper.from_array(np.asarray([1, a, 1, 1]), "laid_out"))
    value = onnx.helper.make_tensor_value_info
    output = value("probabilities" if softmax else "logits", onnx.TensorProto.FLOAT, ["n", classes])
    graph = onnx.helper.make_graph(
        nodes, "toy", [value("x", onnx.TensorProto.FLOAT, ["n", 1, 8, 8])], [output], initializers
    )
    opsets = [onnx.helper.make_opsetid("", 18), onnx.helper.make_opsetid("onnxprune", 1)]
    return onnx.helper.make_model(graph, opset_imports=opsets, functions=[gate_function()], ir_version=8)


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
        method="finetune", task="classification", epochs=6, batch_size=32, lr=0.05, device="cpu"
    )
    outcome = train(gated_cnn(), toy_costs, labelled, settings)
    assert outcome.after["accuracy"] > 0.97
    return outcome.model
