"""The blocks of the random graphs, one file per op family, as in `onnxprune/ops`."""

from blocks import (
    activation,
    attention,
    control,
    conv,
    elementwise,
    join,
    linear,
    microsoft,
    norm,
    pool,
    recurrent,
    reduce,
    reshape,
    resize,
    scatter,
    space,
    unruled,
)
from blocks.registry import BLOCKS, Block

__all__ = [
    "BLOCKS",
    "Block",
    "activation",
    "attention",
    "control",
    "conv",
    "elementwise",
    "join",
    "linear",
    "microsoft",
    "norm",
    "pool",
    "recurrent",
    "reduce",
    "reshape",
    "resize",
    "scatter",
    "space",
    "unruled",
]
