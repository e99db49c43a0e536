"""From a case to its ONNX file."""

import logging
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from zoo_models import catalogue
from zoo_models.case import TORCH_EXPORTERS, Case, Network


def export(case: Case, path: Path) -> list[np.ndarray] | None:
    """Writes the case's ONNX file and returns inputs for it; whatever the exporter raises comes through."""
    quietly()
    partial = path.with_suffix(".partial.onnx")
    if case.exporter in TORCH_EXPORTERS:
        network = catalogue.network(case)
        export_torch(network, case, partial)
        feeds = [tensor.numpy() for tensor in network.sample(1 if case.form == "static" else 2)]
    else:
        _export_others(case, partial)
        feeds = None
    partial.rename(path)
    return feeds


def quietly() -> None:
    """The torchscript exporter is deprecated and says so; its files will stay with us for years."""
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")


def export_torch(network: Network, case: Case, path: Path) -> None:
    """Writes a torch module by one of torch's two exporters."""
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(1)
    torch.backends.mha.set_fastpath_enabled(case.exporter == "dynamo")  # no ONNX op for the other exporter
    inputs = network.sample(1 if case.form == "static" else 2)
    axes = network.open_axes(case.form)
    names = [f"input{i}" for i in range(len(inputs))]
    options: dict[str, Any] = {"input_names": names, "opset_version": case.opset}
    with torch.no_grad():
        if case.exporter == "torchscript":
            if case.form != "static":
                options["dynamic_axes"] = dict(zip(names, axes, strict=True))
            torch.onnx.export(network.module, inputs, path, dynamo=False, **options)
            return
        if case.form != "static":
            dims: dict[str, Any] = {}
            options["dynamic_shapes"] = (
                tuple(
                    {axis: dims.setdefault(n, torch.export.Dim(n)) for axis, n in one.items()} for one in axes
                ),
            )
        torch.onnx.export(
            _positional(network.module),
            inputs,
            path,
            dynamo=True,
            external_data=False,
            verbose=False,
            **options,
        )


def _positional(module: Any) -> Any:
    """A module whose forward takes *inputs, so that the dynamic shapes of any network have one form."""
    import torch

    class Positional(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = module

        def forward(self, *inputs: torch.Tensor) -> Any:
            return self.module(*inputs)

    return Positional().eval()


def _export_others(case: Case, path: Path) -> None:
    from zoo_models import tables

    if case.family == "sklearn":
        tables.export_sklearn(case.model, case.opset, path)
        return
    os.environ["KERAS_BACKEND"] = "torch" if case.exporter == "keras_torch" else "tensorflow"
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    tables.export_keras(case.model, case.exporter, case.opset, path)
