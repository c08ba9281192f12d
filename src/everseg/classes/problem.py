"""The problem of learning classes: a class per pixel, and more classes with every step."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from everseg.classes.drawing import draw, lines_of
from everseg.classes.gate import measure
from everseg.classes.proposal import may_propose, propose
from everseg.classes.scoring import ClassScoreConfig, by_step, score_classes, score_images
from everseg.classes.tiles import ScoresPixels, tiled
from everseg.data.classes.legend import BACKGROUND_NAME as BACKGROUND
from everseg.data.tiling import Tiling
from everseg.errors import UserError
from everseg.models.names import MOBILENET
from everseg.models.semantic.base import load_semantic_base
from everseg.models.semantic.packaged import EFFICIENTNET_LITE1
from everseg.models.tensors import SUFFIXES
from everseg.pictures.drawn import Drawn, Wanted
from everseg.results import (
    Results,
    average_over_steps,
    class_alarms,
    class_means,
    common_classes,
    retested_classes,
    setting_names,
    with_class_row,
)
from everseg.results.health import Measurement
from everseg.results.paired import Kind
from everseg.types import ImageQuery, Precision, Prompts, RunView, Stage
from everseg.types.brief import Brief
from everseg.types.proposal import Proposal

if TYPE_CHECKING:
    from everseg.data import Stream

NOT_INSTALLED = (
    "classes that look alike are told apart better with EfficientNet-Lite1, which is not installed: run "
    f"'{EFFICIENTNET_LITE1.install}' and begin again"
)
"""Said where the posterior of classes must make do with MobileNetV2."""


@dataclass(frozen=True, eq=False, repr=False)
class ClassMap(Brief):
    """Prediction of a run of classes for one image.

    labels: (H, W) uint8, channel of each pixel; 0 is the background.
    classes: names of the channels.
    """

    labels: NDArray[np.uint8]
    classes: tuple[str, ...]


class Classes:
    """A segmenter that learns one set of classes after another.

    All test images give one confusion matrix. Every class is a column of the results; the background is the
    first.
    """

    name = "classes"
    what = "classes"
    base = MOBILENET
    Score = ClassScoreConfig
    lower_is_better: Mapping[str, bool] = {"iou": False}
    further = ("plasticity", "flips")
    panels = ("means", "further", "maps", "training", "costs", "merges", "settings")
    outputs = r"_classes\.(png|tif)|_overlay\.png"
    entangled = "what a class taught cannot be taken out of a trained segmenter; only domains are forgotten"

    def fits(self, stream: Stream) -> bool:
        return all(stage.classes for stage in stream.stages)

    def load_base(self, name: str, device: torch.device, precision: Precision) -> Any:
        return load_semantic_base(name, device=device, precision=precision)

    def check_order(self, stream: Stream, learned: Sequence[Any]) -> None:
        """A class's channel is its place in the stream: learned stages come first, unchanged."""
        stages = [stream.joint] if stream.joint is not None else []
        if [stage.name for stage in learned] != [s.name for s in stages]:
            stages = list(stream.stages)
        for entry, stage in zip(learned, [*stages, *[None] * len(learned)], strict=False):
            now = () if stage is None else (stage.name, *stage.classes)
            if now != (entry.name, *entry.classes):
                other = f"{', '.join(now[1:])} as {now[0]!r}" if now else "nothing"
                raise UserError(
                    f"the run learned {', '.join(entry.classes)} as {entry.name!r}, but "
                    f"{stream.source or 'the stream'} now has {other} in its place; leave learned stages "
                    "unchanged and append new classes after them, or choose another --out"
                )

    def scored(
        self, run: RunView, stream: Stream, stage: Stage, columns: Sequence[Stage], *, last: bool
    ) -> list[Stage]:
        """A stage's test samples are those of all stages so far."""
        return [stage]

    def retested(self, run: RunView, stream: Stream, changed: Sequence[Stage]) -> list[Stage]:
        return [self._last(run, stream)]

    def retest(self, run: RunView, stream: Stream, changed: Sequence[Stage]) -> tuple[Results, None]:
        """One confusion of all test images scores all classes, so every column is measured again."""
        stage, how = self._last(run, stream), run.config.score
        confusion, images = score_images(run.learner.predict, stage.test, run.classes, how)
        parts = by_step(images, run.classes, run.results.learned_at, run.results.stages)
        return retested_classes(run.results, {"iou": confusion.scores(how.absent)}, parts), None

    def _last(self, run: RunView, stream: Stream) -> Stage:
        """The last stage that the run has learned."""
        at_once = stream.joint is not None and stream.joint.name in run.learned
        stage = stream.joint if at_once else stream.stages[len(run.learned) - 1]
        assert stage is not None
        return stage

    def row(
        self, run: RunView, stream: Stream, stage: Stage, columns: Sequence[Stage], *, last: bool
    ) -> tuple[Results, None]:
        """Classes that were not learned have no score, and the untouched base knows none."""
        first = [BACKGROUND] if not run.results.stages else []
        classes, how = run.classes + stage.classes, run.config.score
        confusion, images = score_images(run.learner.predict, stage.test, classes, how)
        taught = [*first, *stage.classes]
        steps = [*run.results.stages, stage.name]
        learned_at = {**run.results.learned_at, **dict.fromkeys(taught, len(steps) - 1)}
        parts = by_step(images, classes, learned_at, steps, first=0 if last else len(steps) - 1)
        scores = {"iou": confusion.scores(how.absent)}
        return with_class_row(run.results, stage.name, taught, scores, parts), None

    def now(self, run: RunView, stream: Stream, how: Any, *, oracle: bool) -> Results:
        if oracle:
            raise UserError("--oracle is for runs of domains, and this run learns classes; leave it out")
        confusion = score_classes(run.learner.predict, self._last(run, stream).test, run.classes, how)
        empty = Results(run.results.lower_is_better)
        return with_class_row(empty, "now", run.classes, {"iou": confusion.scores(how.absent)})

    def gated(self, new: RunView, old: RunView | None, streams: Sequence[Stream]) -> list[tuple[Stage, Kind]]:
        """The new run's last stage tests all classes so far."""
        return [(self._last(new, stream), "class") for stream in streams[:1]]

    def sides(self, new: RunView, old: RunView | None) -> tuple[Any, Any]:
        if old is None:
            raise UserError(
                "'plain' stands for an untouched base, and an untouched backbone predicts no classes; "
                "name a run instead"
            )
        return old.learner.predict, new.learner.predict

    def measure(
        self,
        old: Any,
        new: Any,
        tested: Sequence[tuple[Stage, Kind]],
        runs: tuple[RunView, RunView | None],
        *,
        seed: int,
        checked: int,
    ) -> Measurement:
        """Of the classes that both runs have in the same channels."""
        assert runs[1] is not None, "the untouched base is not a side"
        common = common_classes(runs[0].classes, runs[1].classes)
        if len(common) < 2:
            raise UserError(
                "the two runs have no class at the same position: one learned "
                f"{', '.join(runs[0].classes[1:])}, the other {', '.join(runs[1].classes[1:])}; compare "
                "runs of one stream"
            )
        stage, _ = tested[0]
        return Measurement(tuple(measure(old, new, stage.test, common, runs[0].config.score)), None)

    def means(self, results: Results, first: Sequence[str]) -> dict[str, float]:
        """Of the old classes, the new ones, all, and their harmonic mean; the average over steps."""
        matrix = results.matrix("iou")
        found = asdict(class_means(matrix, old=first or None))
        return found | {"average_over_steps": average_over_steps(matrix)}

    def propose(
        self,
        base: str,
        stages: Sequence[Stage],
        settings: Any,
        given: Collection[str],
        scored: Collection[str],
    ) -> Proposal:
        fine = base == MOBILENET or Path(base).suffix in SUFFIXES
        better = base == MOBILENET and EFFICIENTNET_LITE1.installed()
        found = propose(
            stages,
            settings,
            given,
            scored,
            gpu=torch.cuda.is_available(),
            fine=fine,
            posterior_backbone="efficientnet-lite1" if better else "base",
        )
        if base == MOBILENET and not better and found.settings.get("tune.posterior_backbone"):
            found = replace(found, why=(*found.why, NOT_INSTALLED))
        return found

    def may_propose(self, settings: Any) -> list[str]:
        return may_propose(settings)

    def alarms(self, results: Results, settings: Mapping[str, Any]) -> list[str]:
        names = setting_names(settings)
        return [alarm.sentence(names) for alarm in class_alarms(results.matrix("iou"))]

    def check_prompted(self, prompted: bool, what: str) -> None:
        if prompted:
            raise UserError(
                f"{what} predicts a class for every pixel and ignores prompts; leave clicks and boxes out"
            )

    def query(self, image: Tensor, prompts: Prompts | None, key: str) -> ImageQuery:
        return ImageQuery(image, key)

    def untouched(self, run: RunView) -> None:
        """A backbone knows no class."""

    def answer(self, prediction: Tensor, classes: Sequence[str]) -> ClassMap:
        return ClassMap(prediction.cpu().numpy(), tuple(classes))

    def segment(
        self,
        run: RunView,
        predict: Any,
        image: Tensor,
        objects: Sequence[Prompts],
        tiling: Tiling | None,
        key: str,
    ) -> NDArray[np.uint8]:
        if tiling is None or max(image.shape[-2:]) <= tiling.tile:
            (labels,) = predict([ImageQuery(image, key)])
            return labels.numpy()
        if not isinstance(run.learner, ScoresPixels):
            raise UserError(
                f"method {run.config.method!r} gives no scores per pixel, which tiles need; leave --tile out"
            )
        with torch.inference_mode():
            return tiled(run.learner, image, tiling).numpy()

    def draw(self, image: Tensor, found: NDArray[np.uint8], wanted: Wanted) -> Drawn:
        return draw(image, found, wanted)

    def lines(self, record: Mapping[str, Any]) -> list[tuple[str, str]]:
        return lines_of(record)
