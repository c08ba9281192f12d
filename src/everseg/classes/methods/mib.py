"""MiB: cross-entropy and distillation that know that the background has shifted.

    L = UCE(z, y) + 10 UKD(z, z_old)

UCE: a pixel labelled background is background *or any old class*. UKD: what the old model calls background is
background *or any new class*. New classes start as the background, whose probability they share out evenly.

Source: Cermelli et al., "Modeling the Background for Incremental Learning in Semantic Segmentation", CVPR
2020, eq. 4, 8 and 10.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from everseg.classes.learner import ClassLearner
from everseg.classes.losses import masked_mean, softmax_kd, unbiased_ce
from everseg.classes.tune import Batch, ClassTuneConfig, Crops, begin, train
from everseg.config import Amount, Checked
from everseg.types import VOID, Scratch, Stage


@dataclass(frozen=True)
class MiBConfig(Checked):
    """Settings of MiB."""

    distil: Amount = 10.0
    """Weight of the unbiased distillation. [MiB]"""
    void_as_background: bool = False
    """Train void pixels as background. [MiB's code: yes]"""
    tune: ClassTuneConfig = field(default_factory=ClassTuneConfig.softmax)
    """How a step is trained."""

    @classmethod
    def presets(cls) -> dict[str, MiBConfig]:
        """`reference`: void is background, and normalisation trains in every step."""
        loose = replace(ClassTuneConfig.softmax(), freeze_norm=False)
        return {"paper": cls(), "reference": cls(void_as_background=True, tune=loose)}


class MiB(ClassLearner):
    """No image and no pseudo-label is kept: the old model alone speaks for the old classes."""

    Config = MiBConfig
    first_loss = "cross-entropy"
    rule = "softmax"
    detached = False

    def learn(self, stage: Stage, scratch: Scratch) -> Mapping[str, float]:
        model, config = self.model, self.config
        old = begin(model, stage, config.tune, "background", seed=self.seed)
        absorb = (0, *model.new())

        def loss(batch: Batch) -> Tensor:
            pixels, labels = model.pixels(batch.images), batch.labels.to(model.device)
            if config.void_as_background:
                labels = torch.where(labels == VOID, 0, labels)
            z = model(pixels).full()
            if old is None:
                return masked_mean(*unbiased_ce(z, labels, 1))
            kept = softmax_kd(z, old(pixels).full(), absorb).mean()
            return masked_mean(*unbiased_ce(z, labels, old.channels)) + config.distil * kept

        crops = Crops(stage.train, config.tune, self.seed, stage.name)
        return train(model, crops, loss, config.tune, scratch=scratch, validate=self.validate(stage))
