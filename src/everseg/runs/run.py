"""A run: a learner with its state, its results and its settings."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from everseg.config import MACHINE, before, plain
from everseg.errors import UserError, unknown
from everseg.files import state_bytes
from everseg.results import (
    Results,
    Summary,
    average,
    base_averages,
    beside_base,
    forgetting,
    forward_transfer,
    generalisation,
    plasticity,
    routing,
    unseen_average,
)
from everseg.results.flips import GOOD
from everseg.results.further import PER_METRIC, alone_scores, further
from everseg.runs.arrays import as_image, as_prompts
from everseg.runs.problem import Problem, problem_of
from everseg.runs.record import Event, Line, Record, Training
from everseg.types import PLAIN, Evaluate, Learner, Precision
from everseg.types.abilities import PredictsAs
from everseg.types.pixels import content_key


@dataclass(frozen=True)
class RunConfig:
    """What a run is made of. It cannot change while the run grows."""

    method: str
    """Name of the method."""
    settings: Any
    """The method's configuration, all settings resolved."""
    base: str = field(default="", metadata=MACHINE)
    """Name or path of the base model; "" takes the default of what the method learns. A run knows its base
    by the weights, so the path may change."""
    preset: str = "paper"
    """The preset that the settings began with."""
    seed: int = 0
    """Random seed."""
    score: Any = None
    """How test images are scored; None takes the default of what the method learns."""
    evaluate: Evaluate = "next"
    """After each stage score the domains so far and the "next" one, as SAMCL's paper does, or "all". After
    the last stage of a call, unseen domains are scored too."""
    baseline: bool = True
    """Also score the untouched base, once per domain."""
    precision: Precision = "auto"
    """What the base computes in."""
    archive: bool = field(default=True, metadata=MACHINE)
    """Keep each domain's contribution, for merging elsewhere and for forgetting."""
    keep: int | None = field(default=None, metadata=MACHINE)
    """How many earlier states can be restored; None for all of them, apart from those that hold images."""

    proposed: Mapping[str, Any] = field(default_factory=dict, metadata=before({}))
    """Settings that the data suggested when the run began, by their dotted names; those of scoring begin
    with "score."."""

    def __post_init__(self) -> None:
        if type(self.seed) is not int:
            raise UserError(f"the seed is {self.seed!r}; give a whole number")
        for name, allowed in (("evaluate", Evaluate), ("precision", Precision)):
            if getattr(self, name) not in get_args(allowed):
                raise unknown(name, getattr(self, name), get_args(allowed))
        if self.keep is not None and (type(self.keep) is not int or self.keep < 0):
            raise UserError(f"keep is {self.keep!r}; give a whole number from 0, or None to keep all")
        problem = problem_of(self.method)
        object.__setattr__(self, "base", self.base or problem.base)
        object.__setattr__(self, "score", self.score or problem.Score())
        assert isinstance(self.score, problem.Score), (
            f"{problem.name} are scored by a {problem.Score.__name__}"
        )


def archived(folder: Path, domain: str) -> Path:
    """Where a run keeps a domain's contribution."""
    return folder / "domains" / f"{domain}.safetensors"


@dataclass(repr=False)
class Run:
    """A run folder read back; `everseg.load` makes one."""

    folder: Path
    config: RunConfig
    learner: Learner
    base: Any
    results: Results
    record: Record
    log: list[Line] = field(default_factory=list)

    def __repr__(self) -> str:
        stages = ", ".join(self.learned) or "nothing yet"
        return (
            f"Run({str(self.folder)!r})\n"
            f"  method: {self.config.method} ({self.config.preset}, seed {self.config.seed})\n"
            f"  base: {self.base.name}\n"
            f"  learned: {stages}"
        )

    @property
    def problem(self) -> Problem:
        """What the method learns: domains or classes."""
        return problem_of(self.config.method)

    @property
    def learned(self) -> list[str]:
        """Names of the stages learned, in order."""
        return self.record.names

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the channels that a run of classes has learned, the background first; only the background
        in a run of domains."""
        return self.record.classes

    def predict(
        self,
        image: Any,
        points: Any = None,
        labels: Any = None,
        boxes: Any = None,
        *,
        stage: str | None = None,
        bands: Sequence[int] | None = None,
        window: Sequence[float | str] | None = None,
    ) -> Any:
        """Segment one image. The features of the last few images are kept: a further click on one of them
        takes only the rest of the model.

        image: a path, a Pillow image, or an array: (H, W, 3) or (H, W) numpy, or a tensor (3, H, W), of
            uint8.
        points: clicks on one object, (P, 2) x, y in pixels, or of N objects, (N, P, 2).
        labels: 1 for a click on the object, 0 for one off it, of the points' shape without the last axis; all
            1 by default.
        boxes: one box x0, y0, x1, y1 or N of them, one per object.
        stage: the stage whose module is used instead of letting the method choose; "plain" is the untouched
            base.
        bands, window: how a file is read, such as (4, 3, 2) and (0, 4000), as in a stream file. Frames and
            slices are read with `everseg.data.read_image`.

        Returns:
            A `domains.problem.Masks`, or in a run of classes a `classes.problem.ClassMap`.

        Raises:
            UserError: an argument is of another type or shape, a point lies outside the image, prompts are
                missing or not wanted, an object has only clicks off it and no box, or there is no such
                stage.
        """
        pixels = as_image(image, bands, window)
        prompts = as_prompts(points, labels, boxes, pixels)
        self.problem.check_prompted(prompts is not None, f"method {self.config.method!r}")
        query = self.problem.query(pixels, prompts, content_key(pixels))
        (prediction,) = self.predictor(stage)([query])
        return self.problem.answer(prediction, self.classes)

    def predictor(self, stage: str | None = None) -> Any:
        """The function from queries to predictions: the learner's own, or that of one stage's module.

        Raises:
            UserError: the method keeps no module per stage, or the run has no such stage.
        """
        if stage is None:
            return self.learner.predict
        untouched = self.problem.untouched(self)
        if stage == PLAIN and PLAIN not in self.learned and untouched is not None:
            return untouched
        if not isinstance(self.learner, PredictsAs):
            other = "" if untouched is None else f" or give {PLAIN!r}, the untouched base"
            raise UserError(
                f"method {self.config.method!r} keeps no module per stage; leave the stage out{other}"
            )
        if stage not in self.learned:
            raise UserError(f"the run has no stage {stage!r}; it learned {', '.join(self.learned)}")
        return functools.partial(self.learner.predict_as, stage_name=stage)

    def summary(self) -> Summary:
        """Bytes, parameters, seconds and memory, as measured."""
        stages, events = self.record.learned, self.events()
        kinds = {kind: state_bytes(value) for kind, value in self.learner.state_dict().items()}
        summary = Summary(
            method=self.config.method,
            base=self.base.name,
            base_hash=self.base.fingerprint,
            preset=self.config.preset,
            seed=self.config.seed,
            stored_bytes={kind: size for kind, size in kinds.items() if size},
            trainable_parameters=int(
                max([s.figures.get("trainable_parameters", 0) for s in stages], default=0)
            ),
            stage_seconds=[event.seconds for event in events],
            peak_memory_bytes=[event.peak_memory_bytes for event in events],
        )
        merges = {stage.name: figures for stage in stages if (figures := stage.merge_figures())}
        if merges:
            summary["merges"] = merges
        if later := {stage.name: plain(stage.later) for stage in stages if stage.later is not None}:
            summary["later"] = later
        archive = [archived(self.folder, s.name) for s in stages if s.contribution]
        if archive:
            summary["archived_bytes"] = sum(path.stat().st_size for path in archive if path.is_file())
        places = [self.folder / name for name in ("history", "rejected")]
        if earlier := [path for place in places for path in place.rglob("*") if path.is_file()]:
            summary["history_bytes"] = sum(path.stat().st_size for path in earlier)
        if self.record.first_classes:
            summary["first_classes"] = list(self.record.first_classes)
        if self.record.oracle:
            told = list(self.record.oracle.values())
            summary["oracle"] = {m: sum(v[m] for v in told) / len(told) for m in told[0]}
            summary["alone"] = {domain: dict(scores) for domain, scores in self.record.oracle.items()}
        routes = routing(self.results)
        if routes is not None:
            summary["routing_accuracy"] = routes.accuracy
        return summary

    def figures(self, summary: Summary | None = None, good: float = GOOD) -> dict[str, Any]:
        """The run in numbers, for JSON: null where nothing was measured.

        summary: one that knows more than the run's own (`runs.alone`).
        good: IoU from which an image counts as good.
        """
        summary = summary or self.summary()
        scores, beside = {}, {}
        for metric in self.results.lower_is_better:
            matrix = self.results.matrix(metric)
            scores[metric] = _nulls(
                {
                    "AA": average(matrix),
                    "FM": forgetting(matrix),
                    "FT": forward_transfer(matrix),
                    "unseen": unseen_average(matrix),
                    "plasticity": plasticity(matrix, alone_scores(summary, metric)),
                    "generalisation": generalisation(matrix),
                }
            )
            if not all(map(math.isnan, matrix.baseline)):
                beside[metric] = {**_nulls(base_averages(matrix)), "domains": self._domains(metric)}
        means = {"means": _nulls(means)} if (means := self.means()) else {}
        base = {"untouched_base": beside} if beside else {}
        more = {"further": self._further(summary, good)}
        alarms = {"warnings": found} if (found := self.alarms()) else {}
        told = {"learned": self.learned, "scores": scores, **more, **base, **means, **alarms}
        return {**told, **_nulls(dict(summary))}

    def _further(self, summary: Summary, good: float) -> dict[str, Any]:
        """What the further figures say of masks, and all of each domain's in IoU."""
        metric = "iou" if "iou" in self.results.lower_is_better else next(iter(self.results.lower_is_better))
        found = further(self.results, metric, summary, kinds=self.problem.further, good=good, samples=0)
        of_masks = [kind for kind in found.figures if kind not in PER_METRIC]
        return {
            **_nulls({kind: found.figures[kind].estimate for kind in of_masks}),
            **_nulls({f"base_{kind}": value for kind, value in found.base.items()}),
            "good": good,
            "domains": found.domains,
            "missing": found.missing,
        }

    def _domains(self, metric: str) -> dict[str, Any]:
        """Each domain's last score beside the untouched base's."""
        return {
            each.domain: _nulls(
                {
                    "score": each.score,
                    "base": each.base,
                    "learned": each.learned,
                    **({"forgotten": True} if each.forgotten else {}),
                    "below_base": each.worse,
                }
            )
            for each in beside_base(self.results, metric)
        }

    def means(self) -> dict[str, float]:
        """Further figures of the last row of the results, by name."""
        return self.problem.means(self.results, self.record.first_classes)

    def alarms(self) -> list[str]:
        """What ended badly and what to try, one sentence each."""
        return self.problem.alarms(self.results, plain(self.config.settings))

    def events(self) -> list[Event]:
        """The last event of each row of the results, in order."""
        last = {event.stage: event for event in self.log if isinstance(event, Event)}
        return [last[name] for name in self.results.stages if name in last]

    def trainings(self) -> list[Training]:
        """The losses of each training of a learned stage, in order."""
        last = {(line.stage, line.fit): line for line in self.log if isinstance(line, Training)}
        return [line for name in self.learned for (stage, _), line in last.items() if stage == name]


def _nulls(values: dict[str, Any]) -> dict[str, Any]:
    return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in values.items()}
