"""Score a run as it stands: the row that a stage adds to the results, for domains and for classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import Any, Protocol

from everseg.classes.scoring import score_classes
from everseg.data import Stream
from everseg.data.classes.legend import BACKGROUND_NAME as BACKGROUND
from everseg.domains.scoring import score
from everseg.errors import UserError
from everseg.methods import build, configure
from everseg.results import BASE, Results, average_over_steps, class_means, with_class_row
from everseg.results.metrics import METRICS
from everseg.runs.folder import Run
from everseg.runs.problems import problem_of
from everseg.types import LearnsAllAtOnce, PredictsAs, Stage


class Rows(Protocol):
    """How one problem's runs are scored."""

    def add(self, run: Run, stream: Stream, stage: Stage, columns: Sequence[Stage], *, last: bool) -> None:
        """Add the row of a stage that was just learned. columns: stages that may be scored."""

    def now(self, run: Run, stream: Stream, how: Any, *, oracle: bool) -> Results:
        """Results of one row: all that the stream tests."""

    def means(self, run: Run) -> dict[str, float]:
        """Further figures of the last row, by name."""


class DomainRows:
    """A score for each test image; a domain is a column."""

    def add(self, run: Run, stream: Stream, stage: Stage, columns: Sequence[Stage], *, last: bool) -> None:
        """With the last stage also the unseen domains, the untouched base and the oracle."""
        learner, how = run.learner, run.config.score
        at_once = isinstance(learner, LearnsAllAtOnce)
        if at_once:
            columns = stream.stages
        tested = [c for c in columns if len(c.test)] + (list(stream.unseen) if last else [])
        rows = [s for column in tested for s in score(learner.predict, column.test, column.name, how)]
        learned = [c.name for c in columns] if at_once else [stage.name]
        background = [c.name for c in columns if c.background and c.name in learned]
        run.results = run.results.with_stage(stage.name, rows, learned=learned, background=background)
        if not last:
            return
        if run.config.baseline:
            plain = build("zero-shot", run.base, configure("zero-shot"), run.config.seed)
            known = {score.column for score in run.results.scores.get(BASE, ())}
            new = [c for c in tested if c.name not in known]
            untouched = [s for column in new for s in score(plain.predict, column.test, column.name, how)]
            run.results = run.results.with_baseline(untouched)
        if isinstance(learner, PredictsAs):
            run.record["oracle"] = {}
            for column in [c for c in tested if c in stream.stages and not c.background]:
                told = score(
                    partial(learner.predict_as, stage_name=column.name), column.test, column.name, how
                )
                run.record["oracle"][column.name] = {
                    m: sum(s.values[m] for s in told) / len(told) for m in METRICS
                }

    def now(self, run: Run, stream: Stream, how: Any, *, oracle: bool) -> Results:
        learner = run.learner
        if oracle and not isinstance(learner, PredictsAs):
            raise UserError(
                f"method {run.config.method!r} keeps no module for each domain; leave --oracle out"
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
        empty = Results(run.results.lower_is_better)
        return empty.with_stage("now", rows, learned=learned, background=background)

    def means(self, run: Run) -> dict[str, float]:
        return {}


class ClassRows:
    """One confusion matrix over the test images so far; a class is a column, the background the first."""

    def add(self, run: Run, stream: Stream, stage: Stage, columns: Sequence[Stage], *, last: bool) -> None:
        """Classes that were not learned have no score, and the untouched base knows none."""
        first = [BACKGROUND] if not run.results.stages else []
        run.results = self._with_row(
            run, run.results, stage, run.classes + stage.classes, run.config.score, first
        )

    def now(self, run: Run, stream: Stream, how: Any, *, oracle: bool) -> Results:
        if oracle:
            raise UserError("--oracle tells a run each image's domain; this one learns classes: leave it out")
        problem_of(run.config.method).check_order(stream, run.record["learned"])
        at_once = stream.joint is not None and stream.joint.name in run.learned
        stage = stream.joint if at_once else stream.stages[len(run.learned) - 1]
        assert stage is not None
        empty = Results(run.results.lower_is_better)
        taught = [BACKGROUND, *(c for c in run.classes[1:] if c not in stage.classes)]
        return self._with_row(run, empty, stage, run.classes, how, taught, name="now")

    def _with_row(
        self,
        run: Run,
        results: Results,
        stage: Stage,
        classes: tuple[str, ...],
        how: Any,
        before: Sequence[str],
        name: str = "",
    ) -> Results:
        confusion = score_classes(run.learner.predict, stage.test, classes, how)
        taught = [*before, *stage.classes]
        return with_class_row(results, name or stage.name, taught, {"iou": confusion.scores(how.absent)})

    def means(self, run: Run) -> dict[str, float]:
        """Of the old classes, the new ones, all, and their harmonic mean; the average over steps."""
        matrix = run.results.matrix("iou")
        old = run.record.get("first_classes")
        found = asdict(class_means(matrix, old=old))
        return found | {"average_over_steps": average_over_steps(matrix)}


ROWS: dict[str, Rows] = {"domains": DomainRows(), "classes": ClassRows()}


def rows_of(run: Run) -> Rows:
    """How a run is scored, by what its method learns."""
    return ROWS[problem_of(run.config.method).name]
