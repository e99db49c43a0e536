"""ONNX graphs as trainable torch modules, and the trained weights back into the graph."""

from onnxprune.to_torch.source import load
from onnxprune.to_torch.state import write_back

__all__ = ["load", "write_back"]
