"""PLOP: pseudo-labels where the old model is sure, and distilled feature maps, pooled at several scales.

Old objects in new images are labelled background. PLOP labels them itself, with what the old model predicts,
and keeps the features of both models alike, as averages over image strips instead of pixel by pixel:

    image --> old model --> prediction, if its entropy is low --> labels of the background
      |           | maps of every stage
      |           v
      +-----> new model --> cross-entropy;  maps pooled over rows and columns of windows stay the same

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
from typing import Literal

import torch
from torch import Tensor

from everseg.classes.crops import Batch, Crops, batches
from everseg.classes.learner import ClassLearner, softmax_first_loss
from everseg.classes.losses import (
    BinnedMedians,
    EntropyMedians,
    completed,
    fold_logits,
    local_pod,
    supervised,
    unbiased_ce,
)
from everseg.classes.settings import ClassTuneConfig
from everseg.classes.tune import begin, train
from everseg.config import Amount, Checked
from everseg.models.semantic.base import SemanticBase
from everseg.models.semantic.segmenter import Output, Segmenter
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
    head: bool = False
    """Compare the head's output, too, as one more of the stages. [PLOP's code: yes]"""
    count_background: bool = False
    """Count the background among the classes seen, in the factor sqrt(seen / new). [PLOP's code: yes]"""
    median: Literal["exact", "binned"] = "exact"
    """How the median of a class's entropy is found: "exact", or as the code does it, in bins so wide that
    most entropies fall into the first. [PLOP's code: binned]"""
    void_in_mean: bool = False
    """Divide the first step's loss by the number of all pixels, those of void too. [PLOP's code: yes]"""
    tune: ClassTuneConfig = field(default_factory=ClassTuneConfig.softmax)
    """How a step is trained."""

    @classmethod
    def presets(cls) -> dict[str, PLOPConfig]:
        """`reference`: the lists, the factor, the median and the means of the published code; normalisation
        trains in every step."""
        loose = replace(ClassTuneConfig.softmax(), freeze_norm=False)
        code = cls(head=True, count_background=True, median="binned", void_in_mean=True, tune=loose)
        return {"paper": cls(), "reference": code}


class PLOP(ClassLearner):
    """Two passes over a step: one for the medians, then the training."""

    Config = PLOPConfig
    rule = "softmax"
    detached = False

    def __init__(self, base: SemanticBase, config: PLOPConfig | None = None, *, seed: int = 0) -> None:
        super().__init__(base, config, seed=seed)
        self.first_loss = softmax_first_loss(void_in_mean=self.config.void_in_mean)

    def learn_step(self, stage: Stage, scratch: Scratch) -> Mapping[str, float]:
        model, config = self.model, self.config
        old = begin(model, stage, config.tune, "background", seed=self.seed)
        crops = Crops(stage.train, config.tune, self.seed, stage.name)
        sure = None if old is None else self._medians(old, crops)
        seen = model.channels if config.count_background else model.channels - 1
        factor = math.sqrt(seen / len(stage.classes))

        def loss(batch: Batch) -> Tensor:
            pixels, labels = model.pixels(batch.images), batch.labels.to(model.device)
            out = model(pixels)
            if old is None:
                return supervised(out.full(), labels, "ce", void_in_mean=config.void_in_mean)
            before = old(pixels)
            share = torch.ones(len(labels), device=model.device)
            if sure is not None:
                z_old = before.full()
                labels, share = completed(labels, z_old, sure.thresholds(), sure.measure(z_old))
            told = (unbiased_ce(out.full(), labels, 1)[0] * share[:, None, None]).mean()
            return told + factor * self.kept(out, before)

        return train(model, crops, loss, config.tune, scratch=scratch, validate=self.validate(stage))

    def kept(self, out: Output, before: Output) -> Tensor:
        """The mean of the weighed distances over all maps and the logits, a scalar.

        before: of the old model, which has fewer channels.
        """
        config = self.config
        ends = fold_logits(out.logits.float(), before.logits.shape[1]), before.logits.float()
        new, old = (
            [m.float() for m in (*o.stages, *((o.features,) if config.head else ()))] for o in (out, before)
        )
        maps = len(new) * local_pod(new, old).mean()
        logits = local_pod([ends[0]], [ends[1]]).mean()
        return (config.features * maps + config.logits * logits) / (len(new) + 1)

    def _medians(self, old: Segmenter, crops: Crops) -> EntropyMedians | None:
        """The entropy under which a predicted class is believed, for each of the old model's channels."""
        if not self.config.pseudo:
            return None
        medians = EntropyMedians(old.channels)
        if self.config.median == "binned":
            medians = BinnedMedians(old.channels, self.model.channels)
        with torch.inference_mode():
            for batch in batches(crops, self.config.tune.later):
                medians.add(old(old.pixels(batch.images)).full(), batch.labels.to(old.device))
        medians.add_up()
        return medians
