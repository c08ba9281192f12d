"""EIR: instances of old classes are replayed, alone and pasted into new images.

The images of a step have labels of its new classes only; objects of old classes in them are labelled
background, which teaches the model to forget. Replaying whole stored images has the same fault, because a
stored image shows unlabelled objects of all other steps. So EIR keeps single objects, cut out of their
images:

    pool --+--> A: one instance alone, on mean colour -----------------+
           +--> B: instances of old classes seen in the image, --+     +--> model --> z --> L
                   pasted in and mixed with what lies below      v     |               ^
    image of the step --> background completed by old model --> image -+    old model -+ distilled
    after the step: instances of its classes, cut out of its images --> pool, shared out among all classes

    L = BCE(z, Y) + 5 KD(z, z_old) + AC        (first step: BCE + AC)

z are the logits, Y the labels; Y is soft where an instance was mixed in. The old model completes a background
pixel where it gives a class a probability of at least 0.7. KD is one sigmoid per old class, as in DKD, or
RSKD, which keeps the old model's softmax: where a pixel is labelled with a new class, what the old model
called background is one of the new classes; elsewhere it is background. AC trains the auxiliary channel 0 to
give every pixel a low score.

Source: Yin et al., "Beyond Background Shift: Rethinking Instance Replay in Continual Semantic Segmentation",
CVPR 2025. Its equations are not known to us and its code cannot run; docs/eir.md describes our reading.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from everseg.classes.completed import complete
from everseg.classes.crops import Batch, Crops
from everseg.classes.instances import (
    Found,
    HarvestConfig,
    Instance,
    InstancePool,
    InstanceRows,
    PasteConfig,
    Paster,
    completed_in_crops,
    cut,
    find_all,
    remark_lacking,
)
from everseg.classes.learner import ClassLearner, auxiliary_first_loss
from everseg.classes.losses import (
    auxiliary_loss,
    decomposed_kd,
    masked_mean,
    new_region,
    positives,
    region_kd,
    row_mean,
    sigmoid_kd,
    soft_bce,
)
from everseg.classes.settings import ClassTuneConfig
from everseg.classes.tune import begin, train
from everseg.config import Amount, Checked, Count, SettingError, Share, before
from everseg.models.semantic.base import SemanticBase
from everseg.models.semantic.segmenter import Segmenter
from everseg.types import Scratch, SemanticSample, Stage, State


@dataclass(frozen=True)
class EIRConfig(Checked):
    """Settings of EIR; docs/eir.md lists the differences of the presets."""

    count: Count = 100
    """Maximum number of instances in the pool, over all classes. [EIR's code: 100 on PASCAL VOC]"""
    max_bytes: Count = 0
    """Maximum size of the pool in bytes; 0: no limit."""
    experts: bool = False
    """Train a segmenter of its own in a step whose classes look like none before, and in later steps of
    classes like those. It needs `tune.posterior`. [ours; the idea: Expert Gate]"""
    replay: bool = True
    """Train on stored instances alone (route A). [EIR]"""
    pasting: bool = True
    """Paste stored instances into new images (route B). [EIR]"""
    outside: Literal["void", "background"] = "void"
    """Label of what surrounds a replayed instance: "void" is not trained. [EIR's code: background]"""
    replay_new: bool = False
    """Replay and paste instances of the step's own classes, too, so that being cut out does not tell old
    classes from new ones. [ours]"""
    replay_visible: Share = field(default=0.25, metadata=before(0.0))
    """Share of a replayed instance's box that its crop shows, drawn again until it does. [EIR's code: 0]"""
    replay_weight: Amount = 1.0
    """Weight of a replayed row beside one of the step's own, where `average` is "row". [ours]"""
    average: Literal["row", "batch"] = field(default="row", metadata=before("batch"))
    """What the losses are averaged over: the labelled pixels of each row and then rows, or those of the whole
    batch, in which an instance alone has few. [EIR's code: batch]"""
    background: bool = field(default=False, metadata=before(True))
    """Train channel 0 as background, too, beside the auxiliary loss, which trains it to score low everywhere.
    [EIR's code: yes]"""
    gamma: Amount = 2.0
    """Weight of positive pixels in the first step. [EIR's scripts: 2, without effect]"""
    gamma_later: Amount = 1.0
    """Weight of positive pixels of the new classes in later steps. [EIR's scripts: 1, without effect]"""
    sure: Amount = 0.7
    """Probability above which the old model completes a label. [EIR's code]"""
    complete: Literal["image", "crop"] = field(default="image", metadata=before("crop"))
    """What the old model looks at to complete labels: each whole "image", once before a step is trained, or
    each training "crop". [EIR's code: crop]"""
    distil: Amount = 5.0
    """Weight of the distillation. [EIR's code]"""
    decomposed: Amount = 0.0
    """Weight of the distillation of the scores' positive and negative parts, with `kind` "sigmoid". [EIR's
    code: 5 on ADE20K]"""
    kind: Literal["region", "sigmoid"] = "sigmoid"
    """Distillation: "region" is RSKD in the softmax, which needs `background`; "sigmoid" DKD's per class.
    [EIR's code: region on VOC, sigmoid on ADE20K]"""
    where: Literal["both", "new", "old"] = "both"
    """Regions in which the distillation counts: pixels of "new" classes, all others ("old"), or "both".
    [EIR's code: new]"""
    absorb: Literal["new", "bg+new"] = "new"
    """Channels that answer for the old background where a pixel has a new class, in RSKD: the new classes, or
    background too. [our reading of EIR; MiB: bg+new]"""
    auxiliary: Amount = 1.0
    """Weight of the auxiliary loss, AC. [DKD; missing from EIR's settings]"""
    auxiliary_in: Literal["first", "all"] = "all"
    """Steps with the auxiliary loss. [EIR's code: first]"""
    harvest: HarvestConfig = field(default_factory=HarvestConfig)
    """How instances are cut out."""
    paste: PasteConfig = field(default_factory=PasteConfig)
    """How instances are pasted."""
    tune: ClassTuneConfig = field(default_factory=ClassTuneConfig.sigmoid)
    """How a step is trained."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kind == "region" and not self.background:
            raise SettingError(
                "kind", "is 'region', which distils the background's channel; set background=true as well"
            )

    @classmethod
    def presets(cls) -> dict[str, EIRConfig]:
        """`reference`: the published trainer where it is known; `reference_ade`: its ADE20K trainer, with
        DKD's distillation by class in place of RSKD."""

        def published(paste: str, **more: Any) -> EIRConfig:
            return cls(
                outside="background",
                replay_visible=0.0,
                average="batch",
                background=True,
                gamma=1.0,
                complete="crop",
                harvest=HarvestConfig.presets()["reference"],
                paste=PasteConfig.presets()[paste],
                **more,
            )

        return {
            "paper": cls(),
            "reference": published("reference", kind="region", where="new", auxiliary_in="first"),
            "reference_ade": published("reference_ade", decomposed=5.0, count=300),
        }


class EIR(ClassLearner):
    """A segmenter and a pool of instances: no whole image is kept."""

    Config = EIRConfig

    def __init__(self, base: SemanticBase, config: EIRConfig | None = None, *, seed: int = 0) -> None:
        super().__init__(base, config, seed=seed)
        channel = " with a background channel" if self.config.background else ""
        self.first_loss = auxiliary_first_loss(self.config.gamma, self.config.auxiliary, channel)
        self.pool = InstancePool(self.config.count, self.config.max_bytes)

    def learn_step(self, stage: Stage, scratch: Scratch) -> Mapping[str, float]:
        model, config = self.model, self.config
        old = begin(model, stage, config.tune, "auxiliary", seed=self.seed)
        beside = config.replay_new and (config.replay or config.pasting) and len(self.pool) > 0
        found = self._found(stage) if beside else None
        pool = self.pool.only(self.own_channels())
        if found is not None:
            pool = self._with_new(pool, *found)
        paster = Paster(pool, config.paste) if config.pasting and len(pool) else None

        def loss(batch: Batch) -> Tensor:
            return self._first(batch) if old is None else self._later(batch, old, paster)

        crops = self._rows(stage, old, pool, paster)
        figures = train(model, crops, loss, config.tune, scratch=scratch, validate=self.validate(stage))
        return {**figures, **self._kept(stage, *(found or self._found(stage)))}

    def _rows(self, stage: Stage, old: Segmenter | None, pool: InstancePool, paster: Paster | None) -> Crops:
        """The training rows of a step, with what is replayed of old ones."""
        config, tune = self.config, self.config.tune
        if old is None:
            return Crops(stage.train, tune, self.seed, stage.name)
        how: Any = {"visible": config.replay_visible, "outside": config.outside}
        replayed = InstanceRows(pool, tune, **how) if config.replay else None
        if config.complete == "crop":
            return Crops(stage.train, tune, self.seed, stage.name, replayed)
        completed = complete(old, stage.train, config.sure, name=stage.name, workers=tune.later.workers)
        more: Any = {"beside": completed, "finish": paster}
        return Crops(stage.train, tune, self.seed, stage.name, replayed, **more)

    def _first(self, batch: Batch) -> Tensor:
        config = self.config
        z = self.model(self.model.pixels(batch.images)).full()
        labels = batch.labels.to(z.device)
        weight = config.gamma if self.model.began == 0 else config.gamma_later
        gamma = positives(z, slice(None), weight)
        told, labelled = soft_bce(z, labels, gamma_K=gamma, background=config.background)
        return masked_mean(told + config.auxiliary * auxiliary_loss(z), labelled)

    def _later(self, batch: Batch, old: Segmenter, paster: Paster | None) -> Tensor:
        model, config = self.model, self.config
        if batch.completed is None:
            batch = completed_in_crops(batch, old, config.sure, paster)
        pixels = model.pixels(batch.images)
        out, before = model(pixels), old(pixels)
        z, z_old = out.full(), before.full()
        under, over, share = (
            m if m is None else m.to(z.device) for m in (batch.completed, batch.over, batch.share)
        )
        assert under is not None
        gamma = positives(z, slice(model.new().start, None), config.gamma_later)
        told, labelled = soft_bce(z, under, over, share, gamma, background=config.background)
        region = new_region(under, model.new(), over, share)
        if config.kind == "sigmoid":
            past = slice(1, old.channels)
            kept = sigmoid_kd(z[:, past], z_old[:, past])
            if config.where != "both":
                kept = torch.where(region == (config.where == "new"), kept, 0)
        else:
            kept = region_kd(z, z_old, region, config.where, config.absorb)
        each = told + config.distil * kept
        if config.auxiliary_in == "all":
            each = each + config.auxiliary * auxiliary_loss(z)
        if config.average == "batch":
            value = masked_mean(each, labelled)
        else:
            replayed = batch.replayed.to(z.device)
            value = row_mean(each, labelled, torch.where(replayed, config.replay_weight, 1.0))
        if config.kind == "sigmoid" and config.decomposed:
            value = value + config.decomposed * decomposed_kd(
                (out.features, model.weight()), (before.features, old.weight()), slice(1, old.channels)
            )
        return value

    def _found(self, stage: Stage) -> tuple[Mapping[Found, int], Callable[[Found], Instance]]:
        """Instances of the step's classes in its full label maps, each with the place of its sample, and what
        cuts one out. The maps are shared out among the processes."""
        config, step = self.config, len(self.model.counts) - 1
        samples = stage.train if config.count else ()
        where = find_all(
            samples, self.model.new(), config.harvest, name=stage.name, workers=config.tune.first.workers
        )

        def cut_out(found: Found) -> Instance:
            sample: SemanticSample = stage.train[where[found]]
            return cut(sample.image, sample.labels, found, step, config.harvest)

        return where, cut_out

    def _with_new(
        self, pool: InstancePool, where: Mapping[Found, int], cut_out: Callable[[Found], Instance]
    ) -> InstancePool:
        """A pool and, for the time of the step, instances of its classes."""
        return pool.with_new(list(where), cut_out, seed=self.seed, step=len(self.model.counts) - 1)

    def remember(self, stage: Stage) -> Mapping[str, float]:
        return self._kept(stage, *self._found(stage))

    def _kept(
        self, stage: Stage, where: Mapping[Found, int], cut_out: Callable[[Found], Instance]
    ) -> Mapping[str, float]:
        """Share the pool out again, now with instances of the step's classes."""
        self.pool.refill(list(where), cut_out, seed=self.seed, step=len(self.model.counts) - 1)
        if self.config.count and len(stage.train):
            found, kept = {each.label for each in where}, set(self.pool.by_class())
            remark_lacking(stage.classes, self.model.new(), found, kept, self.config.harvest)
        return {"instances": float(len(self.pool)), "instance_bytes": float(self.pool.nbytes)}

    def state_dict(self) -> State:
        return super().state_dict() | {"pool": self.pool.state_dict()}

    def load_state_dict(self, state: State) -> None:
        super().load_state_dict(state)
        self.pool.load_state_dict(state["pool"])
