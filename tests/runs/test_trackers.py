"""Trackers are told how far a stage is, and a missing or broken one costs nothing."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from everseg.data import Stream, SyntheticDomain
from everseg.errors import UserError
from everseg.methods import configure
from everseg.progress import Curve, Reading
from everseg.runs.learn import run
from everseg.runs.run import RunConfig
from everseg.runs.trackers import TRACKERS, check_trackers, trackers
from everseg.types import Stage


def reading(step: int, loss: float = 0.5, score: float | None = None) -> Reading:
    return Reading("site-a", step, 40, 1, 4, loss, 8.0, 12.0, 30.0, score)


def told(*names: str, folder: Path, readings: list[Any]) -> None:
    with trackers(names, folder, "site-a") as listeners:
        for listener in listeners:
            for each in readings:
                listener(each)


def installed(monkeypatch: pytest.MonkeyPatch, name: str, **members: Any) -> None:
    """A package of this name that has nothing but these members."""
    module = ModuleType(name)
    module.__spec__ = ModuleSpec(name, None)
    vars(module).update(members)
    monkeypatch.setitem(sys.modules, name, module)


# ---------------------------------------------------------------- TensorBoard


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder))
    found.Reload()
    return {tag: [(e.step, e.value) for e in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def test_tensorboard_has_a_folder_for_each_stage(micro: Any, tmp_path: Path) -> None:
    train, test = SyntheticDomain("lesions", 4, size=64), SyntheticDomain("lesions", 2, size=64)
    settings = configure("sequential", assignments=["tune.fit.epochs=2", "tune.fit.batch=2"])
    how = RunConfig("sequential", settings, "micro", baseline=False)
    stream = Stream((Stage(0, "lesions", train, test),))
    found = run(stream, how, tmp_path / "run", micro, track="tensorboard")
    written = scalars(tmp_path / "run" / "tensorboard" / "lesions")
    assert set(written) == {"loss", "images_per_second", "seconds"}
    (entry,) = found.record.learned
    assert written["loss"] == [(4, pytest.approx(entry.figures["loss"]))]


def test_the_score_on_validation_images_is_told_too(tmp_path: Path) -> None:
    readings = [reading(10), reading(20, float("nan"), 0.75), Curve("site-a", [1.0])]
    told("tensorboard", folder=tmp_path, readings=readings)
    written = scalars(tmp_path / "tensorboard" / "site-a")
    assert written["loss"] == [(10, 0.5)], "what is not a number is left out"
    assert written["val"] == [(20, 0.75)]


# ---------------------------------------------------------------- the others, without their packages


def test_wandb_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    logged: list[Any] = []
    begun: list[Any] = []

    def init(**options: Any) -> Any:
        begun.append(options)
        log = lambda values, step: logged.append((step, values["loss"]))  # noqa: E731
        return SimpleNamespace(log=log, finish=lambda: logged.append("finished"))

    installed(monkeypatch, "wandb", init=init)
    assert check_trackers(["wandb", "wandb"]) == ("wandb",)
    told("wandb", folder=tmp_path / "hospital", readings=[reading(10), reading(20, 0.25)])
    assert begun == [{"project": "hospital", "name": "site-a"}]
    assert logged == [(10, 0.5), (20, 0.25), "finished"]


def test_mlflow_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    logged: list[Any] = []
    installed(
        monkeypatch,
        "mlflow",
        search_experiments=lambda filter_string: [],
        create_experiment=lambda name, **_: logged.append(name) or "7",
        start_run=lambda **options: logged.append((options["experiment_id"], options["run_name"])),
        log_metrics=lambda values, step: logged.append((step, values["loss"])),
        end_run=lambda: logged.append("finished"),
    )
    told("mlflow", folder=tmp_path / "hospital", readings=[reading(10)])
    assert logged == ["hospital", ("7", "site-a"), (10, 0.5), "finished"]


def test_one_that_breaks_costs_no_training(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[int] = []

    def log(values: Any, step: int) -> None:
        asked.append(step)
        raise ConnectionError("the server is gone")

    installed(monkeypatch, "wandb", init=lambda **_: SimpleNamespace(log=log, finish=lambda: None))
    told("wandb", folder=tmp_path, readings=[reading(10), reading(20)])
    assert asked == [10]
    assert "wandb records nothing more of 'site-a' (the server is gone)" in capsys.readouterr().err


# ---------------------------------------------------------------- what is refused


def test_a_tracker_that_is_not_there_is_refused_before_anything_is_learned(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    how = RunConfig("zero-shot", configure("zero-shot"), "micro")
    stage = Stage(0, "lesions", SyntheticDomain("lesions", 1, size=64), ())
    monkeypatch.setattr("everseg.runs.trackers.importlib.util.find_spec", lambda name: None)
    for name in TRACKERS:
        said = rf"the tracker '{name}' needs the package {name}.*pip install 'everseg\[{name}\]'"
        with pytest.raises(UserError, match=said):
            run(Stream((stage,)), how, tmp_path / "run", None, track=[name])
    assert not (tmp_path / "run").exists()
    with pytest.raises(UserError, match="unknown tracker 'tensorbord': did you mean 'tensorboard'"):
        check_trackers("tensorbord")
    for wrong in (5, None, [5]):
        with pytest.raises(UserError, match="give names of trackers: tensorboard, wandb, mlflow"):
            check_trackers(wrong)  # type: ignore[arg-type]


def test_one_that_does_not_start_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def init(**_: Any) -> Any:
        raise PermissionError("no key is configured")

    installed(monkeypatch, "wandb", init=init)
    with pytest.raises(UserError, match=r"'wandb' cannot be started \(no key is configured"):
        told("wandb", folder=tmp_path, readings=[])
