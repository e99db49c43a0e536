"""Random numbers: PyTorch's, so others than onnxruntime's, from the same distribution.

Modules, which are never folded and know their device. A `seed` starts a generator of the module's own;
without one the numbers follow torch.manual_seed.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from onnxprune.to_torch.operands import dtype_of
from onnxprune.to_torch.registry import converts


class Random(nn.Module):
    """What the ops here share: where their numbers come from."""

    place: Tensor

    def __init__(self, seed: float | None) -> None:
        super().__init__()
        self.seed, self.generator = seed, None if seed is None else torch.Generator().manual_seed(int(seed))
        self.register_buffer("place", torch.empty(0), persistent=False)

    def source(self, device: torch.device) -> torch.Generator | None:
        """The generator for `device`, begun anew where the module came to another one."""
        if self.seed is not None and (self.generator is None or self.generator.device != device):
            self.generator = torch.Generator(device).manual_seed(int(self.seed))
        return self.generator

    def uniform(self, shape: Sequence[int], device: torch.device, dtype: torch.dtype) -> Tensor:
        return torch.rand(list(shape), generator=self.source(device), device=device, dtype=dtype)

    def normal(self, shape: Sequence[int], device: torch.device, dtype: torch.dtype) -> Tensor:
        return torch.randn(list(shape), generator=self.source(device), device=device, dtype=dtype)


@converts("RandomUniform", since=1)
class RandomUniform(Random):
    def __init__(
        self, *, shape: Sequence[int], low: float = 0.0, high: float = 1.0, dtype: int = 1,
        seed: float | None = None,
    ) -> None:  # fmt: skip
        super().__init__(seed)
        self.shape, self.low, self.high, self.dtype = shape, low, high, dtype_of(dtype)

    def forward(self) -> Tensor:
        return self.low + (self.high - self.low) * self.uniform(self.shape, self.place.device, self.dtype)


@converts("RandomUniformLike", since=1)
class RandomUniformLike(Random):
    def __init__(
        self, *, low: float = 0.0, high: float = 1.0, dtype: int | None = None, seed: float | None = None
    ) -> None:
        super().__init__(seed)
        self.low, self.high, self.dtype = low, high, None if dtype is None else dtype_of(dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self.low + (self.high - self.low) * self.uniform(x.shape, x.device, self.dtype or x.dtype)


@converts("RandomNormal", since=1)
class RandomNormal(Random):
    def __init__(
        self, *, shape: Sequence[int], mean: float = 0.0, scale: float = 1.0, dtype: int = 1,
        seed: float | None = None,
    ) -> None:  # fmt: skip
        super().__init__(seed)
        self.shape, self.mean, self.scale, self.dtype = shape, mean, scale, dtype_of(dtype)

    def forward(self) -> Tensor:
        return self.mean + self.scale * self.normal(self.shape, self.place.device, self.dtype)


@converts("RandomNormalLike", since=1)
class RandomNormalLike(Random):
    def __init__(
        self, *, mean: float = 0.0, scale: float = 1.0, dtype: int | None = None, seed: float | None = None
    ) -> None:
        super().__init__(seed)
        self.mean, self.scale, self.dtype = mean, scale, None if dtype is None else dtype_of(dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self.mean + self.scale * self.normal(x.shape, x.device, self.dtype or x.dtype)


@converts("Bernoulli", since=15)
class Bernoulli(Random):
    def __init__(self, *, dtype: int | None = None, seed: float | None = None) -> None:
        super().__init__(seed)
        self.dtype = None if dtype is None else dtype_of(dtype)

    def forward(self, probability: Tensor) -> Tensor:
        drawn = torch.bernoulli(probability, generator=self.source(probability.device))
        return drawn.to(self.dtype or probability.dtype)


@converts("Multinomial", since=7)
class Multinomial(Random):
    """`x` [batch, classes] are unnormalised logarithms of the probabilities."""

    def __init__(self, *, sample_size: int = 1, dtype: int = 6, seed: float | None = None) -> None:
        super().__init__(seed)
        self.count, self.dtype = sample_size, dtype_of(dtype)

    def forward(self, x: Tensor) -> Tensor:
        drawn = torch.multinomial(x.softmax(-1), self.count, True, generator=self.source(x.device))
        return drawn.to(self.dtype)
