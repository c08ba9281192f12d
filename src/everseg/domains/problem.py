"""Domains as a problem: prompted objects in domain after domain, on a frozen promptable base."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from everseg.data.tiling import Tiling
from everseg.domains.drawing import draw, lines_of
from everseg.domains.gate import Measured, measure, share_features
from everseg.domains.methods.zero_shot import ZeroShot
from everseg.domains.scoring import Predict, ScoreConfig, score
from everseg.domains.segment import Segmented, segment
from everseg.errors import UserError
from everseg.models.names import TINY
from everseg.models.promptable.load import load_base
from everseg.pictures.drawn import Drawn, Wanted
from everseg.results import BASE, Results
from everseg.results.further import MEANINGS
from everseg.results.health import Measurement, health
from everseg.results.labels import METRICS
from everseg.results.paired import Kind
from everseg.types import Precision, PromptPrediction, Prompts, Query, Route, RunView, Stage
from everseg.types.abilities import ChoosesLater, LearnsAllAtOnce, PredictsAs
from everseg.types.brief import Brief
from everseg.types.proposal import Proposal

if TYPE_CHECKING:
    from everseg.data import Stream


@dataclass(frozen=True, eq=False, repr=False)
class Masks(Brief):
    """Prediction of a run of domains for one image.

    masks: (N, H, W) bool, one per object.
    iou: (N,) float32, the model's own estimate of the IoU of each.
    route: module that was used, with the probabilities of all modules; None for methods that choose none.
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
    further = tuple(MEANINGS)
    panels = ("matrix", "further", "routing", "later", "masks", "training", "costs", "merges", "settings")
    outputs = r"_(mask|mask_\d+|labels)\.(png|tif)|_overlay\.png"
    entangled = "one adapter holds what it learned of all of them"

    def fits(self, stream: Stream) -> bool:
        return not any(stage.classes for stage in stream.stages)

    def load_base(self, name: str, device: torch.device, precision: Precision) -> Any:
        return load_base(name, device=device, precision=precision)

    def check_order(self, stream: Stream, learned: Sequence[Any]) -> None:
        """Domains may come in any order."""

    def scored(
        self, run: RunView, stream: Stream, stage: Stage, columns: Sequence[Stage], *, last: bool
    ) -> list[Stage]:
        if isinstance(run.learner, LearnsAllAtOnce):
            columns = stream.stages
        return [c for c in columns if len(c.test)] + (list(stream.unseen) if last else [])

    def row(
        self, run: RunView, stream: Stream, stage: Stage, columns: Sequence[Stage], *, last: bool
    ) -> tuple[Results, Mapping[str, Mapping[str, float]] | None]:
        """With the last stage, also the unseen domains, the untouched base and the oracle."""
        learner, how = run.learner, run.config.score
        at_once = isinstance(learner, LearnsAllAtOnce)
        columns = stream.stages if at_once else columns
        tested = self.scored(run, stream, stage, columns, last=last)
        rows = [s for c in tested for s in score(learner.predict, c.test, c.name, how, last=last)]
        learned = [c.name for c in columns] if at_once else [stage.name]
        background = [c.name for c in columns if c.background and c.name in learned]
        results = run.results.with_stage(stage.name, rows, learned=learned, background=background)
        if isinstance(learner, ChoosesLater) and (chosen := learner.chosen_later()) is not None:
            results = replace(results, later={**results.later, stage.name: chosen.of})
        if not last:
            return results, None
        if run.config.baseline:
            known = {score.column for score in results.scores.get(BASE, ())}
            results = self._with_baseline(run, results, [c for c in tested if c.name not in known])
        if not isinstance(learner, PredictsAs):
            return results, None
        return results, self._oracle(run, [c for c in tested if c in stream.stages and not c.background])

    def _with_baseline(self, run: RunView, results: Results, columns: Sequence[Stage]) -> Results:
        plain, how = self.untouched(run), run.config.score
        return results.with_baseline(
            [s for c in columns for s in score(plain, c.test, c.name, how, last=True)]
        )

    def _oracle(self, run: RunView, columns: Sequence[Stage]) -> dict[str, dict[str, float]]:
        learner = run.learner
        assert isinstance(learner, PredictsAs), "asked before"
        oracle = {}
        for c in columns:
            told = score(partial(learner.predict_as, stage_name=c.name), c.test, c.name, run.config.score)
            oracle[c.name] = {m: sum(s.values[m] for s in told) / len(told) for m in METRICS}
        return oracle

    def retested(self, run: RunView, stream: Stream, changed: Sequence[Stage]) -> list[Stage]:
        """Of a learner of all at once nobody knows which domain has changed."""
        return [
            c for c in (stream.stages if isinstance(run.learner, LearnsAllAtOnce) else changed) if len(c.test)
        ]

    def retest(
        self, run: RunView, stream: Stream, changed: Sequence[Stage]
    ) -> tuple[Results, Mapping[str, Mapping[str, float]] | None]:
        tested, how = self.retested(run, stream, changed), run.config.score
        rows = [s for c in tested for s in score(run.learner.predict, c.test, c.name, how, last=True)]
        results, oracle = run.results.retested(rows), run.record.oracle
        if run.config.baseline:
            results = self._with_baseline(run, results, tested)
        if oracle is not None:
            oracle = {**oracle, **self._oracle(run, [c for c in tested if not c.background])}
        return results, oracle

    def now(self, run: RunView, stream: Stream, how: Any, *, oracle: bool) -> Results:
        learner = run.learner
        if oracle and not isinstance(learner, PredictsAs):
            raise UserError(
                f"method {run.config.method!r} keeps no module per domain, so there is none to choose; "
                "leave --oracle out"
            )
        rows = []
        tested = [s for s in [*stream.stages, *stream.unseen] if len(s.test)]
        for stage in tested:
            predict = learner.predict
            if isinstance(learner, PredictsAs) and oracle:
                predict = partial(learner.predict_as, stage_name=stage.name)
            rows += score(predict, stage.test, stage.name, how)
        learned = [s.name for s in tested if s.name in run.results.learned_at]
        background = [s.name for s in tested if s.background and s.name in learned]
        known = run.results
        empty = Results(known.lower_is_better, forgotten=known.forgotten, later=known.later)
        return empty.with_stage("now", rows, learned=learned, background=background)

    def gated(self, new: RunView, old: RunView | None, streams: Sequence[Stream]) -> list[tuple[Stage, Kind]]:
        ours = new.results.learned_at
        theirs = ours if old is None else old.results.learned_at
        found: dict[str, tuple[Stage, Kind]] = {}
        for stage in (s for stream in streams for s in [*stream.stages, *stream.unseen]):
            if not len(stage.test) or stage.name in found:
                continue
            kind: Kind = "natural" if stage.background else "unseen"
            if not stage.background and stage.name in theirs:
                kind = "learned"
            elif not stage.background and stage.name in ours:
                kind = "new"
            found[stage.name] = (stage, kind)
        return list(found.values())

    def sides(self, new: RunView, old: RunView | None) -> tuple[Predict, Predict]:
        before = ZeroShot(new.base, seed=new.config.seed) if old is None else old.learner
        share_features(new.learner, before)
        return before.predict, new.learner.predict

    def measure(
        self,
        old: Predict,
        new: Predict,
        tested: Sequence[tuple[Stage, Kind]],
        runs: tuple[RunView, RunView | None],
        *,
        seed: int,
        checked: int,
    ) -> Measurement:
        into, how = Measured(), runs[0].config.score
        for stage, kind in tested:
            measure(old, new, stage.test, stage.name, kind, how, into, seed=seed, checked=checked)
        if not checked:
            return Measurement(tuple(into.pairs), None)
        told = health(into.health, into.clicks, into.predicted, into.true, seed=seed)
        return Measurement(tuple(into.pairs), told)

    def means(self, results: Results, first: Sequence[str]) -> dict[str, float]:
        """The averages of any matrix say it all."""
        return {}

    def propose(
        self,
        base: str,
        stages: Sequence[Stage],
        settings: Any,
        given: Collection[str],
        scored: Collection[str],
    ) -> Proposal:
        """Nothing: the published settings do not depend on the size of images."""
        return Proposal()

    def may_propose(self, settings: Any) -> list[str]:
        return []

    def alarms(self, results: Results, settings: Mapping[str, Any]) -> list[str]:
        """None: tables mark what ends below the untouched base."""
        return []

    def check_prompted(self, prompted: bool, what: str) -> None:
        if not prompted:
            raise UserError(
                "no prompt points at the object; give points (x, y) or a box (x0, y0, x1, y1), in pixels"
            )

    def query(self, image: Tensor, prompts: Prompts | None, key: str) -> Query:
        assert prompts is not None, "checked by check_prompted"
        return Query(image, prompts, key, lasting=False)

    def untouched(self, run: RunView) -> Predict:
        plain = ZeroShot(run.base, seed=run.config.seed)
        share_features(run.learner, plain)
        return plain.predict

    def answer(self, prediction: PromptPrediction, classes: Sequence[str]) -> Masks:
        return Masks(prediction.masks().cpu().numpy(), prediction.iou.cpu().numpy(), prediction.route)

    def segment(
        self,
        run: RunView,
        predict: Predict,
        image: Tensor,
        objects: Sequence[Prompts],
        tiling: Tiling | None,
        key: str,
    ) -> list[Segmented]:
        return segment(predict, image, objects, tiling, key)

    def draw(self, image: Tensor, found: Sequence[Segmented], wanted: Wanted) -> Drawn:
        return draw(image, found, wanted)

    def lines(self, record: Mapping[str, Any]) -> list[tuple[str, str]]:
        return lines_of(record)
