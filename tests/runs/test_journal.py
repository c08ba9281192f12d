"""While a stage is learned, the run's log tells how far it is, and never grows without bounds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from everseg.data import Stream, SyntheticDomain
from everseg.methods import configure
from everseg.progress import Curve, Reading
from everseg.runs import journal as module
from everseg.runs.folder import load, read_events
from everseg.runs.journal import POINTS, Journal
from everseg.runs.learn import run
from everseg.runs.record import Progress, Training
from everseg.runs.run import RunConfig
from everseg.runs.scratch import StageScratch
from everseg.types import Stage


def stream(*domains: str) -> Stream:
    def stage(index: int, name: str) -> Stage:
        return Stage(index, name, SyntheticDomain(name, 4, size=64), SyntheticDomain(name, 2, size=64))

    return Stream(tuple(stage(i, name) for i, name in enumerate(domains)))


def config() -> RunConfig:
    settings = configure("sequential", assignments=["tune.fit.epochs=3", "tune.fit.batch=2"])
    return RunConfig("sequential", settings, "micro", baseline=False)


@pytest.fixture(scope="module")
def done(micro: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two stages. Nobody writes to it."""
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("runs") / "done"
    run(stream("lesions", "cracks"), config(), out, micro)
    return out


def test_each_training_is_told_and_drawn(done: Path, micro: Any) -> None:
    lines = read_events(done)
    assert [type(line).__name__ for line in lines] == 2 * ["Progress", "Training", "Event"]
    told, curve, event = lines[:3]
    assert isinstance(told, Progress) and isinstance(curve, Training)
    assert (told.stage, told.fit, told.step, told.steps, told.epoch) == ("lesions", "lesions", 6, 6, 3)
    assert curve.epochs == (1, 2, 3) and curve.losses[-1] == told.loss == event.figures["loss"]  # type: ignore[union-attr]
    found = load(done, micro)
    assert [training.stage for training in found.trainings()] == ["lesions", "cracks"]
    assert [event.stage for event in found.events()] == ["lesions", "cracks"]
    assert len(found.summary()["stage_seconds"]) == 2


class Quiet:
    """A run, as far as its log goes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.lines: list[Any] = []
        monkeypatch.setattr(module, "append_events", lambda run, lines: self.lines.extend(lines))


@pytest.mark.parametrize(("hours", "most"), [(0.25, 91), (10, 260), (100, 380)])
def test_the_log_of_a_long_stage_is_short(monkeypatch: pytest.MonkeyPatch, hours: float, most: int) -> None:
    """A reading comes every ten seconds; the log takes them all at first, and ever fewer later."""
    quiet = Quiet(monkeypatch)
    tell: Any = Journal(quiet, "lesions")  # type: ignore[arg-type]
    seconds = range(10, int(3600 * hours) + 1, 10)
    for now in seconds:
        tell(Reading("lesions", now, seconds[-1], 1, 1, 0.5, 8.0, float(now), float(seconds[-1] - now)))
    assert min(len(seconds) * 3 // 4, 200) <= len(quiet.lines) <= most
    assert quiet.lines[-1].step == seconds[-1], "the end is always told"


def test_the_curve_of_many_epochs_is_thinned(monkeypatch: pytest.MonkeyPatch) -> None:
    quiet = Quiet(monkeypatch)
    losses = [float(epoch) for epoch in range(1, 5002)]
    Journal(quiet, "lesions")(Curve("lesions", losses, losses, 4001))  # type: ignore[arg-type]
    (line,) = quiet.lines
    assert len(line.epochs) <= POINTS + 1 and {4001, 5001} <= {*line.epochs}
    assert line.losses == line.val == tuple(map(float, line.epochs))


def test_a_loss_that_is_no_number_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    quiet = Quiet(monkeypatch)
    tell: Any = Journal(quiet, "lesions")  # type: ignore[arg-type]
    tell(Reading("lesions", 1, 2, 1, 1, float("nan"), 8.0, 10.0, 10.0))
    assert json.loads(json.dumps(quiet.lines[0].to_json()))["loss"] is None


def test_the_seconds_of_a_stage_add_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [5.0]
    monkeypatch.setattr("everseg.runs.scratch.time.perf_counter", lambda: now[0])
    scratch = StageScratch(tmp_path)
    now[0] += 30
    scratch.save("lesions", {"epoch": 1})
    now[0] += 1000  # Nobody is there.
    again = StageScratch(tmp_path)
    now[0] += 7
    assert again.load("lesions") == {"epoch": 1}, "what the scratch adds is its own business"
    now[0] += 3
    assert again.seconds == 40
    assert again.load("cracks") is None and again.seconds == 40


def test_the_end_of_a_log_line_that_was_cut_short_costs_no_other(done: Path, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_bytes((done / "run.json").read_bytes())
    text = (done / "events.jsonl").read_text()
    (tmp_path / "events.jsonl").write_text(text + '{"event": "progress", "sta')
    assert read_events(tmp_path) == read_events(done)
