"""DKD: a sigmoid for each class, and distillation of the evidence for and against each old one.

With a sigmoid per class, a new class takes no probability away from an old one. What an old class may still
lose are the reasons for its score, so DKD splits each score into what speaks for the class and what speaks
against it, and holds the new model to the old one in both:

    features --> classifier of class c --> z = z+ (weights > 0) + z- (weights < 0) + bias
                                                 |                |
    old model:                                 z+_old           z-_old      distilled, as z itself
    new classes:  weighted BCE.   channel 0:  low everywhere; new classes start as a copy of it

    L = sum_{c new} wBCE(z_c, [y = c]) + 5 sum_{c old} [ KD(z_c) + KD(z+_c) + KD(z-_c) ] + AC(z_0)

z = z+ + z- + bias, with the positive and the negative weights of a class apart; KD(z) is the binary
cross-entropy of sigmoid(z) against sigmoid(z_old). AC = -log(1 - sigmoid(z_0)) on every pixel: the auxiliary
channel learns to give every pixel a low score, and new classes start as a copy of it.

With a memory (DKD-M) some whole images of old classes are kept and trained on along with the new ones.

Source: Baek et al., "Decomposed Knowledge Distillation for Class-Incremental Semantic Segmentation", NeurIPS
2022.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from everseg.classes.crops import Batch, Crops
from everseg.classes.learner import ClassLearner, auxiliary_first_loss
from everseg.classes.losses import (
    auxiliary_loss,
    decomposed_kd,
    masked_mean,
    pseudo_labels,
    sigmoid_kd,
    weighted_bce,
)
from everseg.classes.memory import ImageMemory
from everseg.classes.settings import ClassTuneConfig
from everseg.classes.tune import begin, train
from everseg.config import Amount, Checked, Count
from everseg.models.semantic.base import SemanticBase
from everseg.types import VOID, Scratch, Stage, State


@dataclass(frozen=True)
class DKDConfig(Checked):
    """Settings of DKD, and with a memory of DKD-M."""

    gamma: Amount = 2.0
    """Weight of positive pixels in the first step. [DKD: 2 on PASCAL VOC, 35 on ADE20K]"""
    gamma_later: Amount = 1.0
    """Weight of positive pixels in later steps. [DKD: 1 on PASCAL VOC, 35 on ADE20K]"""
    distil: Amount = 5.0
    """Weight of the distillation of scores. [DKD]"""
    decomposed: Amount = 5.0
    """Weight of the distillation of the scores' positive and negative parts. [DKD]"""
    auxiliary: Amount = 1.0
    """Weight of the auxiliary loss, AC. [DKD]"""
    void_as_negative: bool = False
    """Train void pixels as negatives of every class. [DKD's code: yes]"""
    memory: Count = 0
    """Images kept of old classes; 0: none. [DKD-M: 100 on PASCAL VOC, 300 on ADE20K]"""
    max_bytes: Count = 0
    """Maximum size of the kept images in bytes; 0: no limit."""
    experts: bool = False
    """Train a segmenter of its own in a step whose classes look like none before, and in later steps of
    classes like those. It needs `tune.posterior`. [ours; the idea: Expert Gate]"""
    memory_teaches: bool = True
    """Train kept images on all classes seen, of which their labels tell; else on the new ones alone, of which
    they are negatives. [DKD-M's code: no]"""
    sure: Amount = 0.9
    """Probability above which the old model completes the labels of kept images. [DKD-M]"""
    tune: ClassTuneConfig = field(default_factory=ClassTuneConfig.sigmoid)
    """How a step is trained."""

    @classmethod
    def presets(cls) -> dict[str, DKDConfig]:
        """`reference`: void is a negative of every class, and kept images are trained on the new classes
        alone, as in the published code."""
        return {"paper": cls(), "reference": cls(void_as_negative=True, memory_teaches=False)}


class DKD(ClassLearner):
    """A classifier for each step; no loss on the auxiliary channel reaches the features."""

    Config = DKDConfig

    def __init__(self, base: SemanticBase, config: DKDConfig | None = None, *, seed: int = 0) -> None:
        super().__init__(base, config, seed=seed)
        void = " with void a negative" if self.config.void_as_negative else ""
        self.first_loss = auxiliary_first_loss(self.config.gamma, self.config.auxiliary, void)
        self.memory = ImageMemory(self.config.memory, self.config.tune, self.config.max_bytes)

    def learn_step(self, stage: Stage, scratch: Scratch) -> Mapping[str, float]:
        model, config = self.model, self.config
        old = begin(model, stage, config.tune, "auxiliary", seed=self.seed)
        gamma = config.gamma if old is None and model.began == 0 else config.gamma_later
        new, seen = model.new(), range(1, model.channels)

        def loss(batch: Batch) -> Tensor:
            pixels, labels = model.pixels(batch.images), batch.labels.to(model.device)
            out = model(pixels)
            z = out.full()
            asked = torch.ones_like(labels, dtype=torch.bool)
            if not config.void_as_negative:
                asked = labels != VOID
            value = config.auxiliary * masked_mean(auxiliary_loss(z), asked)
            told = weighted_bce(z[:, new.start :], labels, new, gamma)
            if old is None:
                return value + masked_mean(told, asked)
            before = old(pixels)
            z_old, past = before.full(), slice(1, old.channels)
            if (
                config.memory_teaches and batch.replayed.any()
            ):  # Images of old classes, in which those are labelled, teach them, too.
                full = pseudo_labels(labels, z_old.sigmoid(), config.sure)
                again = weighted_bce(z[:, 1:], full, seen, gamma)
                told = torch.where(batch.replayed.to(model.device)[:, None, None], again, told)
            kept = config.distil * sigmoid_kd(z[:, past], z_old[:, past]).mean()
            kept = kept + config.decomposed * decomposed_kd(
                (out.features, model.weight()), (before.features, old.weight()), past
            )
            return value + masked_mean(told, asked) + kept

        memory = None if old is None else self.memory.only(self.own_channels())
        crops = Crops(stage.train, config.tune, self.seed, stage.name, memory)
        figures = train(model, crops, loss, config.tune, scratch=scratch, validate=self.validate(stage))
        return {**figures, **self.remember(stage)}

    def remember(self, stage: Stage) -> Mapping[str, float]:
        model = self.model
        self.memory.refill(stage.train, model.new(), seed=self.seed, step=len(model.counts))
        return {"memory_bytes": float(self.memory.nbytes)} if self.config.memory else {}

    def state_dict(self) -> State:
        kept: dict[str, Any] = {"memory": self.memory.state_dict()} if self.config.memory else {}
        return super().state_dict() | kept

    def load_state_dict(self, state: State) -> None:
        super().load_state_dict(state)
        if self.config.memory:
            self.memory.load_state_dict(state["memory"])
