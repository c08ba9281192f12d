"""The accepted states of a run: list them, and go back to one of them."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from everseg.errors import UserError
from everseg.files import locked, read_json, save_state, sha256_file, write_json
from everseg.results import Results, average, unseen_average
from everseg.runs.earlier import (
    Entry,
    entries,
    gate_file,
    keep,
    record_of,
    results_of,
    set_aside,
    unpacked,
)
from everseg.runs.folder import clear_up, load_scores, read_record, write_record
from everseg.runs.record import Record


@dataclass(frozen=True)
class Listed:
    """One accepted state of a run.

    number: None for a stage that was learned before the run kept a history.
    what: the stage that was learned, or what was changed, in brackets.
    status: "current"; "earlier", which the current one continues from; or "left", before which a restore has
        gone back.
    sha256: of the state's file; "" where it is not known.
    learned: stages learned so far.
    config: settings and all else that the run is made of.
    scores: {metric: {"AA": mean over learned domains, "unseen": mean over unseen ones}}, without those that
        were not measured.
    gate: the gate's verdict when it was accepted; "" where it was not asked.
    gone: why it cannot be restored; "" where it can.
    """

    number: int | None
    what: str
    status: str
    sha256: str
    learned: tuple[str, ...]
    config: Mapping[str, Any]
    scores: Mapping[str, Mapping[str, float]]
    gate: str
    gone: str


@dataclass(frozen=True)
class Rejected:
    """A stage that the gate did not let into a run.

    folder: where it is kept.
    verdict: "fail" or "cannot tell".
    why: a sentence for each comparison that is worse, or else undecided.
    """

    stage: str
    folder: Path
    verdict: str
    why: tuple[str, ...]


UNKNOWN = "not kept, because an earlier version of everseg learned it"


def history(folder: Path | str) -> list[Listed]:
    """All accepted states of the run in `folder`, in the order in which they were made. The base is not
    needed.

    Raises:
        UserError: there is no run, or it is damaged.
    """
    folder = Path(folder)
    current = load_scores(folder)
    record, results, found = current.record, current.results, entries(folder)
    line = _line(record, found)
    known = {n: (record_of(folder, e), results_of(e)) for n, e in found.items() if e.record}
    known[record.number] = (record, results)
    listed = []
    for number in sorted({*found, record.number}):
        status = "current" if number == record.number else "earlier" if number in line else "left"
        gone = "" if number == record.number else found[number].gone
        if number not in known:
            listed.append(Listed(number, "(deleted)", status, "", (), {}, {}, "", gone))
            continue
        own, scores = known[number]
        parent = own.parent if number == record.number else found[number].parent
        assert own.sha256 is not None
        listed.append(
            Listed(
                number,
                _what(own, scores, *known.get(parent, (None, None))),
                status,
                own.sha256.state,
                tuple(own.names),
                own.config,
                _scores(scores),
                _verdict(gate_file(folder, number)),
                gone,
            )
        )
    return [*_before(results, listed), *listed]


def rejected(folder: Path | str) -> list[Rejected]:
    """The stages that the gate did not let into the run in `folder`.

    Raises:
        UserError: a file is damaged.
    """
    told = []
    for aside in set_aside(Path(folder)):
        found = _found(aside / "gate.json")
        bad = [c for c in found["comparisons"] if c["finding"] == "worse"]
        bad = bad or [c for c in found["comparisons"] if c["finding"] == "cannot tell"]
        why = [f"{c['column']}{', ' * bool(c['prompt'])}{c['prompt']}: {c['reason']}" for c in bad]
        why = why or list(found["left_out"])
        told.append(Rejected(read_record(aside).names[-1], aside, found["verdict"], tuple(why)))
    return told


def _found(path: Path) -> dict[str, Any]:
    """What the gate found, in plain values."""
    found = read_json(path)
    if not (isinstance(found, dict) and {"verdict", "comparisons", "left_out"} <= found.keys()):
        raise UserError(
            f"{path} is damaged (it is not a report of the gate); restore it from a copy or delete it"
        )
    return found


def _verdict(path: Path) -> str:
    return str(_found(path)["verdict"]) if path.is_file() else ""


def restore(folder: Path | str, to: int) -> Record:
    """Make the run in `folder` what it was in its state of number `to`; the state that it leaves stays in the
    history. Settings that are this machine's business and certificates of forgetting stay as they are now. An
    unfinished stage is deleted. The base is not needed.

    Raises:
        UserError: there is no run or no such state, or it was not kept. Nothing is changed then.
    """
    folder = Path(folder)
    now = read_record(folder)
    with locked(folder):
        now = read_record(folder)
        clear_up(folder, now)
        if to == now.number:
            return now
        entry = _kept(folder, now, to)
        state, results = unpacked(folder, now, entry)
        then = replace(
            record_of(folder, entry), config=now.config, stream=now.stream, forgotten=now.forgotten
        )
        assert then.sha256 is not None
        save_state(folder / then.state, state)
        write_json(folder / then.results, results)
        for name, digest in ((then.state, then.sha256.state), (then.results, then.sha256.results)):
            if sha256_file(folder / name) != digest:
                raise UserError(f"state {to} in {folder / 'history'} is damaged; restore it from a copy")
        keep(folder, now, then, state, results)
        shutil.rmtree(folder / "work", ignore_errors=True)
        write_record(folder, then)
        clear_up(folder, then)
    return then


def states_of_rows(folder: Path, record: Record, results: Results) -> dict[str, int]:
    """The numbers of the states in which each row of the results was the newest, as far as they are known."""
    found = entries(folder)
    rows = {n: found[n].results.get("stages", [])[-1:] for n in sorted(_line(record, found))}
    rows[record.number] = list(results.stages[-1:])
    numbers: dict[str, int] = {}
    for number, newest in rows.items():
        for row in newest:
            numbers.setdefault(row, number)
    return numbers


def _kept(folder: Path, now: Record, number: int) -> Entry:
    found = entries(folder)
    able = [str(n) for n, entry in found.items() if not entry.gone and n != now.number]
    if not found:
        raise UserError(
            f"{folder} keeps no earlier state: it has had only one, or an earlier version of everseg "
            "learned it; learn a stage, and the present state will be kept"
        )
    choice = f"restore one of {', '.join(able)}" if able else "no other state is kept"
    if number not in found:
        raise UserError(f"{folder} has no state {number}; {choice} ('everseg history' lists them)")
    if found[number].gone:
        raise UserError(f"state {number} of {folder} was {found[number].gone}; {choice}")
    return found[number]


def _line(record: Record, found: Mapping[int, Entry]) -> set[int]:
    """The numbers of the states that the current one continues from."""
    line, number = set(), record.parent
    while number in found and number not in line:
        line.add(number)
        number = found[number].parent
    return line


def _what(record: Record, results: Results, before: Record | None, earlier: Results | None) -> str:
    """What led to a state, from what it has that the state before had not."""
    known = set(before.names) if before else set()
    rows = set(earlier.stages) if earlier else set()
    if new := [row for row in results.stages[-1:] if row not in rows and row.startswith("(")]:
        return new[0]
    if new := [name for name in record.names if name not in known]:
        return ", ".join(new if before or record.number == 1 else new[-1:])
    tests = {stage.name: stage.test for stage in before.learned} if before else {}
    retested = any(tests.get(stage.name, stage.test) != stage.test for stage in record.learned)
    return "(tested again)" if retested else "(changed)"


def _scores(results: Results, row: int = -1) -> dict[str, dict[str, float]]:
    told: dict[str, dict[str, float]] = {}
    for metric in results.lower_is_better:
        matrix = results.matrix(metric)
        means = {"AA": average(matrix, row), "unseen": unseen_average(matrix, row)}
        told[metric] = {name: value for name, value in means.items() if value == value}
    return told


def _before(results: Results, listed: list[Listed]) -> list[Listed]:
    """Rows of the results that belong to no state in the list, as a run of an earlier version has them."""
    first = listed[0]
    if first.number == 1:
        return []
    told = []
    for row, name in enumerate(results.stages[:-1]):
        # The first state in the list stands for the last of the stages that it knows.
        if name in first.learned[:-1] and name != first.what:
            learned = first.learned[: 1 + first.learned.index(name)]
            told.append(Listed(None, name, "earlier", "", learned, {}, _scores(results, row), "", UNKNOWN))
    return told
