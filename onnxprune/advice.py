"""What to do about channels that stay: one line for every kind of reason."""

import re

RULE = "add a rule for the op (onnxprune/ops/README.md), or export it in ops that have one"
SHAPE = "export with static shapes, or fix them: python -m onnxruntime.tools.make_dynamic_shape_fixed"
CONSTANT = "export with static shapes and fold constants: what it reads has to be in the file"
EVALUATION = "export in evaluation mode: model.eval() and training=TrainingMode.EVAL"
PLAIN = "prune the plain float model, then optimise or quantise the slim one"
DATA = "nothing to do: how much there is, or where it goes, is only known with the data"
TOGETHER = "nothing to do: the op computes with all of these entries together"
ALONE = "nothing to do: an entry that is taken by itself has to stay"

ADVICE: tuple[tuple[str, str], ...] = (
    ("is an input of the model", "expected: the model is fed as before"),
    ("is an output of the model|is handed out", "expected; an output that nobody reads can be taken out of the file"),
    ("has no axis rule", RULE),
    ("the slim model differed", "slim stays exact without it; please report the model"),
    ("batch statistics|random numbers", EVALUATION),
    ("a loss counts", "export the network without its loss"),
    ("whole numbers|scales|zero points?|into bytes|a block|blocks? do|quantised", PLAIN),
    ("in one operand|its cache|differ in size|turns queries|hidden sizes|channels last|statistics are read", PLAIN),
    ("lie otherwise", PLAIN),
    ("not known|coefficients do|dynamic size|dynamic axis|blocks on an axis|both .* None|both None", SHAPE),
    ("on as a value|reads it as", SHAPE),
    ("depends on|only known at|of its input's size|nonzero", DATA),
    ("computed|are missing|region operand", CONSTANT),
    ("does not fit its axis rule|leaves this axis out", "please report the model: the op's rule misses this form"),
    ("through its body|branches differ", "export without control flow: trace the network, or unroll the loop"),
    ("gated form from opset", "raise the opset: onnx.version_converter, or export with a newer one"),
    ("ellipsis|diagonal|equation broadcasts", "write the equation with a letter for every axis, or as MatMul"),
    ("groups these|regroups|in two ways|of heads do|only a part", "parts of one axis are cut in different ways: "
     "make their widths multiples of each other, or keep to one way"),
    ("one entry|single entry|several states|keeps its size|another size|one index per axis|as it is stays", ALONE),
    ("keeps this|statistics|coefficients|resizes|indices|Indices|every|around|own values|aspect ratio|sampling"
     "|is empty|of all axes", TOGETHER),
    ("sequence|text has|images from", "nothing to do: there are no channels"),
)  # fmt: skip
"""Patterns of reasons and what to do; the first that is found counts."""


def advice(because: str) -> str:
    """What a person can do about channels that stay for this reason."""
    text = re.sub(r"'[^']*'", "", because)  # names of nodes and tensors say nothing
    return next((what for pattern, what in ADVICE if re.search(pattern, text)), TOGETHER)
