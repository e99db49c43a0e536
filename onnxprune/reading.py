"""All rules of a graph read into labels: what they equate, freeze and group."""

from dataclasses import dataclass, field
from types import EllipsisType

import onnx_graphsurgeon as gs
from onnx import TensorProto
from onnx_graphsurgeon.exporters.onnx_exporter import dtype_to_onnx

from onnxprune.axes import AxesError, bind
from onnxprune.labels import GridLabels, Labels, Statements
from onnxprune.links import At, Frozen, Links, Place, Shape, Virtual
from onnxprune.model import Model
from onnxprune.ops import RULES, Node, Unknown, Value
from onnxprune.ops.forms import form_of
from onnxprune.scopes import bodies, graphs
from onnxprune.shapes import Shapes

FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16)

LONGEST = 1 << 22
"""Axes of more entries get no labels; no real channel axis is that long."""


@dataclass(frozen=True)
class Reason:
    """Why something is frozen, and the op it is due to."""

    text: str
    op: str


def operand(node: Node, at: At) -> Value | None:
    """The value behind `in0`, `out1`, ..."""
    side, number = (
        (node.inputs, int(at.operand[2:])) if at.operand[0] == "i" else (node.outputs, int(at.operand[3:]))
    )
    return side[number] if number < len(side) else None


Operands = tuple[Shape | EllipsisType | None, ...]


def _shape(value: Value | None) -> Shape | EllipsisType | None:
    """As `bind` wants it: None for an absent operand, `...` where the rank is not known."""
    if value is None:
        return None
    return ... if value.shape is None else value.shape


@dataclass
class Reading:
    """What the rules say of a prepared model; `run` fills it."""

    model: Model
    shapes: Shapes
    nodes: list[Node] = field(default_factory=list)
    links: list[Links | None] = field(default_factory=list)
    labels: dict[str, list[Labels | None]] = field(default_factory=dict)
    virtual: dict[tuple[int, str], Labels] = field(default_factory=dict)
    statements: Statements = field(default_factory=Statements)
    reasons: list[Reason] = field(default_factory=list)
    values: dict[str, Value] = field(default_factory=dict)
    bound: dict[tuple[str, Operands, Operands], Links] = field(default_factory=dict)
    """Layers repeat: what a rule says of these shapes."""

    def run(self) -> None:
        graph = self.model.graph
        for tensor in graph.inputs:
            self._freeze_value(self._value(tensor), f"'{tensor.name}' is an input of the model", "input")
        for tensor in graph.outputs:
            self._freeze_value(self._value(tensor), f"'{tensor.name}' is an output of the model", "output")
        self.nodes += [self._node(raw, scope) for scope in graphs(graph) for raw in scope.nodes]
        for number, node in enumerate(self.nodes):
            self.links.append(self._links(node))
            self._state(number)

    def _value(self, tensor: gs.Tensor) -> Value | None:
        if not tensor.name:
            return None
        if tensor.name not in self.values:
            value = Value(tensor.name, self.shapes.sizes.get(tensor.name), tensor)
            self.values[tensor.name] = value
            self.labels[tensor.name] = [
                self.statements.fresh(size) if size is not None and 1 < size <= LONGEST else None
                for size in value.shape or ()
            ]
        return self.values[tensor.name]

    def _node(self, raw: gs.Node, scope: gs.Graph) -> Node:
        inputs = tuple(self._value(tensor) for tensor in raw.inputs)
        outputs = tuple(self._value(tensor) for tensor in raw.outputs)
        return Node(raw.op, raw.name, self.model.graph.opset, inputs, outputs, raw, scope)

    def _because(self, text: str, op: str) -> int:
        self.reasons.append(Reason(text, op))
        return len(self.reasons) - 1

    def freeze(self, labels: Labels, text: str, op: str) -> None:
        self.statements.frozen.append((labels, self._because(text, op)))

    def _freeze_value(self, value: Value | None, text: str, op: str) -> None:
        found = [labels for labels in self.labels[value.name] if labels is not None] if value else []
        if found:
            reason = self._because(text, op)
            self.statements.frozen += [(labels, reason) for labels in found]

    def _links(self, node: Node) -> Links | None:
        """What the node's rule says; None and everything frozen where there is none or it does not apply."""
        if bodies(node.raw):
            self._enter(node)
            return None
        rule = RULES.get((node.domain, node.op))
        if rule is None:
            self._freeze_node(node, "has no axis rule")
            return None
        try:
            said = rule(node)
            if isinstance(said, Links):
                return said
            inputs, outputs = (tuple(_shape(value) for value in side) for side in (node.inputs, node.outputs))
            if (said, inputs, outputs) not in self.bound:
                self.bound[said, inputs, outputs] = bind(said, inputs, outputs)
            return self.bound[said, inputs, outputs]
        except Unknown as reason:
            self._freeze_node(node, str(reason))
        except (AxesError, IndexError, KeyError, TypeError, ValueError) as reason:
            self._freeze_node(node, f"does not fit its axis rule ({reason})")
        return None

    def _freeze_node(self, node: Node, text: str) -> None:
        for value in (*node.inputs, *node.outputs):
            self._freeze_value(value, f"{node.op} '{node.name}': {text}", node.op)

    def _enter(self, node: Node) -> None:
        """The nodes of a body are read like all others; what an If hands out is what its branches make, and what a loop
        hands in and out stays.
        """
        if node.op == "If" and not node.domain:
            for body in bodies(node.raw):
                for out, made in zip(node.outputs, body.outputs, strict=True):
                    self._tie(node, out, self._value(made))
            return
        self._freeze_node(node, "hands it through its body")
        for body in bodies(node.raw):
            for tensor in (*body.inputs, *body.outputs):
                text = f"{node.op} '{node.name}': hands it through its body"
                self._freeze_value(self._value(tensor), text, node.op)

    def _tie(self, node: Node, a: Value | None, b: Value | None) -> None:
        """One value under two names."""
        if a is None or b is None:
            return
        if a.shape is not None and a.sizes == b.sizes:
            pairs = zip(self.labels[a.name], self.labels[b.name], strict=True)
            self.statements.equal += [(x, y) for x, y in pairs if x is not None and y is not None]
            return
        for value in (a, b):
            self._freeze_value(value, f"{node.op} '{node.name}': its branches differ in shape", node.op)

    def _state(self, number: int) -> None:
        """Translates the node's statements into labels."""
        links, node = self.links[number], self.nodes[number]
        if links is None:
            return
        self._freeze_unmentioned(node, links)
        self._freeze_counted(number, node, links)
        for fact in links.frozen:
            labels = self._labels(number, fact.at)
            if labels is not None:
                chosen = labels if fact.index is None else labels[list(fact.index)]
                self.statements.frozen.append((chosen, self._because(self._text(node, fact), node.op)))
        for same in links.same:
            a, b = self._labels(number, same.a), self._labels(number, same.b)
            a = a if a is None or same.a_index is None else a[list(same.a_index)]
            b = b if b is None or same.b_index is None else b[list(same.b_index)]
            if a is not None and b is not None:
                self.statements.equal.append((a, b))
            else:
                for labels in (a, b):
                    if labels is not None:
                        reason = self._because(
                            f"{node.op} '{node.name}': meets an axis of one entry", node.op
                        )
                        self.statements.frozen.append((labels, reason))
        for grid in links.grids:
            whole = self._labels(number, grid.whole)
            factors = [self._labels(number, place) for place in grid.factors]
            reason = self._because(f"{node.op} '{node.name}': groups these entries in another way", node.op)
            if whole is None or any(f is None for f in factors):
                known = [labels for labels in (whole, *factors) if labels is not None]
                self.statements.frozen += [(labels, reason) for labels in known]
                continue
            kinds = tuple(f for f in factors if f is not None)
            shaped = whole.reshape([len(f) for f in kinds])
            self.statements.grids.append(GridLabels(shaped, kinds, reason))

    def _text(self, node: Node, fact: Frozen) -> str:
        return f"{node.op} '{node.name}': {fact.because}"

    def _labels(self, number: int, place: Place) -> Labels | None:
        if isinstance(place, Virtual):
            if place.size <= 1:
                return None
            key = (number, place.name)
            if key not in self.virtual:
                self.virtual[key] = self.statements.fresh(place.size)
            return self.virtual[key]
        value = operand(self.nodes[number], place)
        return self.labels[value.name][place.axis] if value is not None and self.labels[value.name] else None

    def _freeze_counted(self, number: int, node: Node, links: Links) -> None:
        """Gated forms compute with fractions: of whole numbers there is none."""
        form = form_of(node)
        value = None if form is None else operand(node, At(form.operand, 0))
        if form is None or form.whole_numbers or value is None or self._is_float(value):
            return
        for at in (*links.summed, *links.measured):
            labels = self._labels(number, at)
            if at.operand == form.operand and labels is not None:
                self.freeze(
                    labels, f"{node.op} '{node.name}': computes with whole numbers over them", node.op
                )

    def _is_float(self, value: Value) -> bool:
        declared = FLOATS[0] if value.raw.dtype is None else int(dtype_to_onnx(value.raw.dtype))
        return self.shapes.types.get(value.name, declared) in FLOATS

    def _freeze_unmentioned(self, node: Node, links: Links) -> None:
        """An axis is frozen unless a rule claims it."""
        mentioned = links.mentioned()
        for side, values in (("in", node.inputs), ("out", node.outputs)):
            for number, value in enumerate(values):
                for axis, labels in enumerate(self.labels[value.name] if value else ()):
                    if labels is not None and At(f"{side}{number}", axis) not in mentioned:
                        reason = self._because(
                            f"{node.op} '{node.name}': its rule leaves this axis out", node.op
                        )
                        self.statements.frozen.append((labels, reason))
