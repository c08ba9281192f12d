"""Take a domain out of a run, and certify how: exactly, or in plain words why not.

What a run keeps of the domain goes with it: its part of the learner's state, its contribution, its scores and
the names of its images, its line in the log, and the report, which shows its images. A row "(without NAME)"
in the results says how the run does afterwards, where the data to score on are there.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from everseg.data import Stream
from everseg.domains.scoring import score
from everseg.errors import UserError
from everseg.files import load_state, locked, sha256_file, write_json, write_text
from everseg.methods import METHODS, find
from everseg.models.promptable.protocol import Promptable
from everseg.runs.folder import Run, archived, load, write
from everseg.runs.problems import problem_of
from everseg.types import Archive, Forgets, Reweighs, State

REPORT = "report.html"


def forget(
    folder: Path | str,
    domain: str,
    *,
    stream: Stream | None = None,
    contribution: Path | None = None,
    base: Promptable | str | None = None,
) -> dict[str, Any]:
    """Forget a learned stage of the run in `folder`; returns the certificate, which is also written to
    `forgotten/<domain>.json` and kept in run.json.

    stream: its test images say how the run does afterwards. contribution: the file of what the domain
    brought, where the run has not kept it.

    Raises:
        UserError: the run never learned it, its method cannot forget, or what that takes was not kept.
        Nothing is changed then.
    """
    folder = Path(folder)
    with locked(folder):
        run = load(folder, base)
        before_that = [c for c in run.record.get("forgotten", []) if c["forgotten"] == domain]
        if before_that:  # Perhaps interrupted before it had cleaned up.
            _clear_traces(run, before_that[0])
            return dict(before_that[0])
        _check_learned(run, domain)
        if problem_of(run.config.method).name == "classes":
            raise UserError(
                f"{folder} learns classes, and what a class taught cannot be taken out of a trained "
                "segmenter; only domains are forgotten"
            )
        if not isinstance(run.learner, Forgets):
            able = ", ".join(name for name in METHODS if hasattr(find(name), "forget"))
            raise UserError(
                f"method {run.config.method!r} cannot forget a domain: what it learned of all of them is in "
                f"one adapter; methods that can: {able}"
            )
        before = run.record["sha256"]["state"]
        found = run.learner.forget(domain, _archive(run, domain, contribution))
        entry = next(e for e in run.record["learned"] if e["name"] == domain)
        run.record["learned"] = [e for e in run.record["learned"] if e is not entry]
        run.results = run.results.without(domain)
        certificate = {
            "forgotten": domain,
            "method": run.config.method,
            "exact": found.exact,
            "statement": found.statement,
            "base": run.record["base"],
            "contribution": entry.get("contribution", ""),
            "data": entry["fingerprint"],
            "remaining": dict(found.remaining),
            "state_before": before,
        }
        run.record["forgotten"] = [*run.record.get("forgotten", []), certificate]
        row = _fresh_name(run, f"without {domain}")
        _rescore(run, row, stream, also=[domain])
        write(run, {"stage": row, "seconds": 0.0, "scoring_seconds": 0.0})
        _clear_traces(run, certificate)
    return certificate


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
            f"the weight is {weight}; it is a number above 0 (to take a domain out: everseg forget)"
        )
    with locked(folder):
        run = load(folder, base)
        _check_learned(run, domain)
        if not isinstance(run.learner, Reweighs):
            able = ", ".join(name for name in METHODS if hasattr(find(name), "reweigh"))
            raise UserError(f"method {run.config.method!r} weighs no domains; methods that do: {able}")
        run.learner.reweigh(domain, weight, _archive(run, domain, contribution))
        row = _fresh_name(run, f"{domain} x {weight:g}")
        _rescore(run, row, stream)
        write(run, {"stage": row, "seconds": 0.0, "scoring_seconds": 0.0})
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
    """What each domain brought, as the run has kept it, or for one domain from a file."""
    sums = {e["name"]: e.get("contribution") for e in run.record["learned"]}

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


def _rescore(run: Run, row: str, stream: Stream | None, also: Sequence[str] = ()) -> None:
    """A row of how the run does now on what it knows, and on a forgotten domain, whose data may still be
    there."""
    rows = []
    if stream is not None:
        wanted = {*run.learned, *also}
        tested = [s for s in [*stream.stages, *stream.unseen] if len(s.test)]
        tested = [s for s in tested if s.name in wanted or s in stream.unseen]
        rows = [s for t in tested for s in score(run.learner.predict, t.test, t.name, run.config.score)]
    run.results = run.results.with_stage(row, rows, learned=[])


def _clear_traces(run: Run, certificate: dict[str, Any]) -> None:
    """What `write` leaves of a forgotten domain; then its certificate. Interrupted, it can be done again."""
    folder, domain = run.folder, certificate["forgotten"]
    (folder / REPORT).unlink(missing_ok=True)
    _forget_log(folder / "events.jsonl", domain)
    if "state_after" not in certificate:
        certificate["state_after"] = sha256_file(folder / run.record["state"])
        write_json(folder / "run.json", run.record)
    write_json(folder / "forgotten" / f"{domain}.json", certificate)


def _forget_log(path: Path, domain: str) -> None:
    if not path.exists():
        return
    kept = [line for line in path.read_text().splitlines() if not _tells_of(line, domain)]
    write_text(path, "".join(f"{line}\n" for line in kept))


def _tells_of(line: str, domain: str) -> bool:
    try:
        return bool(json.loads(line).get("stage") == domain)
    except json.JSONDecodeError:  # Torn by a power cut: nobody can say what it told of.
        return True
