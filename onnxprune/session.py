"""A model in onnxruntime, and inputs to run it on.

session = open_session("model.onnx", threads=1)
session.run(None, random_inputs(session, batch=8, seed=0))
"""

import contextlib
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from onnxprune.apart import Apart, is_apart, take_apart
from onnxprune.errors import ModelError, ProviderError

PROVIDERS: Mapping[str, str] = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_INSTALL: Mapping[str, str] = {"cpu": "pip install onnxruntime", "cuda": "pip install onnxruntime-gpu"}

_PROTOBUF_LIMIT = 2**31 - 1  # bytes a serialized ModelProto may have
_BATCH_NAMES = frozenset({"n", "b", "bs", "batch", "batchsize"})
_PIXELS = 224  # side of an image whose size is free: every common backbone accepts it
_STEPS = 32  # length of any other free axis
_INPUT_BYTES_LIMIT = 2**34  # a declared input beyond 16 GiB is a mistake in the file


def open_session(
    model: str | Path | onnx.ModelProto | Apart,
    *,
    provider: str = "cpu",
    threads: int | None = None,
    optimize: bool = True,
    exact: bool = False,
    lean: bool = False,
    profile: Path | None = None,
) -> onnxruntime.InferenceSession:
    """An onnxruntime session that runs on `provider` and nowhere else in silence.

    A path's external data is read from beside it. `threads` are the threads inside one op (None:
    onnxruntime's own choice, one per physical core); ops run one after another. `optimize=False` switches
    graph optimizations off; `exact` forbids TF32 on CUDA, whose products keep only 10 bits of each factor; `lean`
    keeps no second copy of the weights that is laid out for speed, which suits a few runs. `profile` begins the name of
    a file that `end_profiling` writes.

    Raises ProviderError where the provider cannot be had, ModelError where onnxruntime refuses the model.
    """
    execution = _execution_provider(provider)
    if threads is not None and threads < 1:
        raise ProviderError(
            f"{threads} threads cannot run a model: give 1 or more, or leave it to onnxruntime"
        )
    options = _session_options(threads, optimize, lean)
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, str(profile)
    source, values = _source(model, options)
    providers: list[Any] = [(execution, {"use_tf32": "0"} if exact and provider == "cuda" else {})]
    if provider != "cpu":
        providers.append(PROVIDERS["cpu"])  # shape arithmetic stays there
    try:
        session = onnxruntime.InferenceSession(source, options, providers=providers, enable_fallback=0)
    except Exception as error:  # onnxruntime's exceptions share no root but this
        raise ModelError(f"{describe(model)}: onnxruntime cannot load it ({reason(error)})") from error
    session.weights = values  # onnxruntime does not say that it needs them no more
    if execution not in session.get_providers():
        raise ProviderError(
            f"onnxruntime {onnxruntime.__version__} could not start {execution} and would run on the CPU: "
            f"check the driver of the GPU, and that CUDA and cuDNN are those this onnxruntime was built for"
        )
    return session


def random_inputs(
    model: onnxruntime.InferenceSession | onnx.ModelProto,
    *,
    batch: int,
    seed: int,
    dynamic: Mapping[str, int] | None = None,
) -> dict[str, np.ndarray]:
    """One array for each declared input, the same for the same seed: normal floats, valid indices, any bytes.

    An axis without a size gets `dynamic[name]` where the file names it so (or `dynamic["input:2"]` for axis
    2 of `input`); else `batch` if it is the batch axis: the one named so, or the first; else 224 in a
    4-axis input (an image) and 32 in any other. Integers index the tables that a ModelProto's Gathers look
    them up in, and are 0 or 1 otherwise (a session does not show its graph).

    Raises ModelError for inputs that are no dense tensors of numbers.
    """
    rng = np.random.default_rng(seed)
    limits = _index_limits(model.graph) if isinstance(model, onnx.ModelProto) else {}
    inputs = declared_inputs(model)
    sizes = dict.fromkeys(batch_axes(inputs), batch) | dict(dynamic or {})
    return {
        declared.name: _random_array(rng, declared, declared.sized(sizes), limits.get(declared.name))
        for declared in inputs
    }


@dataclass(frozen=True)
class Input:
    """A declared graph input; an axis is its size, or the name of a dynamic one (`input:0` if none)."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | str, ...]

    def sized(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """The shape with every dynamic axis given its size, or the usual one."""
        usual = _PIXELS if len(self.shape) == 4 else _STEPS
        return tuple(sizes.get(axis, usual) if isinstance(axis, str) else axis for axis in self.shape)


def declared_inputs(model: onnxruntime.InferenceSession | onnx.ModelProto) -> list[Input]:
    """What has to be fed: the graph's inputs without those that have an initializer.

    Raises ModelError for inputs that are no dense tensors of numbers.
    """
    if isinstance(model, onnx.ModelProto):
        given = {tensor.name for tensor in model.graph.initializer}
        return [_input_of_value(value) for value in model.graph.input if value.name not in given]
    return [
        Input(node.name, _dtype_of_text(node.name, node.type), _axes(node.name, node.shape))
        for node in model.get_inputs()
    ]


def batch_axes(inputs: Sequence[Input]) -> set[str]:
    """Names of the dynamic axes that count samples: those named like it, or else each input's first axis."""
    names: set[str] = set()
    elsewhere = {axis for declared in inputs for axis in declared.shape[1:]}
    for declared in inputs:
        free = [axis for axis in declared.shape if isinstance(axis, str)]
        named = [axis for axis in free if axis.lower().replace("_", "") in _BATCH_NAMES]
        first = [axis for axis in declared.shape[:1] if isinstance(axis, str) and axis not in elsewhere]
        names.update(named or first)
    return names


def fixed_batch(inputs: Sequence[Input]) -> int | None:
    """The number of samples static shapes prescribe; None where the batch is free or no input has axes."""
    first = next((declared for declared in inputs if declared.shape), None)
    if first is None or batch_axes(inputs) or isinstance(first.shape[0], str):
        return None
    return first.shape[0]


def write(model: onnx.ModelProto, path: Path) -> Path:
    """The model as a file onnxruntime can load, with external data beside it where it is over 2 GB."""
    if model.ByteSize() <= _PROTOBUF_LIMIT:
        path.write_bytes(model.SerializeToString())
    else:
        copy = onnx.ModelProto()
        copy.CopyFrom(model)  # saving with external data strips the tensors of what it saves
        onnx.save(copy, path, save_as_external_data=True)
    return path


def describe(model: str | Path | onnx.ModelProto | Apart) -> str:
    """How error messages name the model: its path, or its graph's name."""
    if isinstance(model, Apart):
        model = model.light
    if isinstance(model, onnx.ModelProto):
        return f"model '{model.graph.name or 'without a name'}'"
    return str(model)


def reason(error: Exception) -> str:
    """Onnxruntime's message on one line, without its error code."""
    text = " ".join(str(error).split())
    if text.startswith("[ONNXRuntimeError] : "):
        text = text.split(" : ", 3)[-1]
    return text if len(text) <= 300 else text[:297] + "..."


def _execution_provider(provider: str) -> str:
    if provider not in PROVIDERS:
        raise ProviderError(f"unknown provider '{provider}': choose one of {', '.join(PROVIDERS)}")
    available = onnxruntime.get_available_providers()
    if PROVIDERS[provider] not in available:
        have = ", ".join(name for name, full in PROVIDERS.items() if full in available) or "none"
        raise ProviderError(
            f"provider '{provider}' is not in the installed onnxruntime {onnxruntime.__version__} "
            f"(available: {have}): pip uninstall onnxruntime, then {_INSTALL[provider]}"
        )
    if provider == "cuda" and hasattr(onnxruntime, "preload_dlls"):
        with contextlib.redirect_stdout(sys.stderr):  # it prints what it cannot find
            onnxruntime.preload_dlls()
    return PROVIDERS[provider]


def _session_options(threads: int | None, optimize: bool, lean: bool) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what is fatal reaches the caller as an exception
    options.intra_op_num_threads = threads or 0
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    level = onnxruntime.GraphOptimizationLevel
    most = level.ORT_ENABLE_EXTENDED if lean else level.ORT_ENABLE_ALL  # ALL changes layouts as well
    options.graph_optimization_level = most if optimize else level.ORT_DISABLE_ALL
    if lean:
        options.add_session_config_entry("session.disable_prepacking", "1")
    # Threads of one session would spin on while the next one runs: 0.28 ms became 0.48 ms (2 threads).
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return options


def _source(
    model: str | Path | onnx.ModelProto | Apart, options: onnxruntime.SessionOptions
) -> tuple[str | bytes, list[onnxruntime.OrtValue]]:
    """What to load: a path, or the model without its large weights, which the options then hand over as they lie."""
    if isinstance(model, str | Path):
        if not Path(model).is_file():
            raise ModelError(f"{model}: no such file; give the path of an ONNX model")
        return str(model), []
    parts = model if isinstance(model, Apart) else take_apart(model)
    names = [tensor.name for tensor in parts.light.graph.initializer if is_apart(tensor)]
    values = [
        onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(parts.weights[name])) for name in names
    ]
    if names:
        options.add_external_initializers(names, values)
    return parts.light.SerializeToString(), values


def _input_of_value(value: onnx.ValueInfoProto) -> Input:
    if not value.type.HasField("tensor_type"):
        raise ModelError(f"input '{value.name}' is no dense tensor: inputs for it cannot be made up")
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        raise ModelError(f"input '{value.name}' has no declared rank: give it a shape, sizes may stay open")
    shape = [axis.dim_value if axis.HasField("dim_value") else axis.dim_param for axis in tensor.shape.dim]
    try:
        dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    except KeyError as error:
        raise ModelError(f"input '{value.name}' has no element type that numpy knows") from error
    return Input(value.name, dtype, _axes(value.name, shape))


def _axes(name: str, shape: Sequence[int | str | None]) -> tuple[int | str, ...]:
    """Open axes (no value, an empty name, or the 0 or -1 of old exporters) named `name:axis`."""
    return tuple(
        f"{name}:{axis}" if size is None or size == "" or (isinstance(size, int) and size < 1) else size
        for axis, size in enumerate(shape)
    )


def _dtype_of_text(name: str, text: str) -> np.dtype[Any]:
    """The numpy type for onnxruntime's `tensor(float16)` notation."""
    known = {"float": "float32", "double": "float64"}
    element = text.removeprefix("tensor(").removesuffix(")")
    try:
        return np.dtype(known.get(element, element))
    except TypeError:
        raise ModelError(f"input '{name}' is a {text}: inputs for it cannot be made up") from None


def _random_array(
    rng: np.random.Generator, declared: Input, shape: tuple[int, ...], limit: int | None
) -> np.ndarray:
    dtype = declared.dtype
    if math.prod(shape) * dtype.itemsize > _INPUT_BYTES_LIMIT:
        raise ModelError(f"input '{declared.name}' of shape {list(shape)} is too large to be made up")
    if dtype.kind == "b":
        return rng.integers(0, 2, shape).astype(dtype)
    if dtype.kind in "iu":
        if limit is not None:
            return rng.integers(0, limit, shape).astype(dtype)
        if dtype.itemsize == 1:  # pixels and quantized activations
            range_ = np.iinfo(dtype)
            return rng.integers(range_.min, range_.max + 1, shape).astype(dtype)
        return rng.integers(0, 2, shape).astype(dtype) if shape else np.ones(shape, dtype)
    if dtype.kind not in "fV":  # V: bfloat16 and the 8-bit floats
        raise ModelError(f"input '{declared.name}' holds {dtype}: inputs for it cannot be made up")
    return rng.standard_normal(shape, np.float32).astype(dtype)


def _index_limits(graph: onnx.GraphProto) -> dict[str, int]:
    """For each input that indexes constant tables through Gather: the entries of the smallest of them."""
    sizes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    origin = {value.name: value.name for value in graph.input if value.name not in sizes}
    limits: dict[str, int] = {}
    for node in graph.node:
        if node.op_type in {"Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"}:
            if node.input[0] in origin:
                origin[node.output[0]] = origin[node.input[0]]
        elif node.op_type == "Gather" and node.input[0] in sizes and node.input[1] in origin:
            axis = next((entry.i for entry in node.attribute if entry.name == "axis"), 0)
            entries = sizes[node.input[0]][axis]
            name = origin[node.input[1]]
            limits[name] = min(entries, limits.get(name, entries))
    return limits
