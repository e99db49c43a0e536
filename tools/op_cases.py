"""Small models of every op: the cases of the onnx package, and forms that it has no case of."""

import importlib
import pkgutil
import warnings
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, defs, helper, numpy_helper

PLAIN = {
    getattr(TensorProto, name)
    for name in ("FLOAT", "FLOAT16", "DOUBLE", "INT8", "UINT8", "INT32", "INT64", "BOOL", "STRING")
}
"""Element types that cases are taken of; an op treats the channels of all others like those."""
BY_HAND = Path(__file__).with_name("op_cases.txt")

Case = tuple[onnx.NodeProto, Sequence[Any], Sequence[Any], int]


def collected(newest: int) -> Iterator[list[onnx.ModelProto]]:
    """The onnx package's cases of ops of the default domain, as models of opset `newest` or the last that has the op:
    with all operands as inputs, and with all but the first as constants, as files have them.

    Must be what a process reads these cases by first: of the package's, it takes the inputs, and spares most of the
    computing of what comes out.
    """
    seen = set()
    for node, inputs, outputs, since in _noted():
        feeds = [_tensor(name, value) for name, value in zip(filter(None, node.input), inputs, strict=False)]
        made = [_tensor(name, value) for name, value in zip(filter(None, node.output), outputs, strict=False)]
        opset = since if 0 < since <= newest else _last(node.op_type, newest)
        if not opset or not all(tensor is not None and tensor.data_type in PLAIN for tensor in (*feeds, *made)):
            continue
        kind = _kind(node, feeds, made)
        if kind not in seen:
            seen.add(kind)
            several = [_model(node, feeds[:1], feeds[1:], made, opset)] if len(feeds) > 1 else []
            yield [_model(node, feeds, [], made, opset), *several]


def by_hand() -> Iterator[list[onnx.ModelProto]]:
    """Models in ONNX text, one a line, after the version of the opset."""
    for line in BY_HAND.read_text().splitlines():
        opset, _, graph = line.partition(" ")
        if opset.isdigit():
            domains = f'"": {opset}, "com.microsoft": 1, "ai.onnx.ml": 3'
            yield [onnx.parser.parse_model(f"<ir_version: 8, opset_import: [{domains}]> case {graph}")]


def _noted() -> list[Case]:
    """Node, inputs and outputs of each case, and the opset that it is for where it says so."""
    from onnx.backend.test.case import base, node
    from onnx.reference.ops import op_pool_common

    found: list[Case] = []

    def note(op: onnx.NodeProto, inputs: Sequence[Any], outputs: Sequence[Any], name: str, **facts: Any) -> None:
        if not op.domain and not {"input_type_protos", "output_type_protos"} & facts.keys():
            opset = max((entry.version for entry in facts.get("opset_imports", ())), default=0)
            found.append((op, inputs, outputs, opset))

    def nothing(padded: Any, shape: Any, kernel: Any, strides: Any, out: Any, *_: Any, **__: Any) -> np.ndarray:
        return np.zeros((*shape[:2], *out), np.float32)

    vars(node)["expect"], vars(base)["process_snippet"] = note, lambda *_: ("", "")
    vars(op_pool_common)["pool"] = nothing  # in Python, and slower than all else together
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some cases overflow on purpose
        for module in pkgutil.iter_modules(node.__path__):
            if not module.ispkg:
                importlib.import_module(f"{node.__name__}.{module.name}")
    return found


@cache
def history() -> dict[str, list[defs.OpSchema]]:
    """All versions of every op of the default domain, ascending."""
    found: dict[str, list[defs.OpSchema]] = {}
    for schema in sorted(defs.get_all_schemas_with_history(), key=lambda schema: schema.since_version):
        if not schema.domain:
            found.setdefault(schema.name, []).append(schema)
    return found


def _last(op: str, newest: int) -> int:
    """The last opset up to `newest` that has the op; 0 where none does."""
    known = [schema for schema in history()[op] if schema.since_version <= newest]
    if not known:
        return 0
    return known[-1].since_version - 1 if known[-1].deprecated else newest


def _kind(node: onnx.NodeProto, inputs: Sequence[TensorProto], outputs: Sequence[TensorProto]) -> object:
    """What tells cases apart: of two that differ in element types or float attributes, one is enough."""
    told = [a for a in node.attribute if a.type != onnx.AttributeProto.FLOAT and a.name != "to"]
    present = [bool(name) for name in (*node.input, *node.output)]
    shapes = [tuple(tensor.dims) for tensor in (*inputs, *outputs)]
    whole = bool(inputs) and inputs[0].data_type in (TensorProto.INT32, TensorProto.INT64, TensorProto.BOOL)
    return node.op_type, *(a.SerializeToString() for a in told), *present, *shapes, whole


def _tensor(name: str, value: Any) -> TensorProto | None:
    """None for what is no dense tensor."""
    tensor = TensorProto()
    if isinstance(value, TensorProto):
        tensor.CopyFrom(value)
    elif isinstance(value, np.ndarray | np.generic):
        tensor = numpy_helper.from_array(np.asarray(value))
    else:
        return None
    tensor.name = name
    return tensor


def _model(
    node: onnx.NodeProto,
    inputs: Sequence[TensorProto],
    constants: Sequence[TensorProto],
    outputs: Sequence[TensorProto],
    opset: int,
) -> onnx.ModelProto:
    given, made = (
        [helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in side] for side in (inputs, outputs)
    )
    graph = helper.make_graph([node], "case", given, made, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
