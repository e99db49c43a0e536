"""An ONNX model as a torch module that trains."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import onnx
import onnx.inliner
import torch
from onnx.external_data_helper import uses_external_data
from torch import Tensor, fx

from onnxprune.apart import Apart, is_apart, take_apart
from onnxprune.errors import ConversionError, ModelError
from onnxprune.intake import read
from onnxprune.shapes.foreign import taught
from onnxprune.to_torch import fusion
from onnxprune.to_torch.bodies import graphs, hoist
from onnxprune.to_torch.expand import expand
from onnxprune.to_torch.importer import Importer
from onnxprune.to_torch.registry import find
from onnxprune.to_torch.state import read_initializer
from onnxprune.to_torch.steps import plan

log = logging.getLogger(__name__)

ALSO = "onnx_also"  # GraphModule.meta key: the values that it returns behind the graph's outputs
OPSETS = range(1, 29)
_SMALL = 1024  # bytes; larger initializers hold no shapes, and nothing on the way need copy them


def load(
    source: str | Path | onnx.ModelProto,
    *,
    gate_value: Callable[[Tensor], Tensor] | None = None,
    straight_through: bool = False,
    fuse: bool = True,
    also: Sequence[str] = (),
) -> fx.GraphModule:
    """The model as an fx GraphModule, called with the graph's inputs in order.

    >>> module = load("resnet18.onnx").train()
    >>> logits = module(images)  # a tensor, or a tuple where the graph has several outputs
    >>> onnx.save(write_back(module, onnx.load("resnet18.onnx")), "trained.onnx")

    Parameters and buffers carry the initializers' names; initializers shared in the file are shared here. It
    comes in eval mode, where it computes what the file computes; in train mode BatchNormalization uses batch
    statistics and updates its running ones, and Dropout drops. `gate_value` turns the latents `w` of a gated
    model's Gate nodes into the factor on `x`; by default 1 where `w > 0`, else 0. With `straight_through`,
    gradients pass QuantizeLinear as if it did not round, and are 0 where it saturates. With `fuse`, nodes that
    exporters write out for one torch function are that function again, and gates scale the weights they meet
    where that is cheaper: the same values but for rounding, while closed channels hold finite ones. Values
    of the graph named in `also` come behind its outputs.

    Raises ModelError where the file cannot be read, ConversionError naming every node that PyTorch cannot
    express.
    """
    parts = _read(source)
    model = parts.light
    _refuse(model)
    _also(model, also)
    hoist(model)
    weights = _weights(parts)
    model = _inferred(_inline(model))
    while (deeper := expand(model)) is not None:
        model = _inferred(deeper)
    options = {"gate_value": gate_value, "straight_through": straight_through}
    module = Importer(plan(model), options, weights).run()
    if fuse:
        fusion.fuse(module)
    module.meta[ALSO] = tuple(also)
    return module


def _read(source: str | Path | onnx.ModelProto) -> Apart:
    return take_apart(source) if isinstance(source, onnx.ModelProto) else read(Path(source))


def _refuse(model: onnx.ModelProto) -> None:
    """Raises what cannot be said of a node."""
    opset = max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=OPSETS[-1])
    if opset not in OPSETS:
        raise ConversionError(
            f"the model has opset {opset}, PyTorch re-import knows {OPSETS[0]} to {OPSETS[-1]}; "
            "convert it with onnx.version_converter first"
        )
    for graph in graphs(model.graph):
        for sparse in graph.sparse_initializer:
            raise ConversionError(f"initializer {sparse.values.name!r} is sparse; store it dense first")
        for tensor in graph.initializer:
            if uses_external_data(tensor) and not is_apart(tensor):
                raise ModelError(
                    f"initializer {tensor.name!r} is stored outside the model; give the file's path instead"
                )


def _also(model: onnx.ModelProto, names: Sequence[str]) -> None:
    """Makes these values outputs of the graph; ConversionError where there are none of that name."""
    made = {output for node in model.graph.node for output in node.output}
    for name in names:
        if name not in made:
            raise ConversionError(f"no node of the graph makes a value {name!r}: name one that is made")
        model.graph.output.add(name=name)


def _weights(parts: Apart) -> dict[str, Tensor]:
    """The large initializers' values; in the model their types and shapes are left."""
    weights = {name: torch.from_numpy(values) for name, values in parts.weights.items()}
    for initializer in parts.light.graph.initializer:
        if initializer.name not in weights and initializer.ByteSize() > _SMALL:
            weights[initializer.name] = read_initializer(initializer)
        if initializer.name in weights:
            name, kind, dims = initializer.name, initializer.data_type, list(initializer.dims)
            initializer.Clear()
            initializer.MergeFrom(onnx.TensorProto(name=name, data_type=kind, dims=dims))
    return weights


def _inline(model: onnx.ModelProto) -> onnx.ModelProto:
    """Calls of model-local functions replaced by their bodies, but for those with a converter."""
    versions = {o.domain: o.version for o in model.opset_import}
    kept = [(f.domain, f.name) for f in model.functions if find(f.domain, f.name, versions.get(f.domain, 1))]
    if len(kept) == len(model.functions):
        return model
    return onnx.inliner.inline_selected_functions(model, kept, exclude=True)


def _inferred(model: onnx.ModelProto) -> onnx.ModelProto:
    """With the type of every value that shape inference can tell, those of onnxruntime's ops among them."""
    try:
        with taught(model):
            return onnx.shape_inference.infer_shapes(model, data_prop=True)
    except onnx.shape_inference.InferenceError as error:
        log.warning("shape inference failed, shape arithmetic stays on tensors: %s", error)
        return model
