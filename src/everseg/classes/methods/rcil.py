"""RCIL: every 3 x 3 convolution in two branches, and pooled feature maps that stay as they were.

A model must keep what it knows and make room for what is new. RCIL gives each convolution a second branch for
a step: one branch stays as it was, the other trains, and afterwards both are merged, so that the model does
not grow.

            +-- frozen branch ---+
    input --+                    +--> random mix per channel --> output     after the step: one convolution
            +-- trained branch --+

    L = UCE(z, y) + 100 UKD(z, z_old) + sqrt(seen / new) [ S + C ]
    S = 1/(M + 1) [ 0.01 sum_m spatial(f_m, f_m_old) + 0.0005 spatial(z, z_old) ]
    C = 1/M 0.01 sum_m channel(f_m, f_m_old)

UCE and UKD are MiB's. In a step one branch is frozen and one trains, each channel drops one of them at
random, and afterwards both are one convolution again (`models.semantic.branches`). spatial and channel
compare the squared maps of the M stages, averaged over windows or over neighbouring channels; of the logits,
those of the new classes are added to the background's.

Source: Zhang et al., "Representation Compensation Networks for Continual Semantic Segmentation", CVPR 2022;
the factors, the pools and how channels drop are its code's. docs/eir.md lists where we differ.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from everseg.classes.crops import Batch, Crops
from everseg.classes.learner import ClassLearner, softmax_first_loss
from everseg.classes.losses import (
    channel_distance,
    fold_logits,
    masked_mean,
    softmax_kd,
    spatial_distance,
    supervised,
    unbiased_ce,
)
from everseg.classes.settings import ClassTuneConfig
from everseg.classes.tune import begin, train
from everseg.config import Amount, Checked
from everseg.models.semantic.base import SemanticBase
from everseg.models.semantic.branches import branched
from everseg.models.semantic.segmenter import Output
from everseg.types import Scratch, Stage


@dataclass(frozen=True)
class RCILConfig(Checked):
    """Settings of RCIL."""

    distil: Amount = 100.0
    """Weight of the unbiased distillation. [RCIL's code]"""
    features: Amount = 0.01
    """Weight of the pooled distances of the backbone's stages. [RCIL's code: 0.01 on VOC, 5e-6 on ADE20K]"""
    logits: Amount = 0.0005
    """Weight of the pooled distance of the logits. [RCIL's code: 0.0005 on VOC, 5e-7 on ADE20K]"""
    head: bool = False
    """Compare the head's output, too, as one more of the stages. [RCIL's code: yes]"""
    head_channels: Amount = 0.0005
    """Weight of the channel distance of the head's output, with `head`. [RCIL's code: 0.0005 on VOC, 5e-7 on
    ADE20K, because it is the last of that list]"""
    count_background: bool = False
    """Count the background among the classes seen, in the factor sqrt(seen / new). [RCIL's code: yes]"""
    void_in_mean: bool = False
    """Divide the cross-entropy by the number of all pixels, those of void too. [RCIL's code: yes]"""
    tune: ClassTuneConfig = field(default_factory=ClassTuneConfig.softmax)
    """How a step is trained."""

    @classmethod
    def presets(cls) -> dict[str, RCILConfig]:
        """`reference`: the lists, the factor and the means of the published code; the first step at 0.02, and
        normalisation trains in every step."""
        tune = ClassTuneConfig.softmax()
        tune = replace(tune, first=replace(tune.first, lr=0.02), freeze_norm=False)
        code = cls(head=True, count_background=True, void_in_mean=True, tune=tune)
        return {"paper": cls(), "reference": code}


class RCIL(ClassLearner):
    """The segmenter has the same size after every step."""

    Config = RCILConfig
    rule = "softmax"
    detached = False
    convolutional = True

    def __init__(self, base: SemanticBase, config: RCILConfig | None = None, *, seed: int = 0) -> None:
        super().__init__(base, config, seed=seed)
        self.first_loss = softmax_first_loss(void_in_mean=self.config.void_in_mean)

    def learn_step(self, stage: Stage, scratch: Scratch) -> Mapping[str, float]:
        model, config = self.model, self.config
        old = begin(model, stage, config.tune, "background", seed=self.seed)
        seen = model.channels if config.count_background else model.channels - 1
        absorb, factor = (0, *model.new()), math.sqrt(seen / len(stage.classes))

        def loss(batch: Batch) -> Tensor:
            pixels, labels = model.pixels(batch.images), batch.labels.to(model.device)
            out = model(pixels)
            if old is None:
                return supervised(out.full(), labels, "ce", void_in_mean=config.void_in_mean)
            before, z = old(pixels), out.full()
            count = labels.numel() if config.void_in_mean else None
            told = masked_mean(*unbiased_ce(z, labels, old.channels), count)
            kept = softmax_kd(z, before.full(), absorb).mean()
            return told + config.distil * kept + factor * self.cubes(out, before)

        crops = Crops(stage.train, config.tune, self.seed, stage.name)
        with nullcontext() if old is None else branched(model):
            return train(model, crops, loss, config.tune, scratch=scratch, validate=self.validate(stage))

    def cubes(self, out: Output, before: Output) -> Tensor:
        """S + C, the mean over the batch; the old model's output has fewer channels."""
        config = self.config
        maps = [(a.float(), b.float()) for a, b in zip(out.stages, before.stages, strict=True)]
        spatial = config.features * torch.stack([spatial_distance(*pair) for pair in maps]).sum(0)
        channel = config.features * torch.stack([channel_distance(*pair) for pair in maps]).sum(0)
        count = len(maps)
        if config.head:
            ends = out.features.float(), before.features.float()
            spatial = spatial + config.features * spatial_distance(*ends)
            channel = channel + config.head_channels * channel_distance(*ends)
            count += 1
        if config.logits:
            folded = fold_logits(out.logits.float(), before.logits.shape[1])
            spatial = spatial + config.logits * spatial_distance(folded, before.logits.float())
        return (spatial / (count + 1) + channel / count).mean()
