"""EIR without pixels: instances of old classes are kept as features and replayed to the classifiers.

EIR keeps pictures of objects, which privacy may forbid. Here the pool holds features instead: the segmenter's
output at a few places of each instance.

    instances of a step --> features --> pool --> classifiers --> BCE(z', c')
    image of the step --> segmenter --> f --> classifiers --> z --> BCE with completed labels, AC
                                        |                     |
    old model ------------------------> f_old --------------> z_old    f is held in place, z distilled

    L = sum_{c seen} wBCE(z_c, [y~ = c]) + 5 KD(z, z_old) + AC + BCE(z', c') + 5 mean_{y~ old} (f - f_old)^2

y~ are the labels with the background completed by the old model, as in EIR; z' are the logits of a kept
feature of class c'. Without pixels nothing can be pasted or shown alone. In exchange the features of old
classes are held where they were, because kept features do not move with the model. The first step is DKD's.

Source: ours. The pool, the budget and the completed labels are EIR's (Yin et al., CVPR 2025). STAR (Chen et
al., NeurIPS 2023) also replays features, but to the new classes alone, and draws them from one prototype per
class.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional as F

from everseg.classes.crops import Batch, Crops
from everseg.classes.instances import Found, HarvestConfig, find_all, remark_lacking
from everseg.classes.instances.features import FeaturePool, KeptFeatures, kept_features
from everseg.classes.learner import ClassLearner, auxiliary_first_loss
from everseg.classes.losses import auxiliary_loss, masked_mean, pseudo_labels, sigmoid_kd, weighted_bce
from everseg.classes.settings import ClassTuneConfig
from everseg.classes.tune import begin, train
from everseg.config import Amount, Checked, Count, Size
from everseg.models.semantic.base import SemanticBase
from everseg.models.semantic.segmenter import Segmenter
from everseg.types import VOID, Scratch, SemanticSample, Stage, State


@dataclass(frozen=True)
class EIRFeaturesConfig(Checked):
    """Settings of EIR without pixels."""

    count: Count = 100
    """Maximum number of instances, over all classes. [EIR's code: 100 on PASCAL VOC]"""
    max_bytes: Count = 0
    """Maximum size of their features in bytes; 0: no limit."""
    places: Size = 8
    """Features kept of an instance at most. [ours]"""
    replayed: Count = 16
    """Kept features replayed with each training row. [ours]"""
    replay: Amount = 1.0
    """Weight of the loss on kept features. [ours]"""
    keep: Amount = 5.0
    """Weight of keeping the features of old classes as they were. [STAR's code]"""
    gamma: Amount = 2.0
    """Weight of positive pixels in the first step. [DKD: 2 on PASCAL VOC]"""
    gamma_later: Amount = 1.0
    """Weight of positive pixels of the new classes in later steps. [DKD: 1 on PASCAL VOC]"""
    sure: Amount = 0.7
    """Probability above which the old model completes a label. [EIR's code]"""
    distil: Amount = 5.0
    """Weight of the distillation, by class. [EIR's code]"""
    auxiliary: Amount = 1.0
    """Weight of the auxiliary loss, AC. [DKD]"""
    harvest: HarvestConfig = field(default_factory=HarvestConfig)
    """What counts as an instance."""
    tune: ClassTuneConfig = field(default_factory=ClassTuneConfig.sigmoid)
    """How a step is trained."""

    @classmethod
    def presets(cls) -> dict[str, EIRFeaturesConfig]:
        """Nobody published it, so `reference` is the same."""
        return {"paper": cls(), "reference": cls()}


class EIRFeatures(ClassLearner):
    """A segmenter and features of instances: neither an image nor a part of one is kept."""

    Config = EIRFeaturesConfig

    def __init__(self, base: SemanticBase, config: EIRFeaturesConfig | None = None, *, seed: int = 0) -> None:
        super().__init__(base, config, seed=seed)
        self.first_loss = auxiliary_first_loss(self.config.gamma, self.config.auxiliary)
        self.pool = FeaturePool(self.config.count, self.config.max_bytes)

    def learn_step(self, stage: Stage, scratch: Scratch) -> Mapping[str, float]:
        model, config = self.model, self.config
        old = begin(model, stage, config.tune, "auxiliary", seed=self.seed)

        def loss(batch: Batch) -> Tensor:
            return self._first(batch) if old is None else self._later(batch, old)

        crops = Crops(stage.train, config.tune, self.seed, stage.name)
        figures = train(model, crops, loss, config.tune, scratch=scratch, validate=self.validate(stage))
        return {**figures, **self.remember(stage)}

    def _first(self, batch: Batch) -> Tensor:
        z = self.model(self.model.pixels(batch.images)).full()
        labels = batch.labels.to(z.device)
        told = weighted_bce(z[:, 1:], labels, self.model.new(), self.config.gamma)
        return masked_mean(told + self.config.auxiliary * auxiliary_loss(z), labels != VOID)

    def _later(self, batch: Batch, old: Segmenter) -> Tensor:
        model, config = self.model, self.config
        pixels, labels = model.pixels(batch.images), batch.labels.to(model.device)
        before, out = old(pixels), model(pixels)
        z, z_old, past, new = out.full(), before.full(), slice(1, old.channels), model.new()
        completed = pseudo_labels(labels, z_old.sigmoid(), config.sure)
        told = weighted_bce(z[:, past], completed, range(1, old.channels))
        told = told + weighted_bce(z[:, new.start :], completed, new, config.gamma_later)
        told = told + config.auxiliary * auxiliary_loss(z)
        value = masked_mean(told, labels != VOID)
        value = value + config.distil * sigmoid_kd(z[:, past], z_old[:, past]).mean()
        known = ((completed > 0) & (completed < old.channels)).float()[:, None]
        gap = (out.features - before.features).float().square().mean(1, keepdim=True)
        there = F.interpolate(known, size=gap.shape[-2:], mode="bilinear", align_corners=False)
        value = value + config.keep * (gap * there).sum() / there.sum().clamp(min=1)
        return value + config.replay * self._replayed(batch)

    def _replayed(self, batch: Batch) -> Tensor:
        """What the classifiers say of kept features; 0 where none are."""
        wanted = self.config.replayed * len(batch.images)
        if not len(self.pool) or not wanted:
            return torch.zeros((), device=self.model.device)
        features, labels = (t.to(self.model.device) for t in self.pool.draw(wanted, batch.seeds[0]))
        layers = [layer for layer in self.model.classifiers[1:] if isinstance(layer, nn.Conv2d)]
        z = torch.cat([layer(features[:, :, None, None]) for layer in layers], 1)
        return weighted_bce(z, labels[:, None, None], range(1, self.model.channels)).mean()

    def remember(self, stage: Stage) -> Mapping[str, float]:
        """Keep features of the step's instances. The label maps are shared out among the processes, which all
        look at the same instances."""
        config = self.config
        samples = stage.train if config.count else ()
        where = find_all(
            samples,
            self.model.new(),
            config.harvest,
            name=stage.name,
            workers=config.tune.first.workers,
        )

        def look(found: Found) -> KeptFeatures:
            return self._looked(stage.train[where[found]], found)

        self.pool.refill(list(where), look, seed=self.seed, step=len(self.model.counts))
        if len(samples):
            found, kept = {each.label for each in where}, {item.label for item in self.pool.items}
            remark_lacking(stage.classes, self.model.new(), found, kept, config.harvest)
        return {"instances": float(len(self.pool)), "feature_bytes": float(self.pool.nbytes)}

    def _looked(self, sample: SemanticSample, found: Found) -> KeptFeatures:
        """Features of one instance, of the whole image at its own size."""
        with torch.inference_mode():
            features = self.model(self.model.pixels(sample.image[None])).features[0].clone()
        parts, _ = ndimage.label(np.asarray(sample.labels) == found.label)
        mask = torch.from_numpy(parts == parts[found.at])
        how = {"count": self.config.places, "seed": self.seed}
        return kept_features(features, mask, found.label, found.image, **how)

    def state_dict(self) -> State:
        return super().state_dict() | {"features": self.pool.state_dict()}

    def load_state_dict(self, state: State) -> None:
        super().load_state_dict(state)
        self.pool.load_state_dict(state["features"])
