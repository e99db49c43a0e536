"""The tools that onnxprune is compared with, under its rules: half of the channels, the outputs kept."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from zoo_models import catalogue
from zoo_models.case import Case
from zoo_models.export import export_torch, quietly
from zoo_models.table import TRANSIENT
from zoo_models.weights import CONTRACTIONS


def torch_pruning(case: Case, path: Path, ratio: float, *, with_heads: bool) -> dict[str, Any]:
    """Torch-Pruning on the torch module of the case; what it keeps is counted on the export of its result.

    `with_heads`: attention layers are named in `num_heads`, as its documentation asks for transformers, and the head
    sizes that modules remember are set as in its examples.
    """
    import torch_pruning as tp

    network = catalogue.network(case)
    module = network.module
    inputs = network.sample(1 if case.form == "static" else 2)
    heads = attention_heads(module)
    if with_heads and not heads:
        return {"error": "no attention layer by name"}
    expected = [tensor.shape for tensor in tensors(module(*inputs))]
    quietly()
    pruner = tp.pruner.BasePruner(
        module, inputs, tp.importance.GroupMagnitudeImportance(p=2), pruning_ratio=1 - ratio,
        ignored_layers=output_layers(module, inputs), num_heads=dict(heads) if with_heads else {},
        out_channel_groups={}, in_channel_groups={},
    )  # fmt: skip
    pruner.step()
    if with_heads:
        _remember_head_sizes(module, heads)
    with torch.no_grad():
        found = [tensor.shape for tensor in tensors(module(*inputs))]
    if found != expected:
        raise ValueError(f"its outputs are {[tuple(s) for s in found]}, not {[tuple(s) for s in expected]}")
    with tempfile.TemporaryDirectory() as folder:
        pruned = Path(folder) / "pruned.onnx"
        export_torch(network, case, pruned)
        return kept(path, pruned) | {"heads": len(heads)}


def onnxsim(case: Case, path: Path, ratio: float) -> dict[str, Any]:
    """Structured and head pruning by onnxsim of the file it simplified, and whether the result runs."""
    del case
    import onnx
    from onnxsim import pruning, simplify

    model, _ = simplify(onnx.load(path))
    model = pruning.apply_structured_pruning(model, sparsity=1 - ratio)
    model = pruning.apply_attention_head_pruning(model, sparsity=1 - ratio)
    with tempfile.TemporaryDirectory() as folder:
        pruned = Path(folder) / "pruned.onnx"
        onnx.save(model, pruned)
        return kept(path, pruned) | {"runs": _runs(pruned)}


def kept(before: Path, after: Path) -> dict[str, Any]:
    """The fractions of MACs and parameters that are left, by onnxprune's counter for both files."""
    from onnxprune import inspect

    try:
        old, new = inspect(before), inspect(after)
    except Exception as error:
        raise RuntimeError(f"{TRANSIENT}{error}") from None
    return {"macs_kept": new.macs / max(old.macs, 1), "params_kept": new.params / max(old.params, 1)}


def _runs(path: Path) -> str | None:
    """None if onnxruntime runs the file, else what it says."""
    import onnxruntime

    from onnxprune.session import random_inputs

    try:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        session.run(None, dict(random_inputs(session, batch=2, seed=0)))
    except Exception as error:
        return str(error).splitlines()[0][:300]
    return None


def tensors(outputs: Any) -> Iterator[torch.Tensor]:
    """All tensors in what a module returns."""
    if isinstance(outputs, torch.Tensor):
        yield outputs
    elif isinstance(outputs, dict):
        yield from tensors(list(outputs.values()))
    elif isinstance(outputs, list | tuple):
        for one in outputs:
            yield from tensors(one)


def output_layers(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> list[nn.Module]:
    """The layers whose output channels are the module's: those met first on the way back from its outputs."""
    owners = {
        id(part.weight): part for part in module.modules() if isinstance(part, (*CONTRACTIONS, nn.Embedding))
    }
    with torch.enable_grad():
        todo = [tensor.grad_fn for tensor in tensors(module(*inputs)) if tensor.grad_fn is not None]
    found: dict[nn.Module, None] = {}
    seen: set[Any] = set()
    while todo:
        function = todo.pop()
        if function in seen:
            continue
        seen.add(function)
        following = [one for one, _ in function.next_functions if one is not None]
        owner = next((owners[key] for one in following if (key := _leaf(one)) in owners), None)
        if owner is not None:
            found[owner] = None
        else:
            todo += following
    return list(found)


def _leaf(function: Any) -> int | None:
    """The parameter behind a function that only lays it out anew."""
    while not hasattr(function, "variable"):
        following = [one for one, _ in function.next_functions if one is not None]
        layout = function.name().startswith(("T", "Transpose", "Permute", "View", "Unsqueeze", "Squeeze"))
        if not layout or len(following) != 1:
            return None
        function = following[0]
    return id(function.variable)


COUNT_NAMES = ("num_heads", "num_attention_heads", "n_heads", "n_head", "nhead", "heads")
PROJECTIONS = ("qkv", "q", "k", "v", "kv", "q_proj", "k_proj", "v_proj", "query", "key", "value", "c_attn",
               "q_lin", "k_lin", "v_lin", "query_key_value", "qkv_proj", "to_q", "to_k", "to_v")  # fmt: skip
KEY_VALUE = ("k_proj", "v_proj")


def attention_heads(module: nn.Module) -> dict[nn.Module, int]:
    """The projections of attention layers with their number of heads, for Torch-Pruning's `num_heads`."""
    heads: dict[nn.Module, int] = {}
    for part in module.modules():
        count = _head_count(part)
        for name, child in part.named_children():
            if count and name in PROJECTIONS and isinstance(child, nn.Linear | nn.Conv2d):
                groups = getattr(part, "num_key_value_groups", 1) if name in KEY_VALUE else 1
                heads[child] = count // groups
        if isinstance(part, nn.MultiheadAttention):
            heads[part] = part.num_heads
    return heads


def _head_count(part: nn.Module) -> int | None:
    for source in (part, getattr(part, "config", None)):
        for name in COUNT_NAMES:
            count = getattr(source, name, None)
            if isinstance(count, int) and count > 0:
                return count
    return None


def _remember_head_sizes(module: nn.Module, heads: dict[nn.Module, int]) -> None:
    """What Torch-Pruning's examples for timm and transformers do after pruning: the sizes that modules keep."""
    for part in module.modules():
        for name, child in part.named_children():
            if child not in heads or not isinstance(child, nn.Linear):
                continue
            width = child.out_features // (3 if name in ("qkv", "query_key_value", "c_attn") else 1)
            for attribute, value in (
                ("head_dim", width // heads[child]), ("attention_head_size", width // heads[child]),
                ("all_head_size", width), ("embed_dim", width), ("inner_dim", width), ("attn_dim", width),
                ("split_size", width),
            ):  # fmt: skip
                if isinstance(getattr(part, attribute, None), int):
                    setattr(part, attribute, int(value))
