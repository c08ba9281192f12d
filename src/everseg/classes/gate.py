"""Two predictors of classes on the same images: what the gate compares.

The IoU of a class is a ratio of sums over the whole test set, so no image has one. It is taken apart into
what each image adds to it, whose mean is the IoU: R + (tp - R union) / (mean union), with
R = sum tp / sum union. Differences of these are compared like scores of images (linearisation of a ratio,
Cochran 1977, chapter 6).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from everseg.classes.confusion import Confusion
from everseg.classes.scoring import ClassScoreConfig, Label
from everseg.data import CentreCropped
from everseg.progress import bar
from everseg.results.paired import Pairs
from everseg.types import VOID, SemanticSample

Floats = NDArray[np.float64]

Counts = NDArray[np.int64]
"""(images, classes, 3): see `_counts`."""

IMAGES = "images"
"""The column of the images' own mean IoU."""


def measure(
    old: Label,
    new: Label,
    samples: Sequence[SemanticSample],
    classes: Sequence[str],
    how: ClassScoreConfig,
) -> list[Pairs]:
    """Each class over all images, and each image's mean IoU over the classes that occur in it.

    classes: those that both runs know, the background first. Pixels of other classes are void, and an image
        of nothing else is left out.
    """
    shown = samples if how.size == "original" else CentreCropped(samples, how.size)
    loader: DataLoader[Any] = DataLoader(
        shown,  # type: ignore[arg-type]  # any sequence serves
        batch_size=how.batch,
        collate_fn=list,
        num_workers=how.workers,
    )
    names: list[str] = []
    counts: tuple[list[Counts], list[Counts]] = ([], [])
    with bar("compare", len(loader)) as advance:
        for batch in loader:
            queries = [sample.query() for sample in batch]
            before = old(queries)
            after = before if new is old else new(queries)
            for sample, *pair in zip(batch, before, after, strict=True):
                place = len(names)
                names.append(sample.name or f"{place:05d}")
                for side, one in zip(counts, pair, strict=True):
                    side.append(_counts(one, sample.labels, classes))
            advance("")
    return _pairs(names, np.stack(counts[0]), np.stack(counts[1]), classes)


def _counts(predicted: Tensor, labels: Tensor, classes: Sequence[str]) -> Counts:
    """(K, 3): pixels of each class that are right, those that are of it in the truth or the prediction, and
    those in the truth."""
    known = len(classes)
    labels = labels.where(labels < known, VOID)
    # A channel that the other run does not know is one more way to be wrong.
    confusion = Confusion([*classes, "other"])
    confusion.add(predicted.cpu().long().clamp(max=known), labels)
    table = confusion.counts.numpy()
    right = table.diagonal()[:known]
    true = table.sum(1)[:known]
    return np.stack([right, true + table.sum(0)[:known] - right, true], axis=1)


def _pairs(names: Sequence[str], old: Counts, new: Counts, classes: Sequence[str]) -> list[Pairs]:
    found = []
    shown = (old[:, :, 1] > 0) | (new[:, :, 1] > 0)
    for place, name in enumerate(classes):
        own = np.flatnonzero(shown[:, place]).tolist()
        ours, theirs = old[own, place], new[own, place]
        if ours[:, 1].any() and theirs[:, 1].any():
            units = tuple(names[n] for n in own)
            found.append(Pairs(name, "class", "", units, _shares(ours), _shares(theirs), flips=False))
    there = old[:, :, 2] > 0  # The truth, which is the same for both.
    images = np.flatnonzero(there.any(1)).tolist()
    if images:
        before, after = (_means(side[images], there[images]) for side in (old, new))
        found.append(Pairs(IMAGES, "all", "", tuple(names[n] for n in images), before, after))
    return found


def _means(counts: Counts, there: NDArray[np.bool_]) -> Floats:
    """Each image's mean IoU over the classes that are there."""
    return np.array([np.mean(one[own, 0] / one[own, 1]) for one, own in zip(counts, there, strict=True)])


def _shares(counts: Counts) -> Floats:
    """What each image adds to a class's IoU: (n, 3) -> (n,)."""
    right, union, _ = counts.astype(np.float64).T
    ratio = right.sum() / union.sum()
    return ratio + (right - ratio * union) / union.mean()
