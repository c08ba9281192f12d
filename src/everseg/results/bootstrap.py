"""How sure the averages are: a bootstrap over test images, and a paired test between two runs.

Both speak about the test images only: other images of the same domains would give averages in this interval.
They say nothing about another seed or another order of the stream; for that, run again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from everseg.errors import UserError
from everseg.results.matrix import ResultMatrix, average, forgetting, forward_transfer, unseen_average
from everseg.results.store import BASE, Results
from everseg.seed import numpy_generator

Floats = NDArray[np.float64]
Statistic = Callable[[ResultMatrix], float]

CHUNK = 4_000_000
"""Random numbers drawn at once: bounds memory whatever the number of test images."""


@dataclass(frozen=True)
class Interval:
    """An estimate and the ends of its interval, NaN where no per-image scores are known."""

    estimate: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """First run minus second run, in AA, on the same images.

    p_value: two-sided, of the hypothesis that swapping the two runs on any image would change nothing.
    domains: those compared.
    images: how many in all.
    """

    estimate: float
    low: float
    high: float
    p_value: float
    domains: tuple[str, ...]
    images: int


def headline(results: Results, metric: str, *, samples: int = 1000, seed: int = 0) -> dict[str, Interval]:
    """AA, FM and FT as SAMCL defines them, and the mean over unseen domains, each with its 95 % interval."""
    return intervals(
        results,
        metric,
        {"AA": average, "FM": forgetting, "FT": forward_transfer, "unseen": unseen_average},
        samples=samples,
        seed=seed,
    )


def intervals(
    results: Results,
    metric: str,
    statistics: Mapping[str, Statistic],
    *,
    samples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, Interval]:
    """Percentile bootstrap intervals of averages of a result matrix.

    Images are drawn with replacement within each domain, and an image keeps its scores after every stage
    along, so that differences between rows (forgetting) keep their pairing. The same seed gives the same
    interval.
    Source: Efron and Tibshirani 1993, chapter 13.
    """
    matrix = results.matrix(metric)
    estimates = {name: statistic(matrix) for name, statistic in statistics.items()}
    if not results.scores:
        return {name: Interval(value, math.nan, math.nan) for name, value in estimates.items()}
    copies = list(_resampled(results, metric, matrix, samples, seed))
    ends = [(1 - level) / 2, (1 + level) / 2]
    found = {}
    for name, statistic in statistics.items():
        low, high = np.quantile([statistic(copy) for copy in copies], ends)
        found[name] = Interval(estimates[name], float(low), float(high))
    return found


def _resampled(
    results: Results, metric: str, matrix: ResultMatrix, samples: int, seed: int
) -> Iterator[ResultMatrix]:
    """Copies of `matrix` with each column's means taken over a fresh draw of its images.

    A column without per-image scores stays what it is.
    """
    rows = len(results.stages)
    values = np.broadcast_to(matrix.values, (samples, *matrix.values.shape)).copy()
    baseline = np.broadcast_to(matrix.baseline, (samples, *matrix.baseline.shape)).copy()
    for j, scores in _by_image(results, metric).items():
        # Seeded by the column's name: adding a domain to the stream changes no other interval.
        rng = numpy_generator(seed, "bootstrap", results.columns[j])
        known = np.isfinite(scores)
        filled = np.where(known, scores, 0.0)
        means = np.concatenate(
            [
                _ratio(times @ filled.T, times @ known.T.astype(np.float64))
                for times in _draws(rng, samples, scores.shape[1])
            ]
        )
        measured = np.array([row.any() for row in known], dtype=np.bool_)
        values[:, measured[:rows], j] = means[:, :rows][:, measured[:rows]]
        if measured[rows]:
            baseline[:, j] = means[:, rows]
    for b in range(samples):
        yield replace(matrix, values=values[b], baseline=baseline[b])


def _ratio(sums: Floats, counts: Floats) -> Floats:
    return np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)


def _draws(rng: np.random.Generator, samples: int, images: int) -> Iterator[Floats]:
    """How often each image was drawn, (b, images), for all samples in bounded pieces."""
    step = max(1, CHUNK // images)
    for start in range(0, samples, step):
        count = min(step, samples - start)
        drawn = rng.integers(images, size=(count, images)) + images * np.arange(count)[:, None]
        times = np.bincount(drawn.ravel(), minlength=count * images)
        yield times.reshape(count, images).astype(np.float64)


def _by_image(results: Results, metric: str) -> dict[int, Floats]:
    """Per-image scores of each column that has any: (T + 1, images), the base last, NaN where missing."""
    rows = len(results.stages)
    place = {column: j for j, column in enumerate(results.columns)}
    images: dict[int, dict[str, int]] = {}
    found: list[tuple[int, int, int, float]] = []
    for row, scores in results.scores.items():
        for score in scores:
            j = place[score.column]
            known = images.setdefault(j, {})
            n = known.setdefault(score.image, len(known))
            found.append((j, rows if row == BASE else row, n, score.values[metric]))
    arrays = {j: np.full((rows + 1, len(known)), np.nan) for j, known in images.items()}
    for j, row, n, value in found:
        arrays[j][row, n] = value
    return arrays


def paired_difference(
    first: Results,
    second: Results,
    metric: str,
    *,
    samples: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Difference:
    """AA of `first` minus AA of `second` after their last stages, over the domains that both have learned.

    The interval is a bootstrap over images of the paired differences; the p-value comes from flipping the
    sign of each image's difference at random (Fisher's permutation test), with the usual +1 so that it is
    never 0.

    Raises:
        UserError: no common domain, no per-image scores, or other images in a common domain.
    """
    ours, theirs = _last_scores(first, metric), _last_scores(second, metric)
    domains = tuple(column for column in ours if column in theirs)
    if not domains:
        raise UserError(
            "the two runs share no learned domain with per-image scores, so there is nothing to "
            "compare; choose runs of one stream"
        )
    rng = numpy_generator(seed, "paired")
    estimate, images = 0.0, 0
    boot, flipped = np.zeros(samples), np.zeros(samples)
    for domain in domains:
        a, b = ours[domain], theirs[domain]
        if set(a) != set(b):
            raise UserError(
                f"the two runs scored different images of {domain!r} ({len(set(a) - set(b))} only in the "
                f"first, {len(set(b) - set(a))} only in the second); compare runs of one stream"
            )
        names = sorted(a)
        difference = np.array([a[name] - b[name] for name in names]) / len(names)
        estimate += float(difference.sum()) / len(domains)
        images += len(names)
        boot += np.concatenate([t @ difference for t in _draws(rng, samples, len(names))]) / len(domains)
        flipped += np.concatenate([s @ difference for s in _signs(rng, samples, len(names))]) / len(domains)
    low, high = np.quantile(boot, [(1 - level) / 2, (1 + level) / 2])
    # The tolerance counts a flip that gives the very same sum in another order of rounding.
    extreme = int(np.sum(np.abs(flipped) >= abs(estimate) - 1e-12))
    return Difference(estimate, float(low), float(high), (1 + extreme) / (1 + samples), domains, images)


def _signs(rng: np.random.Generator, samples: int, images: int) -> Iterator[Floats]:
    step = max(1, CHUNK // images)
    for start in range(0, samples, step):
        drawn = rng.integers(2, size=(min(step, samples - start), images))
        yield np.where(drawn == 0, -1.0, 1.0)


def _last_scores(results: Results, metric: str) -> dict[str, dict[str, float]]:
    """{task: {image: value}} after the last stage."""
    matrix = results.matrix(metric)
    tasks = {results.columns[j] for j in matrix.tasks()}
    found: dict[str, dict[str, float]] = {}
    for score in results.scores.get(len(results.stages) - 1, ()):
        if score.column in tasks:
            found.setdefault(score.column, {})[score.image] = score.values[metric]
    return found
