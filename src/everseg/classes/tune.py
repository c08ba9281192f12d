"""Train a segmenter of classes for one step.

Shapes: B images; S the side of a training crop; H W the pixels of an image.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from everseg.classes.nest import pretune
from everseg.config import Amount, Checked, Count, Positive, Range, SettingError, Share, Size, ascending
from everseg.data.resize import resized
from everseg.distributed import shard, world
from everseg.fit import FitConfig, Group, check_validation, fit, steps_of, validation_of
from everseg.models.precision import resolved
from everseg.models.semantic.segmenter import Init, Segmenter
from everseg.progress import remark
from everseg.seed import fold, torch_generator
from everseg.types import Scratch, SemanticSample, Stage

TRIALS = 10
RATIO = (3 / 4, 4 / 3)

FASTEST = 0.1
"""The most weight that running statistics give to one batch, unless they have more by themselves."""


@dataclass(frozen=True)
class ClassTuneConfig(Checked):
    """How a step is trained."""

    first: FitConfig
    """Gradient steps of the first step."""
    later: FitConfig
    """Gradient steps of each later step."""
    crop: Size = 512
    """Side of the training crops, in pixels. [DKD, EIR, MiB: 512; SSUL: 513]"""
    area: tuple[Positive, Positive] = (0.5, 2.0)
    """Share of the image's area that a crop covers, as a range; a crop that does not fit is drawn again.
    [EIR's code]"""
    flip: Share = 0.5
    """Probability that a crop is mirrored. [EIR's code]"""
    head_lr: Amount = 10.0
    """Learning rate of head and classifiers, as a multiple of the backbone's. [DKD, EIR: 10; MiB: 1]"""
    foreign_backbone: Share = 1.0
    """Learning rate of the backbone in a step whose classes look like none before, as a multiple of the usual
    one. Such steps are recognised only where `posterior` is above 0. [ours]"""
    freeze_norm: bool = True
    """Freeze batch normalisation and dropout after the first step. [DKD, EIR: yes; MiB's code: no]"""
    decay_old: bool = False
    """Apply weight decay to all weights after the first step, not only to the new classifier. [DKD, EIR: no;
    MiB: yes]"""
    nest: Count = 0
    """Epochs in which new classifiers are tuned as a mix of the old ones before a later step; 0: they start
    as the method has it. [NeST: 5 on PASCAL VOC, 15 on ADE20K]"""
    fine: bool = False
    """Read the backbone's first stage as well, at a quarter of the image's resolution, for thin objects. The
    base's head must be DeepLabV3's. [DeepLabV3+]"""
    posterior: Annotated[float, Range(0, 100)] = 0.0
    """Weight of what the untrained backbone says about which class an object is of, in predictions; 0: the
    segmenter decides alone. [ours; the idea: IPSeg]"""
    replay: Share = 0.0
    """Minimum share of an epoch's examples that come from a memory, repeated as often as needed; 0: each
    once. [SSUL: 0.5]"""
    val: Share = 0.0
    """Share of a stage's training images held out to choose the best epoch by; 0: none, unless the stream has
    val:. [ours]"""
    patience: Count = 0
    """Stop after this many epochs without a better score on held-out images; 0: train to the end. [ours]"""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_validation(self)
        ascending(self, "area")
        if self.replay == 1:
            raise SettingError("replay", "is 1, which leaves no new images to train on; give a share below 1")

    @classmethod
    def sigmoid(cls) -> ClassTuneConfig:
        """DKD's and EIR's on PASCAL VOC: 60 epochs per step in batches of 24 at 0.001, then 0.0001, poly."""
        return cls(_sgd(60, 1e-3), _sgd(60, 1e-4))

    @classmethod
    def softmax(cls) -> ClassTuneConfig:
        """MiB's on PASCAL VOC: 30 epochs per step in batches of 24 at 0.01, then 0.001, poly, one rate for
        all."""
        return cls(_sgd(30, 1e-2), _sgd(30, 1e-3), head_lr=1.0, decay_old=True)


def _sgd(epochs: int, lr: float) -> FitConfig:
    return FitConfig(
        epochs=epochs,
        batch=24,
        lr=lr,
        optimiser="sgd",
        weight_decay=1e-4,
        schedule="poly",
        drop_last=True,
    )


# ---------------------------------------------------------------- training rows


class Row(NamedTuple):
    """One training row: image (3, S, S) and labels (S, S), a seed for its draws, whether it is replayed.

    completed: (S, S), labels completed by the old model. over, share: (L, S, S); see `instances.Pasted`.
    """

    image: Tensor
    labels: Tensor
    seed: int
    replayed: bool = False
    completed: Tensor | None = None
    over: Tensor | None = None
    share: Tensor | None = None


class Batch(NamedTuple):
    """images (B, 3, S, S) uint8, labels (B, S, S) uint8, replayed (B,) bool, seeds of the rows; what else the
    rows have, or None."""

    images: Tensor
    labels: Tensor
    replayed: Tensor
    seeds: tuple[int, ...]
    completed: Tensor | None = None
    over: Tensor | None = None
    share: Tensor | None = None


class Memory(Protocol):
    """What is trained on besides a step's own samples: draws row `index` again for a seed, at any side."""

    def __len__(self) -> int: ...

    def draw(self, index: int, side: int, seed: int) -> tuple[Tensor, Tensor]: ...


class Crops:
    """A step's samples as training rows, each cropped and mirrored again in each epoch by (seed, step, epoch,
    sample), and rows of a memory behind them.

    beside: a further label map of a sample, cropped with it: what the old model completed. finish: what
    becomes of each row in the end, in the loader's workers.

    A single image counts twice: one alone cannot train batch normalisation.
    """

    def __init__(
        self,
        samples: Sequence[SemanticSample],
        config: ClassTuneConfig,
        seed: int,
        name: str,
        memory: Memory | None = None,
        *,
        beside: Callable[[int], Tensor] | None = None,
        finish: Callable[[Row], Row] | None = None,
    ) -> None:
        self.samples, self.config, self.seed, self.name = samples, config, seed, name
        self.beside, self.finish = beside, finish
        self.memory: Any = memory if memory is not None else ()
        self.own = 2 if len(samples) == 1 else len(samples)
        least = math.ceil(config.replay / (1 - config.replay) * self.own)
        self.replayed = max(len(self.memory), least) if len(self.memory) and self.own else 0

    def __len__(self) -> int:
        return self.own + self.replayed

    def at(self, epoch: int) -> _Epoch:
        return _Epoch(self, epoch)


class _Epoch:
    """The rows of one epoch; a class, so that workers can be given it."""

    def __init__(self, crops: Crops, epoch: int) -> None:
        self.crops, self.epoch = crops, epoch

    def __len__(self) -> int:
        return len(self.crops)

    def __getitem__(self, index: int) -> Row:
        row = self._drawn(index)
        return row if self.crops.finish is None else self.crops.finish(row)

    def _drawn(self, index: int) -> Row:
        crops = self.crops
        own = fold(crops.seed, crops.name, "row", self.epoch, index)
        if index >= crops.own:
            kept = (index - crops.own) % len(crops.memory)
            image, labels = crops.memory.draw(kept, crops.config.crop, own)
            return Row(image, labels, own, True, None if crops.beside is None else labels)
        place = index % len(crops.samples)
        sample, generator = crops.samples[place], torch_generator(own, "crop")
        if crops.beside is None:
            return Row(*random_crop(sample.image, sample.labels, crops.config, generator), own)
        maps = torch.stack([sample.labels, crops.beside(place)])
        image, (labels, completed) = random_crop(sample.image, maps, crops.config, generator)
        return Row(image, labels, own, completed=completed)


def collate(rows: list[Row]) -> Batch:
    """Rows as a batch."""
    return Batch(
        torch.stack([r.image for r in rows]),
        torch.stack([r.labels for r in rows]),
        torch.tensor([r.replayed for r in rows]),
        tuple(r.seed for r in rows),
        *(_stacked([getattr(r, name) for r in rows]) for name in ("completed", "over", "share")),
    )


def _stacked(maps: list[Tensor | None]) -> Tensor | None:
    found = [m for m in maps if m is not None]
    assert len(found) in (0, len(maps)), "all rows have it or none"
    return torch.stack(found) if found else None


def random_crop(
    image: Tensor, labels: Tensor, config: ClassTuneConfig, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """A random part of an image and its labels, brought to a square of `crop` pixels, mirrored or not: image
    bilinear, labels nearest. labels: a map (H, W) or several (M, H, W).

    Area and shape are drawn, ten times at most, until they fit into the image; else the largest part in the
    middle of an allowed shape is taken. So it never zooms out: areas above 1 only make trials fail.
    Source: DKD's and EIR's augmentation, torchvision's RandomResizedCrop.
    """
    height, width = labels.shape[-2:]
    top, left, h, w = crop_window(height, width, config.area, generator)
    size = (config.crop, config.crop)
    part = image[None, :, top : top + h, left : left + w]
    seen = labels.reshape(1, -1, height, width)[..., top : top + h, left : left + w]
    if (h, w) != size:
        part = resized(part, size)
        seen = F.interpolate(seen, size=size, mode="nearest-exact")
    if float(torch.rand((), generator=generator)) < config.flip:
        part, seen = part.flip(-1), seen.flip(-1)
    return part[0].contiguous(), seen.reshape(*labels.shape[:-2], *size).contiguous()


def crop_window(
    height: int, width: int, area: tuple[float, float], generator: torch.Generator
) -> tuple[int, int, int, int]:
    """Top, left, height and width of a random part."""
    for _ in range(TRIALS):
        u, v, y, x = torch.rand(4, generator=generator, dtype=torch.float64).tolist()
        target = (area[0] + u * (area[1] - area[0])) * height * width
        ratio = math.exp(math.log(RATIO[0]) + v * (math.log(RATIO[1]) - math.log(RATIO[0])))
        h, w = round(math.sqrt(target / ratio)), round(math.sqrt(target * ratio))
        if 0 < h <= height and 0 < w <= width:
            return int(y * (height - h + 1)), int(x * (width - w + 1)), h, w
    h, w = height, width
    if width / height < RATIO[0]:
        h = min(height, round(width / RATIO[0]))
    elif width / height > RATIO[1]:
        w = min(width, round(height * RATIO[1]))
    return (height - h) // 2, (width - w) // 2, h, w


# ---------------------------------------------------------------- one step


class Validate(NamedTuple):
    """Scores a model in training: `score(workers)` on `images` validation images."""

    score: Callable[[int], float]
    images: int


def begin(
    model: Segmenter, stage: Stage, config: ClassTuneConfig, init: Init, *, seed: int
) -> Segmenter | None:
    """Give the model a classifier for the stage's classes; returns a frozen copy of what it was before, None
    before the first step, whose classifier starts fresh."""
    old = model.frozen_copy() if model.counts else None
    tuned = old is not None and config.nest > 0 and len(stage.train) > 0
    model.grow(len(stage.classes), init if old is not None and not tuned else "fresh", seed=seed)
    if old is not None and config.freeze_norm:
        model.freeze_norm()
    if old is not None and tuned:
        rows, how = Crops(stage.train, config, seed, stage.name), config.later
        pretune(model, old, rows, batches(rows, how), collate, how, config.nest, config.head_lr)
    return old


def train(
    model: Segmenter,
    crops: Crops,
    loss: Callable[[Batch], Tensor],
    config: ClassTuneConfig,
    *,
    scratch: Scratch,
    groups: Sequence[Group] | None = None,
    validate: Validate | None = None,
) -> dict[str, float]:
    """Minimise `loss` by gradient steps on the model, in place; returns `fit`'s figures.

    loss(batch) is a mean over the pixels of the batch. A batch in parts, or shared out among processes, is
    averaged part by part, as the published code does on several GPUs: void is shared out unevenly then.
    groups: what trains and how fast; by default all of the model that requires a gradient.
    validate: what the best epoch is chosen by; see `ClassLearner.validate`.
    """
    how = config.later if len(model.counts) > 1 else config.first
    groups = groups_of(model, config) if groups is None else groups
    if world().main and any(g.name == "backbone" and g.scale != 1 for g in groups):
        remark(f"{crops.name}: its images look unlike those before; the backbone learns more slowly")

    def weighed(batch: Batch, size: int) -> Tensor:
        with _drawn(batch.seeds[0], model.device):
            return loss(batch) * (len(batch.images) / size)

    def score() -> float:
        assert validate is not None
        found = validate.score(how.workers)
        model.train()
        return found

    model.train()
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d) and m.training]
    with _following(norms, steps_of(how, len(crops))):
        figures = fit(
            groups,
            crops,
            collate,
            weighed,
            how,
            seed=crops.seed,
            name=crops.name,
            scratch=scratch,
            scaled=resolved(model.precision, model.device) == "fp16",
            buffers=[b for norm in norms for b in norm.buffers()],
            validation=validation_of(config, score, validate.images if validate else 0, crops.name),
        )
    model.eval()
    for group in groups:
        for parameter in group.parameters:
            parameter.grad = None
    return figures | {"trainable_parameters": float(sum(p.numel() for g in groups for p in g.parameters))}


def groups_of(model: Segmenter, config: ClassTuneConfig) -> list[Group]:
    """What of a model trains in its newest step, with the learning rates and the weight decay that go with
    it."""
    first = len(model.counts) < 2
    decay = (config.first if first else config.later).weight_decay
    found = model.groups(decay, decay_old=config.decay_old or first)
    return [g if g.name == "backbone" else g._replace(scale=config.head_lr) for g in found]


@contextmanager
def _following(norms: Sequence[nn.BatchNorm2d], steps: int) -> Iterator[None]:
    """Let running statistics forget what was before the last tenth of a training, where that is shorter than
    what they remember by themselves; but no faster than PyTorch's default.

    A backbone's remember the last hundred steps. Those of a short training would be still on their way from
    the pretrained weights' when they are frozen, and a later step would start from noise; those of a handful
    of batches alone would be noise themselves.
    """
    before = [norm.momentum for norm in norms]
    for norm, own in zip(norms, before, strict=True):
        norm.momentum = max(own or 0.0, min(FASTEST, 10 / max(1, steps)))
    try:
        yield
    finally:
        for norm, own in zip(norms, before, strict=True):
            norm.momentum = own


@contextmanager
def _drawn(seed: int, device: torch.device) -> Iterator[None]:
    """Dropout as this seed draws it, and the global generators as they were."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def batches(crops: Crops, config: FitConfig) -> Iterator[Batch]:
    """This process's share of the batches of the first epoch, in order, for a pass without gradients. The
    batches are the same however many processes there are."""
    whole = [list(range(len(crops)))[i : i + config.batch] for i in range(0, len(crops), config.batch)]
    loader: DataLoader[Any] = DataLoader(
        crops.at(0),  # type: ignore[arg-type]  # any sequence serves
        batch_sampler=[whole[i] for i in shard(range(len(whole)))],
        collate_fn=collate,
        num_workers=config.workers,
    )
    yield from loader
