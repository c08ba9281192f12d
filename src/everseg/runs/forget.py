"""Take a domain out of a run, and certify how: exactly, or in plain words why not.

What a run keeps of the domain goes with it: its part of the learner's state, its contribution, its scores and
the names of its images, what its module scored on images of other domains, its lines in the log, its curves
for TensorBoard, the report, which shows its images, and the earlier states that held it. A row
"(without NAME)" in the results says how the run does afterwards, where the data to score on are there.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from everseg.data import Stream
from everseg.domains.scoring import score
from everseg.errors import UserError
from everseg.files import load_state, locked, sha256_file, write_json
from everseg.methods import METHODS, find
from everseg.models.promptable.protocol import Promptable
from everseg.runs.earlier import traces
from everseg.runs.folder import clear_up, forget_events, load, write, write_record
from everseg.runs.record import Certificate, Event
from everseg.runs.run import Run, archived
from everseg.types import State
from everseg.types.abilities import Archive, Contributes, Forgets, Reweighs

REPORT, BOARD = "report.html", "tensorboard"


def forget(
    folder: Path | str,
    domain: str,
    *,
    stream: Stream | None = None,
    contribution: Path | None = None,
    base: Promptable | str | None = None,
) -> Certificate:
    """Forget a learned stage of the run in `folder`; returns the certificate, which is also written to
    `forgotten/<domain>.json` and kept in run.json.

    stream: its test images say how the run does afterwards.
    contribution: the file of what the domain contributed, where the run has not kept it.

    Raises:
        UserError: the run never learned it, its method cannot forget, or what that takes was not kept.
        Nothing is changed then.
    """
    folder = Path(folder)
    with locked(folder):
        run = load(folder, base)
        before_that = [c for c in run.record.forgotten if c.forgotten == domain]
        if before_that:  # Perhaps interrupted before it had cleaned up.
            return _clear_traces(run, before_that[0])
        _check_learned(run, domain)
        if not isinstance(run.learner, Forgets):
            able = ", ".join(name for name in METHODS if issubclass(find(name), Forgets))
            raise UserError(
                f"{folder}: method {run.config.method!r} cannot forget a stage: {run.problem.entangled}; "
                f"methods that can: {able}"
            )
        entry = next(stage for stage in run.record.learned if stage.name == domain)
        if entry.background and isinstance(run.learner, Contributes):
            raise UserError(
                f"{domain!r} is the background of {folder}: it contributed nothing to the merge, so there is "
                "nothing to forget"
            )
        assert run.record.sha256 is not None
        before = run.record.sha256.state
        found = run.learner.forget(domain, _archive(run, domain, contribution))
        removed, kept = _removed(run, domain), _kept(run, domain)
        run.results = run.results.without(domain)
        certificate = Certificate(
            forgotten=domain,
            method=run.config.method,
            exact=found.exact,
            statement=found.statement,
            base=run.record.base,
            contribution=entry.contribution,
            data=entry.fingerprint,
            remaining=dict(found.remaining),
            state_before=before,
            removed=removed,
            kept=kept,
        )
        oracle = {name: told for name, told in (run.record.oracle or {}).items() if name != domain}
        run.record = replace(
            run.record,
            learned=tuple(stage for stage in run.record.learned if stage is not entry),
            oracle=oracle or None,
            forgotten=(*run.record.forgotten, certificate),
        )
        row = _fresh_name(run, f"without {domain}")
        _rescore(run, row, stream, also=[domain])
        write(run, Event(row, 0.0))
        return _clear_traces(run, certificate)


def reweigh(
    folder: Path | str,
    domain: str,
    weight: float,
    *,
    stream: Stream | None = None,
    contribution: Path | None = None,
    base: Promptable | str | None = None,
) -> Run:
    """Let a learned stage of the run in `folder` count `weight` in the merge, where others count what they
    did.

    Raises:
        UserError: as `forget`; or the method or its rule weighs all domains alike.
    """
    folder = Path(folder)
    if not 0 < weight < float("inf"):
        raise UserError(
            f"the weight is {weight}; give a number above 0, or remove the domain with everseg forget"
        )
    with locked(folder):
        run = load(folder, base)
        _check_learned(run, domain)
        if not isinstance(run.learner, Reweighs):
            able = ", ".join(name for name in METHODS if issubclass(find(name), Reweighs))
            raise UserError(f"method {run.config.method!r} cannot weigh domains; methods that can: {able}")
        run.learner.reweigh(domain, weight, _archive(run, domain, contribution))
        row = _fresh_name(run, f"{domain} x {weight:g}")
        _rescore(run, row, stream)
        write(run, Event(row, 0.0))
    return run


def _check_learned(run: Run, domain: str) -> None:
    if domain not in run.learned:
        learned = ", ".join(run.learned) or "nothing yet"
        raise UserError(f"{run.folder} has not learned {domain!r}; it learned {learned}")


def _fresh_name(run: Run, what: str) -> str:
    """A row's name in brackets, which no stage has, numbered where it was there before."""
    taken = sum(name == f"({what})" or name.startswith(f"({what}, ") for name in run.results.stages)
    return f"({what})" if not taken else f"({what}, {taken + 1})"


def _archive(run: Run, domain: str, given: Path | None) -> Archive:
    """What each domain contributed, as the run has kept it, or for one domain from a file."""
    sums = {stage.name: stage.contribution for stage in run.record.learned}

    def read(name: str) -> State | None:
        if name == domain and given is not None:
            return load_state(given)
        path = archived(run.folder, name)
        if not sums.get(name) or not path.is_file():
            return None
        if sha256_file(path) != sums[name]:
            raise UserError(
                f"{path} is not what this run wrote (its checksum differs); restore it from a copy"
            )
        return load_state(path)

    return read


def _removed(run: Run, domain: str) -> tuple[str, ...]:
    """What goes besides the domain's part of the learner, in sentences for the certificate."""
    results = run.results
    images = sum(score.column == domain for scores in results.scores.values() for score in scores)
    told = [f"its row and its column of the results, with {images} scores of its images"]
    for (row, column), count in results.made_by(domain).items():
        stage = results.stages[row]
        if stage != domain:
            told.append(f"the score of {column} after {stage}: {count} of its images had gone to the module")
    if domain in (run.record.oracle or {}):
        told.append("its score with its own module (oracle)")
    if lines := sum(line.stage == domain for line in run.log):
        told.append(f"its {lines} lines of the log")
    if (run.folder / BOARD / domain).is_dir():
        told.append("its curves for TensorBoard")
    if (run.folder / REPORT).exists():
        told.append("the report")
    if (run.folder / "work").is_dir():
        told.append("the unfinished stage, which was begun after it")
    return (*told, *traces(run.folder, domain))


def _kept(run: Run, domain: str) -> tuple[str, ...]:
    """What was measured with an adapter that the domain had a part in, where no module of its own did it."""
    results = run.results
    later = range(1 + results.stages.index(domain), len(results.stages)) if domain in results.stages else ()
    shared = [
        results.stages[row]
        for row in later
        if any(r == row for r, _ in results.cells)
        and not any(s.route in results.columns for s in results.scores.get(row, ()))
    ]
    if not shared:
        return ()
    told = f"the scores after {', '.join(shared)}, measured when the one adapter of the run held {domain!r}"
    return (told,)


def _rescore(run: Run, row: str, stream: Stream | None, also: Sequence[str] = ()) -> None:
    """A row of how the run does now on what it knows, and on a forgotten domain, whose data may still be
    there."""
    rows = []
    if stream is not None:
        wanted = {*run.learned, *also}
        tested = [s for s in [*stream.stages, *stream.unseen] if len(s.test)]
        tested = [s for s in tested if s.name in wanted or s in stream.unseen]
        how, predict = run.config.score, run.learner.predict
        rows = [s for t in tested for s in score(predict, t.test, t.name, how, last=True)]
    run.results = run.results.with_stage(row, rows, learned=[])


def _clear_traces(run: Run, certificate: Certificate) -> Certificate:
    """Delete what `write` leaves of a forgotten domain, then write its certificate. Interrupted, it can be
    repeated."""
    folder, domain = run.folder, certificate.forgotten
    clear_up(folder, run.record)
    (folder / REPORT).unlink(missing_ok=True)
    shutil.rmtree(folder / "work", ignore_errors=True)
    shutil.rmtree(folder / BOARD / domain, ignore_errors=True)
    forget_events(run, domain)
    if not certificate.state_after:
        whole = replace(certificate, state_after=sha256_file(folder / run.record.state))
        others = (whole if c is certificate else c for c in run.record.forgotten)
        run.record = replace(run.record, forgotten=tuple(others))
        write_record(folder, run.record)
        certificate = whole
    write_json(folder / "forgotten" / f"{domain}.json", certificate.to_json())
    return certificate
