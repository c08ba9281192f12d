"""Instances as training rows, and instances pasted into training rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from everseg.classes.crops import Batch, Row, collate
from everseg.classes.instances.alone import instance_crop
from everseg.classes.instances.paste import PasteConfig, paste, seen_classes
from everseg.classes.instances.pool import Instance, InstancePool
from everseg.classes.losses import pseudo_labels
from everseg.classes.settings import ClassTuneConfig
from everseg.models.semantic.segmenter import Segmenter
from everseg.seed import numpy_generator, torch_generator


class InstanceRows:
    """The pool's instances as training rows: each alone, in a crop of where it was. See `instance_crop`."""

    def __init__(
        self,
        pool: InstancePool,
        config: ClassTuneConfig,
        *,
        visible: float,
        outside: Literal["void", "background"],
    ) -> None:
        self.instances: Sequence[Instance] = [pool.items[name] for name in sorted(pool.items)]
        self.config, self.visible, self.outside = config, visible, outside

    def __len__(self) -> int:
        return len(self.instances)

    def draw(self, index: int, side: int, seed: int) -> tuple[Tensor, Tensor]:
        assert side == self.config.crop, "of one side with the crops"
        generator = torch_generator(seed, "instance")
        how = {"visible": self.visible, "outside": self.outside}
        return instance_crop(self.instances[index], self.config, generator, **how)  # type: ignore[arg-type]


class Paster:
    """Pastes instances into a training row whose labels are completed."""

    def __init__(self, pool: InstancePool, config: PasteConfig) -> None:
        self.pool, self.config = pool, config

    def __call__(self, row: Row) -> Row:
        assert row.completed is not None
        seen = seen_classes(row.completed, row.labels)
        generator = numpy_generator(row.seed, "paste")
        made = paste(row.image, row.completed, self.pool, generator, self.config, seen=seen)
        return row._replace(image=made.image, completed=made.under, over=made.over, share=made.share)


def completed_in_crops(batch: Batch, old: Segmenter, sure: float, paster: Paster | None) -> Batch:
    """A batch with the labels that the old model completes in its crops, and then with instances pasted."""
    labels = batch.labels.to(old.device)
    scores = old(old.pixels(batch.images)).full().sigmoid()
    completed = pseudo_labels(labels, scores, sure).cpu()
    if paster is None:
        return batch._replace(completed=completed)
    parts = (batch.images, batch.labels, batch.seeds, batch.replayed.tolist(), completed)
    return collate([paster(Row(*row)) for row in zip(*parts, strict=True)])
