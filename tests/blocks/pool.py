"""Pooling windows and global pools."""

from typing import Any

from sketch import Sketch, Value

from blocks.registry import block


def window(g: Sketch, x: Value, *, dilated: bool) -> dict[str, Any]:
    kernel = [g.number(2, 3) if size > 2 else 1 for size in x.space]
    attributes: dict[str, Any] = {"kernel_shape": kernel}
    if g.chance(70):
        attributes["strides"] = [g.number(1, 2) for _ in kernel]
    match g.pick(["none", "half", "ceil", "SAME_UPPER", "dilated"]):
        case "half":
            attributes["pads"] = [k // 2 for k in kernel] * 2
        case "ceil":
            attributes["ceil_mode"] = 1  # onnx and onnxruntime disagree on windows that start past the end
            attributes["strides"] = [min(k, 2) for k in kernel]
        case "SAME_UPPER":
            attributes["auto_pad"] = "SAME_UPPER"
            attributes["strides"] = [min(k, 2) for k in kernel]  # a stride over the kernel: negative padding
        case "dilated" if dilated and all(size >= 5 for size in x.space):
            attributes["dilations"] = [2 for _ in kernel]
    return attributes


@block("MaxPool", on="image")
def max_pool(g: Sketch, x: Value) -> Value:
    return g.op("MaxPool", x, **window(g, x, dilated=True))


@block("AveragePool", on="image")
def average_pool(g: Sketch, x: Value) -> Value:
    attributes = window(g, x, dilated=g.opset >= 19)
    if g.chance(40):
        attributes["count_include_pad"] = 1
    return g.op("AveragePool", x, **attributes)


@block("LpPool", on="image")
def lp_pool(g: Sketch, x: Value) -> Value:
    attributes = {key: value for key, value in window(g, x, dilated=False).items() if key != "ceil_mode"}
    return g.op("LpPool", x, p=g.number(1, 2), rms=2 * x.rms, **attributes)


@block("GlobalAveragePool", on="image")
def global_average(g: Sketch, x: Value) -> Value:
    return g.op("GlobalAveragePool", x)


@block("GlobalMaxPool", on="image")
def global_max(g: Sketch, x: Value) -> Value:
    return g.op("GlobalMaxPool", x)


@block("GlobalLpPool", on="image", rare=True)
def global_lp(g: Sketch, x: Value) -> Value:
    if g.opset >= 22:  # onnxruntime 1.31 has none so new
        return g.op("LpPool", x, p=2, kernel_shape=x.space, rms=3 * x.rms)
    return g.op("GlobalLpPool", x, p=2, rms=3 * x.rms)


@block("spatial pyramid pooling", on="image")
def pyramid(g: Sketch, x: Value) -> Value:
    """SPPF: the same pool thrice, all joined."""
    same: dict[str, Any] = {"kernel_shape": [3 for _ in x.space], "strides": [1 for _ in x.space]}
    levels = [x]
    for _ in range(2):
        levels.append(g.op("MaxPool", levels[-1], pads=[1 for _ in x.space] * 2, **same))
    return g.op("Concat", *levels, axis=1)
