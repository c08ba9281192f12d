"""Score a learner of classes: every test image once, whatever the number of processes, into one matrix."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor
from torch.utils.data import DataLoader, Subset

from everseg.classes.confusion import Absent, Confusion
from everseg.config import MACHINE, Checked, Count, Size
from everseg.data import CentreCropped
from everseg.distributed import shard
from everseg.progress import bar
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

    classes: names of the channels, background first. The images are shared out among the processes, and
    every process returns the whole.
    """
    shown = samples if config.size == "original" else CentreCropped(samples, config.size)
    loader: DataLoader[Any] = DataLoader(
        Subset(shown, shard(range(len(shown)))),  # type: ignore[arg-type]  # any sequence serves
        batch_size=config.batch,
        collate_fn=list,
        num_workers=config.workers,
    )
    confusion = Confusion(classes)
    with bar("score classes", len(loader)) as advance:
        for batch in loader:
            predictions = predict([s.query() for s in batch])
            for sample, predicted in zip(batch, predictions, strict=True):
                confusion.add(predicted.cpu(), sample.labels)
            advance("")
    return confusion.everywhere()
