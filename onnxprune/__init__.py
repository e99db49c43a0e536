"""onnxprune: prune any trained network as an ONNX file."""

__version__ = "0.1.0"
