"""Gated forms: what an op computes when it may see only the open channels, as the body of a model-local function.

    @gated("ReduceMean")
    def mean(form: Form) -> None:
        form.result(form.mean(form.inputs[0], axes=(1,)))

An op that takes a mean, a maximum or a softmax over channels must not count the closed ones, and zeros would count. So
its node in the gated model becomes a call of such a function, with a last input `w`: open where > 0, of as many axes as
the op's first input, each of one entry or of that input's size.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from onnx import helper

from onnxprune.ops.registry import Node

GATE = ("onnxprune", "Gate")
"""Domain and name of the gate function."""


class Form:
    """A function body under construction, for one node."""

    def __init__(self, node: Node, element: int, gated: Sequence[int]) -> None:
        self.node, self.element, self.gated = node, element, gated
        self.inputs = [f"x{k}" if node.has(k) else "" for k in range(len(node.inputs))]
        self.outputs: list[str] = []
        self.nodes: list[onnx.NodeProto] = []
        self._mask = ""

    def op(self, kind: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """Adds a node of one output; returns its name."""
        out = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [out], domain=domain, **attributes))
        return out

    def constant(self, value: Any, element: int | None = None) -> str:
        """A scalar of the op's element type, or (a list) a vector of int64."""
        kind = onnx.TensorProto.INT64 if isinstance(value, list) else element or self.element
        array = np.asarray(value).astype(helper.tensor_dtype_to_np_dtype(kind))
        return self.op("Constant", value=onnx.numpy_helper.from_array(array))

    def reduced(self, kind: str, x: str, axes: Sequence[int], *, keep: bool = True) -> str:
        """A reduction over these axes, in the spelling of the model's opset."""
        if self.node.opset >= (13 if kind == "ReduceSum" else 18):
            return self.op(kind, x, self.constant(list(axes)), keepdims=int(keep))
        return self.op(kind, x, axes=list(axes), keepdims=int(keep))

    def gate(self, x: str, element: int | None = None) -> str:
        """An `x` with its closed entries 0."""
        return self.op(GATE[1], x, "w", domain=GATE[0], to=element or self.element)

    @property
    def mask(self) -> str:
        """1 where open, 0 where closed, in the shape of w."""
        self._mask = self._mask or self.gate(self.constant(1))
        return self._mask

    def filled(self, x: str, value: float) -> str:
        """An `x` with its closed entries at `value`."""
        return self.op("Where", self.op("Cast", self.mask, to=onnx.TensorProto.BOOL), x, self.constant(value))

    def mean(self, x: str, axes: Sequence[int], *, keep: bool = True) -> str:
        """The mean of the open entries."""
        return self.mean_of(self.gate(x), self.mask, axes, self.gated, keep=keep)

    def mean_of(
        self, opened: str, mask: str, axes: Sequence[int], gated: Collection[int], *, keep: bool = True
    ) -> str:
        """The mean over `axes` of an x whose closed entries are 0; 0 where none is open. `mask` is of one entry on the
        axes that are not `gated`; over these it is a plain mean, so that one open entry is its own mean, exactly.
        """
        plain = [axis for axis in axes if axis not in gated]
        x = self.reduced("ReduceMean", opened, plain) if plain else opened
        count = self.op("Max", self.reduced("ReduceSum", mask, axes, keep=keep), self.constant(1))
        return self.op("Div", self.reduced("ReduceSum", x, axes, keep=keep), count)

    @property
    def lowest(self) -> float:
        """The least number of the element type."""
        return float(self._limits.min)

    @property
    def highest(self) -> float:
        """The greatest number of the element type."""
        return float(self._limits.max)

    @property
    def _limits(self) -> Any:
        finfo: Any = ml_dtypes.finfo  # untyped
        return finfo(helper.tensor_dtype_to_np_dtype(self.element))

    def result(self, *outputs: str) -> None:
        """Declares the function's outputs."""
        self.outputs = list(outputs)

    def function(self, name: str) -> onnx.FunctionProto:
        """The function `onnxprune.<name>(x0, x1, ..., w)`."""
        inputs = [f"x{k}" for k in range(len(self.inputs))]
        foreign = sorted({node.domain for node in self.nodes} - {"", GATE[0]})
        opsets = [helper.make_opsetid(domain, 1) for domain in (GATE[0], *foreign)]
        opsets.append(helper.make_opsetid("", self.node.opset))
        return helper.make_function(
            GATE[0],
            name,
            [*inputs, "w"],
            self.outputs,
            self.nodes,
            opsets,
            attributes=sorted(self.node.raw.attrs),
        )


Build = Callable[[Form], None]


@dataclass(frozen=True)
class GatedForm:
    """How a gated form is built, and for which nodes of its op."""

    build: Build
    operand: str
    """Whose summed and measured axes `w` lies on."""
    whole_numbers: bool
    """Whether it is exact on whole numbers; most compute with fractions, of which these have none."""
    when: Callable[[Node], bool]


FORMS: dict[tuple[str, str], GatedForm] = {}


def gated(
    *ops: str,
    domain: str = "",
    operand: str = "in0",
    whole_numbers: bool = False,
    when: Callable[[Node], bool] = lambda node: True,
) -> Callable[[Build], Build]:
    """Registers the gated form of these ops, or of those of their nodes for which `when` holds."""

    def register(build: Build) -> Build:
        for op in ops:
            if (domain, op) in FORMS:
                raise ValueError(f"{op} has two gated forms")
            FORMS[domain, op] = GatedForm(build, operand, whole_numbers, when)
        return build

    return register


def form_of(node: Node) -> GatedForm | None:
    """The gated form of a node, where it has one."""
    found = FORMS.get((node.domain, node.op))
    return found if found is not None and found.when(node) else None
