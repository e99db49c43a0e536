"""Ops without a converter, written out as the function body that their specification gives.

Attention, the losses and the window functions come this way; what a body is made of has converters.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import onnx
import onnx.inliner
from onnx import defs

from onnxprune.to_torch.registry import find

_DOMAIN = "onnxprune.expanded"


def expand(model: onnx.ModelProto, types: Mapping[str, onnx.TypeProto]) -> onnx.ModelProto | None:
    """`model` with each such op one level deeper, None if it has none; `types` are those of its values."""
    opsets = {"" if o.domain == "ai.onnx" else o.domain: o.version for o in model.opset_import}
    if all(find(n.domain, n.op_type, opsets.get(n.domain, 1)) for n in model.graph.node):
        return None
    expanded = onnx.ModelProto()
    expanded.CopyFrom(model)
    bodies = {i: body for i, node in enumerate(expanded.graph.node) if (body := _body(node, opsets, types))}
    if not bodies:
        return None
    expanded.opset_import.append(onnx.helper.make_opsetid(_DOMAIN, 1))
    for i, body in bodies.items():
        node = expanded.graph.node[i]
        body.name, body.domain = f"{node.op_type}_{i}", _DOMAIN
        node.op_type, node.domain = body.name, body.domain
        expanded.functions.append(body)
    return onnx.inliner.inline_selected_functions(expanded, [(_DOMAIN, b.name) for b in bodies.values()])


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
