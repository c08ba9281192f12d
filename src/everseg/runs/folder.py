"""A run's folder: what lies in it, and how it is read back.

    run.json                    what was learned, from what, with which settings; names the two files below
    state-003.safetensors       all that the learner remembers, written for the third time
    results-003.json            the result matrix and every image's scores
    domains/<stage>.safetensors what each domain brought, for methods that merge; see `contribution`
    events.jsonl                seconds, memory and losses of each stage, as they happened
    work/<stage>/               the unfinished stage, at its last epoch; gone when the stage is done

`run.json` is replaced last and in one rename: before it the old stage counts, after it the new one.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from everseg import config as configuration
from everseg.data.classes.legend import BACKGROUND_NAME as BACKGROUND
from everseg.distributed import peak_memory, wait, world
from everseg.errors import UserError
from everseg.files import load_state, read_json, save_state, sha256_file, state_bytes, write_json
from everseg.methods import build, find
from everseg.models.precision import Precision, resolved
from everseg.results import Results, Summary, routing
from everseg.runs.problems import problem_of
from everseg.types import Contributes, ImageQuery, Learner, Prompts, Query, State

FORMAT = 1
OWN = (".lock", "work", "domains", "events.jsonl", "state-*.safetensors", "results-*.json", ".*.partial")
"""What a run may leave in its folder that was interrupted before run.json was there."""
Evaluate = Literal["next", "all"]


@dataclass(frozen=True)
class RunConfig:
    """What a run is made of; it cannot change while the run grows.

    method, settings: the method's name and its resolved configuration. base: the base model's name, or where
    it lies on this machine; which one it is, the run knows by its weights. score: how it is scored. Both are
    by default what goes with what the method learns.
    evaluate: after each stage score the domains so far and the "next" one, as the paper does, or "all". After
    the last stage of a call the unseen domains are scored too. baseline: also score the untouched base, once
    for each domain. precision: what the base computes in. archive: keep what each domain
    brought, for merging elsewhere and for forgetting.
    """

    method: str
    settings: Any
    base: str = field(default="", metadata=configuration.MACHINE)
    preset: str = "paper"
    seed: int = 0
    score: Any = None
    evaluate: Evaluate = "next"
    baseline: bool = True
    precision: Precision = "auto"
    archive: bool = field(default=True, metadata=configuration.MACHINE)

    def __post_init__(self) -> None:
        problem = problem_of(self.method)
        object.__setattr__(self, "base", self.base or problem.base)
        object.__setattr__(self, "score", self.score or problem.Score())
        assert isinstance(self.score, problem.Score), (
            f"{problem.name} are scored by a {problem.Score.__name__}"
        )


@dataclass
class Run:
    """A run folder read back: the learner with all it knows, its results, and what it was made of."""

    folder: Path
    config: RunConfig
    learner: Learner
    base: Any
    results: Results
    record: dict[str, Any]

    @property
    def learned(self) -> list[str]:
        """Names of the stages learned, in order."""
        return [s["name"] for s in self.record["learned"]]

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the channels that a run of classes has learned, the background first; only that for
        domains."""
        return (BACKGROUND, *(c for s in self.record["learned"] for c in s.get("classes", ())))

    def predict(self, images: Sequence[Tensor], prompts: Sequence[Prompts] | None = None) -> list[Any]:
        """One prediction for each image (3, H, W) uint8: a `PromptPrediction` with its `Prompts`; in a run of
        classes, without any, the channel of each pixel (H, W) uint8.

        Raises:
            UserError: prompts are missing, or there are none to give.
        """
        prompted = problem_of(self.config.method).name == "domains"
        if prompted != (prompts is not None):
            need = "needs the prompts of each image" if prompted else "gives every pixel a class; no prompts"
            raise UserError(f"method {self.config.method!r} {need}")
        if prompts is None:
            return self.learner.predict([ImageQuery(i) for i in images])
        return self.learner.predict([Query(i, p) for i, p in zip(images, prompts, strict=True)])

    def summary(self) -> Summary:
        """Bytes, parameters, seconds and memory, as measured."""
        stages = self.record["learned"]
        kinds = {kind: state_bytes(value) for kind, value in self.learner.state_dict().items()}
        summary = Summary(
            method=self.config.method,
            base=self.base.name,
            base_hash=self.base.fingerprint,
            preset=self.config.preset,
            seed=self.config.seed,
            stored_bytes={kind: size for kind, size in kinds.items() if size},
            trainable_parameters=int(
                max([s["figures"].get("trainable_parameters", 0) for s in stages], default=0)
            ),
            stage_seconds=[e["seconds"] for e in self.events()],
            peak_memory_bytes=[e["peak_memory_bytes"] for e in self.events()],
        )
        merges = {s["name"]: merge for s in stages if (merge := _merge_figures(s["figures"]))}
        if merges:
            summary["merges"] = merges
        archive = [archived(self.folder, s["name"]) for s in stages if s.get("contribution")]
        if archive:
            summary["archived_bytes"] = sum(path.stat().st_size for path in archive if path.is_file())
        if "first_classes" in self.record:
            summary["first_classes"] = list(self.record["first_classes"])
        if self.record.get("oracle"):
            told = list(self.record["oracle"].values())
            summary["oracle"] = {m: sum(v[m] for v in told) / len(told) for m in told[0]}
        routes = routing(self.results)
        if routes is not None:
            summary["routing_accuracy"] = routes.accuracy
        return summary

    def events(self) -> list[dict[str, Any]]:
        """The last event of each row of the results, in order."""
        path = self.folder / "events.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        last: dict[str, dict[str, Any]] = {}
        for line in lines:
            try:
                event = json.loads(line)
            except json.JSONDecodeError:  # The line that was being written when the power went.
                continue
            last[event["stage"]] = event
        return [last[name] for name in self.results.stages if name in last]


def _merge_figures(figures: dict[str, float]) -> dict[str, float]:
    """What a stage's figures say of the merge after it."""
    return {k.removeprefix("merge_"): v for k, v in figures.items() if k.startswith("merge_")}


class StageScratch:
    """A stage's unfinished work, one file a name, under `work/` of the run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def load(self, name: str) -> State | None:
        path = self.folder / f"{name}.safetensors"
        return load_state(path) if path.exists() else None

    def save(self, name: str, state: State) -> None:
        save_state(self.folder / f"{name}.safetensors", state)


def base_of(config: RunConfig, base: Any = None) -> Any:
    """The base of a run: loaded from its own place or from the one named, or the one at hand.

    Raises:
        UserError: it cannot be loaded, or the one at hand computes in another precision than the run.
    """
    if base is None or isinstance(base, str):
        return problem_of(config.method).load_base(base or config.base, world().device, config.precision)
    ours, theirs = (resolved(p, base.device) for p in (config.precision, base.precision))
    if ours != theirs:
        raise UserError(f"the run computes in {ours} and its base in {theirs}; give both one precision")

    return base


def load(folder: Path | str, base: Any = None) -> Run:
    """Read a run folder back, ready to predict. `base`: the base model, or where it lies now.

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
    config = read_config({**values, "settings": settings}, f"{folder}/run.json")
    model = base_of(config, base)
    if model.fingerprint != record["base"]["fingerprint"]:
        raise UserError(
            f"{folder} was made with base {record['base']['name']} ({record['base']['fingerprint'][:12]}), "
            f"but {model.name} is {model.fingerprint[:12]}; give the run its own base"
        )
    learner = build(config.method, model, config.settings, config.seed)
    state, results = folder / record["state"], folder / record["results"]
    for path, kind in ((state, "state"), (results, "results")):
        if path.is_file() and sha256_file(path) != record["sha256"][kind]:
            raise UserError(
                f"{path} is not what this run wrote (its checksum differs); restore it from a copy"
            )
    try:
        learner.load_state_dict(load_state(state))
    except (KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise UserError(f"{state} is not the state of this run ({error}); restore it from a copy") from error
    return Run(folder, config, learner, model, Results.from_json(read_json(results)), record)


def read_config(values: dict[str, Any], where: str) -> RunConfig:
    """The configuration that run.json has, with settings that were restored already.

    Raises:
        UserError: the values do not fit.
    """
    kind = problem_of(values["method"]).Score
    score = configuration.restore(kind, values.get("score", {}), where)
    return configuration.restore(RunConfig, {**values, "score": score}, where)


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
        _ = record["sha256"]["state"], record["sha256"]["results"]
        _ = record["base"]["name"], record["base"]["fingerprint"]
        _ = [(s["name"], s["fingerprint"], s["figures"]) for s in record["learned"]]
    except (KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({type(error).__name__}: {error}); restore it") from error
    return record


def check_free(out: Path) -> None:
    """Refuse a folder in which no new run can begin.

    Raises:
        UserError: it holds a run, or files that are no run's.
    """
    if (out / "run.json").exists():
        raise UserError(f"{out} holds a run already; choose another --out")
    if out.exists() and any(not any(map(p.match, OWN)) for p in out.iterdir()):
        raise UserError(f"{out} is not empty and holds no run; choose another --out")


def write(run: Run, *events: dict[str, Any]) -> None:
    """Write state and results beside the old ones, then let run.json point to them, then clear up.

    events: what events.jsonl is told of each new row; the largest memory so far is added.
    """
    out, record = run.folder, run.record
    # Counted up with every write, so that no file takes the place of one that run.json still names.
    number = 1 + int(Path(record["state"]).stem.rpartition("-")[2]) if "state" in record else 1
    record["state"], record["results"] = f"state-{number:03d}.safetensors", f"results-{number:03d}.json"
    if world().main:
        log = out / "events.jsonl"
        torn = log.exists() and not log.read_bytes().endswith(b"\n")
        with log.open("a") as file:
            file.write("\n" * torn)
            for event in events:
                file.write(json.dumps(event | {"peak_memory_bytes": peak_memory()}) + "\n")
        brought = run.learner.contribution() if isinstance(run.learner, Contributes) else None
        for entry in record["learned"]:
            if run.config.archive and brought is not None and brought["domain"] == entry["name"]:
                save_state(archived(out, entry["name"]), brought)
                entry["contribution"] = sha256_file(archived(out, entry["name"]))
        save_state(out / record["state"], run.learner.state_dict())
        write_json(out / record["results"], run.results.to_json())
        record["sha256"] = {k: sha256_file(out / record[k]) for k in ("state", "results")}
        write_json(out / "run.json", record)
        clear_up(out, record)
    wait()


def archived(out: Path, domain: str) -> Path:
    """Where a run keeps what a domain brought."""
    return out / "domains" / f"{domain}.safetensors"


def learned_stages(folder: Path | str) -> tuple[str, ...]:
    """Names of the stages that the run in `folder` has learned; none where there is no run yet."""
    path = Path(folder) / "run.json"
    return tuple(s["name"] for s in _read_record(path)["learned"]) if path.is_file() else ()


def stream_of(folder: Path | str) -> Path | None:
    """Where the stream file lies that the run in `folder` was made from, if it was made from one.

    Raises:
        UserError: there is no run.
    """
    path = Path(folder) / "run.json"
    if not path.is_file():
        raise UserError(f"{folder} holds no run (run.json is missing); make one with 'everseg learn'")
    source = _read_record(path).get("stream")
    return Path(source) if source else None


def state_of(folder: Path) -> tuple[State, dict[str, Any]]:
    """All that a run's learner remembers, and run.json, without building the learner or its base.

    Raises:
        UserError: there is no run, or it is damaged.
    """
    record = _read_record(folder / "run.json")
    path = folder / record["state"]
    state = load_state(path)
    if sha256_file(path) != record["sha256"]["state"]:
        raise UserError(f"{path} is not what this run wrote (its checksum differs); restore it from a copy")
    return state, record


def clear_up(out: Path, record: dict[str, Any]) -> None:
    """Delete what run.json does not count any more."""
    for old in [*out.glob("state-*.safetensors"), *out.glob("results-*.json"), *out.glob(".*.partial")]:
        if old.name not in {record["state"], record["results"]}:
            old.unlink()
    known = {s["name"] for s in record["learned"] if "contribution" in s}
    for old in [*out.glob("domains/*.safetensors"), *out.glob("domains/.*.partial")]:
        if old.stem not in known or old.name.startswith("."):
            old.unlink()
    for stage in record["learned"]:
        shutil.rmtree(out / "work" / stage["name"], ignore_errors=True)
    if (out / "work").is_dir() and not any((out / "work").iterdir()):
        (out / "work").rmdir()
