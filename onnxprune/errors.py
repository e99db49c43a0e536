"""Everything onnxprune raises on purpose.

OnnxpruneError
  +-- ModelError          the file or ModelProto cannot be read, checked or written
  +-- PlanError           a plan, ratio or pattern that does not fit the model
  +-- DataError           data that does not fit the model, or no data at all
  +-- ConversionError     ops that the torch re-import cannot express
  +-- LawError            gated and slim model differ: nothing was written
  +-- ProviderError       the onnxruntime provider is unknown or not installed
  +-- OutputError         a result cannot be written where it was asked for
  +-- TrainingError       training cannot start or had to stop
  +-- TargetMissed        a bound the caller set (speed-up, regression, accuracy) was missed

Every message is one line: what is wrong, where, and what to do about it.
"""


class OnnxpruneError(Exception):
    """Root of the tree; the command line prints it as `Error: ...` and exits with 1."""


class ModelError(OnnxpruneError):
    """The model cannot be read, checked or written."""


class PlanError(OnnxpruneError):
    """The plan, ratio or pattern does not fit the model."""


class DataError(OnnxpruneError):
    """The data does not fit the model, or there is none."""


class ConversionError(OnnxpruneError):
    """The graph holds ops that cannot be expressed in PyTorch; the message lists all of them."""


class LawError(OnnxpruneError):
    """The gated and the slim model do not compute the same function."""


class ProviderError(OnnxpruneError):
    """The onnxruntime execution provider is unknown or not available here."""


class OutputError(OnnxpruneError):
    """The result cannot be written where it was asked for."""


class TrainingError(OnnxpruneError):
    """Training cannot start, or had to stop."""


class TargetMissed(OnnxpruneError):  # noqa: N818 - the measurement succeeded
    """A bound set by the caller was not met; the measurement itself is valid."""
