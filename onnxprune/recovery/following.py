"""What comes right behind an op that sums over channels: a constant that takes up a mean, a residual that it meets."""

from dataclasses import dataclass
from math import prod

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.groups import Groups
from onnxprune.model import array
from onnxprune.ops import Value
from onnxprune.recovery.windows import Floats


@dataclass(frozen=True)
class Offset:
    """A constant added to each output channel, right at the op or right behind it."""

    name: str
    sign: float = 1.0
    """-1 for the mean of a BatchNormalization, which is subtracted."""
    own: bool = False
    """Whether the op itself adds it: y holds it then."""


@dataclass(frozen=True)
class Sum:
    """Where the output meets a residual: sum = scale * (U W + b) + ... + other."""

    other: str
    scale: Floats
    """Per output channel, shape (outputs,)."""


def own_bias(value: Value | None, size: int) -> Offset | None:
    """The operand itself, if it is a constant of one reader and an entry per output channel."""
    if value is None or not owned(value) or tuple(value.raw.shape) != (size,):
        return None
    return Offset(value.name, own=True)


@dataclass
class Followed:
    """What comes right behind an op, as far as it is linear in each channel by itself."""

    offset: Offset | None = None
    sum: Sum | None = None


def follow(groups: Groups, y: Value, axis: int, size: int) -> Followed:
    """Follows the output through added constants and BatchNormalizations up to a sum with a residual."""
    found, scale, tensor = Followed(), np.ones(size), y.raw
    ends = {id(out) for out in groups.model.graph.outputs}
    while id(tensor) not in ends and len(tensor.outputs) == 1:
        reader = tensor.outputs[0]
        if reader.domain not in (None, "", "ai.onnx"):
            break
        if reader.op == "BatchNormalization" and axis == 1 and not reader.attrs.get("training_mode", 0):
            gamma, _, mean, variance = reader.inputs[1:5]
            if not all(isinstance(part, gs.Constant) for part in (gamma, mean, variance)):
                break
            if found.offset is None and owned(groups.values[mean.name]) and (scale == 1).all():
                found.offset = Offset(mean.name, -1.0)
            deviation = np.sqrt(array(variance).astype(np.float64) + reader.attrs.get("epsilon", 1e-5))
            scale = scale * array(gamma) / deviation
        elif reader.op == "Add":
            others = [t for t in reader.inputs if t is not tensor]
            if len(others) != 1 or len(others[0].shape or ()) > len(y.sizes or ()):
                break
            if not isinstance(others[0], gs.Constant):
                sizes = groups.shapes.sizes
                if sizes.get(others[0].name) == sizes.get(y.name):
                    found.sum = Sum(others[0].name, scale)
                break
            plain = _lies_on(others[0].shape, axis, len(y.sizes or ()), size)
            if found.offset is None and plain and owned(groups.values[others[0].name]) and (scale == 1).all():
                found.offset = Offset(others[0].name)
            elif prod(others[0].shape) > 1 and not plain:
                break
        else:
            break
        tensor = reader.outputs[0]
    return found


def _lies_on(shape: tuple[int, ...], axis: int, rank: int, size: int) -> bool:
    """Whether a constant of this shape holds an entry per channel and nothing else."""
    full = (*[1] * (rank - len(shape)), *shape)
    return len(full) == rank and full[axis] == size and prod(full) == size


def owned(weight: Value) -> bool:
    """Whether it is a float constant of one reader, with no NaN or infinity."""
    tensor = weight.raw
    return (
        isinstance(tensor, gs.Constant)
        and len(tensor.outputs) == 1
        and np.dtype(tensor.dtype).kind == "f"
        and bool(np.isfinite(array(tensor)).all())
    )
