"""ILT: distillation of the logits, as in LwF, and of the encoder's last map.

The simplest protection on two levels: the new model is held to the old one in its answers, and in the
features from which the answers are computed.

    image --> old model: encoder --> map f_old --> logits z_old
                                      | distil      | distil
    image --> new model: encoder --> map f ------> logits z --> cross-entropy with the labels

    L = CE(z, y) + 100 KD(z, z_old) + 100 mean (f - f_old)^2

Source: Michieli and Zanuttigh, "Incremental Learning Techniques for Semantic Segmentation", ICCVW 2019, with
the weights that MiB's published code gives it. The map is taken before a stage's last activation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from everseg.classes.crops import Batch, Crops
from everseg.classes.learner import ClassLearner, softmax_first_loss
from everseg.classes.losses import feature_mse, softmax_kd, supervised
from everseg.classes.settings import ClassTuneConfig
from everseg.classes.tune import begin, train
from everseg.config import Amount, Checked
from everseg.models.semantic.base import SemanticBase
from everseg.types import VOID, Scratch, Stage


@dataclass(frozen=True)
class ILTConfig(Checked):
    """Settings of ILT."""

    distil: Amount = 100.0
    """Weight of the distillation of logits. [MiB's code]"""
    encoder: Amount = 100.0
    """Weight of the distillation of the backbone's last map. [MiB's code]"""
    freeze_encoder: bool = False
    """Freeze the backbone after the first step. [an option of ILT]"""
    void_as_background: bool = False
    """Train void pixels as background. [MiB's code: yes]"""
    tune: ClassTuneConfig = field(default_factory=ClassTuneConfig.softmax)
    """How a step is trained."""

    @classmethod
    def presets(cls) -> dict[str, ILTConfig]:
        """`reference`: void is background, and normalisation trains in every step."""
        loose = replace(ClassTuneConfig.softmax(), freeze_norm=False)
        return {"paper": cls(), "reference": cls(void_as_background=True, tune=loose)}


class ILT(ClassLearner):
    """Distillation of logits and features."""

    Config = ILTConfig
    rule = "softmax"
    detached = False

    def __init__(self, base: SemanticBase, config: ILTConfig | None = None, *, seed: int = 0) -> None:
        super().__init__(base, config, seed=seed)
        self.first_loss = softmax_first_loss(void_as_background=self.config.void_as_background)

    def learn_step(self, stage: Stage, scratch: Scratch) -> Mapping[str, float]:
        model, config = self.model, self.config
        old = begin(model, stage, config.tune, "fresh", seed=self.seed)
        if old is not None and config.freeze_encoder:
            model.backbone.requires_grad_(False)

        def loss(batch: Batch) -> Tensor:
            pixels = model.pixels(batch.images)
            out = model(pixels)
            labels = batch.labels.to(model.device)
            if config.void_as_background:
                labels = torch.where(labels == VOID, 0, labels)
            value = supervised(out.full(), labels, "ce")
            if old is None:
                return value
            before = old(pixels)
            kept = softmax_kd(out.full()[:, : old.channels], before.full()).mean()
            moved = feature_mse(out.stages[-1].float(), before.stages[-1].float()).mean()
            return value + config.distil * kept + config.encoder * moved

        crops = Crops(stage.train, config.tune, self.seed, stage.name)
        return train(model, crops, loss, config.tune, scratch=scratch, validate=self.validate(stage))
