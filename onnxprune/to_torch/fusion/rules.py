"""The rules by the op of the node at whose place they write, the last of the nodes that they replace.

>>> @fuses("Mul")
... def silu(node: fx.Node) -> fx.Node | None:
...     ...
...     return call(node, F.silu, x)

A rule gives the node to put in the place of `node`, which computes the same, or None. What then has no reader goes.
"""

from collections import defaultdict
from collections.abc import Callable
from typing import Any, TypeAlias

from torch import fx

Rule: TypeAlias = Callable[[fx.Node], fx.Node | None]

RULES: dict[str, list[Rule]] = defaultdict(list)


def fuses(*ops: str) -> Callable[[Rule], Rule]:
    def register(rule: Rule) -> Rule:
        for op in ops:
            RULES[op].append(rule)
        return rule

    return register


def call(
    place: fx.Node, target: Callable[..., Any], *arguments: Any, op: str = "", **keywords: Any
) -> fx.Node:
    """A call for what `place` computes, before it; `op` is what other rules shall take it for."""
    with place.graph.inserting_before(place):
        new = place.graph.call_function(target, arguments, keywords)
    new.meta |= place.meta
    if "onnx" in place.meta:
        new.meta["onnx"] = op, place.meta["onnx"][1]
    return new


def view(place: fx.Node, target: Callable[..., Any], *arguments: Any, **keywords: Any) -> fx.Node:
    """A call on the way to what `place` computes, before it."""
    with place.graph.inserting_before(place):
        return place.graph.call_function(target, arguments, keywords)
