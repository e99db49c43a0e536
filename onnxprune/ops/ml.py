"""The linear models of ai.onnx.ml, whose weights are attributes."""

import numpy as np

from onnxprune.links import At, Links, Same
from onnxprune.ops.registry import Kept, Node, Unknown, axes, repair

ML = "ai.onnx.ml"


@axes("LinearClassifier", "LinearRegressor", domain=ML)
def linear(node: Node) -> Links:
    """One row of coefficients per class or target; the features are summed away."""
    rank, features = len(node.shape()), node.shape()[-1]
    if features is None or len(node.attr("coefficients", ())) % features:
        raise Unknown("its coefficients do not fit its input")
    batch, last = At("in0", 0), At("in0", rank - 1)
    rows = len(node.attr("coefficients")) // features
    return Links(free=[batch, last] if rank > 1 else [last], summed=[last], macs=(batch, last, rows))


@repair("LinearClassifier", "LinearRegressor", domain=ML)
def coefficients(node: Node, kept: Kept) -> None:
    """Those of the features that are left."""
    axis = len(node.shape()) - 1
    rows = np.asarray(node.attr("coefficients"), dtype=np.float32).reshape(-1, node.shape()[axis])
    node.raw.attrs["coefficients"] = rows[:, kept.indices(node.inputs[0], axis)].reshape(-1).tolist()


@axes("Scaler", domain=ML)
def scaler(node: Node) -> Links:
    return Links(same=[Same(At("in0", axis), At("out0", axis)) for axis in range(len(node.shape()))])


@repair("Scaler", domain=ML)
def scales(node: Node, kept: Kept) -> None:
    """Offset and scale are one number, or one per feature."""
    axis = len(node.shape()) - 1
    for name in ("offset", "scale"):
        values = node.attr(name, ())
        if len(values) > 1:
            node.raw.attrs[name] = [float(values[k]) for k in kept.indices(node.inputs[0], axis)]
