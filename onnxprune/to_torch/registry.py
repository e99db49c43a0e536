"""Which torch function or module stands for which ONNX op, from which opset version on.

>>> @converts("Relu", since=6)
... def relu(x: Tensor) -> Tensor:
...     return torch.relu(x)

A converter's signature is the ONNX schema: inputs positional in the schema's order, attributes keyword-only
under their ONNX names. A module class takes the attributes in `__init__` and the inputs in `forward`.
A converter may also ask for what is no attribute (`ASKED`): `n_outputs`, how many outputs the graph reads
(with more than one it returns a tuple), `result_type`, the first output's ONNX element type (0 where shape
inference knows none), `like`, a tensor on the device that the module computes on (None while constants are
folded; functions only), and `gate_value` and `straight_through`, which are arguments of `load`. `Literal`
says what of an attribute's values is supported (`transposed: Literal[0] = 0`), `None` that an input must be
left out. A function of torch itself, which has no signature to read, is registered with the number of its
tensor inputs:
`converts("Relu", since=6, inputs=1)(torch.relu)`.
"""

import importlib
import inspect
import pkgutil
from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, TypeVar, cast, get_args, get_origin, get_type_hints

from torch import nn

from onnxprune.to_torch.operands import Form, forms_of, is_module, signature

T = TypeVar("T", bound=Callable[..., Any])

ASKED = frozenset({"n_outputs", "result_type", "like", "gate_value", "straight_through"})


@dataclass(frozen=True)
class Converter:
    """`target` stands for `op` of `domain` from opset version `since` on."""

    domain: str
    op: str
    since: int
    target: Callable[..., Any]
    inputs: int | None = None

    @property
    def call(self) -> Callable[..., Any]:
        """What takes the inputs."""
        return cast(type[nn.Module], self.target).forward if is_module(self.target) else self.target

    def forms(self, inputs: int) -> tuple[Form, ...]:
        """How each of `inputs` operands is passed."""
        if self.inputs is not None:
            return (Form.TENSOR,) * inputs
        return forms_of(self.call, inputs)

    def keywords(self) -> dict[str, inspect.Parameter]:
        """The attributes it knows, and those of `ASKED` that it wants."""
        return {} if self.inputs is not None else _keywords(self.target)

    def misfit(self, inputs: list[bool], attributes: Mapping[str, Any], outputs: int) -> str | None:
        """Why a node with these inputs (False: left out), attributes and read outputs cannot be converted."""
        keywords = self.keywords()
        if unknown := sorted(attributes.keys() - keywords.keys()):
            return f"attribute {unknown[0]!r} is not supported"
        needed = {n for n, p in keywords.items() if p.default is p.empty} - ASKED
        if missing := sorted(needed - attributes.keys()):
            return f"attribute {missing[0]!r} is missing"
        if outputs > 1 and "n_outputs" not in keywords:
            return f"output {outputs} is read, only the first is supported"
        for name, value in (*attributes.items(), ("n_outputs", outputs)):
            hint = _hints(self.target).get(name)
            if get_origin(hint) is Literal and value not in get_args(hint):
                return f"{name} = {value!r} is not supported"
        return self._misfit_inputs(inputs)

    def _misfit_inputs(self, inputs: list[bool]) -> str | None:
        if self.inputs is not None:
            exact = len(inputs) == self.inputs and all(inputs)
            return None if exact else f"{len(inputs)} inputs are given, {self.inputs} are needed"
        positional = [p for n, p in signature(self.call).parameters.items() if n != "self"]
        variadic = any(p.kind is p.VAR_POSITIONAL for p in positional)
        positional = [p for p in positional if p.kind is p.POSITIONAL_OR_KEYWORD]
        if len(inputs) > len(positional) and not variadic:
            return f"{len(inputs)} inputs are given, {len(positional)} are supported"
        for i, parameter in enumerate(positional):
            given = i < len(inputs) and inputs[i]
            hint = _hints(self.call).get(parameter.name)
            if given and hint is type(None):
                return f"input {i} ({parameter.name}) is not supported"
            # An optional input that required ones follow has no default.
            if parameter.default is parameter.empty and not given and type(None) not in get_args(hint):
                return f"input {i} ({parameter.name}) is missing"
        return None


@cache
def _hints(target: Callable[..., Any]) -> dict[str, Any]:
    return get_type_hints(target.__init__ if is_module(target) else target)


@cache
def _keywords(target: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    parameters = signature(target).parameters
    return {n: p for n, p in parameters.items() if p.kind is p.KEYWORD_ONLY}


_TABLE: dict[tuple[str, str], dict[int, Converter]] = {}


def converts(op: str, *, since: int, domain: str = "", inputs: int | None = None) -> Callable[[T], T]:
    """Register the decorated function or nn.Module class; ValueError if that version is taken."""

    def register(target: T) -> T:
        versions = _TABLE.setdefault((domain, op), {})
        if since in versions:
            raise ValueError(f"{op}-{since} has two converters: {versions[since].target} and {target}")
        versions[since] = Converter(domain, op, since, target, inputs)
        return target

    return register


def find(domain: str, op: str, opset: int) -> Converter | None:
    """The converter with the largest `since` that is not above `opset`.

    Gated forms of one op that differ in their bodies are numbered ("GatedSoftmax_2"); a converter takes them all.
    """
    _load_families()
    op = op.partition("_")[0] if domain == "onnxprune" else op
    versions = _TABLE.get(("" if domain == "ai.onnx" else domain, op), {})
    known = sorted(versions)
    place = bisect_right(known, opset)
    return versions[known[place - 1]] if place else None


def known() -> list[Converter]:
    """Every converter, by domain, op and version."""
    _load_families()
    return [c for _, versions in sorted(_TABLE.items()) for _, c in sorted(versions.items())]


@cache
def _load_families() -> None:
    package = importlib.import_module("onnxprune.to_torch.ops")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
