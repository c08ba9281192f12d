"""The problem that a method learns, domains or classes: the one place that knows there are two.

A method's class names its problem by the attribute `learns`; without it a method learns domains. Each wing
has one
object that says what differs: `domains.problem.Domains` and `classes.problem.Classes`.
"""

from __future__ import annotations

import importlib
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from everseg.data.tiling import Tiling
from everseg.errors import UserError
from everseg.methods import METHODS, find
from everseg.pictures.drawn import Drawn, Wanted
from everseg.results import Results
from everseg.results.health import Measurement
from everseg.results.paired import Kind
from everseg.types import Precision, Prompts, RunView, Stage
from everseg.types.proposal import Proposal

if TYPE_CHECKING:
    from everseg.data import Stream

PROBLEMS = {"domains": "everseg.domains.problem:Domains", "classes": "everseg.classes.problem:Classes"}

Oracle = Mapping[str, Mapping[str, float]]
"""Scores of each domain with its own module: {domain: {metric: mean}}."""


class Problem(Protocol):
    """What everything above the wings asks of a problem instead of looking into a sample.

    name: as `learns` has it.
    what: what its streams contain, for messages.
    base: name of the default base.
    Score: configuration of scoring.
    lower_is_better: for each metric.
    further: names of `results.further.MEANINGS` that its runs can have.
    panels: parts of a report, by name and in their order.
    outputs: regular expression of what a prediction's pictures are called after the image's name.
    entangled: why a method cannot forget a stage, for messages.
    """

    name: str
    what: str
    base: str
    Score: type[Any]
    lower_is_better: Mapping[str, bool]
    further: tuple[str, ...]
    panels: tuple[str, ...]
    outputs: str
    entangled: str

    def fits(self, stream: Stream) -> bool:
        """Whether a stream is of this problem."""

    def load_base(self, name: str, device: torch.device, precision: Precision) -> Any:
        """The base of this name."""

    def check_order(self, stream: Stream, learned: Sequence[Any]) -> None:
        """Check that a stream continues the learned stages (`runs.record.Learned`).

        Raises:
            UserError: it does not.
        """

    def row(
        self, run: RunView, stream: Stream, stage: Stage, columns: Sequence[Stage], *, last: bool
    ) -> tuple[Results, Oracle | None]:
        """The run's results with the row of a stage that was just learned, and the oracle's scores.

        columns: stages that may be scored.
        last: whether this call learns no further stage.
        """

    def scored(
        self, run: RunView, stream: Stream, stage: Stage, columns: Sequence[Stage], *, last: bool
    ) -> list[Stage]:
        """The stages whose test samples `row` scores, given the same."""

    def retested(self, run: RunView, stream: Stream, changed: Sequence[Stage]) -> list[Stage]:
        """The stages whose test samples `retest` scores, given the same."""

    def retest(self, run: RunView, stream: Stream, changed: Sequence[Stage]) -> tuple[Results, Oracle | None]:
        """The run's results and the oracle's scores after test data of learned stages have changed: the last
        row is scored on the new ones, and what was measured on the old ones is left out."""

    def now(self, run: RunView, stream: Stream, how: Any, *, oracle: bool) -> Results:
        """Results with one row: all that the stream tests, scored by `how`.

        oracle: let each image's own module predict.

        Raises:
            UserError: the method has no oracle, or the stream does not fit the run.
        """

    def gated(self, new: RunView, old: RunView | None, streams: Sequence[Stream]) -> list[tuple[Stage, Kind]]:
        """The stages on whose test images two runs are compared, and what each is to them.

        old: None for the untouched base.
        streams: of two that name a stage, the first counts.
        """

    def sides(self, new: RunView, old: RunView | None) -> tuple[Any, Any]:
        """What the old run (None: the untouched base) and the new one predict with; they share what they can.

        Raises:
            UserError: the untouched base predicts nothing.
        """

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
        """Scores of both sides on the same images.

        tested: as `gated` gives it.
        runs: the new one and the old one.
        checked: the number of images per column on which it is checked how both respond to prompts.

        Raises:
            UserError: the runs have nothing in common, or a sample cannot be read.
        """

    def means(self, results: Results, first: Sequence[str]) -> dict[str, float]:
        """Further figures of the last row, by name.

        first: columns that the first stage taught.
        """

    def propose(
        self,
        base: str,
        stages: Sequence[Stage],
        settings: Any,
        given: Collection[str],
        scored: Collection[str],
    ) -> Proposal:
        """What the data suggest for settings that are not given.

        base: its name.
        stages: those that are learned.
        settings: the method's, as far as they are known.
        given, scored: dotted names of the settings of the method and of scoring that somebody gave.
        """

    def may_propose(self, settings: Any) -> list[str]:
        """Dotted names of what `propose` may give values for; those of scoring begin with "score."."""

    def alarms(self, results: Results, settings: Mapping[str, Any]) -> list[str]:
        """What ended badly in the last row, and what to try, one sentence each.

        settings: the method's, as plain values.
        """

    def check_prompted(self, prompted: bool, what: str) -> None:
        """Check that prompts are given where they are wanted. `what` names the run in messages.

        Raises:
            UserError: prompts are missing, or the problem has none.
        """

    def query(self, image: Tensor, prompts: Prompts | None, key: str) -> Any:
        """What the learner is asked about an image (3, H, W) uint8, whose content `key` identifies."""

    def untouched(self, run: RunView) -> Any:
        """The untouched base's `predict`, or None if the base predicts nothing."""

    def answer(self, prediction: Any, classes: Sequence[str]) -> Any:
        """A prediction as numpy arrays."""

    def segment(
        self,
        run: RunView,
        predict: Any,
        image: Tensor,
        objects: Sequence[Prompts],
        tiling: Tiling | None,
        key: str,
    ) -> Any:
        """What `draw` draws.

        predict: from queries to predictions, as `Run.predictor` gives it.
        objects: prompts of one object each; empty where the problem has none.
        tiling: how an image that is larger than a tile is cut; None: not at all.
        """

    def draw(self, image: Tensor, found: Any, wanted: Wanted) -> Drawn:
        """What `segment` found as pictures and a JSON record. Uses neither torch's models nor its threads."""

    def lines(self, record: Mapping[str, Any]) -> list[tuple[str, str]]:
        """A record for the terminal: one text per result, and the name of the file that shows it."""


@cache
def _problem(name: str) -> Problem:
    module, _, attribute = PROBLEMS[name].partition(":")
    problem: Problem = getattr(importlib.import_module(module), attribute)()
    return problem


def problem_of(method: str) -> Problem:
    """The problem that a method learns.

    Raises:
        UserError: there is no such method, or it names another problem.
    """
    learns = getattr(find(method), "learns", "domains")
    if learns not in PROBLEMS:
        raise UserError(f"method {method!r} says that it learns {learns!r}; allowed: {' or '.join(PROBLEMS)}")
    return _problem(learns)


def check_fits(stream: Stream, method: str) -> Problem:
    """The problem that a method learns, if the stream is of it.

    Raises:
        UserError: the stream is of another one.
    """
    problem = problem_of(method)
    if not problem.fits(stream):
        brings = next((p for p in map(_problem, PROBLEMS) if p.fits(stream)), None)
        source = stream.source or "the stream"
        if brings is None:
            raise UserError(f"{source} has stages with classes and stages without; split it into two streams")
        able = ", ".join(name for name in METHODS if problem_of(name) is brings)
        raise UserError(
            f"{source} has {brings.what}, but method {method!r} learns {problem.what}; methods for "
            f"this stream: {able}"
        )
    return problem


def refuse_classes(method: str, what: str) -> None:
    """Check that a method learns domains, for commands that support nothing else.

    Raises:
        UserError: it learns classes.
    """
    if problem_of(method) is not _problem("domains"):
        raise UserError(f"method {method!r} learns classes, and {what}")


def only_domains(stream: Stream, what: str) -> Stream:
    """The stream, for commands that support domains only.

    Raises:
        UserError: it brings classes.
    """
    if not _problem("domains").fits(stream):
        raise UserError(f"{stream.source or 'the stream'} brings classes, and {what}")
    return stream
