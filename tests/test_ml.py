import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from test_law import both_sides, sizes

from onnxprune import groups, model
from onnxprune.cost import CostModel


def projected(op: str, outputs: list[str], **attributes: object) -> onnx.ModelProto:
    """A projection of 5 features to 6, which the linear model `op` takes."""
    weight = np.random.default_rng(0).standard_normal((5, 6)).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node(op, ["h"], outputs, domain="ai.onnx.ml", **attributes),
    ]
    made = [helper.make_tensor_value_info(outputs[-1], onnx.TensorProto.FLOAT, ["n", 3])]
    given = [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 5])]
    graph = helper.make_graph(nodes, "net", given, made, [numpy_helper.from_array(weight, "w")])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


COEFFICIENTS = np.random.default_rng(1).standard_normal(18).astype(np.float32).tolist()
REGRESSOR = projected("LinearRegressor", ["y"], coefficients=COEFFICIENTS, intercepts=[0.1, 0.2, 0.3], targets=3)
CLASSIFIER = projected(
    "LinearClassifier", ["label", "y"], coefficients=COEFFICIENTS, intercepts=[0.1, 0.2, 0.3],
    classlabels_ints=[0, 1, 2], post_transform="NONE",
)  # fmt: skip


@pytest.mark.parametrize("proto", [REGRESSOR, CLASSIFIER], ids=["regressor", "classifier"])
def test_features_of_linear_models_can_go(proto: onnx.ModelProto):
    assert sizes(proto) == [("w", 6)]
    for checked in both_sides(proto, {"w": (0, 2, 5)}):
        assert checked.equal


def test_the_products_of_linear_models_count():
    costs = CostModel(groups.find(model.load(REGRESSOR)))
    assert costs.total["macs"] == 5 * 6 + 6 * 3


def test_what_scales_every_feature_loses_its_scales():
    scaled = onnx.ModelProto()
    scaled.CopyFrom(REGRESSOR)
    scaler = helper.make_node(
        "Scaler", ["h"], ["s"], domain="ai.onnx.ml", offset=[0.1, 0.2, 0.3, 0.4, 0.5, 0.6], scale=[1.5, 2, 3, 4, 5, 6.5]
    )
    scaled.graph.node.insert(1, scaler)
    scaled.graph.node[2].input[0] = "s"
    assert sizes(scaled) == [("w", 6)]
    for checked in both_sides(scaled, {"w": (1, 4)}):
        assert checked.equal
