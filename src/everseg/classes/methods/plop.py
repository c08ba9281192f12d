"""PLOP: pseudo-labels where the old model is sure, and the pooled shape of every map kept.

    L = nu CE(z, y~) + sqrt(seen / new) / (M + 1) [ 0.01 sum_m POD(f_m, f_m_old) + 0.0005 POD(z, z_old) ]

y~: background pixels get the class that the old model predicts if its entropy lies under the median of that
class over the step's images, and are void if not. nu: the part of an image's background that got a label.
POD compares the means over rows and columns of 1, 2 x 2 and 4 x 4 windows of the squared maps of the M
stages, and of the logits with those of the new classes added to the background's.

Source: Douillard et al., "PLOP: Learning without Forgetting for Continual Semantic Segmentation", CVPR 2021,
eq. 5 to 11; the factors are its code's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from everseg.classes.learner import ClassLearner
from everseg.classes.losses import EntropyMedians, completed, fold_logits, local_pod, unbiased_ce
from everseg.classes.tune import Batch, ClassTuneConfig, Crops, batches, begin, supervised, train
from everseg.config import Amount, Checked
from everseg.models.semantic.segmenter import Segmenter
from everseg.types import Scratch, Stage


@dataclass(frozen=True)
class PLOPConfig(Checked):
    """Settings of PLOP."""

    features: Amount = 0.01
    """Weight of local POD of the backbone's stages. [PLOP's code]"""
    logits: Amount = 0.0005
    """Weight of local POD of the logits. [PLOP's code]"""
    pseudo: bool = True
    """Complete the labels where the old model is sure. [PLOP]"""
    tune: ClassTuneConfig = field(default_factory=ClassTuneConfig.softmax)
    """How a step is trained."""

    @classmethod
    def presets(cls) -> dict[str, PLOPConfig]:
        """`reference`: normalisation trains in every step."""
        return {"paper": cls(), "reference": cls(tune=replace(ClassTuneConfig.softmax(), freeze_norm=False))}


class PLOP(ClassLearner):
    """Two passes over a step: one for the medians, then the training."""

    Config = PLOPConfig
    first_loss = "cross-entropy"
    rule = "softmax"
    detached = False

    def learn(self, stage: Stage, scratch: Scratch) -> Mapping[str, float]:
        model, config = self.model, self.config
        old = begin(model, stage, config.tune, "background", seed=self.seed)
        crops = Crops(stage.train, config.tune, self.seed, stage.name)
        sure = torch.ones(0) if old is None else self._medians(old, crops)
        factor = math.sqrt((model.channels - 1) / len(stage.classes))

        def loss(batch: Batch) -> Tensor:
            pixels, labels = model.pixels(batch.images), batch.labels.to(model.device)
            out = model(pixels)
            if old is None:
                return supervised(out, labels, "ce")
            before = old(pixels)
            share = torch.ones(len(labels), device=model.device)
            if config.pseudo:
                labels, share = completed(labels, before.full(), sure)
            told = (unbiased_ce(out.full(), labels, 1)[0] * share[:, None, None]).mean()
            maps = [s.float() for s in out.stages], [s.float() for s in before.stages]
            stages = len(maps[0]) * local_pod(*maps).mean()
            ends = local_pod([fold_logits(out.logits.float(), old.channels)], [before.logits.float()]).mean()
            kept = (config.features * stages + config.logits * ends) / (len(maps[0]) + 1)
            return told + factor * kept

        return train(model, crops, loss, config.tune, scratch=scratch, validate=self.validate(stage))

    def _medians(self, old: Segmenter, crops: Crops) -> Tensor:
        """The entropy under which a predicted class is believed, for each of the old model's channels."""
        medians = EntropyMedians(old.channels)
        with torch.inference_mode():
            for batch in batches(crops, self.config.tune.later) if self.config.pseudo else ():
                medians.add(old(old.pixels(batch.images)).full(), batch.labels.to(old.device))
        medians.add_up()
        return medians.thresholds()
