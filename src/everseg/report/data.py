"""All that a report needs. Nothing here knows how a run folder is laid out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from everseg.results import Results, Summary
from everseg.results.flips import GOOD
from everseg.results.further import MEANINGS


@dataclass(frozen=True, eq=False)
class MaskExample:
    """One test image with its clicks and the masks that they give.

    image: (3, H, W) uint8.
    truth, plain, adapted: (H, W) bool, the true mask, the untouched base's and the run's.
    points: (P, 2) x, y in pixels of the image.
    labels: (P,) 1 on the object, 0 off it, -10 padding.
    route: the module that was chosen, "" where the method chooses none.
    iou_plain, iou_adapted: scores of the two.
    """

    domain: str
    name: str
    image: Tensor
    truth: Tensor
    plain: Tensor
    adapted: Tensor
    points: Tensor
    labels: Tensor
    route: str
    iou_plain: float
    iou_adapted: float

    def __post_init__(self) -> None:
        size = tuple(self.image.shape[1:])
        assert all(tuple(m.shape) == size for m in (self.truth, self.plain, self.adapted)), "one size for all"
        assert len(self.points) == len(self.labels), "a label for each point"


@dataclass(frozen=True, eq=False)
class MapExample:
    """One test image of a run of classes and its class map.

    step: the stage that it is listed under, which taught some of its classes.
    image: (3, H, W) uint8.
    truth: (H, W) uint8, channels, 255 void.
    predicted: (H, W) channels. Channels are the results' columns, the background first.
    """

    step: str
    name: str
    image: Tensor
    truth: Tensor
    predicted: Tensor

    def __post_init__(self) -> None:
        size = tuple(self.image.shape[1:])
        assert tuple(self.truth.shape) == tuple(self.predicted.shape) == size, "one size for all"


@dataclass(frozen=True)
class TrainingCurve:
    """What one training of a stage was like.

    name: of the stage, and of the training where a stage has several.
    epochs: those logged, from 1.
    losses: mean of each.
    val: scores on the validation images after each; empty without any.
    best: the epoch that was kept; 0 without validation images.
    """

    name: str
    epochs: Sequence[int]
    losses: Sequence[float]
    val: Sequence[float] = ()
    best: int = 0


@dataclass(frozen=True, eq=False)
class ReportData:
    """A run: its name, its resolved configuration, its scores and what it cost.

    panels: names of `everseg.report.panels.PANELS`, in the order of the page; one that has nothing to show is
        left out.
    masks, maps: the test images for the panels of these names.
    trainings: in the order of the stages.
    further: names of the further figures that such a run can have.
    good: IoU from which an image counts as good.
    """

    name: str
    config: Mapping[str, Any]
    results: Results
    summary: Summary
    panels: tuple[str, ...]
    masks: Sequence[MaskExample] = ()
    maps: Sequence[MapExample] = ()
    trainings: Sequence[TrainingCurve] = ()
    further: tuple[str, ...] = tuple(MEANINGS)
    good: float = GOOD
