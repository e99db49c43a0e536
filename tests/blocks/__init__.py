"""The blocks of the random graphs, one file per op family, as in `onnxprune/ops`."""

from blocks import (
    activation,
    attention,
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
