r"""LwF: fine-tuning that keeps the old model's predictions, in the softmax over the old classes.

The old model is kept as a teacher: on every new image the new model must still distribute its belief among
the old classes as the old model does, whatever it says of the new ones.

    image --> old model --> p_old over the old classes --+
      |                                                  | distil
      +-----> new model --> p over the old classes ------+
                      \--> p over all classes --> cross-entropy with the labels

    L = CE(z, y) + 100 KD(z, z_old),   KD = -1/O sum_c p_old(c) log p'(c)

p' is the softmax of the new logits cut to the O channels of the old model: the new classes take no part.

Source: Li and Hoiem, "Learning without Forgetting", ECCV 2016, in the form and with the weight that MiB's
published code gives it for segmentation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from everseg.classes.crops import Batch, Crops
from everseg.classes.learner import ClassLearner, softmax_first_loss
from everseg.classes.losses import softmax_kd, supervised
from everseg.classes.settings import ClassTuneConfig
from everseg.classes.tune import begin, train
from everseg.config import Amount, Checked
from everseg.models.semantic.base import SemanticBase
from everseg.types import VOID, Scratch, Stage


@dataclass(frozen=True)
class LwFConfig(Checked):
    """Settings of LwF."""

    distil: Amount = 100.0
    """Weight of the distillation of logits. [MiB's code]"""
    void_as_background: bool = False
    """Train void pixels as background. [MiB's code: yes]"""
    tune: ClassTuneConfig = field(default_factory=ClassTuneConfig.softmax)
    """How a step is trained."""

    @classmethod
    def presets(cls) -> dict[str, LwFConfig]:
        """`reference`: void is background, and normalisation trains in every step."""
        loose = replace(ClassTuneConfig.softmax(), freeze_norm=False)
        return {"paper": cls(), "reference": cls(void_as_background=True, tune=loose)}


class LwF(ClassLearner):
    """Distillation of the logits."""

    Config = LwFConfig
    rule = "softmax"
    detached = False

    def __init__(self, base: SemanticBase, config: LwFConfig | None = None, *, seed: int = 0) -> None:
        super().__init__(base, config, seed=seed)
        self.first_loss = softmax_first_loss(void_as_background=self.config.void_as_background)

    def learn_step(self, stage: Stage, scratch: Scratch) -> Mapping[str, float]:
        model, config = self.model, self.config
        old = begin(model, stage, config.tune, "fresh", seed=self.seed)

        def loss(batch: Batch) -> Tensor:
            pixels = model.pixels(batch.images)
            out = model(pixels)
            labels = batch.labels.to(model.device)
            if config.void_as_background:
                labels = torch.where(labels == VOID, 0, labels)
            value = supervised(out.full(), labels, "ce")
            if old is None:
                return value
            kept = softmax_kd(out.full()[:, : old.channels], old(pixels).full()).mean()
            return value + config.distil * kept

        crops = Crops(stage.train, config.tune, self.seed, stage.name)
        return train(model, crops, loss, config.tune, scratch=scratch, validate=self.validate(stage))
