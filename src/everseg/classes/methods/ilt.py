"""ILT: distillation of the logits, as LwF, and of the encoder's last map.

    L = CE(z, y) + 100 KD(z, z_old) + 100 mean (f - f_old)^2

Source: Michieli and Zanuttigh, "Incremental Learning Techniques for Semantic Segmentation", ICCVW 2019, with
the weights that MiB's published code gives it. The map is taken before a stage's last activation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from torch import Tensor

from everseg.classes.learner import ClassLearner
from everseg.classes.losses import feature_mse, softmax_kd
from everseg.classes.tune import Batch, ClassTuneConfig, Crops, begin, supervised, train
from everseg.config import Amount, Checked
from everseg.types import Scratch, Stage


@dataclass(frozen=True)
class ILTConfig(Checked):
    """Settings of ILT."""

    distil: Amount = 100.0
    """Weight of the distillation of logits. [MiB's code]"""
    encoder: Amount = 100.0
    """Weight of the distillation of the backbone's last map. [MiB's code]"""
    freeze_encoder: bool = False
    """Freeze the backbone after the first step. [an option of ILT]"""
    tune: ClassTuneConfig = field(default_factory=ClassTuneConfig.softmax)
    """How a step is trained."""

    @classmethod
    def presets(cls) -> dict[str, ILTConfig]:
        """`reference`: normalisation trains in every step."""
        return {"paper": cls(), "reference": cls(tune=replace(ClassTuneConfig.softmax(), freeze_norm=False))}


class ILT(ClassLearner):
    """Distillation of logits and features."""

    Config = ILTConfig
    first_loss = "cross-entropy"
    rule = "softmax"
    detached = False

    def learn(self, stage: Stage, scratch: Scratch) -> Mapping[str, float]:
        model, config = self.model, self.config
        old = begin(model, stage, config.tune, "fresh", seed=self.seed)
        if old is not None and config.freeze_encoder:
            model.backbone.requires_grad_(False)

        def loss(batch: Batch) -> Tensor:
            pixels = model.pixels(batch.images)
            out = model(pixels)
            value = supervised(out, batch.labels.to(model.device), "ce")
            if old is None:
                return value
            before = old(pixels)
            kept = softmax_kd(out.full()[:, : old.channels], before.full()).mean()
            moved = feature_mse(out.stages[-1].float(), before.stages[-1].float()).mean()
            return value + config.distil * kept + config.encoder * moved

        crops = Crops(stage.train, config.tune, self.seed, stage.name)
        return train(model, crops, loss, config.tune, scratch=scratch, validate=self.validate(stage))
