"""BatchNorm given back, for training, to models it was folded away from.

Most exporters fold BatchNorm into the convolution before it. Such nets diverge at learning rates at which they were
trained (ResNet-20 with BatchNorm folded: NaN within 14 steps at 0.003, where 0.03 is fine with it). So a
BatchNormalization that changes nothing is put behind each convolution: its scale and shift are the channel's measured
deviation and mean, and so are its running statistics. After training it is folded away again.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from onnxprune.training.data import Data

PREFIX = "unfold/"
EPSILON = 1e-5
BATCH, BATCHES = 64, 16
"""What the statistics are measured on: so many samples, so often."""

NORM = 2.0
"""Length of the filters during training, as in nets trained with BatchNorm (medians per layer of CIFAR-10's ResNet-20:
1.2 to 2.2). Left as folded, ResNet-20 reached 56 % after three short epochs; so, 83 %; with its own BatchNorm, 81 %."""

PARTS = ("scale", "shift", "mean", "var")


def unfold(model: onnx.ModelProto, data: Data) -> onnx.ModelProto | None:
    """The same function with BatchNormalization behind every convolution with a bias; None where there is any already,
    or no such convolution.
    """
    convolutions = list(_plain_convolutions(model.graph))
    if not convolutions or any(node.op_type == "BatchNormalization" for node in model.graph.node):
        return None
    unfolded = onnx.ModelProto()
    unfolded.CopyFrom(model)
    sizes = {tensor.name: tensor.dims for tensor in model.graph.initializer}
    nodes = []
    for node in unfolded.graph.node:
        nodes.append(node)
        if node.output[0] in convolutions:
            name = f"{PREFIX}{node.output[0]}"
            operands = [f"{name}/conv", *(f"{name}/{part}" for part in PARTS)]
            nodes.append(
                onnx.helper.make_node(
                    "BatchNormalization", operands, [node.output[0]], name=name, epsilon=EPSILON
                )
            )
            node.output[0] = operands[0]
            channels = sizes[node.input[2]][0]
            _set(unfolded.graph, name, np.zeros(channels), np.ones(channels))
    rebuilt = onnx.GraphProto(node=nodes)
    unfolded.graph.ClearField("node")
    unfolded.graph.node.extend(rebuilt.node)
    for name, (mean, var) in _measured(unfolded, data).items():
        _set(unfolded.graph, name, mean, var)
    _rescale(unfolded.graph)
    return unfolded


def _rescale(graph: onnx.GraphProto) -> None:
    """Gives each filter the length NORM and its BatchNormalization the rest, which changes nothing either.

    Behind a normalisation only the direction of a filter counts, and the shorter it is, the faster a given learning
    rate turns it; folding had shortened them.
    """
    values = {tensor.name: tensor for tensor in graph.initializer}
    norms = {node.input[0]: node for node in graph.node if node.name.startswith(PREFIX)}
    for node in graph.node:
        norm = norms.get(node.output[0])
        if norm is None:
            continue
        weight, bias = (numpy_helper.to_array(values[name]) for name in node.input[1:3])
        scale, _, mean, var = (
            numpy_helper.to_array(values[name]).astype(np.float64) for name in norm.input[1:]
        )
        length = np.sqrt(np.square(weight, dtype=np.float64).sum(axis=tuple(range(1, weight.ndim))))
        factor = np.where(length > 0, NORM / np.maximum(length, 1e-12), 1.0)
        deviation = np.sqrt(var * factor**2 + EPSILON)
        _store(values[node.input[1]], weight * factor.reshape(-1, *(1,) * (weight.ndim - 1)), weight.dtype)
        _store(values[node.input[2]], bias * factor, bias.dtype)
        _store(
            values[norm.input[1]], scale / np.sqrt(var + EPSILON) * deviation / factor, np.dtype(np.float32)
        )
        _store(values[norm.input[3]], mean * factor, np.dtype(np.float32))
        _store(values[norm.input[4]], var * factor**2, np.dtype(np.float32))


def fold(trained: onnx.ModelProto) -> onnx.ModelProto:
    """`trained` without what `unfold` put in: its effect is in the convolutions' weights and biases."""
    folded = onnx.ModelProto()
    folded.CopyFrom(trained)
    graph = folded.graph
    values = {tensor.name: tensor for tensor in graph.initializer}
    norms = {node.input[0]: node for node in graph.node if node.name.startswith(PREFIX)}
    for node in graph.node:
        norm = norms.get(node.output[0])
        if norm is None:
            continue
        scale, shift, mean, var = (
            numpy_helper.to_array(values[name]).astype(np.float64) for name in norm.input[1:]
        )
        factor = scale / np.sqrt(var + EPSILON)
        weight, bias = (numpy_helper.to_array(values[name]) for name in node.input[1:3])
        shaped = factor.reshape(-1, *(1,) * (weight.ndim - 1))
        _store(values[node.input[1]], weight * shaped, weight.dtype)
        _store(values[node.input[2]], (bias - mean) * factor + shift, bias.dtype)
        node.output[0] = norm.output[0]
    for k in reversed([k for k, node in enumerate(graph.node) if node.name.startswith(PREFIX)]):
        del graph.node[k]
    for k in reversed([k for k, tensor in enumerate(graph.initializer) if tensor.name.startswith(PREFIX)]):
        del graph.initializer[k]
    return folded


def _plain_convolutions(graph: onnx.GraphProto) -> Iterator[str]:
    """Outputs of convolutions whose float32 weight and bias nobody else reads, and that are no outputs of the model."""
    readers = Counter(name for node in graph.node for name in node.input)
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    outputs = {value.name for value in graph.output}
    for node in graph.node:
        if node.op_type != "Conv" or len(node.input) < 3 or node.output[0] in outputs:
            continue
        own = all(types.get(n) == onnx.TensorProto.FLOAT and readers[n] == 1 for n in node.input[1:3])
        if own:
            yield node.output[0]


def _set(graph: onnx.GraphProto, name: str, mean: np.ndarray, var: np.ndarray) -> None:
    """The four operands of a BatchNormalization that changes nothing at these statistics."""
    values = dict(zip(PARTS, (np.sqrt(var + EPSILON), mean, mean, var), strict=True))
    known = {tensor.name: tensor for tensor in graph.initializer}
    for part, value in values.items():
        tensor = known.get(f"{name}/{part}")
        if tensor is None:
            tensor = graph.initializer.add(name=f"{name}/{part}")
        _store(tensor, value, np.dtype(np.float32))


def _store(tensor: onnx.TensorProto, values: np.ndarray, dtype: np.dtype[Any]) -> None:
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values, dtype=dtype), tensor.name))


def _measured(unfolded: onnx.ModelProto, data: Data) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Mean and variance of what arrives at each inserted BatchNormalization, by its name, float64 (channels,)."""
    import torch

    from onnxprune import to_torch
    from onnxprune.to_torch.ops.norm import BatchNormalization

    module = to_torch.load(unfolded)
    tensors = module.state_dict(keep_vars=True)
    names = {
        id(tensor): name.removesuffix("/scale") for name, tensor in tensors.items() if name.endswith("/scale")
    }
    sums: dict[str, list[np.ndarray]] = {}
    samples = 0.0

    def watch(_: torch.nn.Module, operands: tuple[torch.Tensor, ...]) -> None:
        x = operands[0].detach().double()
        axes = [axis for axis in range(x.dim()) if axis != 1]
        moments = [x.mean(axes).numpy() * len(x), x.square().mean(axes).numpy() * len(x)]
        total = sums.setdefault(names[id(operands[1])], [np.zeros_like(m) for m in moments])
        total[:] = [old + new for old, new in zip(total, moments, strict=True)]

    hooks = [
        child.register_forward_pre_hook(watch)
        for child in module.modules()
        if isinstance(child, BatchNormalization)
    ]
    with torch.no_grad():
        for feed in data.batches(BATCH, limit=BATCH * BATCHES):
            arrays = [torch.from_numpy(np.ascontiguousarray(feed[column.name])) for column in data.columns]
            module(*arrays)
            samples += len(arrays[0])
    for hook in hooks:
        hook.remove()
    means = {name: total[0] / samples for name, total in sums.items()}
    return {
        name: (means[name], np.maximum(total[1] / samples - means[name] ** 2, 0))
        for name, total in sums.items()
    }
