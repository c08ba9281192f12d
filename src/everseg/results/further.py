"""Figures beside AA, FM and FT: plasticity, forward generalisation, prompt insensitivity, negative flips.

Each is defined in docs/metrics.md. What was not measured is NaN, and `missing` says why.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from everseg.results.bootstrap import Interval, Statistic, intervals
from everseg.results.flips import GOOD, Flips, negative_flips
from everseg.results.matrix import (
    ResultMatrix,
    average,
    generalisation,
    generalisations,
    plasticities,
    plasticity,
)
from everseg.results.store import BASE, ImageScore, Results
from everseg.results.summary import Summary

MEANINGS = {
    "plasticity": "score right after learning, less that of the domain's own module trained alone",
    "generalisation": "score on domains not learned yet, less the untouched base's",
    "insensitivity": "IoU of masks with those of prompts that point elsewhere; 1: the prompt does not matter",
    "flips": "share of images that were good right after their domain was learned and are bad now",
    "flips_to_base": "share of images (also of unseen domains) good with the untouched base and bad now",
}
"""The figures by name, each with one line for readers."""

PER_METRIC = ("plasticity", "generalisation")
"""Those that there is one of for each metric; the others are about masks and their IoU."""


@dataclass(frozen=True)
class Further:
    """The figures of one run.

    figures: by name, as in `MEANINGS`, with intervals over test images. A plasticity has none, because the
        reference has no scores of single images.
    base: the untouched base's insensitivity, where it has one.
    domains: {domain: {name: value}}, all that is known of each domain.
    missing: by name, why a figure is not known.
    alone_from: {domain: run} of modules that another run has trained alone.
    """

    figures: Mapping[str, Interval]
    base: Mapping[str, float]
    domains: Mapping[str, Mapping[str, float]]
    missing: Mapping[str, str]
    alone_from: Mapping[str, str]


def further(
    results: Results,
    metric: str,
    summary: Summary | None = None,
    *,
    kinds: Sequence[str] = tuple(MEANINGS),
    good: float = GOOD,
    samples: int = 1000,
) -> Further:
    """The further figures of a run.

    metric: of plasticity and generalisation; the others are about masks and their IoU.
    summary: of the run, where it knows scores of modules trained alone.
    kinds: names of those wanted.
    good: IoU from which an image counts as good.
    samples: of the bootstrap; 0: no intervals.
    """
    matrix, last = results.matrix(metric), len(results.stages) - 1
    summary = summary or {}
    own = alone_scores(summary, metric)
    moved, base_moved = _insensitivity(results, last), _insensitivity(results, BASE)
    since = _by_image(negative_flips(results, "learned", good))
    to_base = _by_image(negative_flips(results, "base", good))
    tasks = [matrix.columns[j] for j in matrix.tasks()]
    tested = {score.column for score in results.scores.get(last, ())}
    unseen = [c for c in matrix.columns if c in tested and c not in results.learned_at]
    # Of a run of classes, images are those of a stage's classes.
    taught = [s for i, s in enumerate(results.stages) if i in matrix.learned_at] if results.parts else tasks
    figures = {
        "plasticity": Interval(plasticity(matrix, own), math.nan, math.nan),
        "generalisation": _interval(results, metric, generalisation, samples),
        "insensitivity": _over_domains(moved, tasks, samples),
        "flips": _over_domains(since, taught, samples),
        "flips_to_base": _over_domains(to_base, [*tasks, *unseen], samples),
    }
    each: dict[str, Mapping[str, float]] = {
        "plasticity": dict(zip(matrix.columns, plasticities(matrix, own).tolist(), strict=True)),
        "generalisation": dict(zip(matrix.columns, generalisations(matrix).tolist(), strict=True)),
        "insensitivity": _means(moved),
        "base_insensitivity": _means(base_moved),
        "flips": _means(since),
        "flips_to_base": _means(to_base),
    }
    known: dict[str, dict[str, float]] = {name: {} for name in dict.fromkeys([*matrix.columns, *taught])}
    for name, values in each.items():
        if name.removeprefix("base_") in kinds:
            for column, value in values.items():
                if not math.isnan(value):
                    known[column][name] = value
    gaps: dict[str, Callable[[], str]] = {
        "plasticity": lambda: _no_plasticity(matrix, own),
        "generalisation": lambda: _no_generalisation(matrix),
        "insensitivity": lambda: (
            f"no prompt of {_bare(tasks, moved)} was moved: the state is not the last of a command, an "
            "earlier version scored it, it was scored with insensitivity=false, or it has boxes alone"
        ),
        "flips": lambda: f"the images of {_bare(taught, since)} have no scores from right after their stage",
        "flips_to_base": lambda: (
            f"the images of {_bare([*tasks, *unseen], to_base)} have no scores of the untouched base"
        ),
    }
    unknown = [kind for kind in kinds if math.isnan(figures[kind].estimate)]
    return Further(
        {kind: figures[kind] for kind in kinds},
        {"insensitivity": _over_domains(base_moved, tasks, 0).estimate} if "insensitivity" in kinds else {},
        {column: values for column, values in known.items() if values},
        {kind: gaps[kind]() if tasks else "nothing was learned" for kind in unknown},
        summary.get("alone_from", {}),
    )


def alone_scores(summary: Summary, metric: str) -> dict[str, float]:
    """What each domain's own module scores that was trained alone, where a run knows it."""
    return {domain: values[metric] for domain, values in summary.get("alone", {}).items() if metric in values}


ByImage = Mapping[str, Mapping[str, float]]
"""{domain: {image: value}}."""


def _insensitivity(results: Results, row: int) -> ByImage:
    found: dict[str, dict[str, float]] = {}
    for score in results.scores.get(row, ()):
        if not math.isnan(score.insensitivity):
            found.setdefault(score.column, {})[score.image] = score.insensitivity
    return found


def _by_image(flips: Mapping[str, Flips]) -> ByImage:
    return {
        column: dict.fromkeys(each.images, 0.0) | dict.fromkeys(each.flipped, 1.0)
        for column, each in flips.items()
    }


def _means(values: ByImage) -> dict[str, float]:
    return {column: sum(own.values()) / len(own) for column, own in values.items()}


def _over_domains(values: ByImage, domains: Sequence[str], samples: int) -> Interval:
    """The mean over domains, each counting the same, of the mean over images; NaN where a domain has none.

    Where all images have one value, drawing them again says nothing, and there is no interval.
    """
    scores = [
        ImageScore(domain, image, {"value": value})
        for domain in domains
        for image, value in values.get(domain, {}).items()
    ]
    held = Results({"value": True}).with_stage("end", scores, learned=domains)
    samples = samples if len({score.values["value"] for score in scores}) > 1 else 0
    return _interval(held, "value", average, samples)


def _interval(results: Results, metric: str, statistic: Statistic, samples: int) -> Interval:
    estimate = statistic(results.matrix(metric))
    if math.isnan(estimate) or not samples:
        return Interval(estimate, math.nan, math.nan)
    return intervals(results, metric, {"": statistic}, samples=samples)[""]


def _no_plasticity(matrix: ResultMatrix, alone: Mapping[str, float]) -> str:
    tasks = matrix.tasks()
    columns = [matrix.columns[j] for j in tasks]
    if any(column not in alone for column in columns):
        return (
            f"no score of {_bare(columns, alone)} learned alone is known; compare with a run of method "
            "independent, or for classes joint-classes, on the same stream"
        )
    unscored = [c for c, value in zip(columns, matrix.when_learned(tasks), strict=True) if math.isnan(value)]
    return f"{_bare(unscored, ())} was not scored right after its stage"


def _no_generalisation(matrix: ResultMatrix) -> str:
    scored = ~np.isnan(generalisations(replace(matrix, baseline=np.zeros(len(matrix.columns)))))
    bare = [
        c for c, yes, b in zip(matrix.columns, scored, matrix.baseline, strict=True) if yes and math.isnan(b)
    ]
    if bare:
        return f"the untouched base was not scored on {_bare(bare, ())}"
    return "no domain was scored that had not been learned"


def _bare(names: Sequence[str], known: Container[str]) -> str:
    """Those that are not known, the first of many."""
    bare = [name for name in names if name not in known]
    return ", ".join(bare[:3]) + (f" and {len(bare) - 3} more" if len(bare) > 3 else "")
