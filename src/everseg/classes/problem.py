"""Classes as a problem: a class for every pixel, and more classes with every step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from everseg.classes.scoring import ClassScoreConfig, score_classes
from everseg.data.classes.legend import BACKGROUND_NAME as BACKGROUND
from everseg.errors import UserError
from everseg.models.names import MOBILENET
from everseg.models.semantic.base import load_semantic_base
from everseg.pictures.drawn import Drawn
from everseg.pictures.overlay import class_map, draw_classes
from everseg.results import Results, average_over_steps, class_means, with_class_row
from everseg.types import ImageQuery, Precision, Prompts, RunView, Stage
from everseg.types.brief import Brief

if TYPE_CHECKING:
    from everseg.data import Stream


@dataclass(frozen=True, eq=False, repr=False)
class ClassMap(Brief):
    """What a run of classes says of one image.

    labels: (H, W) uint8, the channel of each pixel, 0 the background.
    classes: names of the channels.
    """

    labels: NDArray[np.uint8]
    classes: tuple[str, ...]


class Classes:
    """A segmenter that is trained on and on. All test images so far give one confusion matrix; every class
    is a column, the background the first."""

    name = "classes"
    what = "classes"
    base = MOBILENET
    Score = ClassScoreConfig
    lower_is_better: Mapping[str, bool] = {"iou": False}
    panels = ("means", "maps", "costs", "merges", "settings")
    outputs = ("_classes.png",)
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
                raise UserError(
                    f"the run learned {', '.join(entry.classes)} as {entry.name!r}, and there "
                    f"{stream.source or 'the stream'} has {', '.join(now[1:]) or 'nothing'}; leave what was "
                    "learned as it is and add new classes behind it, or choose another --out"
                )

    def row(
        self, run: RunView, stream: Stream, stage: Stage, columns: Sequence[Stage], *, last: bool
    ) -> tuple[Results, None]:
        """Classes that were not learned have no score, and the untouched base knows none."""
        first = [BACKGROUND] if not run.results.stages else []
        classes = run.classes + stage.classes
        return self._with_row(run, run.results, stage, classes, run.config.score, first), None

    def now(self, run: RunView, stream: Stream, how: Any, *, oracle: bool) -> Results:
        if oracle:
            raise UserError("--oracle tells a run each image's domain; this one learns classes: leave it out")
        at_once = stream.joint is not None and stream.joint.name in run.learned
        stage = stream.joint if at_once else stream.stages[len(run.learned) - 1]
        assert stage is not None
        empty = Results(run.results.lower_is_better)
        taught = [BACKGROUND, *(c for c in run.classes[1:] if c not in stage.classes)]
        return self._with_row(run, empty, stage, run.classes, how, taught, name="now")

    def _with_row(
        self,
        run: RunView,
        results: Results,
        stage: Stage,
        classes: tuple[str, ...],
        how: ClassScoreConfig,
        before: Sequence[str],
        name: str = "",
    ) -> Results:
        confusion = score_classes(run.learner.predict, stage.test, classes, how)
        taught = [*before, *stage.classes]
        return with_class_row(results, name or stage.name, taught, {"iou": confusion.scores(how.absent)})

    def means(self, results: Results, first: Sequence[str]) -> dict[str, float]:
        """Of the old classes, the new ones, all, and their harmonic mean; the average over steps."""
        matrix = results.matrix("iou")
        found = asdict(class_means(matrix, old=first or None))
        return found | {"average_over_steps": average_over_steps(matrix)}

    def query(self, image: Tensor, prompts: Prompts | None, what: str) -> ImageQuery:
        if prompts is not None:
            raise UserError(f"{what} gives every pixel a class; leave clicks and boxes out")
        return ImageQuery(image)

    def untouched(self, run: RunView) -> None:
        """A backbone knows no class."""

    def answer(self, prediction: Tensor, classes: Sequence[str]) -> ClassMap:
        return ClassMap(prediction.cpu().numpy(), tuple(classes))

    def draw(self, stem: str, image: Tensor, prediction: Tensor, classes: Sequence[str]) -> Drawn:
        """A class map with a palette, whose numbers are channels, and an overlay."""
        channels = prediction.numpy()
        counts = np.bincount(channels.ravel(), minlength=len(classes))
        name = f"{stem}_classes.png"
        record = {
            "size": {"width": channels.shape[1], "height": channels.shape[0]},
            "file": name,
            "classes": [
                {"channel": channel, "name": each, "pixels": int(counts[channel])}
                for channel, each in enumerate(classes)
            ],
        }
        pictures = {
            name: class_map(channels),
            f"{stem}_overlay.png": Image.fromarray(draw_classes(image, channels)),
        }
        seen = [f"{c['name']} {c['pixels']}" for c in record["classes"][1:] if c["pixels"]]  # type: ignore[index]
        return Drawn(pictures, record, ((", ".join(seen) or "background alone", name),))
