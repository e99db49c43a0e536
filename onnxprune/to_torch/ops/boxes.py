"""Which of many overlapping boxes to keep."""

import torch
from torch import Tensor

from onnxprune.to_torch.operands import Scalar, number
from onnxprune.to_torch.registry import converts

_BLOCK = 128  # boxes compared with each other at once


@converts("NonMaxSuppression", since=10)
def non_max_suppression(
    boxes: Tensor,
    scores: Tensor,
    most: Scalar = 0,
    iou_threshold: Scalar = 0.0,
    score_threshold: Scalar | None = None,
    *,
    center_point_box: int = 0,
) -> Tensor:
    """Rows (batch, class, box) [N, 3], the best box of each class first."""
    limit, overlap, least = _given(most, 0), _given(iou_threshold, 0.0), _given(score_threshold, -torch.inf)
    rows = []
    for image, (corners, table) in enumerate(zip(_corners(boxes, center_point_box), scores, strict=True)):
        for label, score in enumerate(table):
            good = (score > least).nonzero()[:, 0]
            order = good[torch.argsort(score[good], descending=True, stable=True)]
            kept = _greedy(corners, order, int(limit), overlap)
            rows.append(torch.stack([torch.full_like(kept, image), torch.full_like(kept, label), kept], 1))
    return torch.cat(rows) if rows else scores.new_zeros(0, 3, dtype=torch.int64)


def _given(value: Scalar | None, default: float) -> float:
    return default if value is None else number(value)


def _corners(boxes: Tensor, centered: int) -> Tensor:
    """Each box [..., 4] as its lower, then its upper corner."""
    first, second = boxes[..., :2], boxes[..., 2:]
    if centered:
        return torch.cat([first - second / 2, first + second / 2], -1)
    return torch.cat([torch.minimum(first, second), torch.maximum(first, second)], -1)


def _greedy(corners: Tensor, order: Tensor, limit: int, overlap: float) -> Tensor:
    """Of the boxes in `order`, those that overlap no earlier kept one, at most `limit`."""
    kept = order[:0]
    for block in torch.split(order, _BLOCK):
        if len(kept) >= limit:
            break
        free = block[~(_overlaps(corners[block], corners[kept]) > overlap).any(1)]
        clash = (_overlaps(corners[free], corners[free]) > overlap).tril(-1)
        alive = torch.ones_like(free, dtype=torch.bool)
        while True:  # the first n boxes are settled after n rounds, mostly all after a few
            settled = ~(clash & alive).any(1)
            if torch.equal(settled, alive):
                break
            alive = settled
        kept = torch.cat([kept, free[alive]])
    return kept[:limit]


def _overlaps(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of each box of `a` with each of `b`."""
    lower, upper = torch.maximum(a[:, None, :2], b[:, :2]), torch.minimum(a[:, None, 2:], b[:, 2:])
    common = (upper - lower).clamp(min=0).prod(-1)
    area = [(c[:, 2:] - c[:, :2]).prod(-1) for c in (a, b)]
    return torch.where(common > 0, common / (area[0][:, None] + area[1] - common), 0)
