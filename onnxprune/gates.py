"""Gates into a graph, gates out of it.

A gate node is a call of the model-local function `onnxprune.Gate(x, w)` with the body `w > 0 ? x : 0`: one visible node
that runs in stock onnxruntime. `w` is laid out from one initializer per channel group, `gate/<group>`, shared by all of
the group's sites. A site lies right before each op that sums the channel away, so a closed channel adds nothing to the
sum, whatever came before it: channel-wise ops never mix channels. An op that takes a mean, a maximum or a softmax over
channels becomes a call of its gated form (`ops/forms.py`), which sees the open ones only.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.exporters.onnx_exporter import dtype_to_onnx
from onnx_graphsurgeon.importers.onnx_importer import OnnxImporter

from onnxprune.apart import Apart
from onnxprune.errors import ModelError
from onnxprune.groups import Groups
from onnxprune.labels import Labels
from onnxprune.links import At
from onnxprune.model import OWN_DOMAIN, Model
from onnxprune.ops import Node, Value
from onnxprune.ops.forms import Build, Form, form_of
from onnxprune.reading import operand
from onnxprune.scopes import graphs
from onnxprune.tidy import tidy

DOMAIN = OWN_DOMAIN
PREFIX = "gate/"
IR_VERSION = 8
"""The first with model-local functions."""
TRAINED_KEY = "onnxprune.trained"
"""Metadata entry of a trained gated model: `<ratio> <by>` as it was trained for."""
IR_KEY = "onnxprune.ir_version"
"""Metadata entry of a gated model: the IR version to go back to."""


def gate_function(opset: int) -> onnx.FunctionProto:
    """`Gate(x, w)`: x where w > 0, 0 elsewhere, whatever a closed channel holds; `to` is the element type of x.

    Opsets 7 and 8 have no Where: there it is the product with 1 or 0.
    """
    zero = onnx.helper.make_tensor("zero", onnx.TensorProto.FLOAT, [], [0.0])
    cast = onnx.helper.make_node("Cast", ["zero" if opset >= 9 else "open"], ["cast"])
    cast.attribute.add(name="to", ref_attr_name="to", type=onnx.AttributeProto.INT)
    result = (
        onnx.helper.make_node("Where", ["open", "x", "cast"], ["y"])
        if opset >= 9
        else onnx.helper.make_node("Mul", ["x", "cast"], ["y"])
    )
    body = [
        onnx.helper.make_node("Constant", [], ["zero"], value=zero),
        onnx.helper.make_node("Greater", ["w", "zero"], ["open"]),
        cast,
        result,
    ]
    opsets = [onnx.helper.make_opsetid("", opset)]
    return onnx.helper.make_function(DOMAIN, "Gate", ["x", "w"], ["y"], body, opsets, attributes=["to"])


def insert(groups: Groups, latents: Mapping[str, np.ndarray]) -> int:
    """Puts gates with these latents (by group name, shape (size,), open where > 0; 1 where not given) into the groups'
    model, in place. Returns how many gate nodes there are.
    """
    model = groups.model
    graph = model.graph
    if groups.groups:
        model.header.metadata_props.add(key=IR_KEY, value=str(model.header.ir_version))
        model.header.ir_version = max(model.header.ir_version, IR_VERSION)
        model.header.opset_import.append(onnx.helper.make_opsetid(DOMAIN, 1))
        function = gate_function(graph.opset)
        graph.functions.append(OnnxImporter.import_function(function, model_opset=graph.opset))
    inserter = _Inserter(groups, latents)
    placed: dict[int, list[gs.Node]] = {id(scope): [] for scope in graphs(graph)}
    for number, links in enumerate(groups.links):
        by_operand: dict[str, list[At]] = {}
        for at in [*links.summed, *links.measured] if links is not None else ():
            by_operand.setdefault(at.operand, []).append(at)
        form = form_of(groups.nodes[number]) if by_operand else None
        for name, sites in by_operand.items():
            if form is not None and form.operand == name:
                inserter.take_form(number, sites, form.build)
            else:
                inserter.gate_operand(number, sites)
        placed[id(groups.nodes[number].graph)] += [*inserter.gates, groups.nodes[number].raw]
        inserter.gates.clear()
    for scope in list(graphs(graph)):
        scope.nodes = placed[id(scope)]
    graph.nodes = [*inserter.layout, *graph.nodes]
    return inserter.count


@dataclass
class _Inserter:
    groups: Groups
    latents: Mapping[str, np.ndarray]
    gates: list[gs.Node] = field(default_factory=list)
    """Of the node at hand, to go right before it."""
    layout: list[gs.Node] = field(default_factory=list)
    """What lays latents out; it stands in the outermost graph, where every body can read it."""
    count: int = 0
    gated: dict[tuple[int, str, tuple[int, ...]], gs.Variable] = field(default_factory=dict)
    initializers: dict[int, gs.Constant] = field(default_factory=dict)
    laid_out: dict[tuple[bytes, tuple[int, ...]], gs.Tensor] = field(default_factory=dict)
    functions: dict[bytes, str] = field(default_factory=dict)
    captured: dict[str, gs.Tensor] = field(default_factory=dict)

    def take_form(self, number: int, sites: list[At], build: Build) -> None:
        """Makes a node a call of its gated form on all the axes that it sums or measures."""
        node = self.groups.nodes[number]
        value = operand(node, sites[0])
        axes = self._live(number, sites)
        if value is None or not axes:
            return
        rank = len(value.sizes or ())
        weights = [self._latent(self._labels(value.name, axis), axis, rank - axis - 1) for axis in axes]
        weight = weights[0]
        for other in weights[1:]:
            weight = self._node("Min", f"{PREFIX}form_{self.count}/least_{other.name}", [weight, other], {})
        form = Form(node, self._element(value.raw), axes)
        build(form)
        raw = node.raw
        raw.inputs.append(self._within(node, weight))
        if raw.domain:
            raw.attrs["domain"] = raw.domain
        raw.op, raw.domain = self._function(form), DOMAIN
        self.count += 1

    def _function(self, form: Form) -> str:
        """The name of the function with this body."""
        op = form.node.op
        key = form.function(f"Gated{op}").SerializeToString(deterministic=True)
        if key not in self.functions:
            same = sum(name.split("_")[0] == f"Gated{op}" for name in self.functions.values())
            self.functions[key] = f"Gated{op}_{same + 1}" if same else f"Gated{op}"
            graph = self.groups.model.graph
            function = form.function(self.functions[key])
            graph.functions.append(OnnxImporter.import_function(function, model_opset=graph.opset))
        return self.functions[key]

    def _live(self, number: int, sites: list[At]) -> list[int]:
        """Those of the axes that may lose channels."""
        live = []
        for at in sites:
            labels = self.groups.place(number, at)
            if labels is not None and (self.groups.atoms.because[self.groups.atoms.of[labels]] < 0).any():
                live.append(at.axis)
        return live

    def _labels(self, name: str, axis: int) -> Labels:
        labels = self.groups.labels[name][axis]
        if labels is None:
            raise ModelError(f"'{name}' has no labels on axis {axis}")
        return labels

    def _element(self, tensor: gs.Tensor) -> int:
        """The element type, as ONNX counts them."""
        declared = onnx.TensorProto.FLOAT if tensor.dtype is None else int(dtype_to_onnx(tensor.dtype))
        return self.groups.shapes.types.get(tensor.name, declared)

    def gate_operand(self, number: int, sites: list[At]) -> None:
        """Gates one input of a node on all the axes that the node sums away."""
        node = self.groups.nodes[number]
        value = operand(node, sites[0])
        if value is None:
            return
        axes = self._live(number, sites)
        tensor: gs.Tensor = value.raw
        for k in range(len(axes)):
            key = (id(node.graph), value.name, tuple(axes[: k + 1]))
            if key not in self.gated:
                self.gated[key] = self._gate(tensor, value, axes[k], node)
            tensor = self.gated[key]
        if axes:
            node.raw.inputs[int(sites[0].operand[2:])] = tensor

    def _gate(self, tensor: gs.Tensor, value: Value, axis: int, node: Node) -> gs.Variable:
        weight = self._latent(self._labels(value.name, axis), 0, len(value.sizes or ()) - axis - 1)
        stem = f"{PREFIX}{value.name}/{axis}"
        if node.graph is not self.groups.model.graph:
            stem += f"/{node.graph.name}_{self.count}"
        out = gs.Variable(f"{stem}/out", dtype=tensor.dtype, shape=getattr(tensor, "shape", None))
        attributes = {"to": self._element(tensor)}
        inputs = [tensor, self._within(node, weight)]
        self.gates.append(gs.Node("Gate", stem, attributes, inputs, [out], domain=DOMAIN))
        self.count += 1
        return out

    def _within(self, node: Node, weight: gs.Tensor) -> gs.Tensor:
        """The weight as a node can read it: an initializer that a body reads would be copied into the body."""
        if node.graph is self.groups.model.graph or not isinstance(weight, gs.Constant):
            return weight
        key = weight.name
        if key not in self.captured:
            self.captured[key] = self._node("Identity", f"{weight.name}/captured", [weight], {})
        return self.captured[key]

    def _latent(self, labels: Labels, leading: int, trailing: int) -> gs.Tensor:
        """The gates of an axis with these labels, between so many axes of one entry."""
        shape = (*[1] * leading, len(labels), *[1] * trailing)
        key = (self.groups.atoms.of[labels].tobytes(), shape)
        if key not in self.laid_out:
            flat = self._flat(labels)
            self.laid_out[key] = self._reshaped(flat, shape) if len(shape) > 1 else flat
        return self.laid_out[key]

    def _flat(self, labels: Labels) -> gs.Tensor:
        """One gate per label: a group's own initializer where it fits as it is, else entries gathered from several;
        where several decide over an entry, the least of them.
        """
        sources = [self.groups.deciding(atom) for atom in self.groups.atoms.of[labels].tolist()]
        numbers = sorted({int(self.groups.group_of[a]) for found in sources for a in found})
        groups = [self.groups.groups[n] for n in numbers]
        if len(groups) == 1 and [[a] for a in groups[0].atoms.tolist()] == sources:
            return self._initializer(numbers[0])
        stem = f"{PREFIX}layout_{len(self.laid_out)}"
        position = {a: k for k, a in enumerate(np.concatenate([g.atoms for g in groups]).tolist())}
        always = len(position)
        width = max(len(found) for found in sources)
        tables = [
            [position[found[k]] if k < len(found) else always for found in sources] for k in range(width)
        ]
        one = gs.Constant(f"{stem}/open", np.ones(1, dtype=np.float32))
        joined = self._node(
            "Concat", f"{stem}/all", [*(self._initializer(n) for n in numbers), one], {"axis": 0}
        )
        picked = [
            self._node(
                "Gather",
                f"{stem}/pick{k}",
                [joined, gs.Constant(f"{stem}/index{k}", np.asarray(table))],
                {"axis": 0},
            )
            for k, table in enumerate(tables)
        ]
        return picked[0] if width == 1 else self._node("Min", f"{stem}/least", picked, {})

    def _reshaped(self, tensor: gs.Tensor, shape: tuple[int, ...]) -> gs.Tensor:
        stem = f"{PREFIX}shape_{len(self.laid_out)}"
        target = gs.Constant(f"{stem}/sizes", np.asarray(shape, dtype=np.int64))
        return self._node("Reshape", stem, [tensor, target], {})

    def _node(self, op: str, name: str, inputs: list[gs.Tensor], attributes: dict[str, int]) -> gs.Variable:
        out = gs.Variable(f"{name}/out", dtype=np.dtype(np.float32))
        self.layout.append(gs.Node(op, name, attributes, inputs, [out]))
        return out

    def _initializer(self, number: int) -> gs.Constant:
        if number not in self.initializers:
            group = self.groups.groups[number]
            values = self.latents.get(group.name, np.ones(group.size))
            self.initializers[number] = gs.Constant(
                f"{PREFIX}{group.name}", np.asarray(values, dtype=np.float32)
            )
        return self.initializers[number]


def set_latents(gated: Apart, latents: Mapping[str, np.ndarray]) -> None:
    """Sets the gates of a gated file, in place, by group name."""
    gated.put({f"{PREFIX}{name}": values for name, values in latents.items()})


def is_gated(model: Model) -> bool:
    """Whether the model holds gate nodes."""
    return any(node.domain == DOMAIN for scope in graphs(model.graph) for node in scope.nodes)


def is_form(node: gs.Node) -> bool:
    """Whether the node is a call of the gated form of its op."""
    return bool(node.domain == DOMAIN and node.op.startswith("Gated"))


def strip(model: Model) -> dict[str, np.ndarray]:
    """Takes all gates out of the model, in place; returns the latents, by group name."""
    graph = model.graph
    latents = {
        tensor.name.removeprefix(PREFIX): np.asarray(tensor.values)
        for tensor in graph.tensors().values()
        if isinstance(tensor, gs.Constant) and tensor.name.startswith(PREFIX) and not _is_layout(tensor)
    }
    for scope in list(graphs(graph)):
        _strip_scope(scope)
    graph.functions = [function for function in graph.functions if function.domain != DOMAIN]
    tidy(graph)
    _restore_header(model)
    return latents


def _strip_scope(graph: gs.Graph) -> None:
    for node in graph.nodes:
        if is_form(node):
            node.inputs.pop()
            node.op = node.op.removeprefix("Gated").split("_")[0]
            node.domain = node.attrs.pop("domain", None)
        elif node.op == "Gate" and node.domain == DOMAIN:
            plain, gated = node.inputs[0], node.outputs[0]
            for reader in list({id(r): r for r in gated.outputs}.values()):
                for position, tensor in enumerate(reader.inputs):
                    if tensor is gated:
                        reader.inputs[position] = plain
            node.inputs.clear()
            node.outputs.clear()
    graph.nodes = [node for node in graph.nodes if not (node.op == "Gate" and node.domain == DOMAIN)]


def _is_layout(tensor: gs.Constant) -> bool:
    """Constants that lay latents out are read by Gather and Reshape in second place, or are the always open entry."""
    return not all(_reads_as_latent(node, tensor) for node in tensor.outputs) or tensor.name.endswith("/open")


def _reads_as_latent(node: gs.Node, tensor: gs.Constant) -> bool:
    return bool(
        node.op in ("Concat", "Min")
        or (node.domain == DOMAIN and node.inputs[-1] is tensor)
        or node.inputs[0] is tensor
    )


def _restore_header(model: Model) -> None:
    header = model.header
    entries = [entry for entry in header.metadata_props if entry.key == IR_KEY]
    if entries and entries[0].value.isdigit():
        header.ir_version = int(entries[0].value)
    others = [
        (entry.key, entry.value) for entry in header.metadata_props if entry.key not in (IR_KEY, TRAINED_KEY)
    ]
    del header.metadata_props[:]
    for key, value in others:
        header.metadata_props.add(key=key, value=value)
    opsets = [(entry.domain, entry.version) for entry in header.opset_import if entry.domain != DOMAIN]
    del header.opset_import[:]
    header.opset_import.extend(onnx.helper.make_opsetid(domain, version) for domain, version in opsets)
    graph = model.graph
    graph.import_domains = [entry for entry in graph.import_domains or [] if entry.domain != DOMAIN] or None
