"""Initializers as module state: where each is kept, and back into the graph.

A tensor is kept under its initializer's name, dots opening submodules, so that `state_dict()` has the names
of the graph. A name that Python or nn.Module cannot hold ("", "forward", "a" beside "a.b"), and one that
PyTorch's own exporter would give to something else when the module is exported again ("view_1"), is kept under
another one; `show_names` still gives it its own name in every state_dict.
"""

import keyword
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import onnx
import torch
from google.protobuf.message import DecodeError
from onnx.external_data_helper import load_external_data_for_tensor, uses_external_data
from torch import Tensor, fx, nn

from onnxprune.errors import ConversionError, ModelError, TrainingError
from onnxprune.intake import tensors
from onnxprune.to_torch.bodies import initializers
from onnxprune.to_torch.operands import is_finite, to_bytes, to_tensor

INITIALIZERS = "onnx_initializers"  # GraphModule.meta key: initializer name -> attribute path
_RESERVED = frozenset(dir(fx.GraphModule(nn.Module(), fx.Graph())))


def attribute_paths(names: Iterable[str], values: Iterable[str] = ()) -> dict[str, str]:
    """Each name's attribute path: itself where possible, else a free one. `values` are the graph's other names."""
    names = list(dict.fromkeys(names))
    prefixes = {n[:i] for n in names for i in range(len(n)) if n[i] == "."}
    taken, unusable = set(names) | prefixes, prefixes | _exporters_own(names, values)
    paths: dict[str, str] = {}
    for name in names:
        path, attempt = name, 0
        if name in unusable or not all(map(_is_attribute, name.split("."))):
            stem = "tensor_" + re.sub(r"\W", "_", name)
            while (path := f"{stem}_{attempt}") in taken:
                attempt += 1
            taken.add(path)
        paths[name] = path
    return paths


def _exporters_own(names: Sequence[str], values: Iterable[str]) -> set[str]:
    """Those that torch.export, too, gives to values: an op's name, numbered ("view_1"), and "val_9".

    Taken, they make torch.onnx.export (PyTorch 2.15) write a file in which two values have one name. Where values
    of this graph have such names, an op's name without a number ("view") is the exporter's as well.
    """
    own = {name for name in names if _is_numbered(name)}
    if own or any(map(_is_numbered, values)):
        own |= {name for name in names if _is_op(name)}
    return own


def _is_numbered(name: str) -> bool:
    stem, _, number = name.rpartition("_")
    return number.isdigit() and (stem == "val" or _is_op(stem))


def _is_op(name: str) -> bool:
    return name.isidentifier() and hasattr(torch.ops.aten, name.removesuffix("_default"))


def _is_attribute(part: str) -> bool:
    speakable = part.isprintable() and not set(part) & {'"', "\\"}
    return bool(part) and speakable and not keyword.iskeyword(part) and part not in _RESERVED


def show_names(module: nn.Module, names: Mapping[str, str]) -> None:
    """Give each attribute path (the keys of `names`) its initializer's name in every state_dict."""
    back = {name: path for path, name in names.items()}
    module.register_state_dict_post_hook(partial(_rename, dict(names)))  # type: ignore[no-untyped-call]
    module.register_load_state_dict_pre_hook(partial(_rename, back))  # type: ignore[no-untyped-call]


def _rename(names: Mapping[str, str], module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    moved = {prefix + new: state.pop(prefix + old) for old, new in names.items() if prefix + old in state}
    state.update(moved)


def place(root: nn.Module, path: str, tensor: Tensor, *, trainable: bool, persistent: bool = True) -> None:
    """Keep `tensor` at `path` under `root`: a Parameter, or a buffer."""
    *parents, leaf = path.split(".")
    for part in parents:
        if part not in root._modules:
            root.add_module(part, nn.Module())
        child = root._modules[part]
        assert child is not None
        root = child
    if trainable:
        root.register_parameter(leaf, nn.Parameter(tensor))
    else:
        root.register_buffer(leaf, tensor, persistent=persistent)


def write_back(module: nn.Module, model: onnx.ModelProto | str | Path) -> onnx.ModelProto:
    """A copy of `model` whose initializers hold the values that `module` has now; nothing else differs.

    >>> onnxprune.model.save(write_back(module, "resnet18.onnx"), "trained.onnx")

    `module` is what `load` made of `model`, trained or not, on any device, compiled or data-parallel. A
    tensor whose bits did not change keeps its encoding. Of a file's path, external data stay external: saved,
    they lie in files of the same names beside the new model, at the same places. ModelError if
    `module` comes from another model; TrainingError, naming the tensor, where training left NaN or infinity.
    """
    while not isinstance(module, fx.GraphModule) and isinstance(inner := _wrapped(module), nn.Module):
        module = inner
    paths: Mapping[str, str] | None = (
        module.meta.get(INITIALIZERS) if isinstance(module, fx.GraphModule) else None
    )
    if paths is None:
        raise ModelError("the module was not made by to_torch.load; pass the GraphModule that load returned")
    held = {**dict(module.named_buffers(remove_duplicate=False)),
            **dict(module.named_parameters(remove_duplicate=False))}  # fmt: skip
    written = _copy(model)
    known = initializers(written)
    if unknown := set(paths) - set(known):
        raise ModelError(
            f"the model has no initializer {min(unknown)!r}; write back into the model that was loaded"
        )
    for name, path in paths.items():
        _write(known[name], name, held[path].detach())
    return written


def _copy(model: onnx.ModelProto | str | Path) -> onnx.ModelProto:
    """The model with all its values; of those that lie beside a file it is still said where."""
    if isinstance(model, onnx.ModelProto):
        written = onnx.ModelProto()
        written.CopyFrom(model)
        return written
    try:
        written = onnx.load(model, load_external_data=False)
        for tensor in tensors(written.graph):
            if uses_external_data(tensor):
                entries = onnx.TensorProto(external_data=tensor.external_data)
                load_external_data_for_tensor(tensor, str(Path(model).parent))
                tensor.data_location = onnx.TensorProto.EXTERNAL
                tensor.ClearField("external_data")
                tensor.external_data.extend(entries.external_data)
    except (OSError, DecodeError, ValueError, onnx.checker.ValidationError) as error:
        raise ModelError(f"{model} cannot be read as an ONNX model: {error}") from None
    return written


def _wrapped(module: nn.Module) -> object:
    """What torch.compile or DistributedDataParallel wrapped."""
    return getattr(module, "_orig_mod", None) or getattr(module, "module", None)


def _write(initializer: onnx.TensorProto, name: str, tensor: Tensor) -> None:
    if uses_external_data(initializer) and not initializer.HasField("raw_data"):
        raise ModelError(
            f"initializer {name!r} is stored outside the model; write back into the file's path instead"
        )
    before = _stored(initializer)
    if before.shape != tensor.shape or before.dtype != tensor.dtype:
        raise ModelError(
            f"initializer {name!r} is {before.dtype}{list(before.shape)} in the model and "
            f"{tensor.dtype}{list(tensor.shape)} in the module; write back into the model that was loaded"
        )
    new = to_bytes(tensor, initializer.data_type)
    if new == to_bytes(before, initializer.data_type):
        return
    if tensor.is_floating_point() and not is_finite(tensor):
        raise TrainingError(f"weight {name!r} holds NaN or infinity; train with a lower learning rate")
    for field in ("float_data", "int32_data", "int64_data", "double_data", "uint64_data"):
        initializer.ClearField(field)
    initializer.raw_data = new


def _stored(initializer: onnx.TensorProto) -> Tensor:
    """The tensor as the model has it, wherever it will be saved."""
    if not uses_external_data(initializer):
        return to_tensor(initializer)
    plain = onnx.TensorProto(data_type=initializer.data_type, dims=initializer.dims)
    plain.raw_data = initializer.raw_data
    return to_tensor(plain)


def read_initializer(initializer: onnx.TensorProto) -> Tensor:
    """The tensor of an initializer; ConversionError names it where torch has no such type."""
    try:
        return to_tensor(initializer)
    except ConversionError as error:
        raise ConversionError(f"initializer {initializer.name!r}: {error}") from None
