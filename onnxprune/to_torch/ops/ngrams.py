"""Runs of whole numbers, counted."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from onnxprune.to_torch.registry import converts


@converts("TfIdfVectorizer", since=9)
def tf_idf_vectorizer(
    x: Tensor,
    *,
    mode: str,
    min_gram_length: int,
    max_gram_length: int,
    max_skip_count: int,
    ngram_counts: Sequence[int],
    ngram_indexes: Sequence[int],
    pool_int64s: Sequence[int] | None = None,
    weights: Sequence[float] | None = None,
) -> Tensor:
    """How often each n-gram of the pool occurs in each row; every skip distance counts, but for single ones."""
    rows, pool = x.reshape(-1, x.shape[-1]), pool_int64s or ()
    counts = torch.zeros(len(rows), max(ngram_indexes) + 1, device=x.device)
    for first, grams in _by_length(pool, ngram_counts):
        length = len(grams[0])
        if not min_gram_length <= length <= max_gram_length:
            continue
        columns = torch.tensor(ngram_indexes[first : first + len(grams)], device=x.device)
        wanted = torch.tensor(grams, device=x.device)
        for distance in range(1, 2 if length == 1 else max_skip_count + 2):
            reach = rows.shape[1] - (length - 1) * distance
            if reach > 0:
                hits = torch.stack([
                    rows[:, i * distance : i * distance + reach, None] == wanted[:, i] for i in range(length)
                ]).all(0)  # [rows, starts, grams]  # fmt: skip
                counts = counts.index_add(1, columns, hits.sum(1).to(counts.dtype))
    result = counts if mode != "IDF" else (counts > 0).to(counts.dtype)
    if weights is not None and mode != "TF":
        by_column = dict(zip(ngram_indexes, weights, strict=True))
        factors = [by_column.get(column, 0.0) for column in range(result.shape[1])]
        result = result * torch.tensor(factors, device=x.device)
    return result.reshape(*x.shape[:-1], -1)


def _by_length(pool: Sequence[int], starts: Sequence[int]) -> Iterator[tuple[int, list[Sequence[int]]]]:
    """The pool's n-grams, those of length 1 first, each list with the number of its first."""
    first = 0
    for length, (begin, end) in enumerate(zip(starts, [*starts[1:], len(pool)], strict=True), start=1):
        grams = [pool[i : i + length] for i in range(begin, end - length + 1, length)]
        if grams:
            yield first, grams
        first += len(grams)
