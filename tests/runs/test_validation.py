"""The best epoch by validation images: in every method that trains, over interruptions, never in silence."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from everseg import learn
from everseg.classes.scoring import ClassScoreConfig
from everseg.config import plain
from everseg.data import Stream, SyntheticDomain
from everseg.data.synthetic.classes import SyntheticClasses
from everseg.data.synthetic.objects import LOOKS
from everseg.errors import UserError
from everseg.files import load_state
from everseg.fit import Validates
from everseg.methods import METHODS, build, configure
from everseg.runs.folder import load
from everseg.runs.learn import run
from everseg.runs.problem import problem_of
from everseg.runs.record import Training
from everseg.runs.run import RunConfig
from everseg.types import Stage

SMALL = ("tune.fit.epochs=3", "tune.fit.batch=2")


def stream(*domains: str, val: int = 0, count: int = 6) -> Stream:
    def stage(index: int, name: str) -> Stage:
        train, test = (SyntheticDomain(name, n, size=64, split=s) for n, s in ((count, "train"), (2, "test")))
        checked = SyntheticDomain(name, val, size=64, seed=7, split="test") if val else ()
        return Stage(index, name, train, test, val=checked)

    return Stream(tuple(stage(i, name) for i, name in enumerate(domains)))


def config(method: str, *more: str) -> RunConfig:
    return RunConfig(method, configure(method, assignments=[*SMALL, *more]), "micro", baseline=False)


def everyday(*methods: str, few: int) -> list[Any]:
    """The first few methods, and the others as slow tests."""
    return [*methods[:few], *(pytest.param(method, marks=pytest.mark.slow) for method in methods[few:])]


def curves(folder: Path, base: Any) -> list[Training]:
    return load(folder, base).trainings()


# ---------------------------------------------------------------- domains


@pytest.mark.parametrize("method", everyday("samcl", "regcl", "independent", "sequential", "merged", few=2))
def test_methods_of_domains_keep_their_best_epoch(micro: Any, tmp_path: Path, method: str) -> None:
    found = run(stream("lesions"), config(method, "val=0.4"), tmp_path / "run", micro)
    (entry,) = found.record.learned
    (curve,) = found.trainings()
    assert len(curve.val) == 3 and entry.figures["val"] == max(curve.val)
    assert entry.figures["best_epoch"] == curve.best == 1 + curve.val.index(max(curve.val))
    assert 0 < entry.images < 6, "what is held out is not trained on"


def test_joint_training_holds_out_of_every_domain(micro: Any, tmp_path: Path) -> None:
    found = run(stream("lesions", "cracks"), config("joint", "val=0.4"), tmp_path / "run", micro)
    (entry,) = found.record.learned
    assert 0 < entry.images < 12 and entry.figures["best_epoch"] >= 1


def test_the_streams_own_images_come_first(micro: Any, tmp_path: Path) -> None:
    given = stream("lesions", val=2)
    found = run(given, config("sequential", "val=0.4"), tmp_path / "run", micro)
    (entry,) = found.record.learned
    assert entry.images == 6 and entry.figures["best_epoch"] >= 1
    other = replace(given, stages=(replace(given.stages[0], val=given.stages[0].test),))
    with pytest.raises(UserError, match="stage 'lesions' was learned from other data"):
        run(other, config("sequential", "val=0.4"), tmp_path / "run", micro)


def test_without_it_a_run_is_what_it_was(micro: Any, tmp_path: Path) -> None:
    found = run(stream("lesions"), config("sequential"), tmp_path / "run", micro)
    assert "val" not in found.record.learned[0].figures and found.trainings()[0].val == ()
    path = next((tmp_path / "run").glob("state-*"))
    # The settings of an earlier run say nothing of it.
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    for setting in ("val", "patience"):
        del record["config"]["settings"]["tune"][setting]
    (tmp_path / "run" / "run.json").write_text(json.dumps(record))
    again = run(stream("lesions", "cracks"), config("sequential"), tmp_path / "run", micro)
    assert again.learned == ["lesions", "cracks"] and path.name == "state-001.safetensors"


def test_broken_off_at_any_epoch_it_ends_with_the_same_bytes(
    micro: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    how = config("sequential", "val=0.4", "patience=2", "tune.fit.epochs=4")
    whole = run(stream("lesions"), how, tmp_path / "whole", micro)
    replace_file = Path.replace
    for at in (2, 3, 4):  # What the work is made of comes first, then the epochs.
        left = [at]

        def breaking(this: Path, target: Any, left: list[int] = left) -> Any:
            done = replace_file(this, target)
            left[0] -= 1
            if not left[0]:
                raise KeyboardInterrupt
            return done

        out = tmp_path / f"run-{at}"
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(Path, "replace", breaking)
            run(stream("lesions"), how, out, micro)
        run(stream("lesions"), how, out, micro)
        for name in ("run.json", "state-001.safetensors", "results-001.json"):
            assert (out / name).read_bytes() == (whole.folder / name).read_bytes(), name
        assert curves(out, micro) == curves(whole.folder, micro)


# ---------------------------------------------------------------- classes


def class_stream(val: bool) -> Stream:
    train, test, checked = (
        SyntheticClasses(count, split, size=48, seed=seed, kinds=list(LOOKS)[:2])
        for count, split, seed in ((10, "train", 0), (4, "test", 0), (4, "test", 2))
    )
    return Stream.of_classes(train, test, "1-1", val=checked if val else ())


SHORT = ("epochs=2", "batch=4")
CLASSES = [m for m in METHODS if problem_of(m).name == "classes"]
CLASSES.sort(key=lambda m: m not in ("mib", "ssul"))


@pytest.mark.parametrize("method", everyday(*CLASSES, few=2))
def test_methods_of_classes_keep_their_best_epoch(micro_backbone: Any, tmp_path: Path, method: str) -> None:
    settings = ("tune.crop=64", "val=0.3", *(f"tune.{s}.{v}" for s in ("first", "later") for v in SHORT))
    small = ClassScoreConfig(size=48)
    how = RunConfig(method, configure(method, assignments=settings), "micro", score=small)
    found = run(class_stream(val=method in ("mib", "joint-classes")), how, tmp_path / "run", micro_backbone)
    for entry in found.record.learned:
        assert 1 <= entry.figures["best_epoch"] <= 2 and 0 <= entry.figures["val"] <= 1
    assert all(len(curve.val) == 2 for curve in found.trainings())


# ---------------------------------------------------------------- what is refused


def test_what_validation_cannot_do_is_said(micro: Any, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"'lesions' has val:, but method 'zero-shot' does not choose an epoch"
    ):
        how = RunConfig("zero-shot", configure("zero-shot"), "micro")
        run(stream("lesions", val=2), how, tmp_path / "zero", micro)
    with pytest.raises(UserError, match=r"unknown setting in --set 'val=0.1': 'val'"):
        configure("zero-shot", assignments=["val=0.1"])
    with pytest.raises(UserError, match=r"lesions: patience=2 needs validation images.*set val"):
        run(stream("lesions"), config("sequential", "patience=2"), tmp_path / "patience", micro)
    with pytest.raises(UserError, match=r"lesions: val=0.5 needs validation images.*two images or more"):
        run(stream("lesions", count=1), config("sequential", "val=0.5"), tmp_path / "one", micro)
    for value, said in (
        ("1", "val is 1, which leaves no images to train on"),
        ("-0.1", "it must be a number from 0"),
    ):
        with pytest.raises(UserError, match=said):
            configure("samcl", assignments=[f"val={value}"])


def test_the_short_name_is_the_long_one(micro: Any, tmp_path: Path) -> None:
    for method in ("samcl", "eir"):
        short, long = (configure(method, assignments=[f"{key}=0.2"]) for key in ("val", "tune.val"))
        assert short == long and short.tune.val == 0.2
    given: dict[str, Any] = {"tune__fit__epochs": 1, "val": 0.4}
    found = learn(stream("lesions"), "sequential", out=tmp_path / "run", base=micro, baseline=False, **given)
    assert plain(found.config)["settings"]["tune"]["val"] == 0.4


def test_every_method_that_trains_can(micro: Any, micro_backbone: Any) -> None:
    for name in METHODS:
        base = micro if problem_of(name).name == "domains" else micro_backbone
        able = isinstance(build(name, base, configure(name), 0), Validates)
        assert able == (name != "zero-shot"), name


def test_the_state_is_that_of_the_best_epoch(micro: Any, tmp_path: Path) -> None:
    """A run that stops at the best epoch of another has its weights, at the rate that both had till then."""
    how = ("tune.fit.schedule=constant", "tune.fit.lr=0.2", "val=0.4", "tune.fit.epochs=4")
    whole = run(stream("lesions"), config("sequential", *how), tmp_path / "whole", micro)
    best = int(whole.record.learned[0].figures["best_epoch"])
    short = run(
        stream("lesions"), config("sequential", *how, f"tune.fit.epochs={best}"), tmp_path / "short", micro
    )
    ours, theirs = (load_state(next(r.folder.glob("state-*")))["adapter"] for r in (whole, short))
    assert all(bool((ours[name] == value).all()) for name, value in theirs.items())
