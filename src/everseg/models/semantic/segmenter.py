"""A semantic segmenter that grows: a backbone, the head that goes with it, and a list of 1x1 classifiers.

    pixels -> backbone -> head -> features (B, D, h, w) -> classifiers -> logits (B, K, h, w)

The first classifier has one channel, 0: "auxiliary" to methods that score each class by a sigmoid, the
background to those with a softmax. Then one classifier for each step, with a channel for each of its classes:
channel k is the k-th class in the order of the stream, whatever number its data set gives it.

Shape suffixes: B images, K channels, D width of the features, H W pixels, h w the feature map.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from everseg.errors import UserError
from everseg.fit import Group
from everseg.models.precision import resolved
from everseg.models.semantic.backbones import Backbone
from everseg.models.semantic.heads import head_of
from everseg.models.semantic.load import load_backbone
from everseg.seed import fold
from everseg.types import Precision

__all__ = [
    "Init",
    "Output",
    "Rule",
    "Segmenter",
    "decide",
    "load_segmenter",
]

Init = Literal["auxiliary", "fresh", "background", "absent"]
Rule = Literal["sigmoid", "softmax"]

ABSENT = -10.0
"""Logit of a class that a segmenter has a channel for but never learned: a probability of 0.00005."""


class Output(NamedTuple):
    """logits (B, K, h, w) at the features' resolution. features (B, D, h, w), what the classifiers read, no
    smaller than zero.

    stages: each stage's map of the backbone, before its activation.
    size: (H, W).
    """

    logits: Tensor
    features: Tensor
    stages: tuple[Tensor, ...]
    size: tuple[int, int]

    def full(self) -> Tensor:
        """Logits at the input's resolution, (B, K, H, W) float32 whatever the model computed in."""
        return F.interpolate(self.logits.float(), size=self.size, mode="bilinear", align_corners=False)


class Segmenter(nn.Module):
    """A backbone under a head and classifiers that grow.

    detached: channel 0 reads the features without a gradient, so that no loss on it reaches the head or the
    backbone. Methods with a softmax, whose channel 0 is a real background, need False.
    rule: what its logits mean: a sigmoid for each class, or one softmax.
    began: steps that were over when it began to learn. It has channels for their classes, which see nothing.
    precision: what it computes in; its weights, and logits at full size, are float32.
    width, fine: of the head, see `heads.head_of`.

    58,630,997 parameters with ResNet-101 and 20 classes. Source: EIR's and DKD's segmenter (specified by
    their code); MiB and PLOP have in-place ABN and a head without the last 3x3.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        detached: bool = True,
        rule: Rule = "sigmoid",
        precision: Precision = "fp32",
        width: int | None = None,
        fine: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.detached, self.rule, self.precision = detached, rule, precision
        self.norm_frozen = self.frozen = False
        self.began = 0
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(fold(seed, "head"))
            self.head = head_of(backbone, width, fine=fine)
            self.classifiers = nn.ModuleList([_classifier(self.head.width, 1)])
        if backbone.decoder and width is None:
            self.head.load_state_dict(backbone.decoder)
        self.register_buffer("mean", torch.tensor(backbone.mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(backbone.std)[:, None, None], persistent=False)

    # ---------------------------------------------------------------- forward

    mean: Tensor
    std: Tensor

    @property
    def device(self) -> torch.device:
        return self.mean.device

    def __call__(self, pixels_B3HW: Tensor) -> Output:
        kind = resolved(self.precision, self.device)
        if kind == "fp32":
            return super().__call__(pixels_B3HW)
        with torch.autocast(self.device.type, torch.bfloat16 if kind == "bf16" else torch.float16):
            return super().__call__(pixels_B3HW)

    def pixels(self, images_B3HW: Tensor) -> Tensor:
        """Images (B, 3, H, W), uint8 or 0..255, normalised as the backbone was trained, on its device."""
        # Channels last: a training step of MobileNetV2 on a CPU takes three quarters of the time.
        images_B3HW = images_B3HW.to(self.device, torch.float32, memory_format=torch.channels_last)
        return (images_B3HW / 255 - self.mean) / self.std

    def forward(self, pixels_B3HW: Tensor) -> Output:
        maps = self.backbone(pixels_B3HW)
        features = self.head(maps)
        first = features.detach() if self.detached else features
        logits = [layer(features if i else first) for i, layer in enumerate(self._layers())]
        height, width = pixels_B3HW.shape[-2:]
        return Output(torch.cat(logits, 1), features, maps.stages, (height, width))

    # ---------------------------------------------------------------- classes

    def _layers(self) -> list[nn.Conv2d]:
        return [layer for layer in self.classifiers if isinstance(layer, nn.Conv2d)]

    @property
    def counts(self) -> tuple[int, ...]:
        """How many classes each step brought."""
        return tuple(layer.out_channels for layer in self._layers()[1:])

    @property
    def untaught(self) -> bool:
        """Whether it has learned nothing yet."""
        return len(self.counts) <= self.began

    @property
    def first(self) -> bool:
        """Whether its newest step is the first that it learns."""
        return len(self.counts) <= self.began + 1

    @property
    def channels(self) -> int:
        """K: channel 0 and one for each class."""
        return 1 + sum(self.counts)

    def new(self) -> range:
        """The channels of the last step."""
        return range(self.channels - (self.counts or (0,))[-1], self.channels)

    def weight(self) -> Tensor:
        """All classifiers' weights in the order of their channels: (K, D)."""
        return torch.cat([layer.weight for layer in self._layers()]).flatten(1)

    @torch.no_grad()
    def grow(self, classes: int, init: Init = "fresh", *, seed: int = 0) -> None:
        """Add a classifier for the classes of one more step; those that are there stay as they are, but for
        "background".

        "fresh": weights Kaiming-normal, biases as PyTorch draws them, by (seed, step).
        "auxiliary": each new channel starts as channel 0 (DKD).
        "background": likewise, with the bias ln(classes + 1) lower, and that of channel 0 lowered as much, so
        that what the background had is shared out evenly among it and the new classes (MiB).
        "absent": new channels are sure that nothing is of their classes, which another segmenter learned.
        """
        assert classes > 0, "a step brings at least one class"
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(fold(seed, "classifier", len(self.classifiers)))
            layer = _classifier(self.head.width, classes)
        first = self._layers()[0]
        layer = layer.to(first.weight)
        assert first.bias is not None and layer.bias is not None
        if init == "background":
            first.bias.sub_(math.log(classes + 1))
        if init == "absent":
            layer.weight.zero_()
            layer.bias.fill_(ABSENT)
        elif init != "fresh":
            layer.weight.copy_(first.weight.expand_as(layer.weight))
            layer.bias.copy_(first.bias.expand_as(layer.bias))
        self.classifiers.append(layer)

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take a `state_dict` of this segmenter at any of its steps: classifiers are added or dropped to fit.

        Raises:
            UserError: it is of another backbone.
        """
        weights = [name for name in state if name.startswith("classifiers.") and name.endswith(".weight")]
        del self.classifiers[1:]
        for i in range(1, len(weights)):
            self.classifiers.append(_classifier(self.head.width, len(state[f"classifiers.{i}.weight"])))
        self.classifiers.to(self.device)
        try:
            self.load_state_dict(state)
        except RuntimeError as error:
            line = (str(error).splitlines() or [""])[-1].strip()
            raise UserError(
                f"the saved weights belong to another backbone ({line}); name the backbone that the run "
                "was started with"
            ) from error

    # ---------------------------------------------------------------- what trains

    def freeze_norm(self) -> None:
        """Stop batch normalisation, statistics and affine parameters, and dropout, as steps after the first
        do (DKD, EIR: `--freeze_bn`)."""
        self.norm_frozen = True
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> Segmenter:
        super().train(mode and not self.frozen)
        if self.norm_frozen:
            for module in self.modules():
                if (
                    isinstance(module, nn.BatchNorm2d | nn.modules.dropout._DropoutNd)
                    or "DropPath" in type(module).__name__
                ):
                    module.eval()
        return self

    def groups(self, weight_decay: float = 1e-4, *, decay_old: bool = True) -> list[Group]:
        """What trains, for the optimiser, with its learning rate as a multiple of the run's: 1 for the
        backbone, 10 for head and classifiers. What does not require a gradient is left out.

        decay_old: False leaves weight decay to the newest classifier alone, so that what was learned before
        is not worn down (DKD, EIR after the first step).
        """

        def group(name: str, modules: Sequence[nn.Module], scale: float, decayed: bool) -> Group:
            trained = [p for module in modules for p in module.parameters() if p.requires_grad]
            return Group(name, trained, scale, weight_decay if decayed else 0.0)

        *old, newest = self.classifiers
        found = [
            group("backbone", [self.backbone], 1.0, decay_old),
            group("head", [self.head], 10.0, decay_old),
            group("old classifiers", old, 10.0, decay_old),
            group("new classifier", [newest], 10.0, True),
        ]
        return [g for g in found if g.parameters]

    def frozen_copy(self) -> Segmenter:
        """This model as it is now, for good: evaluating, no parameter trains, so that it builds no graph.

        Not inference mode: its outputs may stand in a loss, and autograd refuses to keep inference tensors.
        """
        twin = copy.deepcopy(self)
        twin.frozen = True
        return twin.requires_grad_(False).eval()


def _classifier(width: int, classes: int) -> nn.Conv2d:
    layer = nn.Conv2d(width, classes, 1)
    nn.init.kaiming_normal_(layer.weight)
    return layer


def decide(logits_BKHW: Tensor, rule: Rule = "sigmoid", threshold: float = 0.5) -> Tensor:
    """The channel that each pixel is given: (B, K, H, W) -> (B, H, W) int64.

    "sigmoid": the highest class, if its probability exceeds `threshold`, else background; channel 0 has no
    say (EIR, DKD). "softmax": the highest channel.
    """
    if rule == "softmax":
        return logits_BKHW.argmax(1)
    assert rule == "sigmoid", rule
    score, best = logits_BKHW[:, 1:].max(1)
    return torch.where(score.sigmoid() > threshold, best + 1, 0)


def load_segmenter(
    backbone: str,
    weights: str | Path | None = None,
    *,
    stride: int | None = None,
    seed: int = 0,
    **settings: Any,
) -> Segmenter:
    """A segmenter with no classes yet on a named backbone: see `load_backbone` and `Segmenter`."""
    return Segmenter(load_backbone(backbone, weights, stride=stride, seed=seed), seed=seed, **settings)
