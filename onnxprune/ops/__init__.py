"""What each op means for channels: axis rules and repairs, one file per family.

Importing the family files registers their rules; RULES and REPAIRS hold them all.
"""

from onnxprune.ops import (  # noqa: F401 - imported for their registrations
    attention,
    conv,
    create,
    elementwise,
    frozen,
    integers,
    join,
    linear,
    linear_attention,
    microsoft,
    microsoft_attention,
    ml,
    norm,
    packed,
    pad,
    pool,
    quantize,
    recurrent,
    reduce,
    reshape,
    resize,
    scatter,
    select,
    sizes,
    space,
)
from onnxprune.ops.forms import FORMS
from onnxprune.ops.registry import REPAIRS, RULES, Kept, Node, Unknown, Value

__all__ = ["FORMS", "REPAIRS", "RULES", "Kept", "Node", "Unknown", "Value"]
