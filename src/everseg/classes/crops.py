"""The rows that a step trains on: random crops of its samples, and what a memory replays.

Shapes: B images; S the side of a training crop; H W the pixels of an image.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader

from everseg.classes.settings import ClassTuneConfig
from everseg.data.resize import resized
from everseg.distributed import shard
from everseg.fit import FitConfig
from everseg.seed import fold, torch_generator
from everseg.types import SemanticSample

TRIALS = 10
RATIO = (3 / 4, 4 / 3)


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
