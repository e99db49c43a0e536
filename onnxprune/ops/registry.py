"""The tables of rules and repairs, and the view of a node that they are given."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from types import EllipsisType
from typing import Any, Protocol

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.axes import bind
from onnxprune.links import Links, Shape
from onnxprune.shapes import Sizes


@dataclass(frozen=True, eq=False)
class Value:
    """A tensor of the graph, with what is known about it before any input is."""

    name: str
    sizes: Sizes | None
    """Each axis's size at two bindings of the dynamic sizes; None: unknown rank."""
    raw: gs.Tensor

    @cached_property
    def shape(self) -> Shape | None:
        """Static sizes; an entry is None where the size is dynamic."""
        return None if self.sizes is None else tuple(a if a == b else None for a, b in self.sizes)

    @property
    def is_constant(self) -> bool:
        return isinstance(self.raw, gs.Constant)

    @property
    def constant(self) -> np.ndarray | None:
        """The value where it is fixed in the file, else None."""
        return np.asarray(self.raw.values) if isinstance(self.raw, gs.Constant) else None


@dataclass(frozen=True, eq=False)
class Node:
    """One node as a rule sees it: attributes by type, operands with their static shapes (None: operand absent)."""

    op: str
    name: str
    opset: int
    inputs: tuple[Value | None, ...]
    outputs: tuple[Value | None, ...]
    raw: gs.Node
    graph: gs.Graph

    @property
    def domain(self) -> str:
        """Empty for the default domain."""
        return "" if self.raw.domain in (None, "ai.onnx") else str(self.raw.domain)

    def links(self, expression: str) -> Links:
        """The statements of an axis expression, for a rule that adds to them. Raises AxesError as `bind`."""
        return bind(expression, *([_shape(value) for value in side] for side in (self.inputs, self.outputs)))

    def attr(self, name: str, default: Any = None) -> Any:
        return self.raw.attrs.get(name, default)

    def text(self, name: str, default: str) -> str:
        return str(self.raw.attrs.get(name, default))

    def has(self, number: int) -> bool:
        """Whether optional input `number` is given."""
        return len(self.inputs) > number and self.inputs[number] is not None

    def shape(self, number: int = 0) -> tuple[Any, ...]:
        """Static shape of input `number`; Unknown when its rank is not known."""
        value = self.inputs[number] if len(self.inputs) > number else None
        if value is None or value.shape is None:
            raise Unknown(f"the shape of its input {number} is not known")
        return value.shape

    def out_shape(self, number: int = 0) -> tuple[Any, ...]:
        """Static shape of output `number`; Unknown when its rank is not known."""
        value = self.outputs[number]
        if value is None or value.shape is None:
            raise Unknown(f"the shape of its output {number} is not known")
        return value.shape

    def value(self, number: int) -> np.ndarray:
        """The fixed value of input `number`; Unknown when it is computed at run time."""
        operand = self.inputs[number]
        if operand is None or operand.constant is None:
            raise Unknown(f"its input {number} is computed at run time")
        return operand.constant

    def operand_ints(self, attribute: str, number: int) -> list[Any] | None:
        """Integers given as an attribute in old opsets and as an input in new ones; None when absent."""
        if attribute in self.raw.attrs:
            return list(self.raw.attrs[attribute])
        return [int(v) for v in np.atleast_1d(self.value(number))] if self.has(number) else None

    def set_operand_ints(self, attribute: str, number: int, values: list[Any]) -> None:
        """The way back of `operand_ints`; the input becomes a constant of its own."""
        if attribute in self.raw.attrs:
            self.raw.attrs[attribute] = values
        else:
            self.set_input(number, np.asarray(values, dtype=np.int64))

    def set_input(self, number: int, values: np.ndarray) -> None:
        """Gives the node a constant of its own as input `number`."""
        stem = self.raw.outputs[0].name
        while len(self.raw.inputs) <= number:
            self.raw.inputs.append(gs.Variable.empty())
        self.raw.inputs[number] = gs.Constant(f"{stem}/{self.op.lower()}_{number}", values)

    def set_shape(self, number: int, target: Sequence[int | None]) -> None:
        """Gives the node a shape operand of its own; entries that are None stay as the old operand computes them."""
        known = np.asarray([entry is not None for entry in target])
        values = np.asarray([0 if entry is None else entry for entry in target], dtype=np.int64)
        if known.all():
            return self.set_input(number, values)
        stem = f"{self.raw.outputs[0].name}/{self.op.lower()}_{number}"
        choice = [gs.Constant(f"{stem}_static", known), gs.Constant(f"{stem}_sizes", values)]
        makers = self.raw.inputs[number].inputs
        if makers and makers[0].op == "Where" and makers[0].name == stem:  # made here before
            makers[0].inputs[0], makers[0].inputs[1] = choice
            return None
        merged = gs.Variable(stem, dtype=np.int64, shape=[len(values)])
        self._insert(gs.Node("Where", stem, {}, [*choice, self.raw.inputs[number]], [merged]))
        self.raw.inputs[number] = merged
        return None

    def _insert(self, node: gs.Node) -> None:
        """Puts a node right before this one."""
        nodes = self.graph.nodes
        last = min(self.graph.__dict__.get("inserted_at", 0), len(nodes))  # repairs go from front to back
        position = next(k for k in chain(range(last, len(nodes)), range(last)) if nodes[k] is self.raw)
        nodes.insert(position, node)
        self.graph.inserted_at = position

    def insert_gather(self, axis: int, positions: np.ndarray) -> None:
        """Takes these entries of input 0's axis before the node sees it."""
        stem = f"{self.raw.outputs[0].name}/kept_{axis}"
        chosen = gs.Variable(stem, dtype=self.raw.inputs[0].dtype)
        index = gs.Constant(f"{stem}_index", positions.astype(np.int64))
        self._insert(gs.Node("Gather", stem, {"axis": axis}, [self.raw.inputs[0], index], [chosen]))
        self.raw.inputs[0] = chosen


def _shape(value: Value | None) -> Shape | EllipsisType | None:
    """As `bind` wants it: None for an absent operand, `...` where the rank is not known."""
    if value is None:
        return None
    return ... if value.shape is None else value.shape


class Unknown(Exception):  # noqa: N818 - not an error: the node is frozen with this reason
    """Something a rule needs is only known at run time."""


class Kept(Protocol):
    """What a plan leaves of a node's axes, in indices of the original axis, ascending."""

    def indices(self, value: Value | None, axis: int) -> np.ndarray: ...
    def size(self, value: Value | None, axis: int) -> int: ...
    def changed(self, value: Value | None) -> bool: ...


Rule = Callable[[Node], str | Links]
Repair = Callable[[Node, Kept], None]
RULES: dict[tuple[str, str], Rule] = {}
REPAIRS: dict[tuple[str, str], Repair] = {}


def axes(*ops: str, domain: str = "") -> Callable[[Rule], Rule]:
    """Registers the axis rule of these ops: an expression, or Links where an expression cannot say it."""

    def register(rule: Rule) -> Rule:
        for op in ops:
            if (domain, op) in RULES:
                raise ValueError(f"{op} has two axis rules")
            RULES[domain, op] = rule
        return rule

    return register


def repair(*ops: str, domain: str = "") -> Callable[[Repair], Repair]:
    """Registers what must be mended in these ops after slicing: attributes and operands that repeat a size."""

    def register(mend: Repair) -> Repair:
        for op in ops:
            if (domain, op) in REPAIRS:
                raise ValueError(f"{op} has two repairs")
            REPAIRS[domain, op] = mend
        return mend

    return register
