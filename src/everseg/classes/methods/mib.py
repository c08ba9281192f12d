"""MiB: cross-entropy and distillation that account for the shift of the background.

"Background" means something else in every step: in a new image it contains the old classes, and to the old
model it contains the new ones. Plain cross-entropy and distillation contradict each other there; MiB's do
not:

    image --> old model --> p(old classes), p(background = background or any new class) --+
      |                                                                                   | distil
      +-----> new model --> p(new classes), p(background = background or any old class) --+
                               |
                               cross-entropy with the labels of the new classes

    L = UCE(z, y) + 10 UKD(z, z_old)

UCE: a pixel labelled background is background *or any old class*. UKD: what the old model calls background is
background *or any new class*. The classifiers of new classes start as copies of the background's, so that
they share its probability evenly.

Source: Cermelli et al., "Modeling the Background for Incremental Learning in Semantic Segmentation", CVPR
2020, eq. 4, 8 and 10.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from everseg.classes.crops import Batch, Crops
from everseg.classes.learner import ClassLearner, softmax_first_loss
from everseg.classes.losses import masked_mean, softmax_kd, unbiased_ce
from everseg.classes.settings import ClassTuneConfig
from everseg.classes.tune import begin, train
from everseg.config import Amount, Checked
from everseg.models.semantic.base import SemanticBase
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
    rule = "softmax"
    detached = False

    def __init__(self, base: SemanticBase, config: MiBConfig | None = None, *, seed: int = 0) -> None:
        super().__init__(base, config, seed=seed)
        self.first_loss = softmax_first_loss(void_as_background=self.config.void_as_background)

    def learn_step(self, stage: Stage, scratch: Scratch) -> Mapping[str, float]:
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
