"""How a step of classes is trained: crops, rates, what trains, what is replayed."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Annotated, Literal

from everseg.config import Amount, Checked, Count, Positive, Range, SettingError, Share, Size, ascending
from everseg.fit import FitConfig, check_validation

FEWEST = 450
"""Gradient steps of a later step, at least, where they follow its number of images."""


@dataclass(frozen=True)
class ClassTuneConfig(Checked):
    """How a step is trained."""

    first: FitConfig
    """Gradient steps of the first step."""
    later: FitConfig
    """Gradient steps of each later step."""
    steps_for: Count = 0
    """Images of a later step that `later.steps` is meant for. A step of fewer takes fewer gradient steps, by
    the square root of the ratio, but at least 450; 0: all take `later.steps`. [ours]"""
    crop: Size = 512
    """Side of the training crops, in pixels. [DKD, EIR, MiB: 512; SSUL: 513]"""
    area: tuple[Positive, Positive] = (0.5, 2.0)
    """Share of the image's area that a crop covers, as a range; a crop that does not fit is drawn again.
    [EIR's code]"""
    flip: Share = 0.5
    """Probability that a crop is mirrored. [EIR's code]"""
    head_lr: Amount = 10.0
    """Learning rate of head and classifiers, as a multiple of the backbone's. [DKD, EIR: 10; MiB: 1]"""
    freeze_norm: bool = True
    """Freeze batch normalisation and dropout after the first step. [DKD, EIR: yes; MiB's code: no]"""
    decay_old: bool = False
    """Apply weight decay to all weights after the first step, not only to the new classifier. [DKD, EIR: no;
    MiB: yes]"""
    nest: Count = 0
    """Epochs in which new classifiers are tuned as a mix of the old ones before a later step; 0: they start
    as the method has it. [NeST: 5 on PASCAL VOC, 15 on ADE20K]"""
    fine: bool = False
    """Read the backbone's first stage as well, at a quarter of the image's resolution, for thin objects. The
    base's head must be DeepLabV3's. [DeepLabV3+]"""
    posterior: Annotated[float, Range(0, 100)] = 0.0
    """Weight of what the untrained backbone says about which class an object is of, in predictions; 0: the
    segmenter decides alone. [ours; the idea: IPSeg]"""
    posterior_backbone: Literal["base", "efficientnet-lite1"] = "base"
    """The backbone that `posterior` listens to: the run's own, untrained, or EfficientNet-Lite1, which tells
    classes apart better than MobileNetV2. [ours]"""
    replay: Share = 0.0
    """Minimum share of an epoch's examples that come from a memory, repeated as often as needed; 0: each
    once. [SSUL: 0.5]"""
    val: Share = 0.0
    """Share of a stage's training images held out to choose the best epoch by; 0: none, unless the stream has
    val:. [ours]"""
    patience: Count = 0
    """Stop after this many epochs without a better score on held-out images; 0: train to the end. [ours]"""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_validation(self)
        ascending(self, "area")
        if self.replay == 1:
            raise SettingError("replay", "is 1, which leaves no new images to train on; give a share below 1")

    def fit_of(self, images: int, *, first: bool, began: int = 0) -> FitConfig:
        """How a step with this number of images is trained.

        first: whether it is the segmenter's first step. began: steps of the run before that one; if there
            are any, it is trained as a first step, but for as long as a later one.
        """
        if first and not began:
            return self.first
        later = self.later
        if self.steps_for and later.steps:
            share = min(1.0, math.sqrt(images / self.steps_for))
            later = replace(later, steps=max(min(FEWEST, later.steps), round(share * later.steps)))
        return replace(self.first, steps=later.steps, epochs=later.epochs) if first else later

    @classmethod
    def sigmoid(cls) -> ClassTuneConfig:
        """DKD's and EIR's on PASCAL VOC: 60 epochs per step in batches of 24 at 0.001, then 0.0001, poly."""
        return cls(_sgd(60, 1e-3), _sgd(60, 1e-4))

    @classmethod
    def softmax(cls) -> ClassTuneConfig:
        """MiB's on PASCAL VOC: 30 epochs per step in batches of 24 at 0.01, then 0.001, poly, one rate for
        all."""
        return cls(_sgd(30, 1e-2), _sgd(30, 1e-3), head_lr=1.0, decay_old=True)


def _sgd(epochs: int, lr: float) -> FitConfig:
    return FitConfig(
        epochs=epochs,
        batch=24,
        lr=lr,
        optimiser="sgd",
        weight_decay=1e-4,
        schedule="poly",
        drop_last=True,
    )
