"""From a run and its stream to what a report shows."""

from __future__ import annotations

from collections.abc import Sequence

from everseg.config import plain as plain_values
from everseg.data import Stream
from everseg.methods import build, configure
from everseg.report.choice import pick
from everseg.report.classexamples import class_examples
from everseg.report.data import Example, ReportData
from everseg.results import of_classes
from everseg.results.metrics import binary_scores
from everseg.runs.run import Run
from everseg.types import PromptSample, Stage

METRIC = "iou"


def collect(run: Run, stream: Stream | None, count: int = 3) -> ReportData:
    """A run's report: its scores and costs, and `count` test images a domain where the stream's data are at
    hand.

    The images are picked by their last scores: the worst, evenly spread ones, the best. Of a run of classes
    they are those of `class_examples`.
    """
    if of_classes(run.results):
        stages = [] if stream is None else stream.stages
        known = [stage for stage in stages if set(stage.classes) <= set(run.results.learned_at)]
        # Shown at the size that it was scored at.
        shown = class_examples(run.learner.predict, known, count, run.config.score.size)
        return ReportData(run.folder.name, plain_values(run.config), run.results, run.summary(), (), shown)
    examples = [] if stream is None else _examples(run, [*stream.stages, *stream.unseen], count)
    return ReportData(run.folder.name, plain_values(run.config), run.results, run.summary(), examples)


def _examples(run: Run, stages: Sequence[Stage], count: int) -> list[Example]:
    """Predict the picked images again, with the run's learner and with the untouched base."""
    picked = pick(run.results, METRIC, count)
    tests = {stage.name: stage.test for stage in stages}
    samples = [
        (domain, sample)
        for domain, names in picked.items()
        for sample in _named(tests.get(domain, ()), names)
    ]
    base = build("zero-shot", run.base, configure("zero-shot"), run.config.seed)
    queries = [sample.query() for _, sample in samples]
    out = []
    for (domain, sample), adapted, untouched in zip(
        samples, run.learner.predict(queries), base.predict(queries), strict=True
    ):
        ours, theirs, truth = adapted.masks(), untouched.masks(), sample.masks
        points, labels = sample.prompts.points, sample.prompts.labels
        out.append(
            Example(
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
        if sample.name in names:
            found[sample.name] = sample
    return [found[name] for name in names if name in found]
