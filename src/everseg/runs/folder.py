"""A run folder: its contents, and its only reader and writer.

    run.json                    what was learned, from what, with which settings; names the two files below
    state-003.safetensors       all that the learner remembers, written for the third time
    results-003.json            the result matrix and every image's scores
    domains/<stage>.safetensors what each domain contributed, for methods that merge; see `contribution`
    history/                    earlier states; see `runs.earlier`
    rejected/                   stages that the gate did not let in; see `runs.gating`
    events.jsonl                seconds, memory and losses of each stage, as they happened; and how far it was
    tensorboard/<stage>/        the same for TensorBoard, where it was asked for
    work/<stage>/               the unfinished stage, at its last epoch; gone when the stage is done

`run.json` is replaced last and in one rename: before it the old stage counts, after it the new one.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from everseg import config as configuration
from everseg.distributed import peak_memory, wait, world
from everseg.errors import UserError
from everseg.files import load_state, read_json, save_state, sha256_file, write_json, write_text
from everseg.methods import build, find
from everseg.models.precision import resolved
from everseg.progress import remark
from everseg.results import Results
from everseg.runs.earlier import keep, next_number, settle
from everseg.runs.fetched import located
from everseg.runs.problem import problem_of
from everseg.runs.record import RECORD, BaseMark, Digests, Event, Line, Record, read_line, read_values
from everseg.runs.run import Run, RunConfig, archived
from everseg.types import BaseModel, Scratch, Stage, State
from everseg.types.abilities import Contributes

OWN = (
    ".lock",
    "work",
    "domains",
    "history",
    "rejected",
    "events.jsonl",
    "tensorboard",
    "state-*.safetensors",
    "results-*.json",
    ".*.partial",
)
"""What a run that was interrupted before its first run.json may leave in its folder."""

LOG = "events.jsonl"


# ---------------------------------------------------------------- reading


def is_run(folder: Path | str) -> bool:
    """Whether a folder holds a run."""
    return (located(folder) / RECORD).is_file()


def read_record(folder: Path | str) -> Record:
    """What the run in `folder` says of itself; neither its learner nor its base is built.

    Raises:
        UserError: there is no run, or run.json is damaged or of another version.
    """
    folder = located(folder)
    path = folder / RECORD
    if folder.is_file():
        raise UserError(f"{folder} is a file; give the run folder")
    if not path.is_file():
        raise UserError(f"{folder} holds no run (run.json is missing); make one with 'everseg learn'")
    return read_values(read_json(path), str(path))


def learned_stages(folder: Path | str) -> tuple[str, ...]:
    """Names of the stages that the run in `folder` has learned; none where there is no run yet."""
    return tuple(read_record(folder).names) if is_run(folder) else ()


def read_events(folder: Path | str) -> list[Line]:
    """The lines of a run's log. Lines that were cut short, as by a power cut, are left out with a remark.

    Raises:
        UserError: the log is damaged in another way.
    """
    path = located(folder) / LOG
    try:
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path} ({error}); restore it from a copy or delete it") from error
    events: list[Line] = []
    for number, line in enumerate(lines, 1):
        try:
            values = json.loads(line)
        except (ValueError, RecursionError):
            if line.strip():
                remark(f"{path}, line {number} is incomplete and was left out")
            continue
        events.append(read_line(values, f"{path}, line {number}"))
    return events


def read_state(folder: Path, record: Record) -> State:
    """All that a run's learner remembers.

    Raises:
        UserError: the file is missing or is not what the run wrote.
    """
    assert record.sha256 is not None
    return load_state(_unchanged(folder / record.state, record.sha256.state))


def read_results(folder: Path, record: Record) -> Results:
    """A run's results.

    Raises:
        UserError: the file is missing or is not what the run wrote.
    """
    assert record.sha256 is not None
    path = _unchanged(folder / record.results, record.sha256.results)
    results = Results.from_json(read_json(path), str(path))
    later = {stage.name: stage.later.of for stage in record.learned if stage.later is not None}
    return replace(results, forgotten=frozenset(c.forgotten for c in record.forgotten), later=later)


def _unchanged(path: Path, digest: str) -> Path:
    if path.is_file() and sha256_file(path) != digest:
        raise UserError(f"{path} is not what this run wrote (its checksum differs); restore it from a copy")
    return path


def read_config(values: dict[str, Any], where: str) -> RunConfig:
    """The configuration that run.json has, with settings that were restored already.

    Raises:
        UserError: the values do not fit.
    """
    score = configuration.restore(problem_of(values["method"]).Score, values.get("score", {}), where)
    return configuration.restore(RunConfig, {**values, "score": score}, where)


def _config_of(folder: Path, record: Record) -> RunConfig:
    values, where = dict(record.config), f"{folder}/{RECORD}"
    values["settings"] = configuration.restore(find(values["method"]).Config, values["settings"], where)
    return read_config(values, where)


def _folder(given: Path | str) -> Path:
    if not isinstance(given, str | Path):
        raise UserError(f"the run folder is of type {type(given).__name__}; give a path")
    return located(given)


def base_of(config: RunConfig, base: Any = None) -> Any:
    """The base of a run: loaded from its own place or from the path `base`, or `base` itself.

    Raises:
        UserError: it cannot be loaded, or it computes in another precision than the run.
    """
    if isinstance(base, Path):
        base = str(base)
    if not (base is None or isinstance(base, str | BaseModel)):
        raise UserError(
            f"the base is of type {type(base).__name__}; give its name, its path, or a loaded base"
        )
    if base is None or isinstance(base, str):
        return problem_of(config.method).load_base(base or config.base, world().device, config.precision)
    ours, theirs = (resolved(p, base.device) for p in (config.precision, base.precision))
    if ours != theirs:
        raise UserError(f"the run computes in {ours} and its base in {theirs}; give both the same precision")
    return base


def load(folder: Path | str, base: Any = None) -> Run:
    """Read a run folder back, ready to predict.

    base: the base model, or its path if it has moved.

    Raises:
        UserError: there is no run, it is damaged, or the base is not the one it was made with.
    """
    folder = _folder(folder)
    record = read_record(folder)
    log = read_events(folder)  # Before anything is learned, so that damage shows in time.
    config = _config_of(folder, record)
    model = base_of(config, base)
    if model.fingerprint != record.base.fingerprint:
        raise UserError(
            f"{folder} was made with base {record.base.name} ({record.base.fingerprint[:12]}), "
            f"but {model.name} is {model.fingerprint[:12]}; give the run its own base"
        )
    results = read_results(folder, record)
    learner = build(config.method, model, config.settings, config.seed)
    state = read_state(folder, record)
    try:
        learner.load_state_dict(state)
    except (KeyError, TypeError, AttributeError, RuntimeError) as error:
        path = folder / record.state
        raise UserError(f"{path} is not the state of this run ({error}); restore it from a copy") from error
    return Run(folder, config, learner, model, results, record, log)


class Kept:
    """A learner's state, loaded only to measure its size; it can neither learn nor predict."""

    def __init__(self, state: State) -> None:
        self.state = state

    def learn(self, stage: Stage, scratch: Scratch) -> dict[str, float]:
        raise AssertionError("this run was read for its scores: use load")

    def predict(self, queries: Any) -> list[Any]:
        raise AssertionError("this run was read for its scores: use load")

    def state_dict(self) -> State:
        return self.state

    def load_state_dict(self, state: State) -> None:
        self.state = state


def load_scores(folder: Path | str) -> Run:
    """Read a run folder for its scores and sizes. The base is not needed, and nothing can be predicted.

    Raises:
        UserError: there is no run, or it is damaged.
    """
    folder = _folder(folder)
    record, log = read_record(folder), read_events(folder)
    config, results = _config_of(folder, record), read_results(folder, record)
    return Run(folder, config, Kept(read_state(folder, record)), record.base, results, record, log)


# ---------------------------------------------------------------- writing


def check_free(out: Path) -> None:
    """Check that a new run can begin in a folder.

    Raises:
        UserError: it holds a run, or files that are not a run's, or a file is in its place.
    """
    if (file := next((path for path in (out, *out.parents) if path.is_file()), None)) is not None:
        raise UserError(f"cannot write to {out}: {file} is a file; choose a folder")
    if (out / RECORD).exists():
        raise UserError(f"{out} holds a run already; choose another --out")
    if out.exists() and any(not any(map(p.match, OWN)) for p in out.iterdir()):
        raise UserError(f"{out} is not empty and holds no run; choose another --out")


def new_run(out: Path, config: RunConfig, learner: Any, base: Any, **known: Any) -> Run:
    """A run that has learned nothing yet; nothing is written.

    known: further fields of its record.
    """
    record = Record(configuration.plain(config), BaseMark(base.name, base.fingerprint), **known)
    return Run(out, config, learner, base, Results(problem_of(config.method).lower_is_better), record)


def write(run: Run, *events: Event, gone: str = "") -> None:
    """Write state and results beside the old ones, which go into the history, then let run.json point to
    them, then clear up.

    events: lines for the log, one per new row of the results; the largest memory so far is added.
    gone: why the old state cannot be restored, where it is not to be.
    """
    out, number = run.folder, next_number(run.folder, run.record)
    record = replace(
        run.record,
        state=f"state-{number:03d}.safetensors",
        results=f"results-{number:03d}.json",
        after=None if number == 1 + run.record.number else run.record.number,
    )
    told = [replace(event, peak_memory_bytes=peak_memory()) for event in events]
    append_events(run, told)
    if world().main:
        record, state, results = _archive(run, record), run.learner.state_dict(), run.results.to_json()
        save_state(out / record.state, state)
        write_json(out / record.results, results)
        if is_run(out):
            keep(out, read_record(out), record, state, results, gone)
        digests = Digests(sha256_file(out / record.state), sha256_file(out / record.results))
        record = replace(record, sha256=digests)
        write_record(out, record)
        clear_up(out, record)
    run.record = record
    wait()


def write_record(out: Path, record: Record) -> None:
    """Replace run.json."""
    write_json(out / RECORD, record.to_json())


def append_events(run: Run, events: Sequence[Line]) -> None:
    """Add lines to a run's log.

    Raises:
        UserError: the log cannot be written.
    """
    run.log = [*run.log, *events]
    path = run.folder / LOG
    if not world().main:
        return
    try:
        torn = path.exists() and not path.read_bytes().endswith(b"\n")
        with path.open("a", encoding="utf-8") as file:
            file.write("\n" * torn)
            file.writelines(json.dumps(event.to_json()) + "\n" for event in events)
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror}; free some space and run the same command again"
        ) from error


def _archive(run: Run, record: Record) -> Record:
    """Keep the contribution of the newest stage, and its checksum in the record."""
    brought = run.learner.contribution() if isinstance(run.learner, Contributes) else None
    if brought is None or not run.config.archive or brought["domain"] not in record.names:
        return record
    path = archived(run.folder, brought["domain"])
    save_state(path, brought)
    return record.with_changed(brought["domain"], contribution=sha256_file(path))


def forget_events(run: Run, stage: str) -> None:
    """Take a stage out of a run's log. Truncated lines are removed too: their stage is unknown."""
    run.log = [event for event in run.log if event.stage != stage]
    if (run.folder / LOG).exists():
        lines = (json.dumps(event.to_json()) + "\n" for event in run.log)
        write_text(run.folder / LOG, "".join(lines))


def clear_up(out: Path, record: Record) -> None:
    """Delete what run.json does not count any more and no earlier state needs."""
    settle(out, record)
    for old in [*out.glob("state-*.safetensors"), *out.glob("results-*.json"), *out.glob(".*.partial")]:
        if old.name not in {record.state, record.results}:
            old.unlink()
    known = {stage.name for stage in record.learned if stage.contribution}
    for old in [*out.glob("domains/*.safetensors"), *out.glob("domains/.*.partial")]:
        if old.stem not in known or old.name.startswith("."):
            old.unlink()
    for stage in record.learned:
        shutil.rmtree(out / "work" / stage.name, ignore_errors=True)
    if (out / "work").is_dir() and not any((out / "work").iterdir()):
        (out / "work").rmdir()
