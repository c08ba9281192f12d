"""SSUL: objects in the background are labelled "unknown", and only the newest classifiers train.

Classes to come are already in the images, unlabelled. If they are trained as background, later steps must
undo that; SSUL sets them apart as a class of their own, from which later classes start:

    pixel of a new image --+-- labelled ------------------------> new class
                           +-- the old model is sure -----------> old class
                           +-- a saliency map shows an object --> unknown
                           +-- otherwise -----------------------> background

    L = sum_c BCE(z_c, [y~ = c]),  c over background, classes, unknown

y~: a background pixel gets the class to which the old model gives a sigmoid of at least 0.7. The classifiers
of a step's classes start as copies of the unknown one. Backbone, head and old classifiers are frozen after
the first step. At test time the unknown counts as background.

With a memory (SSUL-M) some whole images are kept, and half of the training rows come from them. The published
code replaces half of each batch; here an epoch is twice as long instead.

Source: Cha et al., "SSUL: Semantic Segmentation with Unknown Label for Exemplar-based Class-Incremental
Learning", NeurIPS 2021. It takes saliency maps from an existing detector. Without maps, which is the default
here, nothing is unknown and background stays background.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from everseg.classes.crops import Batch, Crops
from everseg.classes.learner import ClassLearner
from everseg.classes.losses import masked_mean, pseudo_labels, soft_bce
from everseg.classes.memory import ImageMemory
from everseg.classes.settings import ClassTuneConfig
from everseg.classes.tune import begin, groups_of, train
from everseg.config import Amount, Checked, Count
from everseg.data.images import open_image, read_file
from everseg.errors import UserError
from everseg.fit import Group
from everseg.models.semantic.base import SemanticBase
from everseg.models.semantic.segmenter import Output
from everseg.progress import remark
from everseg.types import Scratch, SemanticSample, Stage, State

UNKNOWN = 254
"""In labels: background in which there is an object."""


def _recipe() -> ClassTuneConfig:
    plain = ClassTuneConfig.sigmoid()
    how = replace(plain.first, epochs=50, batch=32, lr=1e-3)
    return replace(plain, first=how, later=how, crop=513, replay=0.5)


@dataclass(frozen=True)
class SSULConfig(Checked):
    """Settings of SSUL, and with a memory of SSUL-M."""

    saliency: str = ""
    """Folder with a saliency map per image, `<stem>.png`, bright on objects; empty: none, so that nothing is
    "unknown". [SSUL uses an off-the-shelf detector]"""
    sure: Amount = 0.7
    """Probability above which the old model completes a label. [SSUL]"""
    memory: Count = 0
    """Images kept of old classes; 0: none. [SSUL-M: 100 on PASCAL VOC, 300 on ADE20K]"""
    max_bytes: Count = 0
    """Maximum size of the kept images in bytes; 0: no limit."""
    background_lr: Amount = 1e-4
    """Learning rate of the background's classifier after the first step, as a multiple of the others'. [SSUL]
    """
    tune: ClassTuneConfig = field(default_factory=_recipe)
    """How a step is trained."""

    @classmethod
    def presets(cls) -> dict[str, SSULConfig]:
        """What the published code does otherwise is said above and has no switch."""
        return {"paper": cls(), "reference": cls()}


class SSUL(ClassLearner):
    """A frozen model to which each step adds a classifier."""

    Config = SSULConfig
    detached = False
    parts = ("experts", "unknown")

    def __init__(self, base: SemanticBase, config: SSULConfig | None = None, *, seed: int = 0) -> None:
        super().__init__(base, config, seed=seed)
        first = self.model.classifiers[0]
        assert isinstance(first, nn.Conv2d)
        self.unknown = copy.deepcopy(first)
        self.memory = ImageMemory(self.config.memory, self.config.tune, self.config.max_bytes)
        objects = f"objects in {self.config.saliency}" if self.config.saliency else "nothing"
        self.first_loss = f"BCE of background and classes, with {objects} unknown,"

    def learn_step(self, stage: Stage, scratch: Scratch) -> Mapping[str, float]:
        model, config = self.model, self.config
        old = begin(model, stage, config.tune, "fresh", seed=self.seed)
        groups = self._first() if old is None else self._later()
        if not config.saliency:
            remark(
                "ssul: no saliency maps are given (--set saliency=FOLDER), so no pixel is labelled unknown"
            )
        outsider = model.channels  # The channel of the unknown, behind the classes.

        def loss(batch: Batch) -> Tensor:
            pixels, labels = model.pixels(batch.images), batch.labels.to(model.device)
            out = model(pixels)
            objects = labels == UNKNOWN
            labels = torch.where(objects, 0, labels)
            if old is not None:
                labels = pseudo_labels(labels, old(pixels).full().sigmoid(), config.sure)
            labels = torch.where(objects & (labels == 0), outsider, labels)
            return masked_mean(*soft_bce(torch.cat([out.full(), self._unknown(out)], 1), labels))

        marked = Marked(stage.train, config.saliency) if config.saliency else stage.train
        crops = Crops(marked, config.tune, self.seed, stage.name, self.memory)
        figures = train(
            model, crops, loss, config.tune, scratch=scratch, validate=self.validate(stage), groups=groups
        )
        return {**figures, **self.remember(stage)}

    def take_first(self, stage: Stage, other: Any) -> Mapping[str, float]:
        figures = super().take_first(stage, other)
        self.unknown.load_state_dict(other.unknown.state_dict())
        return figures

    def remember(self, stage: Stage) -> Mapping[str, float]:
        self.memory.refill(stage.train, self.model.new(), seed=self.seed, step=len(self.model.counts))
        return {}

    def _unknown(self, out: Output) -> Tensor:
        """The unknown's logits at full size, (B, 1, H, W)."""
        z = self.unknown(out.features.float())
        return F.interpolate(z, size=out.size, mode="bilinear", align_corners=False)

    def _first(self) -> list[Group]:
        tune = self.config.tune
        unknown = Group("unknown", list(self.unknown.parameters()), tune.head_lr, tune.first.weight_decay)
        return [*groups_of(self.model, tune), unknown]

    @torch.no_grad()
    def _later(self) -> list[Group]:
        """Freeze all that earlier steps learned; the new classifier starts as the unknown's."""
        model, tune = self.model, self.config.tune
        model.freeze_norm()
        first, newest = model.classifiers[0], model.classifiers[-1]
        assert isinstance(newest, nn.Conv2d) and newest.bias is not None and self.unknown.bias is not None
        if not tune.nest:
            newest.weight.copy_(self.unknown.weight.expand_as(newest.weight))
            newest.bias.copy_(self.unknown.bias.expand_as(newest.bias))
        model.requires_grad_(False)
        for module in (first, newest):
            module.requires_grad_(True)
        decay, scale = tune.later.weight_decay, tune.head_lr
        return [
            Group("background", list(first.parameters()), scale * self.config.background_lr, decay),
            Group("new classifier", list(newest.parameters()), scale, decay),
            Group("unknown", list(self.unknown.parameters()), scale, decay),
        ]

    @property
    def decides(self) -> tuple[str, str]:
        return "probabilities, the unknown's added to channel 0", "the highest channel"

    def score_maps(self, out: Output) -> Tensor:
        """Probabilities, with the unknown's added to the background's."""
        p = out.full().sigmoid()
        p[:, 0] += self._unknown(out)[:, 0].sigmoid()
        return p

    def choose(self, scores: Tensor) -> Tensor:
        return scores.argmax(1)

    def state_dict(self) -> State:
        kept: dict[str, Any] = {"memory": self.memory.state_dict()} if self.config.memory else {}
        return super().state_dict() | {"unknown": dict(self.unknown.state_dict())} | kept

    def load_state_dict(self, state: State) -> None:
        super().load_state_dict(state)
        self.unknown.load_state_dict(state["unknown"])
        if self.config.memory:
            self.memory.load_state_dict(state["memory"])


class Marked(Sequence[SemanticSample]):
    """Samples whose background is `UNKNOWN` where their saliency map is bright."""

    def __init__(self, samples: Sequence[SemanticSample], folder: str) -> None:
        self.samples, self.folder = samples, Path(folder)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: Any) -> Any:
        sample = self.samples[index]
        name = Path(sample.name)
        path = self.folder / name.parent / f"{name.stem}.png"
        if not path.is_file():
            raise UserError(f"{sample.name} has no saliency map {path}; create it, or leave saliency out")
        bright = torch.from_numpy(np.asarray(open_image(read_file(path), path).convert("L")) > 127)
        if bright.shape != sample.labels.shape:
            raise UserError(
                f"the saliency map {path} and its image {sample.name} differ in size; make them the same size"
            )
        labels = torch.where(bright & (sample.labels == 0), UNKNOWN, sample.labels)
        return SemanticSample(sample.image, labels.to(torch.uint8), sample.name, sample.key)
