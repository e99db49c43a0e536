"""PyTorch on several threads at once: ops of small models gain little by threads inside of them, batches do by parts.

with SideBySide(parts=2) as threads:
    losses = threads.map(loss_of, batch.divided(threads.parts))
"""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import TypeVar

import torch

S = TypeVar("S")
T = TypeVar("T")
MOST = 4
"""Parts of a batch: each has gradients of its own."""


class SideBySide:
    """PyTorch's threads divided among so many `parts` of the work (None: one for each, but no more than MOST)."""

    def __init__(self, parts: int | None = None) -> None:
        self.threads = torch.get_num_threads()
        self.parts = min(self.threads, MOST) if parts is None else parts

    def __enter__(self) -> "SideBySide":
        each = max(self.threads // self.parts, 1)
        self.pool = ThreadPoolExecutor(self.parts, initializer=torch.set_num_threads, initargs=(each,))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.pool.shutdown()
        torch.set_num_threads(self.threads)  # the pool's threads have set the number of those to come

    def map(self, function: Callable[[S], T], parts: Iterable[S]) -> list[T]:
        """What `function` gives for each, in order; it starts with gradients on, wherever this is called."""
        return list(self.pool.map(function, parts))
