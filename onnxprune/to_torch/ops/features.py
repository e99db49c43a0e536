"""Features before and after a model of ai.onnx.ml: scaled, filled in, encoded, picked."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onnxprune.to_torch.registry import converts

ML = "ai.onnx.ml"


def _row(module: nn.Module, **columns: Sequence[float] | Sequence[int] | None) -> None:
    """Keep numbers per feature as tensors that move with `module`."""
    for name, values in columns.items():
        module.register_buffer(name, None if values is None else torch.tensor(values), persistent=False)


@converts("Scaler", since=1, domain=ML)
class Scaler(nn.Module):
    offset: Tensor | None
    scale: Tensor | None

    def __init__(
        self, *, offset: Sequence[float] | None = None, scale: Sequence[float] | None = None
    ) -> None:
        super().__init__()
        _row(self, offset=offset, scale=scale)

    def forward(self, x: Tensor) -> Tensor:
        y = x.to(torch.float32)
        y = y if self.offset is None else y - self.offset
        return y if self.scale is None else y * self.scale


@converts("Normalizer", since=1, domain=ML)
def normalizer(x: Tensor, *, norm: str = "MAX") -> Tensor:
    """Rows of norm 0 stay as they are."""
    x = x.to(torch.float32)
    if norm == "MAX":
        size = x.amax(-1, keepdim=True)
    else:
        size = torch.linalg.vector_norm(x, 1 if norm == "L1" else 2, -1, keepdim=True)
    return x / torch.where(size == 0, 1, size)


@converts("Binarizer", since=1, domain=ML)
def binarizer(x: Tensor, *, threshold: float = 0.0) -> Tensor:
    return (x > threshold).to(x.dtype)


@converts("Imputer", since=1, domain=ML)
class Imputer(nn.Module):
    filled: Tensor

    def __init__(
        self,
        *,
        imputed_value_floats: Sequence[float] | None = None,
        imputed_value_int64s: Sequence[int] | None = None,
        replaced_value_float: float = 0.0,
        replaced_value_int64: int = 0,
    ) -> None:
        super().__init__()
        whole = imputed_value_floats is None
        self.replaced = replaced_value_int64 if whole else replaced_value_float
        _row(self, filled=imputed_value_int64s if whole else imputed_value_floats)

    def forward(self, x: Tensor) -> Tensor:
        missing = x.isnan() if math.isnan(self.replaced) else x == self.replaced
        return torch.where(missing, self.filled.to(x.dtype), x)


@converts("OneHotEncoder", since=1, domain=ML)
class OneHotEncoder(nn.Module):
    """One more axis at the end; a category that is not listed gives zeros."""

    categories: Tensor

    def __init__(self, *, cats_int64s: Sequence[int] = (), zeros: int = 1) -> None:
        super().__init__()
        _row(self, categories=cats_int64s)

    def forward(self, x: Tensor) -> Tensor:
        return (x.to(torch.int64).unsqueeze(-1) == self.categories).to(torch.float32)


@converts("LabelEncoder", since=2, domain=ML)
class LabelEncoder(nn.Module):
    """One number for another; of equal keys the last counts."""

    keys: Tensor
    values: Tensor
    default: Tensor
    missing: Tensor

    def __init__(
        self,
        *,
        keys_int64s: Sequence[int] | None = None,
        keys_floats: Sequence[float] | None = None,
        keys_tensor: Tensor | None = None,
        values_int64s: Sequence[int] | None = None,
        values_floats: Sequence[float] | None = None,
        values_tensor: Tensor | None = None,
        default_int64: int = -1,
        default_float: float = -0.0,
        default_tensor: Tensor | None = None,
        default_string: str = "_Unused",
    ) -> None:
        super().__init__()
        keys = _first(keys_int64s, keys_floats, keys_tensor)
        values = _first(values_int64s, values_floats, values_tensor)
        fallback = torch.tensor(default_float if values.is_floating_point() else default_int64)
        fallback = (fallback if default_tensor is None else default_tensor.reshape(())).to(values.dtype)
        listed = keys.tolist()
        places = {key: i for i, key in enumerate(listed) if not math.isnan(key)}
        missing = [values[i] for i, key in enumerate(listed) if math.isnan(key)]
        ordered = sorted(places)
        tables = {
            "keys": torch.tensor(ordered, dtype=keys.dtype),
            "values": values[[places[key] for key in ordered]],
            "default": fallback,
            "missing": missing[-1] if missing else fallback,
        }
        for name, table in tables.items():
            self.register_buffer(name, table, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        place = torch.searchsorted(self.keys, x.contiguous()).clamp(max=len(self.keys) - 1)
        found = torch.where(self.keys[place] == x, self.values[place], self.default)
        return torch.where(x.isnan(), self.missing, found) if x.is_floating_point() else found


def _first(*lists: Sequence[float] | Tensor | None) -> Tensor:
    """The one that is given, as a tensor of ONNX's types."""
    given = next(v for v in lists if v is not None)
    return given.reshape(-1) if isinstance(given, Tensor) else torch.tensor(given)


@converts("ArrayFeatureExtractor", since=1, domain=ML)
def array_feature_extractor(x: Tensor, places: Tensor) -> Tensor:
    """Entries of the last axis; a vector counts as one row."""
    picked = x.index_select(-1, places.reshape(-1).to(torch.int64))
    return picked.unsqueeze(0) if x.dim() == 1 else picked


@converts("FeatureVectorizer", since=1, domain=ML)
def feature_vectorizer(*xs: Tensor, inputdimensions: Sequence[int] = ()) -> Tensor:
    """[batch, all features]; an input of another width than it should have is cut, or filled with zeros."""
    columns = [x.reshape(1, -1) if x.dim() == 1 else x.flatten(1) for x in xs]
    widths = inputdimensions or [c.shape[1] for c in columns]
    return torch.cat(
        [F.pad(c.to(torch.float32), [0, w - c.shape[1]]) for c, w in zip(columns, widths, strict=True)], 1
    )
