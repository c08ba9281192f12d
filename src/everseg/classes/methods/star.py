"""STAR: no image is kept, but a prototype of each class, from which its features are drawn again.

A step sees few pixels of old classes, so its classifiers lean towards new ones. STAR gives them back the
balance of the data of all steps together, with features in place of images:

    prototypes of old classes --> drawn features ---+
    background of the step ----> its features ------+--> classifiers of the new classes --> BCE
    images of the step -------> features -----------+
                                    |
    old model ----------------------+    OCFM: features of old classes stay; SAD: new classes keep away

    L = [BCE(z, y) + a BCE(z', 0) + b BCE(z", 0)] / (1 + a + b) + 5 OCFM + 0.05 SAD

z are the logits of the new classes, on which alone a later step is trained; z' those of features drawn from
the prototypes of old classes; z" those of the step's real background, once more. The weights a and b make old
classes and background as frequent as they were in the data of all steps together. OCFM keeps the features
where the old model sees an old class; SAD, 1 / distance, moves the mean direction of a new class away from
the nearest old prototype.

With a memory (STAR-M) some whole images of old classes are kept and trained on along with the new ones.

Source: Chen et al., "Saving 100x Storage: Prototype Replay for Reconstructing Training Sample Distribution in
Class-Incremental Semantic Segmentation", NeurIPS 2023; weights and counts are those of its code. docs/eir.md
lists where we differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from everseg.classes.crops import Batch, Crops, batches
from everseg.classes.learner import ClassLearner
from everseg.classes.losses import masked_mean, weighted_bce
from everseg.classes.memory import ImageMemory
from everseg.classes.prototypes import Prototypes, Sums
from everseg.classes.settings import ClassTuneConfig
from everseg.classes.tune import begin, groups_of, train
from everseg.config import Amount, Checked, Count
from everseg.distributed import add_up
from everseg.models.semantic.base import SemanticBase
from everseg.models.semantic.segmenter import Output, Segmenter, decide
from everseg.types import VOID, Scratch, Stage, State


@dataclass(frozen=True)
class STARConfig(Checked):
    """Settings of STAR, and with a memory of STAR-M."""

    gamma: Amount = 4.0
    """Weight of positive pixels. [STAR's code: 4 on PASCAL VOC]"""
    keep: Amount = 5.0
    """Weight of OCFM, which keeps the features of old classes. [STAR's code]"""
    apart: Amount = 0.05
    """Weight of SAD, which moves new classes away from old prototypes. [STAR's code]"""
    new_lr: Amount = 10.0
    """Learning rate of the newest classifier after the first step, as a multiple of the head's. [STAR's code]
    """
    overlapped: bool = True
    """Take what the old model finds in a step's images off what is replayed, because images of earlier steps
    come again. [STAR's code: by the setting of the stream]"""
    void_as_negative: bool = False
    """Train void pixels as negatives of every class. [STAR's code: yes]"""
    memory: Count = 0
    """Images kept of old classes; 0: none. [STAR-M: 50 on PASCAL VOC]"""
    max_bytes: Count = 0
    """Maximum size of the kept images in bytes; 0: no limit."""
    tune: ClassTuneConfig = field(default_factory=ClassTuneConfig.sigmoid)
    """How a step is trained."""

    @classmethod
    def presets(cls) -> dict[str, STARConfig]:
        """`reference`: void is a negative of every class, as in the published code."""
        return {"paper": cls(), "reference": cls(void_as_negative=True)}


class Plan(NamedTuple):
    """What a step replays. rate (K,): features of each old class for each training row.

    extra: how often the background counts beyond once. found (O,): places that the old model gives each of
        its channels.
    """

    rate: Tensor
    extra: float
    found: Tensor


class STAR(ClassLearner):
    """Trains the newest classifiers only; channel 0 is not used."""

    Config = STARConfig

    def __init__(self, base: SemanticBase, config: STARConfig | None = None, *, seed: int = 0) -> None:
        super().__init__(base, config, seed=seed)
        void = ", void a negative" if self.config.void_as_negative else ""
        self.first_loss = f"BCE of the classes alone (positives times {self.config.gamma:g}{void})"
        self.prototypes = Prototypes(self.model.head.width, self.model.device)
        self.memory = ImageMemory(self.config.memory, self.config.tune, self.config.max_bytes)

    def learn_step(self, stage: Stage, scratch: Scratch) -> Mapping[str, float]:
        model, config = self.model, self.config
        old = begin(model, stage, config.tune, "fresh", seed=self.seed)
        if old is not None:
            model.classifiers[:-1].requires_grad_(False)
        crops = Crops(stage.train, config.tune, self.seed, stage.name, self.memory)
        plan = None if old is None else self._plan(old, stage, crops)
        new = model.new()

        def loss(batch: Batch) -> Tensor:
            pixels, labels = model.pixels(batch.images), batch.labels.to(model.device)
            out = model(pixels)
            asked = torch.ones_like(labels, dtype=torch.bool)
            if not config.void_as_negative:
                asked = labels != VOID
            told = masked_mean(weighted_bce(out.full()[:, new.start :], labels, new, config.gamma), asked)
            if old is None or plan is None:
                return told
            before = old(pixels)
            seen = decide(before.full())
            value = self._balanced(told, out, (labels == 0) & (seen == 0), plan)
            gap = (out.features - before.features).float().square().mean(1, keepdim=True)
            there = _at(((labels == 0) & (seen > 0)).float(), gap, "bilinear")
            value = value + config.keep * (gap * there).sum() / there.sum().clamp(min=1)
            return value + config.apart * self._apart(out.features.float(), labels)

        groups = [
            g._replace(scale=g.scale * config.new_lr) if old is not None and g.name == "new classifier" else g
            for g in groups_of(model, config.tune)
        ]
        figures = train(
            model, crops, loss, config.tune, scratch=scratch, validate=self.validate(stage), groups=groups
        )
        model.classifiers.requires_grad_(True)
        if plan is not None:
            self._recount(stage, plan)
        return {**figures, **self.remember(stage)}

    def _balanced(self, told: Tensor, out: Output, background: Tensor, plan: Plan) -> Tensor:
        """The mean over what was seen, what is drawn of old classes, and the background once more. A fraction
        of a feature is drawn in that share of the batches."""
        newest, z = self.model.classifiers[-1], out.logits[:, self.model.new().start :].float()
        rows, places = len(z), z[:, 0].numel()
        wanted = plan.rate * rows
        counts = (wanted + torch.rand_like(wanted)).floor().long().tolist()
        drawn = self.prototypes.draw(counts)
        values, weights = [told], [1.0]
        if len(drawn):
            values.append(F.softplus(newest(drawn[:, :, None, None])).sum(1).mean())
            weights.append(len(drawn) / places)
        again = _at(background.float(), z, "nearest-exact")[:, 0] > 0
        if plan.extra > 0 and bool(again.any()):
            values.append(F.softplus(z).sum(1)[again].mean())
            weights.append(plan.extra * float(again.sum()) / places)
        return torch.stack([w * v for w, v in zip(weights, values, strict=True)]).sum() / sum(weights)

    def _apart(self, features_BDhw: Tensor, labels_BHW: Tensor) -> Tensor:
        """SAD, the mean over the new classes that the batch shows: 0 where it shows none."""
        unit, found = F.normalize(features_BDhw, dim=1), []
        for channel in self.model.new():
            share = _at((labels_BHW == channel).float(), unit, "bilinear")
            if bool(share.any()):
                centre = F.normalize((unit * share).sum((0, 2, 3)), dim=0)
                gaps = (self.prototypes.direction - centre).norm(dim=1)
                found.append(1 / gaps.min().clamp(min=1e-3))
        return torch.stack(found).mean() if found else features_BDhw.new_zeros(())

    @torch.no_grad()
    def _plan(self, old: Segmenter, stage: Stage, crops: Crops) -> Plan:
        """Compare what the old model finds in an epoch of the step with what there was before."""
        own = Crops(stage.train, self.config.tune, self.seed, stage.name)
        found = torch.zeros(old.channels, device=old.device)
        for batch in batches(own, self.config.tune.later):
            out = old(old.pixels(batch.images))
            labels = _at(batch.labels.to(old.device).float(), out.logits, "nearest-exact")[:, 0]
            seen = _at(decide(out.full()).float(), out.logits, "nearest-exact")[:, 0]
            found += torch.bincount(seen[labels == 0].long(), minlength=old.channels)
        add_up([found])
        kept, overlapped = self.prototypes, self.config.overlapped
        missing = (kept.number - found[1:]).clamp(min=0) if overlapped else kept.number
        extra = self._background(len(stage.classes)) / found[0].clamp(min=1) - (0.5 if overlapped else 0.0)
        return Plan(missing / max(1, len(crops)), max(0.0, float(extra)), found)

    def _background(self, classes: int) -> Tensor:
        """Places of background in earlier steps; where images come again, some of them are new classes."""
        share = 1 - 0.01 * classes if self.config.overlapped else 1.0
        return self.prototypes.background * max(0.0, share)

    def _recount(self, stage: Stage, plan: Plan) -> None:
        """How many places of old classes and background there have been, with those of this step."""
        again = 0.5 if self.config.overlapped else 1.0
        self.prototypes.background = self._background(len(stage.classes)) + again * plan.found[0]
        if not self.config.overlapped:
            self.prototypes.number = self.prototypes.number + plan.found[1:]

    def remember(self, stage: Stage) -> Mapping[str, float]:
        """Keep the prototypes of the step's classes, from an epoch of its crops."""
        model, kept = self.model, self.prototypes
        sums = Sums(model.new(), model.head.width, model.device)
        for batch in batches(
            Crops(stage.train, self.config.tune, self.seed, stage.name), self.config.tune.later
        ):
            with torch.inference_mode():
                features = model(model.pixels(batch.images)).features
            labels = _at(batch.labels.to(model.device).float(), features, "nearest-exact")[:, 0]
            sums.add(features, labels)
        sums.add_up()
        if not len(kept):
            kept.background = sums.background
        kept.append(sums)
        self.memory.refill(stage.train, model.new(), seed=self.seed, step=len(model.counts))
        figures = {"prototype_bytes": float(kept.nbytes)}
        return figures | ({"memory_bytes": float(self.memory.nbytes)} if self.config.memory else {})

    def state_dict(self) -> State:
        kept: dict[str, Any] = {"memory": self.memory.state_dict()} if self.config.memory else {}
        return super().state_dict() | {"prototypes": self.prototypes.state_dict()} | kept

    def load_state_dict(self, state: State) -> None:
        super().load_state_dict(state)
        self.prototypes.load_state_dict(state["prototypes"])
        if self.config.memory:
            self.memory.load_state_dict(state["memory"])


def _at(map_BHW: Tensor, like_BChw: Tensor, mode: str) -> Tensor:
    """A map at another's resolution: (B, 1, h, w)."""
    size = like_BChw.shape[-2:]
    if mode == "bilinear":
        return F.interpolate(map_BHW[:, None], size=size, mode=mode, align_corners=False)
    return F.interpolate(map_BHW[:, None], size=size, mode=mode)
