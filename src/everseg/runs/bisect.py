"""Find the stage that harmed a domain: the largest drop that chance does not explain."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from everseg.data import Stream
from everseg.domains.scoring import score
from everseg.errors import UserError, unknown
from everseg.methods import find
from everseg.progress import remark
from everseg.results import BASE, ImageScore, Interval
from everseg.results.paired import drop_p_value, holm, mean_interval
from everseg.runs.data import own_stream
from everseg.runs.earlier import entries, unpacked
from everseg.runs.folder import load, load_scores
from everseg.runs.history import states_of_rows
from everseg.runs.run import Run
from everseg.types import PLAIN, Stage
from everseg.types.abilities import Forgets

LEVEL, SAMPLES = 0.05, 10_000


@dataclass(frozen=True)
class Step:
    """What one stage did to the domain.

    stage: a row of the results.
    state, before: numbers of the states with it and without it; None where they are not known.
    old, new: means over the images.
    difference: new minus old; positive is better for every metric.
    p_value: of the hypothesis that the mean did not fall, corrected for the number of steps; NaN where there
        are no scores of single images.
    images: that were compared.
    routes: how many images each module got after the stage.
    """

    stage: str
    state: int | None
    before: int | None
    old: float
    new: float
    difference: Interval
    p_value: float
    images: int
    routes: Mapping[str, int]


@dataclass(frozen=True)
class Bisection:
    """What every stage did to a domain.

    culprit: the step with the largest significant drop; None where there is none.
    advice: what to do, in sentences.
    """

    domain: str
    metric: str
    steps: tuple[Step, ...]
    culprit: Step | None
    advice: tuple[str, ...]


def bisect(
    folder: Path | str,
    domain: str,
    *,
    metric: str = "iou",
    stream: Stream | None = None,
    base: Any = None,
) -> Bisection:
    """The stage that harmed a domain in the run in `folder`: of a learned domain since it was learned, of
    another one since the untouched base.

    Stages after which the domain was not scored are scored with their states, where those are kept and its
    test images are at hand.

    stream: where they are; default: the run's own.
    base: the base model, or its path if it has moved.

    Raises:
        UserError: there is no run, the run has no scores of the domain, or no such metric.
    """
    folder = Path(folder)
    run = load_scores(folder)
    results = run.results
    if metric not in results.lower_is_better:
        raise unknown("metric", metric, results.lower_is_better)
    if domain not in results.columns:
        raise unknown("domain", domain, results.columns)
    first = results.learned_at.get(domain, BASE)
    rows = [row for row in range(first, len(results.stages)) if (row, domain) in results.cells]
    scores = {row: _scores(results.scores.get(row, ()), domain) for row in rows}
    missing = [row for row in range(max(first, 0), len(results.stages)) if row not in rows]
    if missing and all(scores.values()):
        scores |= _scored(run, domain, missing, stream, base)
    rows = sorted(scores)
    if len(rows) < 2:
        raise UserError(
            f"{folder} was scored on {domain!r} after one stage only, so there is nothing to compare; "
            "learn further stages, and keep its test images in the stream"
        )
    numbers = states_of_rows(folder, run.record, results)
    means = {row: results.cells.get((row, domain), {}).get(metric) for row in rows}
    steps = [_step(run, domain, metric, (old, new), scores, means, numbers) for old, new in pairwise(rows)]
    corrected = holm([step.p_value for step in steps])
    steps = [
        step if math.isnan(step.p_value) else replace(step, p_value=p)
        for step, p in zip(steps, corrected, strict=True)
    ]
    falls = [s for s in steps if s.difference.estimate < 0 and (s.p_value <= LEVEL or math.isnan(s.p_value))]
    culprit = min(falls, key=lambda step: step.difference.estimate, default=None)
    advice = () if culprit is None else tuple(_advice(run, domain, culprit))
    return Bisection(domain, metric, tuple(steps), culprit, advice)


def _scores(scores: Sequence[ImageScore], domain: str) -> dict[str, ImageScore]:
    return {score.image: score for score in scores if score.column == domain}


def _scored(
    run: Run, domain: str, rows: Sequence[int], stream: Stream | None, base: Any
) -> dict[int, dict[str, ImageScore]]:
    """Scores of rows that have none of the domain, from the states in which they were the newest."""
    numbers, found = states_of_rows(run.folder, run.record, run.results), entries(run.folder)
    states = {row: numbers.get(run.results.stages[row]) for row in rows}
    kept = {run.record.number, *(n for n, entry in found.items() if not entry.gone)}
    able = {row: number for row, number in states.items() if number in kept}
    stage = _tested(run, domain, stream) if able else None
    if len(able) < len(rows) or stage is None:
        left = [run.results.stages[row] for row in rows if stage is None or row not in able]
        remark(f"{domain} was not scored after {', '.join(left)}, and the states or images to do so are gone")
    if stage is None:
        return {}
    opened = load(run.folder, base)
    told = {}
    for row, number in able.items():
        if number != run.record.number:
            assert number is not None
            opened.learner.load_state_dict(unpacked(run.folder, run.record, found[number])[0])
        told[row] = _scores(score(opened.learner.predict, stage.test, domain, run.config.score), domain)
    return told


def _tested(run: Run, domain: str, stream: Stream | None) -> Stage | None:
    """The domain's stage in the stream, if that is at hand and has test images of it."""
    if stream is None:
        try:
            stream = own_stream(run)
        except UserError:
            return None
    named = [s for s in [*stream.stages, *stream.unseen] if s.name == domain and len(s.test)]
    return named[0] if named else None


def _step(
    run: Run,
    domain: str,
    metric: str,
    rows: tuple[int, int],
    scores: Mapping[int, Mapping[str, ImageScore]],
    means: Mapping[int, float | None],
    numbers: Mapping[str, int],
) -> Step:
    results, (old, new) = run.results, rows
    sign = -1.0 if results.lower_is_better[metric] else 1.0
    before, after = scores[old], scores[new]
    routes: dict[str, int] = {}
    for each in after.values():
        if each.route:
            routes[each.route] = routes.get(each.route, 0) + 1
    common = [image for image in before if image in after]
    if common:
        values = np.array([[s[i].values[metric] for i in common] for s in (before, after)])
        difference, told = sign * (values[1] - values[0]), [float(v.mean()) for v in values]
        how: Any = {"samples": SAMPLES, "seed": 0, "name": f"{domain}|{new}"}
        interval = mean_interval(difference, **how)
        p_value = drop_p_value(difference, 0.0, **how) if difference.any() else 1.0
    else:
        told = [math.nan if (mean := means[row]) is None else mean for row in rows]
        interval, p_value = Interval(sign * (told[1] - told[0]), math.nan, math.nan), math.nan
    stage = results.stages[new]
    known = PLAIN if old == BASE else results.stages[old]
    states = numbers.get(stage), numbers.get(known)
    return Step(stage, *states, told[0], told[1], interval, p_value, len(common), routes)


def _advice(run: Run, domain: str, step: Step) -> list[str]:
    told = []
    others = {name: n for name, n in step.routes.items() if name != domain and name in run.learned}
    if others:
        most = max(others, key=lambda name: others[name])
        told.append(f"{others[most]} of {step.images} images of {domain} went to the module of {most!r}.")
    kept = entries(run.folder)
    if step.before in kept and not kept[step.before].gone:
        position = run.results.stages.index(step.stage)
        later = [name for name in run.results.stages[position:] if not name.startswith("(")]
        told.append(
            f"Go back to the state before it: everseg restore {run.folder} --to {step.before} (without "
            f"{', '.join(later)}; that state can be restored, too)."
        )
    if issubclass(find(run.config.method), Forgets) and step.stage in run.learned:
        told.append(f"Take it out alone: everseg forget {run.folder} --stage {step.stage}")
    told.append("Keep such stages out from the start: everseg learn --gate")
    return told
