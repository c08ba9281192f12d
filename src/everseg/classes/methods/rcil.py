"""RCIL: every 3 x 3 convolution in two branches, and what lies between them kept in pooled cubes.

    L = UCE(z, y) + 100 UKD(z, z_old) + sqrt(seen / new) [ S + C ]
    S = 1/(M + 1) [ 0.01 sum_m spatial(f_m, f_m_old) + 0.0005 spatial(z, z_old) ]
    C = 1/M 0.01 sum_m channel(f_m, f_m_old)

UCE and UKD are MiB's. In a step one branch rests and one trains, channels drop one or the other at random,
and afterwards both are one convolution again (`models.semantic.branches`). spatial and channel compare the
squared maps of the M stages, averaged over windows or over neighbouring channels; of the logits, those of the
new classes are added to the background's.

Source: Zhang et al., "Representation Compensation Networks for Continual Semantic Segmentation", CVPR 2022;
the factors, the pools and how channels drop are its code's. docs/eir.md says where we differ.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from everseg.classes.learner import ClassLearner
from everseg.classes.losses import (
    channel_distance,
    fold_logits,
    masked_mean,
    softmax_kd,
    spatial_distance,
    unbiased_ce,
)
from everseg.classes.tune import Batch, ClassTuneConfig, Crops, begin, supervised, train
from everseg.config import Amount, Checked
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
    """Weight of the pooled distance of the logits. [RCIL's options: 0.0005 on VOC, 5e-7 on ADE20K; its lists
    of layers end before the logits]"""
    tune: ClassTuneConfig = field(default_factory=ClassTuneConfig.softmax)
    """How a step is trained."""

    @classmethod
    def presets(cls) -> dict[str, RCILConfig]:
        """`reference`: the first step at 0.02, normalisation trains in every step, and logits are not
        pooled."""
        tune = ClassTuneConfig.softmax()
        tune = replace(tune, first=replace(tune.first, lr=0.02), freeze_norm=False)
        return {"paper": cls(), "reference": cls(logits=0.0, tune=tune)}


class RCIL(ClassLearner):
    """The segmenter has the same size after every step."""

    Config = RCILConfig
    first_loss = "cross-entropy"
    rule = "softmax"
    detached = False

    def learn(self, stage: Stage, scratch: Scratch) -> Mapping[str, float]:
        model, config = self.model, self.config
        old = begin(model, stage, config.tune, "background", seed=self.seed)
        absorb, factor = (0, *model.new()), math.sqrt((model.channels - 1) / len(stage.classes))

        def loss(batch: Batch) -> Tensor:
            pixels, labels = model.pixels(batch.images), batch.labels.to(model.device)
            out = model(pixels)
            if old is None:
                return supervised(out, labels, "ce")
            before, z = old(pixels), out.full()
            told = masked_mean(*unbiased_ce(z, labels, old.channels))
            kept = softmax_kd(z, before.full(), absorb).mean()
            return told + config.distil * kept + factor * self._cubes(out, before, old.channels)

        crops = Crops(stage.train, config.tune, self.seed, stage.name)
        with nullcontext() if old is None else branched(model):
            return train(model, crops, loss, config.tune, scratch=scratch, validate=self.validate(stage))

    def _cubes(self, out: Output, before: Output, old: int) -> Tensor:
        """S + C, the mean over the batch."""
        config, count = self.config, len(out.stages)
        maps = [(a.float(), b.float()) for a, b in zip(out.stages, before.stages, strict=True)]
        spatial = config.features * torch.stack([spatial_distance(*pair) for pair in maps]).sum(0)
        if config.logits:
            ends = spatial_distance(fold_logits(out.logits.float(), old), before.logits.float())
            spatial = spatial + config.logits * ends
        channel = config.features * torch.stack([channel_distance(*pair) for pair in maps]).sum(0)
        return (spatial / (count + 1) + channel / count).mean()
