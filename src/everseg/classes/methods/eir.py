"""EIR: replay instances of old classes, alone and pasted into new images where the old model expects them.

    L = BCE(z, Y) + 5 KD(z, z_old) + AC        (first step: BCE + AC)

A step sees its own images with the labels of its own classes, and a pool of cut-out instances of old ones:

    A  each instance alone on mean colour is a training sample: nothing around it is taught to be background
    B  an image whose background the old model completes (y = 0 and sigmoid >= 0.7) gets instances of the old
       classes seen there pasted where nothing is; image and label are mixed by lambda, so that Y is soft

KD is RSKD, which keeps the old model's softmax: where a pixel is labelled with a new class, what the old
model called background is one of the new classes, elsewhere it is background; or DKD's, a sigmoid for each
old class. After the step instances of its classes are cut out of its images, and the pool is shared out anew
among all classes seen.

Source: Yin et al., "Beyond Background Shift: Rethinking Instance Replay in Continual Semantic Segmentation",
CVPR 2025. Its equations are not known to us and its code cannot run; docs/eir.md says how we read it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from everseg.classes.instances import (
    Found,
    HarvestConfig,
    Instance,
    InstancePool,
    PasteConfig,
    cut,
    find_instances,
    instance_sample,
    paste,
    seen_classes,
)
from everseg.classes.learner import ClassLearner
from everseg.classes.losses import (
    auxiliary_loss,
    masked_mean,
    new_region,
    pseudo_labels,
    region_kd,
    sigmoid_kd,
    soft_bce,
)
from everseg.classes.tune import Batch, ClassTuneConfig, Crops, begin, train
from everseg.config import Amount, Checked, Count
from everseg.distributed import gather, shard
from everseg.models.semantic.base import SemanticBase
from everseg.models.semantic.segmenter import Segmenter
from everseg.progress import bar
from everseg.seed import numpy_generator
from everseg.types import Scratch, SemanticSample, Stage, State


@dataclass(frozen=True)
class EIRConfig(Checked):
    """Settings of EIR; docs/eir.md lists the differences of the presets."""

    count: Count = 100
    """Maximum number of instances in the pool, over all classes. [EIR's code: 100 on PASCAL VOC]"""
    max_bytes: Count = 0
    """Maximum size of the pool in bytes; 0: no limit."""
    replay: bool = True
    """Train on stored instances alone (route A). [EIR]"""
    pasting: bool = True
    """Paste stored instances into new images (route B). [EIR]"""
    outside: Literal["void", "background"] = "void"
    """Label of what surrounds a replayed instance: "void" is not trained. [EIR's code: background]"""
    gamma: Amount = 1.0
    """Weight of positive pixels in the first step. [EIR's scripts: 2, without effect]"""
    gamma_later: Amount = 1.0
    """Weight of positive pixels of the new classes in later steps. [EIR's scripts: 1, without effect]"""
    sure: Amount = 0.7
    """Probability above which the old model completes a label. [EIR's code]"""
    distil: Amount = 5.0
    """Weight of the distillation. [EIR's code]"""
    kind: Literal["region", "sigmoid"] = "region"
    """Distillation: "region" is RSKD in the softmax, "sigmoid" DKD's per class. [EIR's code: region on VOC,
    sigmoid on ADE20K]"""
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

    @classmethod
    def presets(cls) -> dict[str, EIRConfig]:
        """`reference`: the published trainer where it is known; `reference_ade`: its ADE20K trainer, with
        DKD's distillation by class in place of RSKD."""

        def published(paste: str, **more: Any) -> EIRConfig:
            return cls(
                outside="background",
                harvest=HarvestConfig.presets()["reference"],
                paste=PasteConfig.presets()[paste],
                **more,
            )

        return {
            "paper": cls(),
            "reference": published("reference", where="new", auxiliary_in="first"),
            "reference_ade": published("reference_ade", kind="sigmoid", count=300),
        }


class EIR(ClassLearner):
    """A segmenter and a pool of instances: no whole image is kept."""

    Config = EIRConfig

    def __init__(self, base: SemanticBase, config: EIRConfig | None = None, *, seed: int = 0) -> None:
        super().__init__(base, config, seed=seed)
        self.first_loss = f"BCE (positives times {self.config.gamma:g}) with a background channel and AC"
        self.pool = InstancePool(self.config.count, self.config.max_bytes)

    def learn(self, stage: Stage, scratch: Scratch) -> Mapping[str, float]:
        model, config = self.model, self.config
        old = begin(model, stage, config.tune, "auxiliary", seed=self.seed)

        def loss(batch: Batch) -> Tensor:
            return self._first(batch) if old is None else self._later(batch, old)

        replayed = InstanceRows(self.pool, config) if config.replay else None
        crops = Crops(stage.train, config.tune, self.seed, stage.name, replayed)
        figures = train(model, crops, loss, config.tune, scratch=scratch, validate=self.validate(stage))
        return {**figures, **self.remember(stage)}

    def _first(self, batch: Batch) -> Tensor:
        z = self.model(self.model.pixels(batch.images)).full()
        labels = batch.labels.to(z.device)
        told, labelled = soft_bce(z, labels, gamma_K=self._weights(z, slice(None), self.config.gamma))
        return masked_mean(told + self.config.auxiliary * auxiliary_loss(z), labelled)

    def _later(self, batch: Batch, old: Segmenter) -> Tensor:
        model, config = self.model, self.config
        pixels, labels = model.pixels(batch.images), batch.labels.to(model.device)
        z_old = old(pixels).full()
        under = pseudo_labels(labels, z_old.sigmoid(), config.sure)
        over = share = None
        if config.pasting and len(self.pool):
            images, under, over, share = self._pasted(batch, under)
            pixels = model.pixels(images)
            z_old = old(pixels).full()
        z = model(pixels).full()
        gamma = self._weights(z, slice(model.new().start, None), config.gamma_later)
        told, labelled = soft_bce(z, under, over, share, gamma)
        region = new_region(labels, model.new(), share)
        if config.kind == "sigmoid":
            past = slice(1, old.channels)
            kept = sigmoid_kd(z[:, past], z_old[:, past])
            if config.where != "both":
                kept = torch.where(region == (config.where == "new"), kept, 0)
        else:
            kept = region_kd(z, z_old, region, config.where, config.absorb)
        value = masked_mean(told, labelled) + config.distil * masked_mean(kept, labelled)
        if config.auxiliary_in == "all":
            value = value + config.auxiliary * masked_mean(auxiliary_loss(z), labelled)
        return value

    def _weights(self, like: Tensor, channels: slice, gamma: float) -> Tensor | None:
        """How much a positive of each channel counts; None where all count once."""
        if gamma == 1:
            return None
        weights = like.new_ones(self.model.channels)
        weights[channels] = gamma
        return weights

    def _pasted(self, batch: Batch, completed: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Images, on the CPU; labels below the pastes, layers upon them and their shares, on the device."""
        under = completed.cpu()
        made = [
            paste(
                image,
                below,
                self.pool,
                numpy_generator(seed, "paste"),
                self.config.paste,
                seen=seen_classes(below, labels),
            )
            for image, labels, below, seed in zip(batch.images, batch.labels, under, batch.seeds, strict=True)
        ]
        images = torch.stack([p.image for p in made])
        parts = ([p.under for p in made], [p.over for p in made], [p.share for p in made])
        below, over, share = (torch.stack(part).to(completed.device) for part in parts)
        return images, below, over, share

    def remember(self, stage: Stage) -> Mapping[str, float]:
        """Find instances of the step's classes in its full label maps, and share the pool out anew. The maps
        are shared out among the processes."""
        classes, config = self.model.new(), self.config
        mine = shard(range(len(stage.train) if config.count else 0))
        loader: DataLoader[Any] = DataLoader(
            Subset(stage.train, mine),  # type: ignore[arg-type]  # any sequence serves
            batch_size=8,
            collate_fn=list,
            num_workers=config.tune.first.workers,
        )
        here: list[tuple[int, list[Found]]] = []
        with bar(f"{stage.name}: instances", len(mine)) as advance:
            for batch in loader:
                for sample in batch:
                    found = find_instances(sample.labels, classes, sample.name, config.harvest)
                    here.append((mine[len(here)], found))
                    advance("")
        where: dict[Found, int] = {}
        for position, found in sorted((pair for part in gather(here) for pair in part), key=itemgetter(0)):
            where.update(dict.fromkeys(found, position))
        step = len(self.model.counts) - 1

        def cut_out(found: Found) -> Instance:
            sample: SemanticSample = stage.train[where[found]]
            return cut(sample.image, sample.labels, found, step, config.harvest)

        self.pool.refill(list(where), cut_out, seed=self.seed, step=step)
        return {"instances": float(len(self.pool)), "instance_bytes": float(self.pool.nbytes)}

    def state_dict(self) -> State:
        return super().state_dict() | {"pool": self.pool.state_dict()}

    def load_state_dict(self, state: State) -> None:
        super().load_state_dict(state)
        self.pool.load_state_dict(state["pool"])


class InstanceRows:
    """The pool's instances as training rows: each alone, at a random place and size."""

    def __init__(self, pool: InstancePool, config: EIRConfig) -> None:
        self.instances: Sequence[Instance] = [pool.items[name] for name in sorted(pool.items)]
        self.config = config

    def __len__(self) -> int:
        return len(self.instances)

    def draw(self, index: int, side: int, seed: int) -> tuple[Tensor, Tensor]:
        return instance_sample(
            self.instances[index],
            (side, side),
            numpy_generator(seed, "instance"),
            self.config.paste,
            outside=self.config.outside,
        )
