"""From an ONNX graph to an fx graph: node by node, in the file's order."""

import keyword
import logging
import operator
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import onnx
import torch
from torch import Tensor, fx, nn

from onnxprune.errors import ModelError
from onnxprune.to_torch import arithmetic, sizes, straight
from onnxprune.to_torch.operands import Form, dtype_of, is_module, to_tensor
from onnxprune.to_torch.ops import sequence
from onnxprune.to_torch.state import INITIALIZERS, attribute_paths, place, read_initializer, show_names
from onnxprune.to_torch.steps import Plan, Step
from onnxprune.to_torch.values import Constant, Sizes, Value, as_number, is_factor, is_weight

log = logging.getLogger(__name__)

_NUMBERS = (Form.INTS, Form.FLOATS, Form.SCALAR)


class Importer:
    """Builds the GraphModule of a graph, or of a body of one; `run` is called once.

    `options` are those of `load`, `weights` the values of the initializers that the graph holds without.
    """

    def __init__(self, plan: Plan, options: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
        self.proto, self.steps, self.types = plan.graph, plan.steps, plan.types
        self.options, self.weights = options, weights
        self.graph, self.root = fx.Graph(), nn.Module()
        self.values: dict[str, Value] = {}
        self.tensor_nodes: dict[str, fx.Node] = {}
        self.paths = attribute_paths(
            (i.name for i in self.proto.initializer), (name for n in self.proto.node for name in n.output)
        )
        self.taken = {part for path in self.paths.values() for part in (path, path.split(".")[0])}
        self.modules = self._free("ops")
        self.first_input: fx.Node | None = None
        self.statistics: set[str] = set()
        self.tied: list[str] = []
        self.shape_of = {
            s.outputs[0]: s.node.input[0]
            for s in self.steps
            if s.node.op_type == "Shape" and not s.attributes
        }
        self.readers: Counter[str] = Counter(name for step in self.steps for name, _ in step.reads())

    def run(self) -> fx.GraphModule:
        """The module, in eval mode."""
        self._inputs()
        self._initializers()
        for step in self.steps:
            self._step(step)
        outputs = tuple(self._tensor(output.name) for output in self.proto.output)
        self.graph.output(outputs[0] if len(outputs) == 1 else outputs)
        return self._finished()

    def run_body(
        self, outer: "Importer", captured: Sequence[str], numbers: Collection[int] = ()
    ) -> fx.GraphModule:
        """A body's module: it takes its inputs, a tensor on the device, and what it captures; a tuple comes back.

        Inputs and outputs at the places `numbers` are Python numbers.
        """
        self._inputs()
        for place_ in numbers:
            value = self.proto.input[place_]
            node = self.values[value.name]
            assert isinstance(node, fx.Node)
            self.values[value.name] = Sizes(node, dtype_of(value.type.tensor_type.elem_type or _INT64))
        self.first_input = self.graph.placeholder("on_device_")
        for name in captured:
            self._capture(name, outer)
        for step in self.steps:
            self._step(step)
        outputs = [
            self._number(v.name) if i in numbers else self._tensor(v.name)
            for i, v in enumerate(self.proto.output)
        ]
        self.graph.output(tuple(outputs))
        return self._finished()

    def _capture(self, name: str, outer: "Importer") -> None:
        value = outer.values[name]
        if isinstance(value, Constant):
            self.values[name] = Constant(value.tensor)
            return
        node = self.graph.placeholder(f"captured_{len(self.values)}")
        self.values[name] = Sizes(node, value.dtype) if isinstance(value, Sizes) else node
        if name in outer.statistics:
            self.statistics.add(name)

    def _number(self, name: str) -> Any:
        """A value as the Python number that it is known to be, else the tensor."""
        value = self.values[name]
        if isinstance(value, Constant):
            return value.tensor.item()
        return value.node if isinstance(value, Sizes) else value

    def _finished(self) -> fx.GraphModule:
        if self.tied:
            log.warning(
                "%d running statistics, %r among them, are shared with other nodes and stay as they are in "
                "training; give every reader its own copy to train them", len(self.tied), self.tied[0],
            )  # fmt: skip
        for name, value in self.values.items():
            if isinstance(value, fx.Node):
                value.meta["onnx_type"] = self.types.get(name)
        if self.options.get("straight_through"):
            straight.settle(self.graph)
        for node in reversed(self.graph.nodes):
            if not node.users and node.op not in ("placeholder", "output"):
                self.graph.erase_node(node)
        module = fx.GraphModule(self.root, self.graph)
        kept = dict(module.named_parameters()) | dict(module.named_buffers())
        paths = {name: path for name, path in self.paths.items() if path in kept}
        module.meta[INITIALIZERS] = paths
        if renamed := {path: name for name, path in paths.items() if path != name}:
            show_names(module, renamed)
        return module.eval()

    def _free(self, stem: str) -> str:
        while stem in self.taken:
            stem += "_"
        self.taken.add(stem)
        return stem

    def _inputs(self) -> None:
        held, spoken = {i.name for i in self.proto.initializer}, set[str]()
        for value in self.proto.input:
            if value.name not in held:
                spoken.add(argument := _argument(value.name, spoken))
                node = self.graph.placeholder(argument)
                node.meta["onnx_input"] = value.name
                if value.type.WhichOneof("value") != "sequence_type":
                    self.first_input = self.first_input or node
                self.values[value.name] = node

    def _initializers(self) -> None:
        forms: dict[str, set[Form]] = defaultdict(set)
        readers: dict[str, set[str]] = defaultdict(set)
        for step in self.steps:
            for name, form in step.reads():
                forms[name].add(form)
                readers[name].add(step.node.op_type)
        for output in self.proto.output:
            forms[output.name].add(Form.TENSOR)
        for initializer in self.proto.initializer:
            tensor, read_as = self._read(initializer), forms[initializer.name]
            path = self.paths[initializer.name]
            formula = is_factor(initializer.name, tensor, readers[initializer.name])
            if is_weight(tensor) and Form.TENSOR in read_as and not formula:
                place(self.root, path, tensor, trainable=True)
                self.values[initializer.name] = self._get(path)
            elif Form.STATISTIC in read_as:
                self.statistics.add(initializer.name)
                place(self.root, path, tensor, trainable=False)
                self.values[initializer.name] = self._get(path)
            else:
                self.values[initializer.name] = Constant(tensor, path)

    def _read(self, initializer: onnx.TensorProto) -> Tensor:
        values = self.weights.get(initializer.name)
        return read_initializer(initializer) if values is None else values

    def _get(self, path: str) -> fx.Node:
        return self.graph.create_node("get_attr", path)

    def _step(self, step: Step) -> None:
        inputs = [self._value(name) if name else None for name in step.node.input]
        if step.bodies:
            self._control(step, inputs)
            return
        if sized := self._sizes(step, inputs):
            self._set(step.outputs[0], sized)
            return
        known = all(v is None or isinstance(v, Constant) for v in inputs)
        plain = not (is_module(step.converter.target) or step.node.op_type in sequence.OPS)
        if not (known and plain and self._fold(step, inputs)):
            self._call(step)

    def _value(self, name: str) -> Value:
        if name not in self.values:
            raise ModelError(f"a node reads {name!r}, which nothing before it makes; export the model again")
        return self.values[name]

    def _set(self, name: str, value: Value) -> None:
        """A name that was taken is one of a body that stood in its node's place, and is read no more."""
        self.values[name] = value
        self.tensor_nodes.pop(name, None)

    def _sizes(self, step: Step, inputs: list[Value | None]) -> Constant | Sizes | None:
        """What the node makes, if that is a size or several."""
        source = self.shape_of.get(step.node.input[0]) if step.node.op_type == "Gather" else None
        if source and (known := arithmetic.known_size(source, inputs[1], self.types)):
            return known
        rule = arithmetic.rule_of(step, inputs, self.types)
        if rule is None:
            return None
        arguments = tuple(
            v.node if isinstance(v, Sizes) else arithmetic.listed(v) if isinstance(v, Constant) else v
            for v in inputs
        )
        if step.node.op_type in ("Shape", "Size"):
            arguments = (self._tensor(step.node.input[0]),)
        node = self.graph.call_function(rule, arguments, arithmetic.keywords(step))
        return Sizes(node, dtype_of(self.types[step.outputs[0]].tensor_type.elem_type))

    def _fold(self, step: Step, inputs: list[Value | None]) -> bool:
        """What the node makes of constants; False where it cannot, as in a branch that is never taken."""
        arguments = [
            None if value is None else as_number(value.tensor, form)
            for value, form in zip(inputs, step.forms(), strict=True)
            if value is None or isinstance(value, Constant)
        ]
        keywords = {
            n: to_tensor(v) if isinstance(v, onnx.TensorProto) else v for n, v in step.attributes.items()
        }
        try:
            with torch.no_grad():
                result = step.converter.target(*arguments, **keywords, **self._extras(step, None))
        except (RuntimeError, ValueError, IndexError) as error:
            log.debug("%s is left to the module: %s", step.name, error)
            return False
        results = result if isinstance(result, tuple) else (result,)
        for name, value in zip(step.outputs, results, strict=True):
            self._set(name, Constant(value))
        return True

    def _control(self, step: Step, inputs: Sequence[Value | None]) -> None:
        """A node with bodies: the one that a known condition chooses, in its place; else a module that holds them."""
        if step.node.op_type == "If" and isinstance(inputs[0], Constant):
            chosen = step.bodies["then_branch" if inputs[0].tensor.item() else "else_branch"]
            around, self.types = self.types, chosen.types
            for inner in chosen.steps:
                self._step(inner)
            self.types = around
            for name, value in zip(step.outputs, chosen.graph.output, strict=False):
                self._set(name, self._value(value.name))
            return
        captured = step.captured()
        numbers = _PYTHON_NUMBERS.get(step.node.op_type, ())
        bodies = {
            name: Importer(body, self.options, self.weights).run_body(self, captured, numbers)
            for name, body in step.bodies.items()
        }
        values = [self._value(name) for name in captured]
        passed = [v.node if isinstance(v, Sizes) else v for v in values if not isinstance(v, Constant)]
        self._call(step, bodies, captured=(self.first_input, *passed))

    def _call(self, step: Step, bodies: Mapping[str, nn.Module] | None = None, **given: Any) -> None:
        arguments = tuple(
            self._argument(step, name, form) for name, form in zip(step.node.input, step.forms(), strict=True)
        )
        keywords = self._attributes(step) | self._extras(step, self.first_input)
        name = re.sub(r"\W", "_", step.outputs[0])
        target = step.converter.target
        if is_module(target):
            path = f"{self.modules}.{step.node.op_type}_{len(self.graph.nodes)}"
            if self.modules not in self.root._modules:
                self.root.add_module(self.modules, nn.Module())
            module = target(**keywords, **(bodies or {}))
            self.root.get_submodule(self.modules).add_module(path.split(".")[1], module)
            node = self.graph.create_node("call_module", path, arguments, given, name=name)
        else:
            node = self.graph.create_node("call_function", target, arguments, keywords, name=name)
        node.meta["onnx"] = step.node.op_type, step.name
        if len(step.outputs) == 1:
            self._set(step.outputs[0], node)
            return
        for i, output in enumerate(step.outputs):
            if output:
                self._set(output, self.graph.call_function(operator.getitem, (node, i)))

    def _argument(self, step: Step, name: str, form: Form) -> Any:
        if not name:
            return None
        value = self._value(name)
        if isinstance(value, Constant) and not isinstance(known := as_number(value.tensor, form), Tensor):
            return known
        if isinstance(value, Sizes) and (
            form in _NUMBERS or (form is Form.INDEX and arithmetic.rank(name, self.types) == 0)
        ):
            whole = not value.dtype.is_floating_point
            return value.node if whole else self.graph.call_function(sizes.floats, (value.node,))
        if form is Form.STATISTIC and not (name in self.statistics and self.readers[name] == 1):
            if not (isinstance(value, fx.Node) and value.op == "placeholder"):
                self.tied.append(name)
            return self.graph.call_function(_copy, (self._tensor(name),))
        return self._tensor(name)

    def _tensor(self, name: str) -> fx.Node:
        value = self._value(name)
        if isinstance(value, fx.Node):
            return value
        if name not in self.tensor_nodes:
            if isinstance(value, Sizes):
                self.tensor_nodes[name] = self.graph.call_function(
                    sizes.tensor, (value.node, self.first_input, value.dtype)
                )
            else:
                path = value.path or self._free("constant_" + re.sub(r"\W", "_", name))
                place(self.root, path, value.tensor, trainable=False, persistent=value.path is not None)
                self.tensor_nodes[name] = self._get(path)
                self.values[name] = replace(value, path=path)
        return self.tensor_nodes[name]

    def _attributes(self, step: Step) -> dict[str, Any]:
        keywords = {}
        for name, value in step.attributes.items():
            if isinstance(value, onnx.TypeProto):  # of what an empty optional would hold
                continue
            if isinstance(value, onnx.TensorProto) and is_module(step.converter.target):
                value = to_tensor(value)  # noqa: PLW2901
            elif isinstance(value, onnx.TensorProto):
                path = self._free(f"constant_{name}_{len(self.graph.nodes)}")
                place(self.root, path, to_tensor(value), trainable=False, persistent=False)
                value = self._get(path)  # noqa: PLW2901
            keywords[name] = value
        return keywords

    def _extras(self, step: Step, like: fx.Node | None) -> dict[str, Any]:
        output = self.types.get(step.outputs[0], onnx.TypeProto())
        extras = {
            "n_outputs": len(step.outputs),
            "result_type": output.tensor_type.elem_type,
            "like": like,
            **self.options,
        }
        return {n: v for n, v in extras.items() if n in step.converter.keywords()}


_PYTHON_NUMBERS = {"Loop": (0, 1)}  # which inputs (count, condition) and outputs (condition) of a body
_INT64 = onnx.TensorProto.INT64


def _argument(name: str, taken: Collection[str]) -> str:
    """`name` as Python can spell an argument of `forward`."""
    word = re.sub(r"\W|^(?=\d)", "_", name) or "x"
    while keyword.iskeyword(word) or word == "self" or word in taken:
        word += "_"
    return word


def _copy(statistic: Tensor) -> Tensor:
    return statistic.detach().clone()
