"""A copy of a run that learns new stages, and replaces the run only when it is accepted.

The files of a run are replaced, never written into, so that a copy may share them until then; only the log
grows in place. What takes the place comes as `runs.folder.write` would have written it: run.json last and in
one rename, so that before it the old run counts and after it the new one.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from everseg.errors import UserError
from everseg.files import atomic_path, locked, sha256_file
from everseg.runs.earlier import gate_file
from everseg.runs.folder import LOG, clear_up, read_record
from everseg.runs.record import RECORD, Record

_LEFT = ("work", "rejected", "tensorboard")
"""Parts of a run that a candidate does not need."""


def begin_candidate(run: Path, candidate: Path) -> str:
    """Copy a run to the folder `candidate`, which must not exist; returns the digest by which
    `accept_candidate` knows that the run has not changed since.

    Raises:
        UserError: there is no run, another process writes it, or the copy cannot be written.
    """
    with locked(run):
        read_record(run)
        partial = candidate.with_name(f".{candidate.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        try:
            for file in _files(run):
                _share(file, partial / file.relative_to(run))
            partial.rename(candidate)
        except OSError as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise UserError(f"cannot copy {run} to {candidate}: {error.strerror}; free some space") from error
        return sha256_file(run / RECORD)


def accept_candidate(run: Path, candidate: Path, before: str, gate: Path | None = None) -> Record:
    """Make `run` what `candidate` has become; returns its record. The candidate stays as it is.

    before: what `begin_candidate` returned.
    gate: what the gate found, to be kept in the history.

    Raises:
        UserError: the run has changed since, or cannot be written.
    """
    with locked(run):
        record = read_record(candidate)
        now = sha256_file(run / RECORD)
        if now == sha256_file(candidate / RECORD):  # Accepted before, by a process that was killed then.
            return record
        if now != before:
            raise UserError(
                f"{run} has changed since the new domain was learned from it; learn the domain again"
            )
        for file in _files(candidate):
            target = run / file.relative_to(candidate)
            if file.name != RECORD and not (target.is_file() and os.path.samefile(file, target)):
                _replace(file, target)
        if gate is not None:
            _replace(gate, gate_file(run, record.number))
        _replace(candidate / RECORD, run / RECORD)
        clear_up(run, record)
    return record


def _files(run: Path) -> Iterator[Path]:
    """The files that make up a run."""
    for path in sorted(run.rglob("*")):
        first = path.relative_to(run).parts[0]
        if path.is_file() and first not in _LEFT and not path.name.startswith("."):
            yield path


def _share(file: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if file.name != LOG:
        try:
            os.link(file, target)
            return
        except OSError:  # Another disk, or a system without links.
            pass
    shutil.copyfile(file, target)


def _replace(file: Path, target: Path) -> None:
    with atomic_path(target) as temporary:
        shutil.copyfile(file, temporary)
