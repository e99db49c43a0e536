"""A gated model run piece by piece: from one node to another, with other weights, and with some of its gates closed.

An open gate is passed by: only those named closed are run, so that a piece with all gates open costs what the plain
model costs.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto

from onnxprune.apart import Apart, is_apart
from onnxprune.errors import ModelError
from onnxprune.gates import DOMAIN, PREFIX
from onnxprune.scopes import reads
from onnxprune.session import open_session, reason
from onnxprune.shapes import Sizes

Values = Mapping[str, np.ndarray]


@dataclass
class Pieces:
    """The nodes of a gated model in order. Those that depend on constants alone run wherever they are needed."""

    model: Apart
    sizes: Mapping[str, Sizes] = field(default_factory=dict)
    """Of values by name, as `shapes` finds them: onnxruntime refuses some ops whose inputs have none."""
    nodes: list[NodeProto] = field(init=False)
    """In order, without those that only lay out constants."""
    number: dict[str, int] = field(init=False)
    """Of each of these nodes, by its name."""

    def __post_init__(self) -> None:
        graph = self.model.light.graph
        self.stored = {tensor.name: tensor for tensor in graph.initializer}
        self.inputs = [value.name for value in graph.input if value.name not in self.stored]
        self.outputs = [value.name for value in graph.output]
        self.fixed: dict[str, NodeProto] = {}
        self.groups: dict[str, frozenset[str]] = {
            name: frozenset({name.removeprefix(PREFIX)}) for name in self.stored if name.startswith(PREFIX)
        }
        """Per value that is made of gates, the groups whose gates these are."""
        self.nodes = []
        for node in graph.node:
            used = [name for name in reads(node) if name]
            if used and all(name in self.stored or name in self.fixed for name in used):
                self.fixed |= dict.fromkeys(node.output, node)
                made_of = frozenset().union(*(self.groups.get(name, frozenset()) for name in used))
                self.groups |= dict.fromkeys(node.output, made_of)
            elif not used and node.op_type == "Constant":
                self.fixed |= dict.fromkeys(node.output, node)
            else:
                self.nodes.append(node)
        self.number = {node.name: k for k, node in enumerate(self.nodes)}
        inside = {name for node in self.nodes for name in set(reads(node)) - set(node.input)}
        self.gates = {
            node.output[0]: node.input[0]
            for node in self.nodes
            if node.domain == DOMAIN and node.op_type == "Gate" and node.output[0] not in inside
        }
        """Per gated value the value before its gate; what a body reads is not passed by."""

    def sites(self, group: str) -> Iterator[int]:
        """The numbers of the nodes with a gate of this group."""
        for number, node in enumerate(self.nodes):
            if any(group in self.groups.get(name, ()) for name in node.input):
                yield number

    def first(self, group: str) -> int:
        """The number of the first of them; that of the end where there is none."""
        return next(self.sites(group), len(self.nodes))

    def value(self, name: str, closed: frozenset[str] = frozenset()) -> str:
        """The value that stands for this one when all gates but those of the closed groups are passed by."""
        while name in self.gates and not self._shut(name, closed):
            name = self.gates[name]
        return name

    def _shut(self, gated: str, closed: frozenset[str]) -> bool:
        node = self._made[gated]
        return bool(self.groups.get(node.input[1], frozenset()) & closed)

    @cached_property
    def _made(self) -> dict[str, NodeProto]:
        return {name: node for node in self.nodes for name in node.output if name}

    def live(self, at: int, closed: frozenset[str] = frozenset()) -> list[str]:
        """The values made before node number `at` that it, or what comes after it, reads."""
        made = {*self.inputs, *(name for node in self.nodes[:at] for name in node.output if name)}
        wanted = [name for node in self.nodes[at:] for name in self._read(node, closed)]
        wanted += [self.value(name, closed) for name in self.outputs]
        return [name for name in dict.fromkeys(wanted) if name in made]

    def sources(self, node: NodeProto) -> list[str]:
        """All that a node reads, in its bodies as well."""
        return [name for name in reads(node) if name]

    def _read(self, node: NodeProto, closed: frozenset[str]) -> list[str]:
        """What a node reads when open gates are passed by; nothing for such a gate itself."""
        if node.output and node.output[0] in self.gates and not self._shut(node.output[0], closed):
            return []
        return [self.value(name, closed) for name in reads(node) if name]

    def piece(
        self,
        span: range,
        outputs: Sequence[str],
        given: Values,
        *,
        closed: frozenset[str] = frozenset(),
        weights: Values | None = None,
        free: Values | None = None,
    ) -> "Piece":
        """Nodes `span` as something to run: from the values of `given` (of which it needs only the types) to
        `outputs`. `weights` replaces initializers; those of `free` are given anew at each run.
        """
        changed, open_ = dict(weights or {}), dict(free or {})
        wanted = {self.value(name, closed) for name in outputs}
        kept: list[NodeProto] = []
        for number in reversed(span):
            node = self.nodes[number]
            if wanted & set(node.output):
                wanted |= set(self._read(node, closed))
                kept.append(self._renamed(node, closed))
        kept = [*self._fixed(wanted), *reversed(kept)]
        made = {name for node in kept for name in node.output}
        used = {name for node in kept for name in reads(node)} | wanted
        graph = GraphProto(name="piece", node=kept)
        apart: dict[str, np.ndarray] = {}
        for name, tensor in self.stored.items():
            if name in used and name not in open_:
                self._put(graph, tensor, changed.get(name), apart)
        entering = [name for name in given if name in used and name not in made]
        for name in (*entering, *open_):
            value = given[name] if name in given else open_[name]
            graph.input.append(self._declared(name, value, name in open_))
        names = [self.value(name, closed) for name in outputs]
        graph.output.extend(onnx.ValueInfoProto(name=name) for name in dict.fromkeys(names))
        light = ModelProto(ir_version=self.model.light.ir_version, graph=graph)
        light.opset_import.extend(self.model.light.opset_import)
        light.functions.extend(self.model.light.functions)
        return Piece(Apart(light, apart), entering, names)

    def _fixed(self, wanted: set[str]) -> list[NodeProto]:
        """The nodes that lay out what is wanted from constants; what these read becomes wanted too."""
        found: dict[int, NodeProto] = {}
        waiting = [name for name in wanted if name in self.fixed]
        while waiting:
            node = self.fixed[waiting.pop()]
            if id(node) not in found:
                found[id(node)] = node
                wanted |= set(reads(node))
                waiting += [name for name in reads(node) if name in self.fixed]
        order = {id(node): k for k, node in enumerate(self.fixed.values())}
        return sorted(found.values(), key=lambda node: order[id(node)])

    def _renamed(self, node: NodeProto, closed: frozenset[str]) -> NodeProto:
        """The node with the values that stand for those it reads; a gate that a body reads is never passed by."""
        names = [self.value(name, closed) for name in node.input]
        if names == list(node.input):
            return node
        copy = NodeProto()
        copy.CopyFrom(node)
        copy.input[:] = names
        return copy

    def _put(
        self,
        graph: GraphProto,
        tensor: onnx.TensorProto,
        changed: np.ndarray | None,
        apart: dict[str, np.ndarray],
    ) -> None:
        """Adds an initializer, changed or as it is."""
        if is_apart(tensor):
            values = self.model.weights[tensor.name]
            apart[tensor.name] = values if changed is None else changed.astype(values.dtype)
            graph.initializer.append(tensor)
        elif changed is None:
            graph.initializer.append(tensor)
        else:
            dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
            graph.initializer.append(onnx.numpy_helper.from_array(changed.astype(dtype), tensor.name))

    def constant(self, name: str) -> np.ndarray:
        """The values of an initializer."""
        tensor = self.stored[name]
        return self.model.weights[name] if is_apart(tensor) else onnx.numpy_helper.to_array(tensor)

    def _declared(self, name: str, value: np.ndarray, constant: bool) -> onnx.ValueInfoProto:
        """An input like this value; of what is no constant the sizes that are the same on all inputs."""
        kind = onnx.helper.np_dtype_to_tensor_dtype(value.dtype)
        shape = [a if a == b else None for a, b in self.sizes.get(self.value(name), ())]
        if constant or len(shape) != value.ndim:
            shape = [size if constant else None for size in value.shape]
        return onnx.helper.make_tensor_value_info(name, kind, shape)


class Piece:
    """A part of a model in onnxruntime."""

    def __init__(self, model: Apart, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        self.inputs, self.outputs = inputs, outputs
        self.session = open_session(model) if model.light.graph.node else None

    def __call__(self, given: Values, free: Values | None = None) -> dict[str, np.ndarray]:
        """What it makes of these values, and those of its outputs that are among them. Raises ModelError."""
        passed = {name: given[name] for name in self.outputs if name in given}
        if self.session is None:
            return passed
        feed = {name: given[name] for name in self.inputs} | dict(free or {})
        asked = [name for name in dict.fromkeys(self.outputs) if name not in passed]
        try:
            results = self.session.run(asked, feed) if asked else []
        except Exception as error:  # onnxruntime's exceptions share no root but this
            raise ModelError(f"the model does not run on the inputs of --data ({reason(error)})") from None
        return passed | {name: np.asarray(v) for name, v in zip(asked, results, strict=True)}
