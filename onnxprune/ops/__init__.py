"""What each op means for channels: axis rules and repairs, one file per family."""

from onnxprune.ops import (
    conv,
    elementwise,
    join,
    linear,
    norm,
    pad,
    pool,
    reduce,
    reshape,
    resize,
    select,
)
from onnxprune.ops.registry import REPAIRS, RULES, Kept, Node, Unknown, Value

__all__ = ["REPAIRS", "RULES", "Kept", "Node", "Unknown", "Value"]
__all__ += []  # the family modules are imported for their registrations
_FAMILIES = (conv, elementwise, join, linear, norm, pad, pool, reduce, reshape, resize, select)
