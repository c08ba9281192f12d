"""Learn a stream, score after each stage, and keep a run folder that can be interrupted anywhere.

The folder:

    run.json                    what was learned, from what, with which settings; names the two files below
    state-003.safetensors       all that the learner remembers after three stages
    results-003.json            the result matrix and every image's scores
    events.jsonl                seconds, memory and losses of each stage, as they happened
    work/<stage>/               the unfinished stage, at its last epoch; gone when the stage is done

`run.json` is replaced last and in one rename: before it the old stage counts, after it the new one.
"""

from __future__ import annotations

import hashlib
import json
import resource
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import ConcatDataset

from everseg import config as configuration
from everseg.data import Stream
from everseg.distributed import wait, world
from everseg.errors import UserError
from everseg.files import load_state, locked, read_json, save_state, state_bytes, write_json
from everseg.methods import build, configure, find
from everseg.metrics import METRICS
from everseg.models.bases import load_base
from everseg.models.promptable import Promptable
from everseg.results import BASE, Results, Summary, routing
from everseg.scoring import ScoreConfig, score
from everseg.types import (
    Learner,
    LearnsAllAtOnce,
    PredictsAs,
    PromptPrediction,
    Prompts,
    Query,
    Stage,
    State,
)

FORMAT = 1
OWN = (".lock", "work", "events.jsonl", "state-*.safetensors", "results-*.json", ".*.partial")
"""What a run may leave in its folder that was interrupted before run.json was there."""
Evaluate = Literal["next", "all"]


@dataclass(frozen=True)
class RunConfig:
    """What a run is made of; it cannot change while the run grows.

    method, settings: the method's name and its resolved configuration. base: name of the base model.
    evaluate: after each stage score the domains so far and the "next" one, as the paper does, or "all". After
    the last stage of a call the unseen domains are scored too. baseline: also score the untouched base, once
    for each domain.
    """

    method: str
    settings: Any
    base: str = "tiny"
    preset: str = "paper"
    seed: int = 0
    score: ScoreConfig = field(default_factory=ScoreConfig)
    evaluate: Evaluate = "next"
    baseline: bool = True


@dataclass
class Run:
    """A run folder read back: the learner with all it knows, its results, and what it was made of."""

    folder: Path
    config: RunConfig
    learner: Learner
    base: Promptable
    results: Results
    record: dict[str, Any]

    @property
    def learned(self) -> list[str]:
        """Names of the stages learned, in order."""
        return [s["name"] for s in self.record["learned"]]

    def predict(self, images: Sequence[Tensor], prompts: Sequence[Prompts]) -> list[PromptPrediction]:
        """One prediction for each image (3, H, W) uint8 with its `Prompts`."""
        return self.learner.predict([Query(i, p) for i, p in zip(images, prompts, strict=True)])

    def summary(self) -> Summary:
        """Bytes, parameters, seconds and memory, as measured."""
        stages = self.record["learned"]
        summary = Summary(
            method=self.config.method,
            base=self.base.name,
            base_hash=self.base.fingerprint,
            preset=self.config.preset,
            seed=self.config.seed,
            stored_bytes={kind: state_bytes(value) for kind, value in self.learner.state_dict().items()},
            trainable_parameters=int(
                max([s["figures"].get("trainable_parameters", 0) for s in stages], default=0)
            ),
            stage_seconds=[e["seconds"] for e in self.events()],
            peak_memory_bytes=[e["peak_memory_bytes"] for e in self.events()],
        )
        routes = routing(self.results)
        if routes is not None:
            summary["routing_accuracy"] = routes.accuracy
        return summary

    def events(self) -> list[dict[str, Any]]:
        """The last event of each learned stage, in order."""
        path = self.folder / "events.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        last: dict[str, dict[str, Any]] = {}
        for line in lines:
            try:
                event = json.loads(line)
            except json.JSONDecodeError:  # The line that was being written when the power went.
                continue
            last[event["stage"]] = event
        return [last[name] for name in self.learned if name in last]


class StageScratch:
    """A stage's unfinished work, one file a name, under `work/` of the run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def load(self, name: str) -> State | None:
        path = self.folder / f"{name}.safetensors"
        return load_state(path) if path.exists() else None

    def save(self, name: str, state: State) -> None:
        save_state(self.folder / f"{name}.safetensors", state)


def run(stream: Stream, config: RunConfig, out: Path | str, base: Promptable | None = None) -> Run:
    """Learn every stage of `stream` that the run in `out` has not learned yet, and score after each.

    The same call goes on after an interruption and ends with the same bytes; with a longer stream it learns
    what was added. `base` saves loading it again.

    Raises:
        UserError: the folder holds another run (method, settings, base, seed), or the data of a learned stage
        changed.
    """
    *_, current = [None, *run_stages(stream, config, out, base)]
    return load(out, base) if current is None else current


def run_stages(
    stream: Stream, config: RunConfig, out: Path | str, base: Promptable | None = None
) -> Iterator[Run]:
    """`run`, stopping after each stage that was learned and saved to show the run as it stands."""
    out = Path(out)
    model = base or load_base(config.base, device=world().device)
    with locked(out) if world().main else nullcontext():
        current = _open(config, out, model)
        stages = _stages(stream, current.learner)
        _check_learned(stream, stages, current)
        todo = [s for s in stages if s.name not in current.learned]
        current.record["stream"] = str(stream.source.resolve()) if stream.source else ""
        for position, stage in enumerate(todo):
            began = time.perf_counter()
            if torch.cuda.is_available():
                torch.cuda.reset_peak_memory_stats()
            fingerprint = _fingerprint(stream, stage)
            figures = dict(current.learner.learn(stage, _scratch(current, stage, fingerprint)))
            learned_in = time.perf_counter() - began
            following = (
                todo[position + 1 : position + 2] if config.evaluate == "next" else todo[position + 1 :]
            )
            columns = [s for s in stages if s.name in current.learned] + [stage, *following]
            _score(current, stream, stage, columns, last=position + 1 == len(todo))
            scored_in = time.perf_counter() - began - learned_in
            _save(current, stage, fingerprint, figures, learned_in, scored_in)
            yield current


def _open(config: RunConfig, out: Path, base: Promptable) -> Run:
    """A new run, or the one in the folder if it is the same run."""
    if not (out / "run.json").exists():
        if out.exists() and any(not any(map(p.match, OWN)) for p in out.iterdir()):
            raise UserError(f"{out} is not empty and holds no run; choose another --out")
        learner = build(config.method, base, config.settings, config.seed)
        record = {
            "format": FORMAT,
            "config": configuration.plain(config),
            "base": {"name": base.name, "fingerprint": base.fingerprint},
            "learned": [],
        }
        results = Results({name: m.lower_is_better for name, m in METRICS.items()})
        return Run(out, config, learner, base, results, record)
    found = load(out, base=base)
    changed = configuration.differences(configuration.plain(config), found.record["config"])
    if changed:
        raise UserError(f"{out} holds a run with other settings ({'; '.join(changed)}); choose another --out")
    if world().main:  # It may have been interrupted right before it did so itself.
        _clear_up(out, found.record)
    return found


def load(folder: Path | str, base: Promptable | None = None) -> Run:
    """Read a run folder back, ready to predict.

    Raises:
        UserError: there is no run, it is damaged, or the base is not the one it was made with.
    """
    folder = Path(folder)
    if not (folder / "run.json").is_file():
        raise UserError(f"{folder} holds no run (run.json is missing); make one with 'everseg learn'")
    record = _read_record(folder / "run.json")
    values = record["config"]
    kind = find(values["method"]).Config
    settings = configuration.restore(kind, values["settings"], f"{folder}/run.json")
    config = configuration.restore(RunConfig, {**values, "settings": settings}, f"{folder}/run.json")
    model = base or load_base(config.base, device=world().device)
    if model.fingerprint != record["base"]["fingerprint"]:
        raise UserError(
            f"{folder} was made with base {record['base']['name']} ({record['base']['fingerprint'][:12]}), "
            f"but {model.name} is {model.fingerprint[:12]}; give the run its own base"
        )
    learner = build(config.method, model, config.settings, config.seed)
    state, results = folder / record["state"], folder / record["results"]
    try:
        learner.load_state_dict(load_state(state))
    except (KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise UserError(f"{state} is not the state of this run ({error}); restore it from a copy") from error
    return Run(folder, config, learner, model, Results.from_json(read_json(results)), record)


def _read_record(path: Path) -> dict[str, Any]:
    """run.json, with everything in it that a run relies on.

    Raises:
        UserError: it is damaged, or of another version.
    """
    record = read_json(path)
    version = record.get("format") if isinstance(record, dict) else None
    if version != FORMAT:
        raise UserError(f"{path} has format {version!r}; this version reads {FORMAT}")
    try:
        _ = record["config"]["method"], record["config"]["settings"]
        _ = Path(record["state"]), Path(record["results"])
        _ = record["base"]["name"], record["base"]["fingerprint"]
        _ = [(s["name"], s["fingerprint"], s["figures"]) for s in record["learned"]]
    except (KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({type(error).__name__}: {error}); restore it") from error
    return record


def learned_stages(folder: Path | str) -> tuple[str, ...]:
    """Names of the stages that the run in `folder` has learned; none where there is no run yet."""
    path = Path(folder) / "run.json"
    return tuple(s["name"] for s in _read_record(path)["learned"]) if path.is_file() else ()


def _stages(stream: Stream, learner: Learner) -> Sequence[Stage]:
    """The stages to learn. A learner that wants all at once gets one, trained on everything that is no
    background."""
    if not isinstance(learner, LearnsAllAtOnce):
        return stream.stages
    parts: list[Any] = [s.train for s in stream.stages if not s.background]
    together: Any = ConcatDataset(parts)
    return [Stage(0, "all-domains", together, ())]


def _check_learned(stream: Stream, stages: Sequence[Stage], current: Run) -> None:
    """A learned stage's data may be gone, or the whole stage; but data that are there must be the same."""
    kept = {s["name"]: s["fingerprint"] for s in current.record["learned"]}
    for stage in stages:
        gone = stream.gone if stage not in stream.stages else stream.gone & {stage.name}
        if stage.name in kept and not gone and kept[stage.name] != _fingerprint(stream, stage):
            advice = "choose another --out"
            if stage in stream.stages:
                advice = f"give new data a new stage name, or {advice}"
            raise UserError(
                f"stage {stage.name!r} was learned from other data than "
                f"{stream.source or 'the stream'} names now; {advice}"
            )


def _fingerprint(stream: Stream, stage: Stage) -> str:
    """What a stage is learned from; for all domains at once, from what each of them is."""
    if stage in stream.stages:
        return stream.fingerprint(stage)
    parts = [stream.fingerprint(s) for s in stream.stages if not s.background]
    return hashlib.sha256("|".join(parts).encode()).hexdigest()


def _scratch(current: Run, stage: Stage, fingerprint: str) -> StageScratch:
    """The stage's unfinished work; none where it was begun with other settings, another base or other
    data."""
    folder = current.folder / "work" / stage.name
    made_of = {
        "config": configuration.plain(current.config),
        "base": current.base.fingerprint,
        "learned": current.learned,
        "data": fingerprint,
    }
    if world().main:
        begun = folder / "made_of.json"
        if folder.exists() and not (begun.is_file() and read_json(begun) == made_of):
            shutil.rmtree(folder)
        write_json(begun, made_of)
    wait()
    return StageScratch(folder)


def _score(current: Run, stream: Stream, stage: Stage, columns: Sequence[Stage], *, last: bool) -> None:
    """Add this stage's row; with the last stage also the unseen domains, the untouched base and the
    oracle."""
    learner, how = current.learner, current.config.score
    at_once = isinstance(learner, LearnsAllAtOnce)
    if at_once:
        columns = stream.stages
    tested = [c for c in columns if len(c.test)] + (list(stream.unseen) if last else [])
    rows = [s for column in tested for s in score(learner.predict, column.test, column.name, how)]
    learned = [c.name for c in columns] if at_once else [stage.name]
    background = [c.name for c in columns if c.background and c.name in learned]
    current.results = current.results.with_stage(stage.name, rows, learned=learned, background=background)
    if not last:
        return
    if current.config.baseline:
        plain = build("zero-shot", current.base, configure("zero-shot"), current.config.seed)
        known = {score.column for score in current.results.scores.get(BASE, ())}
        new = [c for c in tested if c.name not in known]
        untouched = [s for column in new for s in score(plain.predict, column.test, column.name, how)]
        current.results = current.results.with_baseline(untouched)
    if isinstance(learner, PredictsAs):
        current.record["oracle"] = {}
        for column in [c for c in tested if c in stream.stages and not c.background]:
            told = score(partial(learner.predict_as, stage_name=column.name), column.test, column.name, how)
            current.record["oracle"][column.name] = {
                m: sum(s.values[m] for s in told) / len(told) for m in METRICS
            }


def _save(
    current: Run,
    stage: Stage,
    fingerprint: str,
    figures: dict[str, float],
    learned_in: float,
    scored_in: float,
) -> None:
    """Write state and results beside the old ones, then let run.json point to them, then clear up."""
    out, record = current.folder, current.record
    entry = {
        "name": stage.name,
        "fingerprint": fingerprint,
        "background": stage.background,
        "images": len(stage.train),
        "figures": {k: v for k, v in figures.items() if k != "seconds"},
    }
    record["learned"] = [*record["learned"], entry]
    number = len(record["learned"])
    record["state"], record["results"] = f"state-{number:03d}.safetensors", f"results-{number:03d}.json"
    if world().main:
        event = {
            "stage": stage.name,
            "seconds": learned_in,
            "scoring_seconds": scored_in,
            "peak_memory_bytes": peak_memory(),
            **{k: v for k, v in figures.items() if k != "seconds"},
        }
        log = out / "events.jsonl"
        torn = log.exists() and not log.read_bytes().endswith(b"\n")
        with log.open("a") as file:
            file.write("\n" * torn + json.dumps(event) + "\n")
        save_state(out / record["state"], current.learner.state_dict())
        write_json(out / record["results"], current.results.to_json())
        write_json(out / "run.json", record)
        _clear_up(out, record)
    wait()


def _clear_up(out: Path, record: dict[str, Any]) -> None:
    """Delete what run.json does not count any more."""
    for old in [*out.glob("state-*.safetensors"), *out.glob("results-*.json"), *out.glob(".*.partial")]:
        if old.name not in {record["state"], record["results"]}:
            old.unlink()
    for stage in record["learned"]:
        shutil.rmtree(out / "work" / stage["name"], ignore_errors=True)
    if (out / "work").is_dir() and not any((out / "work").iterdir()):
        (out / "work").rmdir()


def peak_memory() -> int:
    """The largest memory so far, in bytes: of the accelerator if there is one, else of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
