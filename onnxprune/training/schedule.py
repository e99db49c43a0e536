"""The learning rate over a run, as a share of its highest: a function of the step alone, so that a run can resume."""

import math
from collections.abc import Callable


def factor(schedule: str, step: int, steps: int, warmup: float = 0.0) -> float:
    """Of step number `step` (from 0) of `steps`; it rises linearly over the share `warmup` of them.

    "cosine" and "linear" fall to 0; "step" is divided by 10 at 1/2 and at 3/4, as for CIFAR-10 in the SCP paper;
    "one-cycle" rises from 1/25 over 30 % of the steps and falls to 0, both as cosines (Smith and Topin, arXiv
    1708.07120; the shape is that of torch.optim.lr_scheduler.OneCycleLR, without its cycle of momentum); "constant"
    stays.
    """
    rising = round(warmup * steps)
    if step < rising:
        return (step + 1) / (rising + 1)
    return _SHAPES[schedule]((step - rising) / max(steps - rising, 1))


def _fall(share: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * share))


def _one_cycle(share: float) -> float:
    low, top = 1 / 25, 0.3
    return low + (1 - low) * (1 - _fall(share / top)) if share < top else _fall((share - top) / (1 - top))


_SHAPES: dict[str, Callable[[float], float]] = {
    "cosine": _fall,
    "linear": lambda share: 1 - share,
    "step": lambda share: 0.1 ** ((share >= 0.5) + (share >= 0.75)),
    "one-cycle": _one_cycle,
    "constant": lambda share: 1.0,
}
