"""Let a learned stage into a run only if the gate finds nothing worse; else keep it aside and say why.

    rejected/<stage>-<hash>/    a stage that was not accepted, as a run folder of its own
        gate.json, gate.html    what the gate found, and the page where one was asked for
    history/gate-003.json       what the gate found of an accepted stage, by the number of its state
    history/gating.json         what counts as worse: later calls that do not say continue with it

The stage is compared with the run as it is in the folder, and the first stage with the untouched base, on
the test images of the domains learned so far, of the new one, and of the unseen ones of the stream.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

from everseg.config import plain, restore
from everseg.data import Stream
from everseg.distributed import gather, wait, world
from everseg.errors import UserError, unknown
from everseg.files import atomic_folder, read_json, save_state, sha256_file, write_json
from everseg.progress import remark
from everseg.results.gate import GateConfig, Verdict
from everseg.runs.earlier import ASIDE, PLACE, gate_file, next_number
from everseg.runs.folder import is_run, load
from everseg.runs.gate import Gate, Sides, decide, sides_on
from everseg.runs.record import RECORD, Digests
from everseg.runs.run import Run
from everseg.runs.verdict import advice, headline, place
from everseg.types import Stage, Undecided


@dataclass(frozen=True)
class Gated:
    """Outcome of the gate for one stage.

    folder: where a rejected stage is kept; None for an accepted one.
    """

    stage: str
    verdict: Verdict
    gate: Gate | None
    folder: Path | None


@dataclass
class Gating:
    """How the gate lets stages into a run, and the outcome of those that were learned.

    config: what counts as worse.
    undecided: what to do if the gate cannot tell: keep the stage "aside", or "accept" it.
    page: function that writes the page of the gate to a file.
    """

    config: GateConfig = field(default_factory=GateConfig)
    undecided: Undecided = "aside"
    page: Callable[[Sides, Gate, Path], None] | None = None
    stages: list[Gated] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.undecided not in get_args(Undecided):
            raise unknown("answer to an undecided gate", self.undecided, get_args(Undecided))

    @property
    def rejected(self) -> list[Gated]:
        """Stages that were kept aside, in order."""
        return [stage for stage in self.stages if stage.folder is not None]

    def begin(self, out: Path) -> None:
        """Note for later calls that stages are let into this run by the gate, and what counts as worse."""
        if world().main and gated_before(out) != self.config:
            write_json(_settings(out), plain(self.config))

    def to_json(self) -> list[dict[str, Any]]:
        """The verdict on each stage in plain values."""
        return [
            {
                "stage": each.stage,
                "verdict": each.verdict,
                "accepted": each.folder is None,
                "folder": None if each.folder is None else str(each.folder),
                "worse": [] if each.gate is None else [place(c) for c in each.gate.worse],
            }
            for each in self.stages
        ]

    def check(self, run: Run, stream: Stream, stage: Stage) -> None:
        """Check before a stage is trained that there will be something to compare it on.

        Raises:
            UserError: there is not.
        """
        if not scored(run, stream, stage):
            raise UserError(
                f"stage {stage.name!r} cannot be gated: {stream.source or 'the stream'} has no test images "
                "of it, of a learned stage or of an unseen domain; add some or leave --gate out"
            )

    def accept(self, candidate: Run, stream: Stream, stage: Stage) -> bool:
        """Whether a stage that was learned and scored may become part of its run. If not, it is kept aside.

        candidate: the run with the stage, of which nothing is written yet.
        """
        out = candidate.folder
        old = load(out, candidate.base) if is_run(out) else None
        if old is None and candidate.problem.untouched(candidate) is None:
            remark(f"gate: {stage.name!r} is the first stage, so there is nothing to compare it with")
            self.stages.append(Gated(stage.name, "pass", None, None))
            return True
        # Both are in one folder: the new one gets a name, and loses the checksums of the old one.
        named = replace(
            candidate,
            folder=Path(f"{out} with {stage.name}"),
            record=replace(candidate.record, sha256=None),
        )
        names = {*candidate.learned, *(s.name for s in scored(candidate, stream, stage))}
        sides = sides_on(named, old, [stream], names)
        found = decide(sides, self.config)
        fine = found.verdict == "pass" or (found.verdict == "cannot tell" and self.undecided == "accept")
        folder = None if fine else self._put_aside(candidate, sides, found)
        self.stages.append(Gated(stage.name, found.verdict, found, folder))
        if world().main:
            if fine:
                number = next_number(out, candidate.record)
                write_json(gate_file(out, number), found.to_json())
            told = "" if folder is None else f"; it is kept aside in {folder}, and {out} is unchanged"
            remark(f"gate: {found.verdict}: {headline(found)}{told}")
            for text in advice(found) if found.verdict != "pass" else []:
                remark(f"gate: {text}")
            if found.verdict == "cannot tell" and not fine:
                remark("gate: To accept it as it is, repeat the command with --undecided accept.")
        return fine

    def _put_aside(self, candidate: Run, sides: Sides, found: Gate) -> Path:
        """Write the candidate as a run of its own, beside the one that it does not become part of."""
        out, stage = candidate.folder, candidate.learned[-1]
        number = next_number(out, candidate.record)
        state = out / "work" / stage / "candidate.safetensors"
        if world().main:
            save_state(state, candidate.learner.state_dict())
        digest = gather([sha256_file(state)] if world().main else [])[0][0]
        folder = out / ASIDE / f"{stage}-{digest[:12]}"
        if world().main:
            results = candidate.results.to_json()
            record = replace(
                candidate.record,
                state=f"state-{number:03d}.safetensors",
                results=f"results-{number:03d}.json",
                after=None,
            )
            with atomic_folder(folder) as within:
                state.replace(within / record.state)
                write_json(within / record.results, results)
                digests = Digests(digest, sha256_file(within / record.results))
                write_json(within / "gate.json", found.to_json())
                if self.page is not None:
                    self.page(sides, found, within / "gate.html")
                write_json(within / RECORD, replace(record, sha256=digests).to_json())
        wait()
        return folder


def gated_before(out: Path) -> GateConfig | None:
    """What counted as worse when stages were last let into a run by the gate; None where none ever were.

    Raises:
        UserError: the file is damaged.
    """
    path = _settings(out)
    return restore(GateConfig, read_json(path), str(path)) if path.is_file() else None


def gating_of(out: Path, gate: bool | None) -> Gating | None:
    """How a call lets stages into a run, as it was done before; `gate` as in `everseg.learn`.

    `undecided` is not taken over: a stage that was accepted without a clear verdict says nothing of the next.
    """
    before = None if gate is False else gated_before(out)
    return Gating(before or GateConfig()) if gate or before is not None else None


def _settings(out: Path) -> Path:
    return out / PLACE / "gating.json"


def scored(run: Run, stream: Stream, stage: Stage) -> list[Stage]:
    """The stages on whose test images the gate compares a run that learns a stage with what it was."""
    at_once = stage not in stream.stages
    stages = [s for s in stream.stages if at_once or s is stage or s.name in run.learned]
    return [s for s in [*stages, *stream.unseen] if len(s.test)]
