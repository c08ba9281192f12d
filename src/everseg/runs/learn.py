"""Learn a stream and score after each stage, in a run folder that can be interrupted anywhere."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from everseg import config as configuration
from everseg.config import assign, everywhere
from everseg.data import Stream
from everseg.data.classes.legend import BACKGROUND_NAME as BACKGROUND
from everseg.data.stream import Fingerprints
from everseg.data.views import view_of
from everseg.distributed import world
from everseg.errors import UserError
from everseg.files import locked
from everseg.methods import build, configure, long_name
from everseg.models.names import from_anywhere
from everseg.progress import listening, remark
from everseg.runs.begun import check_folders, check_until, continued, kept_options
from everseg.runs.data import (
    check_learned,
    fingerprints,
    learned_from,
    read_ahead,
    refuse_retest,
    to_learn,
    trained_tests,
    upto,
)
from everseg.runs.defaults import default_method, with_defaults
from everseg.runs.discover import opened_with_domains
from everseg.runs.folder import (
    base_of,
    check_free,
    clear_up,
    is_run,
    load,
    new_run,
    write,
    write_record,
)
from everseg.runs.gating import Gating, gating_of, scored
from everseg.runs.journal import Journal
from everseg.runs.natural import check_begun_with, with_natural
from everseg.runs.problem import Problem, check_fits, problem_of
from everseg.runs.record import Event, First, Learned, without_times
from everseg.runs.run import Run, RunConfig
from everseg.runs.scratch import scratch_of
from everseg.runs.trackers import check_trackers, trackers
from everseg.runs.validation import with_validation
from everseg.types import BaseModel, Defaults, Evaluate, Precision, Stage
from everseg.types.abilities import ChoosesLater, TakesFirstStage


def learn(
    stream: Stream | Path | str,
    method: str = "",
    *,
    out: Path | str,
    base: Any = None,
    preset: str = "paper",
    seed: int = 0,
    first: Path | str | None = None,
    until: str | None = None,
    retest: bool = False,
    natural: Path | str | None = None,
    evaluate: Evaluate = "next",
    baseline: bool = True,
    precision: Precision = "auto",
    defaults: Defaults = "data",
    workers: int = 0,
    keep: int | None = None,
    track: str | Sequence[str] = (),
    gate: bool | Gating | None = None,
    **settings: Any,
) -> Run:
    """Learn a stream with a method, in the run folder `out`. The same call resumes; a longer stream adds to
    it.

    stream: a `Stream`, or the path of a stream file.
    method: a name of `everseg.METHODS`, or package.module:Class; "" takes samcl, for classes eir.
    base: name or path of the base model, or a loaded one; None takes the method's default.
    preset: "paper", or "reference" for the quirks of the published code.
    first: a run whose first stage is reused instead of training it.
    until: the stage to stop after.
    retest: if test data of learned stages have changed, score the run on the new ones; see `run`.
    natural: a folder of natural images, on which the untouched base is right; `samcl` then knows them from
        its first stage on. The base `tiny` comes with their statistics.
    evaluate: after each stage score the domains so far and the "next" one, or "all".
    baseline: also score the untouched base.
    precision: precision of the base's computations.
    defaults: in runs of classes, settings that are not given follow the "data", or are the "preset" as it is.
    workers: processes that decode images.
    keep: number of earlier states to keep; None continues as the run was begun, a new one with all states but
        those that hold images.
    track: trackers that receive the progress: "tensorboard", "wandb", "mlflow".
    gate: accept a stage only if the gate finds nothing worse; a `Gating` has the options and lists the
        outcome of each stage. None: as the last call that said so, which for a new run is no.
    settings: over the preset, with two underscores for each dot: `rank=4`, `tune__fit__epochs=5`. `everseg
        settings METHOD` lists them.

    Raises:
        UserError: an argument does not fit, or as `run`.
    """
    if not isinstance(out, str | Path):
        raise UserError(f"out is of type {type(out).__name__}; give the path of the run folder")
    if not isinstance(stream, Stream | str | Path):
        raise UserError(
            f"the stream is of type {type(stream).__name__}; give a Stream or the path of a stream file"
        )
    if not (base is None or isinstance(base, str | Path | BaseModel)):
        raise UserError(
            f"the base is of type {type(base).__name__}; give its name, its path, or a loaded base"
        )
    method = method or default_method(stream)
    named = base.name if isinstance(base, BaseModel) else from_anywhere(str(base)) if base else ""
    given = {long_name(method, k.replace("__", ".")): v for k, v in settings.items()}
    chosen = assign(configure(method, preset), given)
    score = problem_of(method).Score.presets().get(preset)
    machine = kept_options(out, None, keep)
    config = RunConfig(method, chosen, named, preset, seed, score, evaluate, baseline, precision, *machine)
    if workers:
        config = everywhere(config, "workers", workers)
    gating = gate if isinstance(gate, Gating) else gating_of(Path(out), gate)
    check_folders(Path(out), first)
    if not isinstance(stream, Stream):
        stream, base = opened_with_domains(stream, config, Path(out), base, natural)
    check_until(stream, config, until)
    base = base_of(config, base)
    if defaults == "data":
        config = with_defaults(config, stream, Path(out), given, ())
    how: Any = {"first": first, "until": until, "retest": retest, "natural": natural, "track": track}
    return run(stream, config, out, base, **how, gating=gating)


def run(
    stream: Stream,
    config: RunConfig,
    out: Path | str,
    base: Any = None,
    *,
    first: Path | str | None = None,
    until: str | None = None,
    retest: bool = False,
    natural: Path | str | None = None,
    track: str | Sequence[str] = (),
    gating: Gating | None = None,
) -> Run:
    """Learn every stage of `stream` that the run in `out` has not learned yet, and score after each.

    The same call resumes after an interruption and ends with the same bytes; with a longer stream it learns
    what was added. `base` saves loading it again.

    first: another run that has learned the first stage alone and from the same data, whose result is reused
        instead of training it again.
    until: the stage to stop after.
    retest: where test data of learned stages have changed, score the run as it stands on the new ones, and
        leave out of the results what was measured on the old ones.
    `natural`, `track`: as in `learn`.
    gating: what stages must pass to become part of the run; those that do not are kept aside.

    All test data that will be scored after a stage, and its validation images, are decoded before it is
    trained, so that no fault in them costs a training.

    Raises:
        UserError: the method does not learn what the stream brings; the folder holds another run (method,
        settings, base, seed), or the data of a learned stage changed; a test or validation sample cannot be
        read; `first` does not fit; there is no stage `until`.
    """
    how: Any = {"first": first, "until": until, "retest": retest, "natural": natural, "track": track}
    *_, current = [None, *run_stages(stream, config, out, base, **how, gating=gating)]
    rejected = gating.rejected if gating else []
    if rejected and not is_run(out):
        raise UserError(f"no stage passed the gate, so {out} holds no run; see {rejected[0].folder}")
    return load(out, base) if current is None or rejected else current


def run_stages(
    stream: Stream,
    config: RunConfig,
    out: Path | str,
    base: Any = None,
    *,
    first: Path | str | None = None,
    until: str | None = None,
    retest: bool = False,
    natural: Path | str | None = None,
    track: str | Sequence[str] = (),
    gating: Gating | None = None,
) -> Iterator[Run]:
    """`run`, stopping after each stage that was learned and saved to show the run as it stands, and after
    learned stages were tested again. Without an accepted stage there is nothing to show."""
    out, track = Path(out), check_trackers(track)
    problem = check_fits(stream, config.method)
    model = with_natural(natural, config.method, base_of(config, base), out)
    with locked(out, "choose another --out") if world().main else nullcontext():
        current = _open(config, out, model, stream)
        check_begun_with(natural, current)
        stages = to_learn(stream, current.learner)
        problem.check_order(stream, current.record.learned)
        changed = check_learned(stream, stages, current.record)
        if not retest:
            refuse_retest(stream, changed)
        todo = [s for s in upto(stages, until) if s.name not in current.learned]
        if todo and (fault := trained_tests(stream)) and world().main:
            remark(fault)
        giver = None if first is None else _giver(Path(first), current)
        _check_not_forgotten(stream, todo, current)
        read = set(current.learned)  # Their test samples were scored.
        if changed:
            _retest(problem, current, stream, changed)
            yield current
        for position, stage in enumerate(todo):
            begun = time.perf_counter()
            data = fingerprints(stream, stage)
            taught = with_validation(stage, current)
            following = (
                todo[position + 1 : position + 2] if config.evaluate == "next" else todo[position + 1 :]
            )
            columns = [s for s in stages if s.name in current.learned] + [stage, *following]
            last = position + 1 == len(todo)
            tested = problem.scored(current, stream, stage, columns, last=last)
            if gating is not None:
                gating.check(current, stream, stage)
                gating.begin(out)
                tested = [*tested, *scored(current, stream, stage)]
            _read_ahead(stream, current, tested, read)
            if giver is None or current.learned:  # Else nothing is trained.
                split = "val" if len(stage.val) else "train"
                read_ahead(taught.val, f"stage {stage.name!r}, {split}", config.score.workers)
            began = time.perf_counter()
            read_in = began - begun
            if torch.cuda.is_available():
                torch.cuda.reset_peak_memory_stats()
            if giver is not None and not current.learned:
                figures = dict(_take_first(giver, current, stage, data))
                learned_in = time.perf_counter() - began
            else:
                scratch = scratch_of(current, stage, data)
                # No adapter is trained on the background, so there is nothing to tell.
                with trackers(() if stage.background else track, out, stage.name) as listeners:
                    with listening(Journal(current, stage.name), *listeners):
                        figures = dict(current.learner.learn(taught, scratch))
                if len(taught.val) and "best_epoch" not in figures and world().main:
                    remark(f"{config.method} did not use the validation images of {stage.name!r}")
                learned_in = scratch.seconds
            scoring_began = time.perf_counter()
            current.results, oracle = problem.row(current, stream, stage, columns, last=last)
            if oracle is not None:
                current.record = replace(current.record, oracle=oracle)
            scored_in = time.perf_counter() - scoring_began + read_in
            event = _counted(current, taught, data, figures, learned_in, scored_in)
            if gating is not None and not gating.accept(current, stream, stage):
                if stage.classes:  # Those of the next stage would take the place of these.
                    return
                current = _open(config, out, model, stream)
                continue
            write(current, event)
            yield current


def _giver(first: Path, current: Run) -> Run:
    """The run whose first stage this one takes over, or has taken over."""
    giver = load(first, current.base)
    assert giver.record.sha256 is not None
    ours = current.record.first
    if current.learned and (ours is None or ours.sha256 != giver.record.sha256.state):
        raise UserError(
            f"{current.folder} did not start from the present state of {first}; choose another --out"
        )
    return giver


def _take_first(giver: Run, current: Run, stage: Stage, data: Fingerprints) -> Mapping[str, float]:
    """Learn the first stage by taking over what another run made of it."""
    if giver.learned != [stage.name] or not learned_from(giver.record.learned[0], data):
        raise UserError(
            f"{giver.folder} has learned {', '.join(giver.learned)}; give a run that has learned "
            f"{stage.name!r} only, from the same data"
        )
    if not isinstance(current.learner, TakesFirstStage):
        raise UserError(
            f"method {current.config.method!r} cannot continue from another run's first stage; "
            "leave --first-stage out"
        )
    figures = current.learner.take_first(stage, giver.learner)
    assert giver.record.sha256 is not None
    taken = First(giver.config.method, giver.config.seed, giver.record.sha256.state)
    current.record = replace(current.record, first=taken)
    return figures


def _open(config: RunConfig, out: Path, base: Any, stream: Stream) -> Run:
    """A new run, or the one in the folder if it is the same run, that is to learn a stream."""
    current = _found(config, out, base)
    source = str(stream.source.resolve()) if stream.source else ""
    first_classes = stream.stages[0].classes and (BACKGROUND, *stream.stages[0].classes)
    current.record = replace(current.record, stream=source, first_classes=first_classes)
    return current


def _found(config: RunConfig, out: Path, base: Any) -> Run:
    if not is_run(out):
        check_free(out)
        return new_run(out, config, build(config.method, base, config.settings, config.seed), base)
    asked, (found, config) = config, continued(config, out, base)
    new, old = (configuration.plain(c, machine=False) for c in (asked, config))
    if world().main and (kept := configuration.differences(old, new)):
        told = "; ".join(map(str, kept))
        remark(f"{out} was begun by an earlier version of everseg and keeps its settings: {told}")
    if config != found.config:  # In what is this machine's business only.
        learner = build(config.method, base, config.settings, config.seed)
        learner.load_state_dict(found.learner.state_dict())
        found.config, found.learner = config, learner
        found.record = replace(found.record, config=configuration.plain(config))
        if world().main:
            write_record(out, found.record)
    if world().main:  # It may have been interrupted right before it did so itself.
        clear_up(out, found.record)
    return found


def _check_not_forgotten(stream: Stream, todo: Sequence[Stage], current: Run) -> None:
    """Refuse to learn a forgotten stage again just because a stream file still lists it."""
    forgotten = {certificate.forgotten for certificate in current.record.forgotten}
    if again := [s.name for s in todo if s.name in forgotten]:
        raise UserError(
            f"{current.folder} has forgotten {again[0]!r}, but {stream.source or 'the stream'} still "
            "has it; remove the stage from the stream, or give it a new name to learn it again"
        )


def _read_ahead(stream: Stream, current: Run, scored: Sequence[Stage], read: set[str]) -> None:
    """Decode the test samples of those stages that are not in `read`, and note them there."""
    for stage in scored:
        if stage.name not in read:
            where, by_name = f"stage {stage.name!r}, test", view_of(stream).scored_by_name
            read_ahead(stage.test, where, current.config.score.workers, by_name=by_name)
            read.add(stage.name)


def _retest(problem: Problem, current: Run, stream: Stream, changed: Sequence[Stage]) -> None:
    """Score the run as it stands on test data that have changed, and save it."""
    _read_ahead(stream, current, problem.retested(current, stream, changed), set())
    current.results, oracle = problem.retest(current, stream, changed)
    current.record = replace(current.record, oracle=oracle)
    for stage in changed:
        now = fingerprints(stream, stage)
        current.record = current.record.with_changed(stage.name, test=now.test, fingerprint=now.both)
    write(current)


def _counted(
    current: Run,
    stage: Stage,
    data: Fingerprints,
    figures: dict[str, float],
    learned_in: float,
    scored_in: float,
) -> Event:
    """Count the stage as learned, with what it was learned from; returns what that took."""
    kept, times = without_times(figures)
    learned = Learned(
        stage.name,
        data.both,
        stage.background,
        len(stage.train),
        kept,
        classes=tuple(stage.classes),
        train=data.train,
        test=data.test,
        later=current.learner.chosen_later() if isinstance(current.learner, ChoosesLater) else None,
    )
    current.record = current.record.with_learned(learned)
    return Event(stage.name, learned_in, scored_in, figures={**kept, **times})
