"""An ONNX model as a torch module that trains."""

import logging
from collections.abc import Callable
from pathlib import Path

import onnx
import onnx.inliner
from google.protobuf.message import DecodeError
from torch import Tensor, fx

from onnxprune.errors import ConversionError, ModelError
from onnxprune.to_torch.expand import expand
from onnxprune.to_torch.importer import Importer
from onnxprune.to_torch.registry import find
from onnxprune.to_torch.steps import plan

log = logging.getLogger(__name__)

OPSETS = range(1, 29)
_STRIP = 1024  # bytes; larger initializers hold no shapes, and shape inference need not copy them


def load(
    source: str | Path | onnx.ModelProto,
    *,
    gate_value: Callable[[Tensor], Tensor] | None = None,
    straight_through: bool = False,
) -> fx.GraphModule:
    """The model as an fx GraphModule, called with the graph's inputs in order.

    >>> module = load("resnet18.onnx").train()
    >>> logits = module(images)  # a tensor, or a tuple where the graph has several outputs
    >>> onnx.save(write_back(module, onnx.load("resnet18.onnx")), "trained.onnx")

    Parameters and buffers carry the initializers' names; initializers shared in the file are shared here. It
    comes in eval mode, where it computes what the file computes; in train mode BatchNormalization uses batch
    statistics and updates its running ones, and Dropout drops. `gate_value` turns the latents `w` of a gated
    model's Gate nodes into the factor on `x`; by default 1 where `w > 0`, else 0. With `straight_through`,
    gradients pass QuantizeLinear as if it did not round, and are 0 where it saturates.

    Raises ModelError where the file cannot be read, ConversionError naming every node that PyTorch cannot
    express.
    """
    model = _inline(_read(source))
    opsets = {"" if o.domain == "ai.onnx" else o.domain: o.version for o in model.opset_import}
    if opsets.get("", OPSETS[-1]) not in OPSETS:
        raise ConversionError(
            f"the model has opset {opsets['']}, PyTorch re-import knows {OPSETS[0]} to {OPSETS[-1]}; "
            "convert it with onnx.version_converter first"
        )
    if model.graph.sparse_initializer:
        name = model.graph.sparse_initializer[0].values.name
        raise ConversionError(f"initializer {name!r} is sparse; store it dense first")
    types = _types(model)
    while (deeper := expand(model, types)) is not None:
        model = deeper
        types = _types(model)
    steps = plan(model.graph, opsets, types)
    options = {"gate_value": gate_value, "straight_through": straight_through}
    return Importer(model.graph, steps, types, options).run()


def _read(source: str | Path | onnx.ModelProto) -> onnx.ModelProto:
    if isinstance(source, onnx.ModelProto):
        return source
    try:
        return onnx.load(source)
    except (OSError, DecodeError) as error:
        raise ModelError(f"{source} cannot be read as an ONNX model: {error}") from None


def _inline(model: onnx.ModelProto) -> onnx.ModelProto:
    """Calls of model-local functions replaced by their bodies, but for those with a converter."""
    versions = {o.domain: o.version for o in model.opset_import}
    kept = [(f.domain, f.name) for f in model.functions if find(f.domain, f.name, versions.get(f.domain, 1))]
    if len(kept) == len(model.functions):
        return model
    return onnx.inliner.inline_selected_functions(model, kept, exclude=True)


def _types(model: onnx.ModelProto) -> dict[str, onnx.TypeProto]:
    """The type of every value that shape inference can tell, without a copy of the large weights."""
    light = onnx.ModelProto(ir_version=model.ir_version)
    light.opset_import.extend(model.opset_import)
    light.functions.extend(model.functions)
    for field in ("node", "input", "output", "value_info"):
        getattr(light.graph, field).extend(getattr(model.graph, field))
    for initializer in model.graph.initializer:
        small = initializer.ByteSize() <= _STRIP
        light.graph.initializer.append(
            initializer
            if small
            else onnx.TensorProto(
                name=initializer.name, dims=initializer.dims, data_type=initializer.data_type
            )
        )
    try:
        inferred = onnx.shape_inference.infer_shapes(light, data_prop=True).graph
    except onnx.shape_inference.InferenceError as error:
        log.warning("shape inference failed, shape arithmetic stays on tensors: %s", error)
        return {}
    typed = {v.name: v.type for v in (*inferred.input, *inferred.value_info, *inferred.output)}
    for held in model.graph.initializer:
        typed[held.name] = onnx.helper.make_tensor_type_proto(held.data_type, held.dims)
    return typed
