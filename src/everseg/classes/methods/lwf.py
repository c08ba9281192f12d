"""LwF: fine-tuning that keeps what the old model says, in the softmax over the old classes.

    L = CE(z, y) + 100 KD(z, z_old),   KD = -1/O sum_c p_old(c) log p'(c)

p' is the softmax of the new logits cut to the O channels of the old model: the new classes have no part in
it.

Source: Li and Hoiem, "Learning without Forgetting", ECCV 2016, in the form and with the weight that MiB's
published code gives it for segmentation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from torch import Tensor

from everseg.classes.learner import ClassLearner
from everseg.classes.losses import softmax_kd
from everseg.classes.tune import Batch, ClassTuneConfig, Crops, begin, supervised, train
from everseg.config import Amount, Checked
from everseg.types import Scratch, Stage


@dataclass(frozen=True)
class LwFConfig(Checked):
    """Settings of LwF."""

    distil: Amount = 100.0
    """Weight of the distillation of logits. [MiB's code]"""
    tune: ClassTuneConfig = field(default_factory=ClassTuneConfig.softmax)
    """How a step is trained."""

    @classmethod
    def presets(cls) -> dict[str, LwFConfig]:
        """`reference`: normalisation trains in every step."""
        return {"paper": cls(), "reference": cls(tune=replace(ClassTuneConfig.softmax(), freeze_norm=False))}


class LwF(ClassLearner):
    """Distillation of the logits."""

    Config = LwFConfig
    first_loss = "cross-entropy"
    rule = "softmax"
    detached = False

    def learn(self, stage: Stage, scratch: Scratch) -> Mapping[str, float]:
        model, config = self.model, self.config
        old = begin(model, stage, config.tune, "fresh", seed=self.seed)

        def loss(batch: Batch) -> Tensor:
            pixels = model.pixels(batch.images)
            out = model(pixels)
            value = supervised(out, batch.labels.to(model.device), "ce")
            if old is None:
                return value
            kept = softmax_kd(out.full()[:, : old.channels], old(pixels).full()).mean()
            return value + config.distil * kept

        crops = Crops(stage.train, config.tune, self.seed, stage.name)
        return train(model, crops, loss, config.tune, scratch=scratch, validate=self.validate(stage))
