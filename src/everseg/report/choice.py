"""Which test images a report shows: chosen by a rule, not by hand, and predicted again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np

from everseg.classes.scoring import Label
from everseg.data import centre_crop
from everseg.data.described import described
from everseg.data.samples import take_evenly
from everseg.report.data import MapExample, MaskExample
from everseg.results import Results
from everseg.results.metrics import binary_scores
from everseg.types import PromptPrediction, PromptSample, Query, Stage

METRIC = "iou"

Predict = Callable[[Sequence[Query]], Sequence[PromptPrediction]]


def pick(results: Results, metric: str, count: int = 3) -> dict[str, list[str]]:
    """Names of `count` test images of each domain, evenly spread over the ranking of their last scores.

    The first is the worst and, from three on, one is the median and the last is the best; two are the worst
    and the median. Equal scores are ranked by name, so that the choice is the same every time.
    """
    assert count > 0
    worst_first = 1.0 if not results.matrix(metric).lower_is_better else -1.0
    ranked: dict[str, list[tuple[float, str]]] = {}
    for score in results.scores.get(len(results.stages) - 1, ()):
        ranked.setdefault(score.column, []).append((worst_first * score.values[metric], score.image))
    chosen = {}
    for domain in (column for column in results.columns if column in ranked):
        names = [name for _, name in sorted(ranked[domain])]
        # Steps of a half for two images: worst and median.
        steps = max(count - 1, 2)
        places = sorted({round(i * (len(names) - 1) / steps) for i in range(count)})
        chosen[domain] = [names[place] for place in places]
    return chosen


def mask_examples(
    predict: Predict,
    untouched: Predict,
    results: Results,
    tests: Mapping[str, Sequence[PromptSample]],
    count: int = 3,
) -> list[MaskExample]:
    """The picked test images, predicted by the run's learner and by the untouched base.

    tests: each domain's test samples; a domain or an image that is gone is left out.
    """
    samples = [
        (domain, sample)
        for domain, names in pick(results, METRIC, count).items()
        for sample in _named(tests.get(domain, ()), names)
    ]
    queries = [sample.query() for _, sample in samples]
    out = []
    for (domain, sample), adapted, plain in zip(samples, predict(queries), untouched(queries), strict=True):
        ours, theirs, truth = adapted.masks(), plain.masks(), sample.masks
        points, labels = sample.prompts.points, sample.prompts.labels
        out.append(
            MaskExample(
                domain=domain,
                name=sample.name,
                image=sample.image,
                truth=truth.any(0),
                plain=theirs.any(0),
                adapted=ours.any(0),
                points=truth.new_zeros(0, 2).float() if points is None else points.reshape(-1, 2),
                labels=truth.new_zeros(0).long() if labels is None else labels.reshape(-1),
                route="" if adapted.route is None else adapted.route.name,
                iou_plain=float(binary_scores(theirs, truth)[METRIC].mean()),
                iou_adapted=float(binary_scores(ours, truth)[METRIC].mean()),
            )
        )
    return out


def _named(samples: Sequence[PromptSample], names: Sequence[str]) -> list[PromptSample]:
    """The samples of these names, in the order of the names; those that are gone are left out."""
    found = {}
    for position in range(len(samples)):
        sample = samples[position]
        name = sample.name or f"{position:05d}"  # as in its score
        if name in names:
            found[name] = sample
    return [found[name] for name in names if name in found]


def map_examples(
    predict: Label,
    stages: Sequence[Stage],
    count: int = 3,
    size: Literal["original"] | int = 512,
) -> list[MapExample]:
    """Up to `count` test images for each learned step, predicted: images that have a class of that step,
    spread evenly over the list of them, none twice.

    stages: those that were learned, in order; the last one's test images and labels are shown.
    size: as in `ClassScoreConfig`, so that what is shown is what is scored.
    """
    if not stages:
        return []
    tested = stages[-1].test
    present = described(tested).presence()
    free = np.ones(len(tested), bool)
    out = []
    first = 1
    for stage in stages:
        own = present[:, first : first + len(stage.classes)].any(1)
        first += len(stage.classes)
        places = take_evenly(np.flatnonzero(own & free).tolist(), count)
        free[places] = False
        samples = [tested[place] for place in places]
        if size != "original":
            samples = [centre_crop(sample, size) for sample in samples]
        predictions = predict([sample.query() for sample in samples]) if samples else []
        out += [
            MapExample(stage.name, sample.name, sample.image, sample.labels, predicted.cpu())
            for sample, predicted in zip(samples, predictions, strict=True)
        ]
    return out
