"""The torch module behind a recipe's ONNX file, for tools that take modules only."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from oneshot.reaching import PeerError

MODELS = Path(__file__).parents[2] / "models"


def module_of(path: Path) -> nn.Module:
    """The module of models/ that the file's name says (resnet20, mnist, ..), with the file's weights, to evaluate.

    PeerError where no recipe is known by that name, or the file's weights have other names.
    """
    name = re.split(r"[._]", path.name)[0]
    own = MODELS / name / "network.py"
    if own.is_file():
        module: nn.Module = _source(own).build()
    else:
        try:
            module = _source(MODELS / "cifar10" / "networks.py").fresh(name)
        except (KeyError, ValueError):
            raise PeerError(f"no torch module known for {path.name}") from None
    weights = initializers(onnx.load(path))
    state = {key: weights.get(key, value) for key, value in module.state_dict().items()}
    missing = [key for key in state if key not in weights and not key.endswith("num_batches_tracked")]
    if missing:
        raise PeerError(f"{path.name} holds no {missing[0]}: exported by other means")
    module.load_state_dict(state)
    return module.eval()


def initializers(model: onnx.ModelProto) -> dict[str, Tensor]:
    """The weights by name, those behind an Identity too, which exporters write where two are equal."""
    weights = {
        tensor.name: torch.from_numpy(numpy_helper.to_array(tensor).copy())
        for tensor in model.graph.initializer
    }
    for node in model.graph.node:
        if node.op_type == "Identity" and node.input[0] in weights:
            weights[node.output[0]] = weights[node.input[0]]
    return weights


def _source(path: Path) -> ModuleType:
    """The Python file as a module."""
    spec = importlib.util.spec_from_file_location(f"recipe_{path.parent.name}", path)
    if spec is None or spec.loader is None:
        raise PeerError(f"{path} is no Python file")
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found
