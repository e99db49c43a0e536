"""Image and video networks: torchvision and timm, the smallest variant of each family."""

from typing import Any

import torch
from torch import nn

from zoo_models.case import Network
from zoo_models.weights import randomize

CLASSES = 100
"""Few, because small images make a classifier's share of the MACs larger than it is."""


def _pictures(module: nn.Module, size: int, *, batch: int = 4, channels: int = 3) -> Network:
    def sample(count: int) -> tuple[torch.Tensor, ...]:
        return (torch.randn(count, channels, size, size),)

    randomize(module, lambda: module(*sample(batch)))
    return Network(module, sample, {0: {2: "height", 3: "width"}})


def timm_model(name: str, size: int, *, plain_attention: bool = False, **options: Any) -> Network:
    """A timm network; those whose size is part of the architecture are built for `size`.

    `plain_attention`: as matrix products, for opsets that torch cannot write scaled_dot_product_attention in.
    """
    import timm

    timm.layers.set_fused_attn(not plain_attention)
    try:
        module = timm.create_model(
            name, pretrained=False, num_classes=CLASSES, exportable=True, img_size=size, **options
        )
    except TypeError:
        module = timm.create_model(name, pretrained=False, num_classes=CLASSES, exportable=True, **options)
    return _pictures(module, size)


def classification(name: str, size: int, **options: Any) -> Network:
    """A torchvision classifier."""
    import torchvision

    build = getattr(torchvision.models, name)
    if name in ("googlenet", "inception_v3"):
        options |= {"aux_logits": False, "init_weights": False}
    module = build(weights=None, num_classes=CLASSES, **options)
    return _pictures(module, size)


class _Named(nn.Module):
    """The entries of a dict of outputs, as a tuple."""

    def __init__(self, module: nn.Module, *names: str) -> None:
        super().__init__()
        self.module, self.names = module, names

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        outputs = self.module(*inputs)
        return tuple(outputs[name] for name in self.names)


def segmentation(name: str, size: int) -> Network:
    """A torchvision segmenter; its output is the full-size score map."""
    from torchvision.models import segmentation as models

    module = getattr(models, name)(weights=None, weights_backbone=None, num_classes=21)
    return _pictures(_Named(module, "out"), size)


class _Detector(nn.Module):
    """One image in, what was found out: transform, heads and non-maximum suppression as they are shipped."""

    def __init__(self, module: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.module, self.names = module, names

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        found = self.module([images[0]])
        found = found[1][0] if isinstance(found, tuple) else found[0]
        return tuple(found[name] for name in self.names)


class _Heads(nn.Module):
    """A batch of images in, the raw scores of all anchors out: what a detector computes before it selects."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.backbone = module.backbone
        self.head = module.rpn.head if hasattr(module, "rpn") else module.head

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        outputs = self.head(list(self.backbone(images).values()))
        values = outputs.values() if isinstance(outputs, dict) else [x for one in outputs for x in one]
        return tuple(values)


def detection(name: str, size: int, *, raw: bool = False) -> Network:
    """A torchvision detector: as shipped, or `raw`, the scores of its heads."""
    from torchvision.models import detection as models

    options: dict[str, Any] = {"num_classes": 11}
    if name == "keypointrcnn_resnet50_fpn":
        options = {"num_keypoints": 5}
    if not name.startswith("ssd"):
        options |= {"min_size": size, "max_size": size}
    module = getattr(models, name)(weights=None, weights_backbone=None, **options)
    if raw:
        return _pictures(_Heads(module), size)
    heads = _Heads(module)
    images = torch.randn(2, 3, size, size)
    randomize(module, lambda: heads(images))
    _calm_boxes(module)
    names = ["boxes", "scores", "labels"]
    names += ["masks"] * name.startswith("mask") + ["keypoints"] * name.startswith("keypoint")
    return Network(_Detector(module, tuple(names)), lambda _: (torch.rand(1, 3, size, size),))


BOXES = ("bbox_pred", "bbox_reg", "regression_head.module_list")
"""Layers that say by how much a box differs from its anchor."""


def _calm_boxes(module: nn.Module) -> None:
    """Boxes near their anchors, as trained ones are: sizes are exponentials of these layers' outputs, and what random
    weights of full size do to a last bit has nothing to do with pruning.
    """
    with torch.no_grad():
        for name, part in module.named_modules():
            if isinstance(part, nn.Conv2d | nn.Linear) and any(word in name for word in BOXES):
                for parameter in part.parameters():
                    parameter.mul_(0.05)


def video(name: str, size: int, frames: int, **options: Any) -> Network:
    """A torchvision video classifier; clips are N x 3 x frames x size x size."""
    from torchvision.models import video as models

    module = getattr(models, name)(weights=None, num_classes=CLASSES, **options)

    def sample(count: int) -> tuple[torch.Tensor, ...]:
        return (torch.randn(count, 3, frames, size, size),)

    randomize(module, lambda: module(*sample(2)))
    return Network(module, sample, {0: {3: "height", 4: "width"}})


class _LastFlow(nn.Module):
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        return self.module(first, second, num_flow_updates=2)[-1]


def optical_flow(name: str, size: int) -> Network:
    """RAFT with two updates; the flow between two images."""
    from torchvision.models import optical_flow as models

    module = _LastFlow(getattr(models, name)(weights=None))

    def sample(count: int) -> tuple[torch.Tensor, ...]:
        return torch.rand(count, 3, size, size) * 2 - 1, torch.rand(count, 3, size, size) * 2 - 1

    randomize(module, lambda: module(*sample(1)))
    return Network(module, sample)
