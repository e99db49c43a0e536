"""Trainable methods by name: those of this package, and those that other packages register.

Another package registers its own in its pyproject.toml:

    [project.entry-points."onnxprune.methods"]
    mine = "my_package.mine:Mine"          # a subclass of onnxprune.methods.method.Method

Then `onnxprune train --method mine --method-option strength=2` trains by it. Nothing here imports torch.
"""

import inspect
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any

from onnxprune.errors import TrainingError

if TYPE_CHECKING:
    from onnxprune.methods.method import Method

GROUP = "onnxprune.methods"

BUILT_IN = {
    "tgl": "onnxprune.methods.tgl:Tgl",
    "scp": "onnxprune.methods.scp:Scp",
    "fisher": "onnxprune.methods.fisher:Fisher",
    "finetune": "onnxprune.methods.finetune:Finetune",
}


def names() -> tuple[str, ...]:
    """All methods there are; the built-in ones first."""
    return (*BUILT_IN, *sorted({point.name for point in entry_points(group=GROUP)} - set(BUILT_IN)))


def make(name: str, options: Mapping[str, Any]) -> "Method":
    """The method called `name` with these options; strings are read as the type of the option's default.

    Raises TrainingError where there is no such method, it cannot be imported, or it has no such option.
    """
    factory = _factory(name)
    known = {p.name: p.default for p in inspect.signature(factory).parameters.values()}
    if unknown := sorted(set(options) - set(known)):
        raise TrainingError(
            f"method {name} has no option {unknown[0]!r}; it has {', '.join(known) or 'none'}"
        )
    read = {option: _read(name, option, value, known[option]) for option, value in options.items()}
    method: Method = factory(**read)
    return method


def _factory(name: str) -> Any:
    points = [EntryPoint(name, BUILT_IN[name], GROUP)] if name in BUILT_IN else []
    points = points or list(entry_points(group=GROUP, name=name))
    if not points:
        raise TrainingError(f"method {name!r} is unknown: give one of {', '.join(names())}")
    if len({point.value for point in points}) > 1:
        raise TrainingError(
            f"method {name!r} is registered by several packages: "
            f"{', '.join(sorted(point.value for point in points))}: uninstall all but one"
        )
    try:
        return points[0].load()
    except (ImportError, AttributeError) as error:
        raise TrainingError(
            f"method {name!r} ({points[0].value}) cannot be imported: {error}: mend or uninstall its package"
        ) from error


def _read(method: str, option: str, value: Any, default: Any) -> Any:
    if not isinstance(value, str) or isinstance(default, str):
        return value
    try:
        if isinstance(default, bool):
            return {"true": True, "false": False}[value.lower()]
        return type(default)(value) if isinstance(default, int | float) else value
    except (ValueError, KeyError):
        kind = "true or false" if isinstance(default, bool) else type(default).__name__
        raise TrainingError(
            f"option {option} of method {method} is {value!r}: give it as {kind}, such as {default}"
        ) from None
