"""Small models written as ONNX text."""

import onnx


def parsed(graph: str, *, opset: int = 18) -> onnx.ModelProto:
    return onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": {opset}]> {graph}')


RELU = parsed("net (float[N,3] x) => (float[N,3] y) { y = Relu(x) }")
