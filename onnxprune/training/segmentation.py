"""Segmentation: one class per pixel, or per voxel."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from onnxprune.errors import TrainingError
from onnxprune.training.batches import Batch
from onnxprune.training.scores import check_classes, logits_of, pixel_axis
from onnxprune.training.tasks import Metrics, Outputs, Sums, counted, labels_of, mean, ratio

VOID = 255  # of masks in bytes (PASCAL VOC, Cityscapes)
RESIZED = {3: "linear", 4: "bilinear", 5: "trilinear"}  # by the rank of the scores


@dataclass(frozen=True)
class Segmentation:
    """Cross-entropy per pixel of the first output, resized to the labels' size; mean IoU and pixel accuracy.

    Negative labels are left out, and 255 where there are fewer classes. The mean is over the classes that
    occur among the labels or the predictions of all held-out samples.
    """

    axis: int = 1
    probabilities: bool = False
    taught: bool = False

    def loss(self, outputs: Outputs, batch: Batch, teacher: Outputs | None = None) -> Tensor:
        return mean(self._cross_entropy(*self._matched(outputs, batch)))

    def sums(self, outputs: Outputs, batch: Batch, teacher: Outputs | None = None) -> Sums:
        logits, labels = self._matched(outputs, batch)
        counts, classes = labels >= 0, logits.shape[1]
        pairs = labels[counts] * classes + logits.argmax(1)[counts]
        confusion = torch.bincount(pairs, minlength=classes**2).view(classes, classes)
        return {"confusion": confusion, "loss": self._cross_entropy(logits, labels)}

    def metrics(self, sums: Sums) -> Metrics:
        confusion = sums["confusion"].double()  # labels by predictions
        correct, both = confusion.diagonal(), confusion.sum(0) + confusion.sum(1)
        occurs = both > 0
        iou = (correct / (both - correct))[occurs].mean()
        loss = ratio(sums["loss"])
        return {
            "mean_iou": float(iou),
            "pixel_accuracy": float(correct.sum() / confusion.sum()),
            "loss": loss,
        }

    def probe(self, outputs: Outputs, batch: Batch) -> Tensor:
        return self.loss(outputs, batch)

    def check(self, outputs: Outputs, batch: Batch) -> None:
        """Raises TrainingError where labels and output do not belong together."""
        logits, labels = self._matched(outputs, batch)
        check_classes(labels, logits.shape[1])

    def _cross_entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        return counted(F.cross_entropy(logits, labels, ignore_index=-1, reduction="none"), labels >= 0)

    def _matched(self, outputs: Outputs, batch: Batch) -> tuple[Tensor, Tensor]:
        """Logits (n, classes, ...) of the labels' size, and labels with -1 where they do not count."""
        labels = masks_of(labels_of(batch, "segmentation"), outputs[0].dim())
        logits = logits_of(outputs[0], self.axis, self.probabilities)
        if logits.dim() != labels.dim() + 1:
            pixel_axis(outputs[0], labels)  # says so
        ignored = labels < 0
        if logits.shape[1] <= VOID:
            ignored = ignored | (labels == VOID)
        if logits.shape[2:] != labels.shape[1:]:
            size = list(labels.shape[1:])
            logits = F.interpolate(logits, size, mode=RESIZED[logits.dim()], align_corners=False)
        return logits, labels.masked_fill(ignored, -1)


def masks_of(labels: Tensor, rank: int) -> Tensor:
    """Labels without the axis of one channel that image files give them, for scores of this rank."""
    if labels.is_floating_point():
        raise TrainingError("labels 'y' are floats, not class numbers: segmentation needs integers per pixel")
    if labels.dim() == rank:
        channel = next((axis for axis in (1, -1) if labels.shape[axis] == 1), None)
        return labels if channel is None else labels.squeeze(channel)
    return labels
