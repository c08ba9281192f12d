"""The full-size runs of the literature, as files: read, checked against the splits, and parsed dry."""

from __future__ import annotations

import math
import shlex
from functools import cache, reduce
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from everseg.cli.shared import app
from everseg.data import ClassSteps, Legend, Stream
from everseg.data.streamfile import ClassStreamSpec, read_stream_file
from everseg.errors import UserError
from everseg.methods import METHODS, configure

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "examples" / "recipes"
SPLITS = {
    "voc": (20, ("15-5", "15-1", "10-1", "5-3", "19-1"), ("overlapped", "disjoint")),
    "ade": (150, ("100-50", "100-10", "50-50"), ("overlapped",)),
}
NAMES = [
    f"{data}{split}-{setting}"
    for data, (_, splits, settings) in SPLITS.items()
    for split in splits
    for setting in settings
]
PUBLISHED_ITERATIONS = {"15-5": 22140, "15-1": 23100, "19-1": 27600, "10-1": 39720, "5-3": 38040}
"""Of EIR's overlapped runs on VOC, from its image lists: batches of 32 in the first two, else 24."""


@cache
def recipe(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((FOLDER / f"{name}.recipe.yaml").read_text(encoding="utf-8"))
    return found


RUNS = [(name, run) for name in NAMES for run in recipe(name)["runs"]]


@cache
def commands() -> typer.core.TyperGroup:
    group = typer.main.get_command(app)
    assert isinstance(group, typer.core.TyperGroup)
    return group


def words(name: str, run: str) -> list[str]:
    return shlex.split(recipe(name)["runs"][run]["command"])


def settings(name: str, run: str) -> list[str]:
    given = words(name, run)
    return [given[i + 1] for i, word in enumerate(given) if word == "--set"]


def test_every_split_has_its_two_files_and_no_other() -> None:
    assert {p.name for p in FOLDER.iterdir()} == {
        f"{n}{end}" for n in NAMES for end in (".yaml", ".recipe.yaml")
    }


@pytest.mark.parametrize("name", NAMES)
def test_the_stream_is_the_published_split(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Where the data are not there, that is the only thing wrong with it."""
    monkeypatch.setenv("EVERSEG_DATA", str(tmp_path))
    path = FOLDER / recipe(name)["stream"]
    spec = read_stream_file(path)
    assert isinstance(spec, ClassStreamSpec) and spec.name == path.stem == name
    count, *_ = SPLITS[name[:3]]
    legend = Legend.of([f"class {i}" for i in range(1, count + 1)])
    assert spec.steps is not None and name.startswith(f"{name[:3]}{spec.steps}-{spec.setting}")
    steps = ClassSteps.split(spec.steps, legend)
    assert len(recipe(name)["images"]) == len(steps) and len(steps.seen(len(steps) - 1)) == count
    with pytest.raises(UserError) as missing:
        Stream.from_yaml(path)
    folder = "VOC2012" if name.startswith("voc") else "ADEChallengeData2016"
    assert str(missing.value).startswith(str(path)) and str(tmp_path / folder) in str(missing.value)
    assert "\n" not in str(missing.value)
    monkeypatch.delenv("EVERSEG_DATA")
    with pytest.raises(UserError, match=r"\$\{EVERSEG_DATA\} is not set"):
        Stream.from_yaml(path)


@pytest.mark.parametrize("name", NAMES)
def test_iterations_follow_from_the_images(name: str) -> None:
    found = recipe(name)
    training, images = found["runs"]["eir"]["training"], found["images"]
    rows = [count + (training["memory"] if step else 0) for step, count in enumerate(images)]
    total = training["epochs"] * sum(count // training["batch"] for count in rows)
    assert found["iterations"] == {"run": "eir", "total": total}
    if name.startswith("voc") and name.endswith("overlapped"):
        assert total == PUBLISHED_ITERATIONS[name.removeprefix("voc").removesuffix("-overlapped")]
    if name.endswith("disjoint"):
        assert sum(images) == 10582, "every image comes once"


@pytest.mark.parametrize(("name", "run"), RUNS)
def test_figures_agree_with_each_other(name: str, run: str) -> None:
    """Old and new, weighted by their classes, give all, and their harmonic mean is theirs."""
    found = recipe(name)["runs"][run]
    expected = found["expected"]
    assert found["source"] and set(expected) <= {"old", "new", "harmonic", "all"}
    assert bool(expected) == (found["source"] != "we know of no published figure")
    if {"old", "new"} <= set(expected):
        old, new = expected["old"], expected["new"]
        if "harmonic" in expected:
            assert expected["harmonic"] == pytest.approx(2 * old * new / (old + new), abs=0.05), (
                "a mean of five"
            )
        count, *_ = SPLITS[name[:3]]
        first = int(name[3:].split("-")[0])
        together = (old * (first + 1) + new * (count - first)) / (count + 1)
        # The rows of the older methods, as printed, do not add up as well.
        older = run in ("mib", "plop", "fine-tuning")
        assert expected["all"] == pytest.approx(together, abs=0.9 if older else 0.15)


@pytest.mark.parametrize(("name", "run"), RUNS)
def test_the_command_is_one(name: str, run: str) -> None:
    """Its flags exist and have values of their type, its files are these, and nothing is run."""
    program, verb, *arguments = words(name, run)
    assert program == "everseg"
    given = commands().commands[verb].make_context(verb, arguments).params
    assert ROOT / given["stream"] == FOLDER / recipe(name)["stream"] and given["out"].name == run
    training = recipe(name)["runs"][run]["training"]
    told = dict(s.split("=") for s in settings(name, run))
    rates = [float(told[f"tune.{step}.lr"]) for step in ("first", "later")]
    assert rates == training["lr"]
    for step in ("first", "later"):
        assert int(told[f"tune.{step}.epochs"]) == training["epochs"]
        assert int(told[f"tune.{step}.batch"]) == training["batch"]
    assert int(told.get("count", told.get("memory", 0))) == training["memory"]


@pytest.mark.parametrize(("name", "run"), RUNS)
def test_the_method_has_every_setting(name: str, run: str) -> None:
    given = words(name, run)
    method = given[given.index("--method") + 1]
    if method not in METHODS:
        pytest.skip(f"method {method!r} is not in METHODS")
    config = configure(method, "paper", settings(name, run))
    for assignment in settings(name, run):
        key, _, value = assignment.partition("=")
        assert reduce(getattr, key.split("."), config) == yaml.safe_load(value)
    assert math.isfinite(config.tune.first.lr)
