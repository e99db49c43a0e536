"""Sequences of tensors become the tensors themselves, where it is known what they hold.

Exporters write `split`, `unbind` and `stack` by sequences: a SplitToSequence read by SequenceAt at constant positions
is a Split, a ConcatFromSequence of a SequenceConstruct is a Concat.
"""

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.shapes import Shapes


def unroll(graph: gs.Graph, shapes: Shapes) -> bool:
    """Replaces, in a sorted graph, what reads sequences of known tensors; True if there was any.

    What only made the sequences is left for `tidy`, and the new values' shapes are left to be inferred.
    """
    if not any(node.op in READING for node in graph.nodes):
        return False
    unrolling = _Unrolling(graph.opset, shapes)
    for node in graph.nodes:
        if node.domain in (None, "", "ai.onnx"):
            unrolling.follow(node)
        unrolling.nodes.append(node)
    graph.nodes = [node for node in unrolling.nodes if node.outputs]
    return unrolling.found


READING = ("SequenceAt", "SequenceLength", "ConcatFromSequence")
"""Ops that lead out of a sequence."""


class _Unrolling:
    def __init__(self, opset: int, shapes: Shapes) -> None:
        self.opset, self.shapes = opset, shapes
        self.nodes: list[gs.Node] = []
        self.held: dict[str, list[gs.Tensor]] = {}
        """What each sequence holds."""
        self.found = False

    def follow(self, node: gs.Node) -> None:
        """Notes what a node puts into a sequence, or takes its place if it leads out of one."""
        held = self.held.get(node.inputs[0].name) if node.inputs else None
        made: list[gs.Tensor] | None = None
        match node.op:
            case "SequenceEmpty":
                made = []
            case "SequenceConstruct":
                made = list(node.inputs)
            case "SplitToSequence":
                made = self._split(node)
            case "Identity":
                made = held
            case "SequenceInsert" | "SequenceErase" if held is not None:
                made = self._changed(node, held)
            case op if op in READING and held is not None:
                self._read(node, held)
        if made is not None:
            self.held[node.outputs[0].name] = made

    def _changed(self, node: gs.Node, held: list[gs.Tensor]) -> list[gs.Tensor] | None:
        inserts = node.op == "SequenceInsert"
        place = _position(node, 2 if inserts else 1, len(held) if inserts else -1)
        if place is None:
            return None
        changed = list(held)
        if inserts:
            changed.insert(place, node.inputs[1])
        else:
            del changed[place]
        return changed

    def _read(self, node: gs.Node, held: list[gs.Tensor]) -> None:
        out = node.outputs[0]
        match node.op:
            case "SequenceAt":
                place = _position(node, 1, 0)
                if place is None:
                    return
                new = [gs.Node("Identity", node.name, {}, [held[place]], [])]
            case "SequenceLength":
                length = gs.Constant(f"{out.name}/length", np.asarray(len(held), dtype=np.int64))
                new = [gs.Node("Identity", node.name, {}, [length], [])]
            case _:
                new = self._joined(node, held)
        node.inputs.clear()
        node.outputs.clear()
        new[-1].outputs.append(out)
        self.nodes += new
        self.found = True

    def _joined(self, node: gs.Node, held: list[gs.Tensor]) -> list[gs.Node]:
        """ConcatFromSequence as a Concat; where it stacks, of tensors that have one axis more."""
        axis, new = node.attrs["axis"], []
        parts = held
        if node.attrs.get("new_axis", 0):
            parts = [
                gs.Variable(f"{node.outputs[0].name}/part_{k}", dtype=t.dtype) for k, t in enumerate(held)
            ]
            for tensor, part in zip(held, parts, strict=True):
                attributes: dict[str, list[int]] = {"axes": [axis]}
                inputs = [tensor]
                if self.opset >= 13:
                    attributes, axes = {}, gs.Constant(f"{part.name}/axes", np.asarray([axis]))
                    inputs.append(axes)
                new.append(gs.Node("Unsqueeze", part.name, attributes, inputs, [part]))
        return [*new, gs.Node("Concat", node.name, {"axis": axis}, list(parts), [])]

    def _split(self, node: gs.Node) -> list[gs.Tensor] | None:
        """The parts, made by a Split; single entries without their axis by a Gather each."""
        source, out = node.inputs[0], node.outputs[0].name
        sizes = self._sizes(node)
        if sizes is None:
            return None
        axis = node.attrs.get("axis", 0)
        parts = [gs.Variable(f"{out}/{k}", dtype=source.dtype) for k in range(len(sizes))]
        if len(node.inputs) < 2 and not node.attrs.get("keepdims", 1):
            for k, part in enumerate(parts):
                index = gs.Constant(f"{part.name}/index", np.asarray(k))
                self.nodes.append(gs.Node("Gather", part.name, {"axis": axis}, [source, index], [part]))
        elif self.opset >= 13:
            split = gs.Constant(f"{out}/split", np.asarray(sizes, dtype=np.int64))
            self.nodes.append(gs.Node("Split", f"{node.name}/split", {"axis": axis}, [source, split], parts))
        else:
            attributes = {"axis": axis, "split": sizes}
            self.nodes.append(gs.Node("Split", f"{node.name}/split", attributes, [source], parts))
        return list(parts)

    def _sizes(self, node: gs.Node) -> list[int] | None:
        """How long the parts are."""
        split = node.inputs[1] if len(node.inputs) > 1 and node.inputs[1].name else None
        if split is not None and not isinstance(split, gs.Constant):
            return None
        if split is not None and split.values.ndim:
            return [int(size) for size in split.values]
        sizes = self.shapes.sizes.get(node.inputs[0].name)
        whole = sizes[node.attrs.get("axis", 0)] if sizes else (0, 1)
        if whole[0] != whole[1]:
            return None
        step = int(split.values) if split is not None else 1
        return [min(step, whole[0] - start) for start in range(0, whole[0], step)]


def _position(node: gs.Node, number: int, default: int) -> int | None:
    """The position that a node names; None where it is computed."""
    if len(node.inputs) <= number or not node.inputs[number].name:
        return default
    position = node.inputs[number]
    return int(position.values.reshape(())) if isinstance(position, gs.Constant) else None
