"""A random ONNX graph under construction: the ground on which the blocks of `tests/blocks` build.

    sketch = Sketch(choose, seed=7, opset=18, dynamic=True)
    x = sketch.input("image", channels=4)
    y = sketch.op("Relu", sketch.op("Conv", x, sketch.weight((8, 4, 3, 3), fan_in=36)))

Shapes are inferred node by node with a concrete batch, so a block always knows what it holds. `rms` is a
rough estimate of a value's magnitude, by which weights that mix channels are scaled: activations stay O(1).
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar

import numpy as np
import onnx
from numpy.typing import ArrayLike, NDArray
from onnx import TensorProto, helper, numpy_helper, shape_inference

T = TypeVar("T")
BATCH = 2
DYNAMIC = "batch"


class Choices(Protocol):
    """Where random decisions come from: Hypothesis (which shrinks towards the low end) or a seed."""

    def number(self, low: int, high: int) -> int: ...


class SeededChoices:
    """Decisions of `random.Random(seed)`: fast, for long runs without Hypothesis."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def number(self, low: int, high: int) -> int:
        return self.random.randint(low, high)


@dataclass(frozen=True)
class Value:
    """A tensor of the graph. Layouts: image (N C *S), tokens (N T C), vector (N C)."""

    name: str
    shape: tuple[int, ...]
    layout: str = ""
    rms: float = 1.0
    elem: int = TensorProto.FLOAT

    @property
    def axis(self) -> int:
        """The channel axis."""
        return 2 if self.layout == "tokens" else 1

    @property
    def channels(self) -> int:
        return self.shape[self.axis]

    @property
    def space(self) -> tuple[int, ...]:
        return self.shape[2:] if self.layout == "image" else ()

    @property
    def rank(self) -> int:
        return len(self.shape)


@dataclass
class Sketch:
    """Nodes and initializers so far, and the values that later blocks may read (`pool`, newest last).

    `overridable`: initializers that are graph inputs as well; `noted`: values whose shape the file states; `moved`: how
    many nodes and initializers went into bodies.
    """

    choose: Choices
    seed: int
    opset: int
    dynamic: bool
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, TensorProto] = field(default_factory=dict)
    inputs: list[Value] = field(default_factory=list)
    pool: list[Value] = field(default_factory=list)
    weights: dict[tuple[int, ...], list[Value]] = field(default_factory=dict)
    overridable: set[str] = field(default_factory=set)
    noted: list[Value] = field(default_factory=list)
    moved: int = 0

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        self.constant_nodes = self.chance(25)  # the TorchScript exporter's way
        self.opsets = [helper.make_opsetid("", self.opset)]

    # ------------------------------------------------------------------ decisions

    def number(self, low: int, high: int) -> int:
        return self.choose.number(low, high)

    def pick(self, options: Sequence[T]) -> T:
        return options[self.choose.number(0, len(options) - 1)]

    def chance(self, percent: int) -> bool:
        return self.choose.number(0, 99) >= 100 - percent

    # ------------------------------------------------------------------ constants

    def fresh(self, kind: str) -> str:
        return f"{kind.lower()}_{len(self.nodes) + len(self.constants) + len(self.inputs) + self.moved}"

    def constant(self, array: ArrayLike, kind: str = "const", *, node: bool | None = None) -> Value:
        """An initializer or a Constant node holding the array."""
        data = np.asarray(array)
        tensor = numpy_helper.from_array(data, self.fresh(kind))
        self.constants[tensor.name] = tensor
        if self.constant_nodes if node is None else node:
            self.nodes.append(helper.make_node("Constant", [], [tensor.name], value=tensor))
        return Value(tensor.name, data.shape, elem=tensor.data_type)

    def ints(self, *numbers: int) -> Value:
        return self.constant(np.array(numbers, np.int64), "ints")

    def random(self, shape: Sequence[int], scale: float = 1.0, mean: float = 0.0) -> NDArray[np.float32]:
        """Normal numbers kept away from zero by a thousandth of their scale."""
        drawn = self.rng.standard_normal(tuple(shape))
        return (mean + scale * np.copysign(np.maximum(np.abs(drawn), 1e-3), drawn)).astype(np.float32)

    def uniform(self, shape: Sequence[int], low: float, high: float) -> NDArray[np.float32]:
        return self.rng.uniform(low, high, tuple(shape)).astype(np.float32)

    def weight(self, shape: Sequence[int], *, fan_in: int = 0, rms: float = 1.0) -> Value:
        """Parameters of a layer: for a sum of `fan_in` terms of size `rms`; a bias where fan_in is 0.

        One in ten is a parameter that an unrelated layer reads as well (exporters deduplicate); one in
        seven reaches its reader through another node, and one in twenty is also a graph input.
        """
        shape = tuple(shape)
        known = self.weights.setdefault(shape, [])
        if known and self.chance(10):
            return known[0]
        scale = 1.2 / (fan_in**0.5 * rms) if fan_in else 0.3
        array = self.random(shape, scale)
        value = self.carried(array) if self.chance(15) else self.constant(array, "weight")
        if value.name in self.constants and not self.constant_nodes and self.chance(5):
            self.overridable.add(value.name)
        known.append(value)
        return value

    def carried(self, array: NDArray[np.float32]) -> Value:
        """The same parameters behind an Identity, Transpose, Reshape, Cast, Mul or Constant node."""
        way = self.pick(["Constant", "Identity", "Transpose", "Reshape", "Cast", "Mul"])
        match way:
            case "Constant":
                return self.constant(array, "weight", node=True)
            case "Transpose":
                order = tuple(reversed(range(array.ndim)))
                return self.op(way, self.constant(array.transpose(order), "weight"), perm=order)
            case "Reshape":
                return self.op(way, self.constant(array.reshape(-1), "weight"), self.ints(*array.shape))
            case "Cast":
                return self.op(way, self.constant(array.astype(np.float64), "weight"), to=TensorProto.FLOAT)
            case "Mul":
                half = self.constant(array * np.float32(0.5), "weight")
                return self.op(way, half, self.constant(np.float32(2)))
        return self.op(way, self.constant(array, "weight"))

    # ------------------------------------------------------------------ nodes

    def input(self, layout: str, shape: Sequence[int]) -> Value:
        value = Value(f"input_{len(self.inputs)}", tuple(shape), layout)
        self.inputs.append(value)
        return value

    def op(
        self,
        kind: str,
        *operands: Value | None,
        shape: Sequence[int] | None = None,
        layout: str | None = None,
        rms: float | None = None,
        elem: int | None = None,
        **attributes: Any,
    ) -> Value:
        """One node with one output; `shape` where it cannot be inferred from the operands' shapes."""
        return self.ops(
            kind, *operands, count=1, shape=shape, layout=layout, rms=rms, elem=elem, **attributes
        )[0]

    def ops(
        self,
        kind: str,
        *operands: Value | None,
        count: int,
        shape: Sequence[int] | None = None,
        layout: str | None = None,
        rms: float | None = None,
        elem: int | None = None,
        **attributes: Any,
    ) -> list[Value]:
        """One node with `count` outputs."""
        name = self.fresh(kind)
        outputs = [name] if count == 1 else [f"{name}_{i}" for i in range(count)]
        names = ["" if operand is None else operand.name for operand in operands]
        node = helper.make_node(kind, names, outputs, name=f"{name}_node", **attributes)
        first = next((operand for operand in operands if operand is not None), Value("", ()))
        like = replace(first, rms=first.rms if rms is None else rms)
        if shape is None:
            types = self.inferred(node, [operand for operand in operands if operand is not None])
        else:
            types = [(tuple(shape), elem or first.elem)] * count
        self.nodes.append(node)
        return [
            replace(like, name=out, shape=dims, elem=made, layout=layout or layout_of(dims, like.layout))
            for out, (dims, made) in zip(outputs, types, strict=True)
        ]

    def inferred(self, node: onnx.NodeProto, operands: Sequence[Value]) -> list[tuple[tuple[int, ...], int]]:
        """Shape and element type of each output, from the op's own schema."""
        schema = onnx.defs.get_schema(node.op_type, self.opset, node.domain)
        types = {value.name: helper.make_tensor_type_proto(value.elem, value.shape) for value in operands}
        known = {value.name: self.constants[value.name] for value in operands if value.name in self.constants}
        found = shape_inference.infer_node_outputs(schema, node, types, known, opset_imports=self.opsets)
        result = []
        for name in node.output:
            tensor = found[name].tensor_type
            dims = tuple(dim.dim_value for dim in tensor.shape.dim)
            assert tensor.HasField("shape"), f"{node.op_type}: give the shape, it cannot be inferred"
            assert all(dims), f"{node.op_type}: inferred {dims}"
            result.append((dims, tensor.elem_type))
        return result


def layout_of(shape: Sequence[int], layout: str) -> str:
    """The layout of a value that came out of one of this layout."""
    if len(shape) == 2:
        return "vector"
    return layout if layout in ("tokens", "image") and (layout == "image" or len(shape) == 3) else "image"
