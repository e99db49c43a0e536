"""Spectra, random numbers and what else counts."""

from typing import Any

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from small import Array, draw, in_onnxruntime, in_torch

from onnxprune.to_torch import load
from onnxprune.to_torch.ops.signal import dft, stft


def made(
    op: str, inputs: list[Array | None], held: set[int], opset: int, outputs: int = 1, **attributes: Any
) -> tuple[Any, list[Array]]:
    """The model of one node and the inputs to feed; those numbered in `held` are initializers."""
    names = ["" if v is None else f"x{i}" for i, v in enumerate(inputs)]
    given = {i: v for i, v in enumerate(inputs) if v is not None}
    code = helper.np_dtype_to_tensor_dtype
    fed = {i: v for i, v in given.items() if i not in held}
    ends = [helper.make_tensor_value_info(names[i], code(v.dtype), v.shape) for i, v in fed.items()]
    kept = [numpy_helper.from_array(given[i], names[i]) for i in held]
    results = [f"y{i}" for i in range(outputs)]
    out = [helper.make_empty_tensor_value_info(r) for r in results]
    graph = helper.make_graph([helper.make_node(op, names, results, **attributes)], "g", ends, out, kept)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    return model, list(fed.values())


def agree(model: Any, fed: list[Array]) -> None:
    for ours, theirs in zip(in_torch(load(model), *fed), in_onnxruntime(model, *fed), strict=True):
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("length", [None, 5, 12])
@pytest.mark.parametrize("axis", [1, 2])
@pytest.mark.parametrize(
    ("parts", "attributes"), [(1, {}), (2, {}), (2, {"inverse": 1}), (1, {"onesided": 1})], ids=str
)
def test_dft(parts: int, attributes: dict[str, int], axis: int, length: int | None) -> None:
    x, size = draw(2, 8, 6, parts), None if length is None else np.array(length)
    agree(*made("DFT", [x, size], {1} - {1 * (size is None)}, 17, axis=axis, **attributes))
    held = {1, 2} if size is not None else {2}
    agree(*made("DFT", [x, size, np.array(axis)], held, 20, **attributes))


def test_half_a_spectrum_goes_back_to_the_signal() -> None:
    x = torch.from_numpy(draw(2, 8, 1))
    torch.testing.assert_close(dft(dft(x, axis=1, onesided=1), 8, axis=1, onesided=1, inverse=1), x)


@pytest.mark.parametrize("windowed", [True, False])
@pytest.mark.parametrize("onesided", [0, 1])
def test_stft(onesided: int, windowed: bool) -> None:
    window = np.hanning(8).astype(np.float32) if windowed else None
    inputs = [draw(2, 30, 1), np.array(3), window, np.array(8)]
    agree(*made("STFT", inputs, {1, 3} | ({2} if windowed else set()), 17, onesided=onesided))


def test_spectra_pass_gradients() -> None:
    x = torch.from_numpy(draw(1, 6, 2)).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda v: dft(v, 5, 1), x)
    assert torch.autograd.gradcheck(lambda v: dft(v, 7, 1, inverse=1), x)
    assert torch.autograd.gradcheck(lambda v: dft(v, 9, 1, inverse=1, onesided=1), x)
    real = torch.from_numpy(draw(1, 9, 1)).double().requires_grad_()
    window = torch.from_numpy(draw(4)).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda v, w: stft(v, 2, w), (real, window))


@pytest.mark.parametrize("fed", [False, True])
@pytest.mark.parametrize(("bands", "length"), [(8, 16), (20, 256), (40, 64)])
def test_mel_weights(bands: int, length: int, fed: bool) -> None:
    numbers = [*map(np.array, (bands, length, 16000)), np.float32(20), np.float32(8000)]
    model, inputs = made("MelWeightMatrix", [np.asarray(n) for n in numbers], set() if fed else set(range(5)), 17)
    agree(model, inputs)


@pytest.mark.parametrize("sorted_", [0, 1])
@pytest.mark.parametrize("axis", [None, 0, 1, -1])
def test_unique(axis: int | None, sorted_: int) -> None:
    x = np.random.default_rng(0).integers(0, 2, (5, 6)).astype(np.float32)
    along = {} if axis is None else {"axis": axis}
    agree(*made("Unique", [x], set(), 11, outputs=4, sorted=sorted_, **along))


@pytest.mark.parametrize("mode", ["TF", "IDF", "TFIDF"])
@pytest.mark.parametrize(("least", "most", "skip"), [(1, 1, 3), (2, 2, 0), (1, 2, 2), (1, 3, 1)])
def test_n_grams(least: int, most: int, skip: int, mode: str) -> None:
    x = np.random.default_rng(0).integers(0, 4, (3, 12))
    pool = [0, 1, 3, *[0, 1, 1, 2, 3, 3], *[0, 1, 2, 3, 2, 1]]
    agree(*made(
        "TfIdfVectorizer", [x], set(), 9, mode=mode, min_gram_length=least, max_gram_length=most,
        max_skip_count=skip, pool_int64s=pool, ngram_counts=[0, 3, 9], ngram_indexes=[3, 1, 0, 2, 4, 6, 5, 7],
        weights=[float(i + 1) for i in range(8)],
    ))  # fmt: skip


RANDOM: list[tuple[str, int, dict[str, Any]]] = [
    ("RandomNormal", 0, {"shape": [50, 40], "mean": 2.0, "scale": 3.0}),
    ("RandomNormalLike", 1, {"mean": 2.0, "scale": 3.0}),
    ("RandomUniform", 0, {"shape": [50, 40], "low": -1.0, "high": 5.0}),
    ("RandomUniformLike", 1, {"low": -1.0, "high": 5.0}),
]


@pytest.mark.parametrize(("op", "inputs", "attributes"), RANDOM, ids=lambda v: v if isinstance(v, str) else "")
def test_random_numbers_have_their_distribution(op: str, inputs: int, attributes: dict[str, Any]) -> None:
    model, fed = made(op, [draw(50, 40)] * inputs, set(), 15, dtype=TensorProto.DOUBLE, **attributes)
    torch.manual_seed(0)
    (y,) = in_torch(load(model), *fed)
    assert (y.shape, y.dtype) == ((50, 40), np.float64)
    assert abs(y.mean() - 2) < 0.2
    assert abs(y.std() - (3 if "Normal" in op else 6 / 12**0.5)) < 0.2


def test_bernoulli_and_multinomial_have_their_distribution() -> None:
    torch.manual_seed(0)
    (y,) = in_torch(load(made("Bernoulli", [x := np.full((50, 40), 0.3)], set(), 15)[0]), x)
    assert set(np.unique(y)) == {0, 1}
    assert abs(y.mean() - 0.3) < 0.03
    x = np.log(np.array([[1, 2, 3], [5, 0.5, 0.5]], np.float32))
    (y,) = in_torch(load(made("Multinomial", [x], set(), 15, sample_size=5000)[0]), x)
    assert (y.shape, y.dtype) == ((2, 5000), np.int32)
    shares = np.stack([np.bincount(row, minlength=3) / 5000 for row in y])
    np.testing.assert_allclose(shares, np.exp(x) / 6, atol=0.03)


def test_a_seed_makes_the_numbers_repeat_from_load_to_load() -> None:
    model, _ = made("RandomNormal", [], set(), 15, shape=[8], seed=3.0)
    first, second = load(model), load(model)
    a, b = first(), first()
    assert not torch.equal(a, b)
    assert torch.equal(a, second()) and torch.equal(b, second())


def test_without_a_seed_the_numbers_follow_torchs() -> None:
    module = load(made("RandomUniform", [], set(), 15, shape=[8])[0])
    torch.manual_seed(7)
    first = module()
    torch.manual_seed(7)
    assert torch.equal(first, module())
