"""Score a learner of classes: every test image once, whatever the number of processes, into one matrix."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor
from torch.utils.data import DataLoader, Subset

from everseg.classes.confusion import Absent, Confusion, iou_of
from everseg.config import MACHINE, Checked, Count, Size
from everseg.data import CentreCropped
from everseg.distributed import gather, shard
from everseg.progress import bar
from everseg.results import ImageScore
from everseg.types import ImageQuery, SemanticSample

Label = Callable[[Sequence[ImageQuery]], Sequence[Tensor]]
"""What predicts: the channel of every pixel, (H, W) whole numbers, for each query."""


@dataclass(frozen=True)
class ClassScoreConfig(Checked):
    """How class maps are compared with the truth."""

    size: Literal["original"] | Size = 512
    """Side of the centre square that is scored, after the short side is resized to it; "original": full size.
    [MiB, DKD, EIR: 512; SSUL: 513]"""
    absent: Absent = "zero"
    """IoU of a class without a pixel in the truth: 0 ("zero"), or left out of all means ("exclude"). [DKD,
    EIR: zero; MiB: exclude]"""
    batch: Size = field(default=16, metadata=MACHINE)
    """Images predicted together."""
    workers: Count = field(default=0, metadata=MACHINE)
    """Processes that decode images; 0: decode in the main process."""

    @classmethod
    def presets(cls) -> dict[str, ClassScoreConfig]:
        """Papers and published code alike compare on the crop."""
        return {"paper": cls(), "reference": cls()}


def score_classes(
    predict: Label,
    samples: Sequence[SemanticSample],
    classes: Sequence[str],
    config: ClassScoreConfig,
) -> Confusion:
    """The confusion of `predict` over all pixels of all samples but the void ones.

    classes: names of the channels, background first. The images are shared out among the processes, and every
        process returns the whole.
    """
    return score_images(predict, samples, classes, config)[0]


def score_images(
    predict: Label,
    samples: Sequence[SemanticSample],
    classes: Sequence[str],
    config: ClassScoreConfig,
) -> tuple[Confusion, list[tuple[str, list[float]]]]:
    """As `score_classes`, and of each image its name and the IoU of each channel in it, NaN for those that
    its truth does not show."""
    shown = samples if config.size == "original" else CentreCropped(samples, config.size)
    loader: DataLoader[Any] = DataLoader(
        Subset(shown, shard(range(len(shown)))),  # type: ignore[arg-type]  # any sequence serves
        batch_size=config.batch,
        collate_fn=list,
        num_workers=config.workers,
    )
    confusion = Confusion(classes)
    images: list[tuple[str, list[float]]] = []
    with bar("score classes", len(loader)) as advance:
        for batch in loader:
            predictions = predict([s.query() for s in batch])
            for sample, predicted in zip(batch, predictions, strict=True):
                own = confusion.add(predicted.cpu(), sample.labels)
                images.append((sample.name, iou_of(own, "exclude").tolist()))
            advance("")
    return confusion.everywhere(), [image for part in gather(images) for image in part]


def by_step(
    images: Sequence[tuple[str, Sequence[float]]],
    classes: Sequence[str],
    learned_at: Mapping[str, int],
    steps: Sequence[str],
    first: int = 0,
) -> list[ImageScore]:
    """Of each image and each step from `first` on the mean IoU of the classes that the step taught and the
    image shows, without the background, which would make every image look good.

    Nothing where two images have one name, because no later row could tell them apart.
    """
    names = [name for name, _ in images]
    if len(set(names)) < len(names):
        return []
    found = []
    for row, step in list(enumerate(steps))[first:]:
        own = [k for k, name in enumerate(classes) if k and learned_at.get(name) == row]
        for image, ious in images:
            shown = [ious[k] for k in own if not math.isnan(ious[k])]
            if shown:
                found.append(ImageScore(step, image, {"iou": sum(shown) / len(shown)}))
    return found
