"""Ops without a converter, written out as the function body that their specification gives.

Attention, the losses and the window functions come this way; what a body is made of has converters.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import onnx
import onnx.inliner
from onnx import defs

from onnxprune.to_torch.bodies import bodies
from onnxprune.to_torch.registry import find
from onnxprune.to_torch.steps import types_of

_DOMAIN = "onnxprune.expanded"


def expand(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """A model after shape inference with each such op one level deeper, None if it has none; `model` is used up."""
    opsets = {"" if o.domain == "ai.onnx" else o.domain: o.version for o in model.opset_import}
    written = list(_written_out(model.graph, opsets, {}))
    if not written:
        return None
    model.opset_import.append(onnx.helper.make_opsetid(_DOMAIN, 1))
    for i, (node, body) in enumerate(written):
        body.name, body.domain = f"{node.op_type}_{i}", _DOMAIN
        node.op_type, node.domain = body.name, body.domain
        model.functions.append(body)
    return onnx.inliner.inline_selected_functions(model, [(_DOMAIN, body.name) for _, body in written])


def _written_out(
    graph: onnx.GraphProto, opsets: Mapping[str, int], around: Mapping[str, onnx.TypeProto]
) -> Iterator[tuple[onnx.NodeProto, onnx.FunctionProto]]:
    """The nodes to write out, in bodies as well, and what to write."""
    types = {**around, **types_of(graph)}
    for node in graph.node:
        if (body := _body(node, opsets, types)) is not None:
            yield node, body
            continue
        for inner in bodies(node):
            yield from _written_out(inner, opsets, types)


def _body(
    node: onnx.NodeProto, opsets: Mapping[str, int], types: Mapping[str, onnx.TypeProto]
) -> onnx.FunctionProto | None:
    """The body for `node`, whose left out attributes are set to their defaults: a body refers to them."""
    domain = "" if node.domain == "ai.onnx" else node.domain
    opset = opsets.get(domain, 1)
    if find(domain, node.op_type, opset):
        return None
    try:
        schema: Any = defs.get_schema(node.op_type, opset, domain)  # its stub leaves the function bodies out
    except defs.SchemaError:
        return None
    body, text = onnx.FunctionProto(), b""
    if (version := _newest(schema.function_opset_versions, opset)) is not None:
        text = schema.get_function_with_opset_version(version)
    elif (version := _newest(schema.context_dependent_function_opset_versions, opset)) is not None:
        known = [types.get(name, onnx.TypeProto()).SerializeToString() for name in node.input]
        text = schema.get_context_dependent_function_with_opset_version(
            version, node.SerializeToString(), known
        )
    if not text:
        return None
    given = {a.name for a in node.attribute}
    defaults = {n: a.default_value for n, a in schema.attributes.items() if n not in given}
    node.attribute.extend(value for value in defaults.values() if value.name)
    body.ParseFromString(text)
    return body


def _newest(versions: Iterable[int], opset: int) -> int | None:
    return max((v for v in versions if v <= opset), default=None)
