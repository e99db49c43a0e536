"""Imported once by the server that the torch steps fork from: the libraries take longer to load than most exports."""

import contextlib
import importlib

for name in (
    "torch.onnx",
    "torch.export",
    "torch._dynamo",
    "onnxscript",
    "torchvision",
    "timm",
    "transformers",
):
    with contextlib.suppress(ImportError):
        importlib.import_module(name)
