"""Domains as a problem: prompted objects in domain after domain, on a frozen promptable base."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from everseg.domains.methods.zero_shot import ZeroShot
from everseg.domains.scoring import Predict, ScoreConfig, score
from everseg.errors import UserError
from everseg.models.names import TINY
from everseg.models.promptable.load import load_base
from everseg.pictures.drawn import Drawn
from everseg.pictures.overlay import draw_mask
from everseg.results import BASE, Results
from everseg.results.metrics import METRICS
from everseg.types import (
    LearnsAllAtOnce,
    Precision,
    PredictsAs,
    PromptPrediction,
    Prompts,
    Query,
    Route,
    RunView,
    Stage,
)
from everseg.types.brief import Brief

if TYPE_CHECKING:
    from everseg.data import Stream


@dataclass(frozen=True, eq=False, repr=False)
class Masks(Brief):
    """What a run of domains says of one image.

    masks: (N, H, W) bool, one per object.
    iou: (N,) float32, the model's own estimate for each.
    route: the module that was used and how sure the choice was, with the probabilities of all modules; None
        for methods that choose none.
    """

    masks: NDArray[np.bool_]
    iou: NDArray[np.float32]
    route: Route | None


class Domains:
    """Objects that a prompt points at. Every test image has a score, and every domain is a column."""

    name = "domains"
    what = "domains of prompted objects"
    base = TINY
    Score = ScoreConfig
    lower_is_better: Mapping[str, bool] = {name: m.lower_is_better for name, m in METRICS.items()}
    panels = ("matrix", "routing", "masks", "costs", "merges", "settings")
    outputs = ("_mask*.png",)
    entangled = "one adapter holds what it learned of all of them"

    def fits(self, stream: Stream) -> bool:
        return not any(stage.classes for stage in stream.stages)

    def load_base(self, name: str, device: torch.device, precision: Precision) -> Any:
        return load_base(name, device=device, precision=precision)

    def check_order(self, stream: Stream, learned: Sequence[Any]) -> None:
        """Domains may come in any order."""

    def row(
        self, run: RunView, stream: Stream, stage: Stage, columns: Sequence[Stage], *, last: bool
    ) -> tuple[Results, Mapping[str, Mapping[str, float]] | None]:
        """With the last stage, also the unseen domains, the untouched base and the oracle."""
        learner, how = run.learner, run.config.score
        at_once = isinstance(learner, LearnsAllAtOnce)
        if at_once:
            columns = stream.stages
        tested = [c for c in columns if len(c.test)] + (list(stream.unseen) if last else [])
        rows = [s for column in tested for s in score(learner.predict, column.test, column.name, how)]
        learned = [c.name for c in columns] if at_once else [stage.name]
        background = [c.name for c in columns if c.background and c.name in learned]
        results = run.results.with_stage(stage.name, rows, learned=learned, background=background)
        if not last:
            return results, None
        if run.config.baseline:
            plain = self.untouched(run)
            known = {score.column for score in results.scores.get(BASE, ())}
            new = [c for c in tested if c.name not in known]
            untouched = [s for column in new for s in score(plain, column.test, column.name, how)]
            results = results.with_baseline(untouched)
        if not isinstance(learner, PredictsAs):
            return results, None
        oracle = {}
        for column in [c for c in tested if c in stream.stages and not c.background]:
            told = score(partial(learner.predict_as, stage_name=column.name), column.test, column.name, how)
            oracle[column.name] = {m: sum(s.values[m] for s in told) / len(told) for m in METRICS}
        return results, oracle

    def now(self, run: RunView, stream: Stream, how: Any, *, oracle: bool) -> Results:
        learner = run.learner
        if oracle and not isinstance(learner, PredictsAs):
            raise UserError(f"method {run.config.method!r} keeps no module per domain; leave --oracle out")
        rows = []
        tested = [s for s in [*stream.stages, *stream.unseen] if len(s.test)]
        for stage in tested:
            predict = learner.predict
            if isinstance(learner, PredictsAs) and oracle:
                predict = partial(learner.predict_as, stage_name=stage.name)
            rows += score(predict, stage.test, stage.name, how)
        learned = [s.name for s in tested if s.name in run.results.learned_at]
        background = [s.name for s in tested if s.background and s.name in learned]
        empty = Results(run.results.lower_is_better)
        return empty.with_stage("now", rows, learned=learned, background=background)

    def means(self, results: Results, first: Sequence[str]) -> dict[str, float]:
        """The averages of any matrix say it all."""
        return {}

    def query(self, image: Tensor, prompts: Prompts | None, what: str) -> Query:
        if prompts is None:
            raise UserError(
                "nothing points at the object; give points (x, y) or a box (x0, y0, x1, y1), in pixels"
            )
        return Query(image, prompts)

    def untouched(self, run: RunView) -> Predict:
        return ZeroShot(run.base, seed=run.config.seed).predict

    def answer(self, prediction: PromptPrediction, classes: Sequence[str]) -> Masks:
        return Masks(prediction.masks().cpu().numpy(), prediction.iou.cpu().numpy(), prediction.route)

    def draw(self, stem: str, image: Tensor, prediction: PromptPrediction, classes: Sequence[str]) -> Drawn:
        """One mask per object (0 or 255), and an overlay of all of them."""
        masks = prediction.masks().numpy()
        count, route = len(masks), prediction.route
        names = [f"{stem}_mask.png" if count == 1 else f"{stem}_mask_{n + 1}.png" for n in range(count)]
        pictures = {
            name: Image.fromarray(mask.astype(np.uint8) * 255)
            for name, mask in zip(names, masks, strict=True)
        }
        pictures[f"{stem}_overlay.png"] = Image.fromarray(draw_mask(image, prediction.masks().any(0).numpy()))
        objects = [
            {"file": name, "pixels": int(mask.sum()), "predicted_iou": round(float(iou), 4)}
            for name, mask, iou in zip(names, masks, prediction.iou, strict=True)
        ]
        record = {
            "size": {"width": prediction.size[1], "height": prediction.size[0]},
            "masks": objects,
            "module": None if route is None else route.name,
            "probability": None if route is None else round(route.probability, 4),
        }
        chosen = "" if route is None else f" with module {route.name} ({route.probability:.2f})"
        lines = tuple((f"{o['pixels']} pixels{chosen}", str(o["file"])) for o in objects)
        return Drawn(pictures, record, lines)
