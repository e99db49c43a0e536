"""The costs of a chain of convolutions, in closed form."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class ChainCosts:
    """A chain of 3x3 convolutions: `sizes[i]` channels between them, `areas[i]` positions of layer i."""

    names: tuple[str, ...]
    sizes: tuple[int, ...]
    areas: tuple[int, ...]
    ends: tuple[int, int] = (3, 10)

    def count(self, by: str, opened: Sequence[Any]) -> Any:
        if by == "channels":
            return sum(opened)
        widths = [self.ends[0], *opened, self.ends[1]]
        per_weight = self.areas if by == "macs" else (1,) * len(self.areas)
        return sum(9 * n * i * o for n, i, o in zip(per_weight, widths[:-1], widths[1:], strict=True))

    def unit_costs(self, by: str, opened: Any) -> Any:
        opened = list(opened)
        fewer = [[n - (i == g) for i, n in enumerate(opened)] for g in range(len(opened))]
        return np.asarray([self.count(by, opened) - self.count(by, less) for less in fewer], float)
