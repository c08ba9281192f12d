"""Score of a domain's own module, trained alone, taken from any run that has one.

A run of samcl or independent keeps a module per domain, and its oracle says what each scores. Of any other
run, only what it learned first was trained alone; for the rest it takes other runs. Of classes, the reference
is a run that learned them all at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from everseg import config as configuration
from everseg.results import Summary
from everseg.runs.record import Learned
from everseg.runs.run import Run


def with_alone(run: Run, others: Sequence[Run]) -> Summary:
    """A run's summary with the scores of modules that others have trained alone, for domains for which it has
    no module itself.

    Others count where base, scoring, training data and test images are the same. A run of the same method is
    taken first, because its module is of the same kind.
    """
    summary = run.summary()
    source: dict[str, str] = {}
    scores = {column: dict(values) for column, values in _alone(run).items()}
    for other in sorted(others, key=lambda other: other.config.method != run.config.method):
        for column, values in _alone(other).items():
            if column not in scores and _same(run, other, column):
                scores[column], source[column] = dict(values), other.folder.name
    if scores:
        summary["alone"] = scores
    if source:
        summary["alone_from"] = source
    return summary


def _alone(run: Run) -> Mapping[str, Mapping[str, float]]:
    """The scores of the modules that a run trained alone: those that it keeps, or of the domain that it
    learned first. Classes have no modules: those that were learned all at once."""
    if run.record.oracle:
        return run.record.oracle
    record, results = run.record, run.results
    if not record.learned or record.first or record.merged or record.imported or record.forgotten:
        return {}
    first = record.learned[0]
    taught = [c for c, row in results.learned_at.items() if row == 0 and c not in results.background]
    if first.classes:
        taught = taught if len(record.learned) == 1 else []
    elif not first.figures.get("trainable_parameters"):  # The untouched base.
        return {}
    else:
        taught = [c for c in taught if c == first.name]
    return {column: results.cells[(0, column)] for column in taught if (0, column) in results.cells}


def _same(run: Run, other: Run, column: str) -> bool:
    """Whether two runs have the same base and scoring, and the same data of a column."""
    if run.record.base.fingerprint != other.record.base.fingerprint:
        return False
    how = [configuration.plain(each.config.score, machine=False) for each in (run, other)]
    images = [_images(each, column) for each in (run, other)]
    if how[0] != how[1] or images[0] != images[1] or not images[0]:
        return False
    if run.results.parts:
        return set(run.results.columns) == set(other.results.columns)
    ours, theirs = (_learned(each, column) for each in (run, other))
    # A run that was given all at once has no fingerprint of one domain.
    return ours is None or theirs is None or _same_data(ours, theirs)


def _same_data(ours: Learned, theirs: Learned) -> bool:
    if ours.train and theirs.train:
        return (ours.train, ours.test) == (theirs.train, theirs.test)
    return bool(ours.fingerprint) and ours.fingerprint == theirs.fingerprint


def _learned(run: Run, domain: str) -> Learned | None:
    return next((stage for stage in run.record.learned if stage.name == domain), None)


def _images(run: Run, column: str) -> set[str]:
    """Names of the images that the last row has scored: the domain's, or of a run of classes all."""
    results = run.results
    last = len(results.stages) - 1
    parts = {score.image for score in results.parts.get(last, ())}
    return parts or {score.image for score in results.scores.get(last, ()) if score.column == column}
