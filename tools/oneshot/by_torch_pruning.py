"""Torch-Pruning on the modules of the recipes."""

import contextlib
import copy
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from zoo_models.peers import attention_heads, output_layers

from oneshot.networks import module_of
from oneshot.reaching import Arrays, PeerError, class_axis, closest, cost, in_one_line, nearest, parts, scores

sys.path.insert(0, str(Path(__file__).parents[2] / "models"))
import recipe

IMPORTANCES = ("l2", "l1", "bn", "taylor", "hessian", "fpgm", "lamp")
SCOPES = ("local", "global", "isomorphic")
CRITERIA = tuple(f"{importance}-{scope}" for importance in IMPORTANCES for scope in SCOPES)
BATCH = 32

Gradients = dict[str, Tensor]


@in_one_line()
def torch_pruning(
    model_path: Path, calibration: Arrays, ratio: float, by: str, criterion: str, seed: int
) -> onnx.ModelProto:
    """The recipe's module with the file's weights, pruned by Torch-Pruning and exported.

    `taylor` and `hessian` take the gradients at the network's own predictions as labels, on all calibration inputs
    (its soft labels would make their mean zero). Groups that break the forward pass when they are pruned are left
    alone, as users do by `ignored_layers`. It has no recovery; BatchNorm's statistics are measured anew on the
    calibration inputs where that brings the outputs nearer. PeerError where it fails.
    """
    importance, scope = criterion.split("-")
    torch.manual_seed(seed)
    graph_inputs = [value.name for value in onnx.load(model_path, load_external_data=False).graph.input]
    inputs = {name: calibration[name] for name in graph_inputs if name in calibration}
    module = module_of(model_path)
    if importance == "bn" and not norms(module):
        raise PeerError("no BatchNorm to rank by")
    gradients = gradients_of(module, inputs, squared=importance == "hessian") if needs(importance) else {}
    ignored = fragile(module, inputs)
    made: dict[int, nn.Module] = {}

    def prune(knob: float) -> onnx.ModelProto:
        pruned = pruned_copy(module, inputs, knob, importance, scope, gradients, ignored)
        model = exported(pruned, inputs)
        made[cost(model, by)] = pruned
        return model

    model, _ = nearest(model_path, prune, ratio, by)
    choices, pruned = [model], made[cost(model, by)]
    if norms(pruned):
        remeasure(pruned, inputs)
        choices.append(exported(pruned, inputs))
    return closest(choices, scores(onnx.load(model_path), inputs), inputs)[0]


def needs(importance: str) -> bool:
    """Whether it takes gradients."""
    return importance in ("taylor", "hessian")


def gradients_of(module: nn.Module, inputs: Arrays, *, squared: bool) -> Gradients:
    """By weight the mean gradient of the loss, or the mean of every sample's squared one.

    The means are taken here: `accumulate_grad` of Torch-Pruning 1.6.1 looks up names among tensors, so that it keeps
    the last sample's gradient only.
    """
    total = {name: torch.zeros_like(weight) for name, weight in module.named_parameters()}
    batches = parts(inputs, 1 if squared else BATCH)
    for batch in batches:
        module.zero_grad()
        output = module(*tensors(batch))
        output = output.movedim(class_axis(output.ndim), -1).flatten(0, -2)
        nn.functional.cross_entropy(output, output.argmax(-1)).backward()  # type: ignore[no-untyped-call]
        for name, weight in module.named_parameters():
            if weight.grad is not None:
                total[name] += weight.grad.square() if squared else weight.grad
    module.zero_grad()
    return {name: value / len(batches) for name, value in total.items()}


def pruner_of(
    module: nn.Module, inputs: Arrays, knob: float, scorer: Any, scope: str, ignored: set[str]
) -> Any:
    """Torch-Pruning's pruner, the layers before the outputs and those named in `ignored` left alone."""
    import torch_pruning as tp

    example = tensors(parts(inputs, 2)[0])
    kept = [*output_layers(module, example), *(module.get_submodule(name) for name in ignored)]
    return tp.pruner.BasePruner(
        module, example, scorer, pruning_ratio=knob, global_pruning=scope != "local",
        isomorphic=scope == "isomorphic", ignored_layers=kept, num_heads=attention_heads(module),
        in_channel_groups={}, out_channel_groups={},
    )  # fmt: skip


def fragile(module: nn.Module, inputs: Arrays) -> set[str]:
    """Names of the layers whose group, pruned to the half by itself, breaks the forward pass."""
    import torch_pruning as tp

    scorer = tp.importance.GroupMagnitudeImportance()
    example = tensors(parts(inputs, 2)[0])
    with torch.no_grad():
        expected = module(*example).shape
    found: set[str] = set()
    number = 0
    while True:
        trial = copy.deepcopy(module)
        names = {part: name for name, part in trial.named_modules()}
        groups = list(pruner_of(trial, inputs, 0.5, scorer, "local", set()).step(interactive=True))
        if number == len(groups):
            return found
        group = groups[number]
        number += 1
        try:
            group.prune()
            with torch.no_grad():
                sound = trial(*example).shape == expected
        except Exception:
            sound = False
        if not sound:
            found |= {names[d.target.module] for d, _ in group if is_root(d)}


def is_root(dependency: Any) -> bool:
    """Whether the group cuts output channels of this convolution or linear layer."""
    layer = isinstance(dependency.target.module, nn.Linear | nn.modules.conv._ConvNd)
    return layer and "out_channels" in dependency.handler.__name__


def pruned_copy(
    module: nn.Module,
    inputs: Arrays,
    knob: float,
    importance: str,
    scope: str,
    gradients: Gradients,
    ignored: set[str],
) -> nn.Module:
    """A copy without `knob` of its channels."""
    import torch_pruning as tp

    scorers = {
        "l2": lambda: tp.importance.GroupMagnitudeImportance(p=2),
        "l1": lambda: tp.importance.GroupMagnitudeImportance(p=1),
        "bn": tp.importance.BNScaleImportance,
        "taylor": tp.importance.GroupTaylorImportance,
        "hessian": tp.importance.GroupHessianImportance,
        "fpgm": tp.importance.FPGMImportance,
        "lamp": tp.importance.LAMPImportance,
    }
    pruned = copy.deepcopy(module)
    for name, weight in pruned.named_parameters():
        weight.grad = gradients[name].clone() if gradients else None
    pruner_of(pruned, inputs, knob, scorers[importance](), scope, ignored).step()
    pruned.zero_grad()
    return pruned


def norms(module: nn.Module) -> list[_BatchNorm]:
    """Its BatchNorms."""
    return [part for part in module.modules() if isinstance(part, _BatchNorm)]


def remeasure(module: nn.Module, inputs: Arrays) -> None:
    """BatchNorm's running statistics anew: their plain mean over batches of the calibration inputs."""
    for norm in norms(module):
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    with torch.no_grad():
        for batch in parts(inputs, 2 * BATCH):
            module(*tensors(batch))
    module.eval()


def tensors(inputs: Arrays) -> tuple[Tensor, ...]:
    """The inputs as the module takes them."""
    return tuple(torch.from_numpy(values) for values in inputs.values())


def exported(module: nn.Module, inputs: Arrays) -> onnx.ModelProto:
    """The module as ONNX."""
    with (
        tempfile.TemporaryDirectory() as folder,
        warnings.catch_warnings(),
        contextlib.redirect_stdout(sys.stderr),
    ):
        warnings.simplefilter("ignore")
        path = Path(folder) / "pruned.onnx"
        recipe.write(module, parts(inputs, 2)[0], path)
        return onnx.load(path)
