"""Ops through which no channel passes, and why."""

from onnxprune.ops.registry import Node, Unknown, axes

RANDOM = "it draws random numbers, and which ones depends on how many it draws"
SEQUENCE = "it works on a sequence whose entries are not known"
OPTIONAL = "whether there is a value is only known at run time"
TEXT = "text has no channels"
LOSS = "a loss counts every class"
COUNTED = "how many numbers it makes is computed at run time"

REASONS = {
    "Bernoulli": RANDOM,
    "BlackmanWindow": COUNTED,
    "ConcatFromSequence": SEQUENCE,
    "Constant": "a constant that is handed out as it is stays as it is",
    "Det": "a determinant needs every row and column",
    "HammingWindow": COUNTED,
    "HannWindow": COUNTED,
    "ImageDecoder": "images from bytes have no channels yet",
    "MelWeightMatrix": COUNTED,
    "Multinomial": RANDOM,
    "NegativeLogLikelihoodLoss": LOSS,
    "NonMaxSuppression": "it compares every box with every other",
    "Optional": OPTIONAL,
    "OptionalGetElement": OPTIONAL,
    "OptionalHasElement": OPTIONAL,
    "RandomNormal": RANDOM,
    "RandomNormalLike": RANDOM,
    "RandomUniform": RANDOM,
    "RandomUniformLike": RANDOM,
    "Range": COUNTED,
    "RegexFullMatch": TEXT,
    "SequenceAt": SEQUENCE,
    "SequenceConstruct": SEQUENCE,
    "SequenceEmpty": SEQUENCE,
    "SequenceErase": SEQUENCE,
    "SequenceInsert": SEQUENCE,
    "SequenceLength": SEQUENCE,
    "SequenceMap": SEQUENCE,
    "SoftmaxCrossEntropyLoss": LOSS,
    "SplitToSequence": SEQUENCE,
    "StringConcat": TEXT,
    "StringNormalizer": TEXT,
    "StringSplit": TEXT,
    "TfIdfVectorizer": TEXT,
}


@axes(*REASONS)
def frozen(node: Node) -> str:
    raise Unknown(REASONS[node.op])
