"""The published class-incremental runs: splits, figures, and every command, parsed without running it."""

from __future__ import annotations

import math
import runpy
import shlex
import subprocess
import sys
from functools import cache, reduce
from pathlib import Path

import pytest
import typer
import yaml

from everseg.cli.shared import app
from everseg.data import ClassSteps, Legend, Stream
from everseg.data.streamfile import ClassStreamSpec, read_stream_file
from everseg.errors import UserError
from everseg.methods import configure

PROGRAM = Path(__file__).resolve().parents[2] / "examples" / "published.py"
published = runpy.run_path(str(PROGRAM))
COUNTS = {"voc": 20, "ade": 150}
SPLITS = published["splits"]()
RUNS = [(split, run) for split in SPLITS for run in published["settings"]()[split[:3]]["runs"]]
PUBLISHED_ITERATIONS = {"15-5": 22140, "15-1": 23100, "19-1": 27600, "10-1": 39720, "5-3": 38040}
"""Of EIR's overlapped runs on VOC, from its image lists: batches of 32 in the first two, else 24."""


@cache
def commands() -> typer.core.TyperGroup:
    group = typer.main.get_command(app)
    assert isinstance(group, typer.core.TyperGroup)
    return group


def settings(split: str, run: str) -> list[str]:
    given = published["command"](split, run, Path("runs"))
    return [given[i + 1] for i, word in enumerate(given) if word == "--set"]


def test_every_split_of_the_literature_is_there() -> None:
    voc = [f"voc{s}-{how}" for s in PUBLISHED_ITERATIONS for how in ("overlapped", "disjoint")]
    ade = [f"ade{s}-overlapped" for s in ("100-50", "100-10", "50-50")]
    assert sorted(SPLITS) == sorted([*voc, *ade])
    assert [(row["split"], row["run"]) for row in published["figures"]()] == RUNS


@pytest.mark.parametrize("split", SPLITS)
def test_the_stream_is_the_published_split(
    split: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Where the data are not there, that is the only thing wrong with it."""
    monkeypatch.setenv("EVERSEG_DATA", str(tmp_path))
    path = tmp_path / f"{split}.yaml"
    path.write_text(yaml.safe_dump(published["stream"](split)))
    spec = read_stream_file(path)
    assert isinstance(spec, ClassStreamSpec) and spec.name == split
    data, name = published["parts"](split)
    count = COUNTS[split[:3]]
    legend = Legend.of([f"class {i}" for i in range(1, count + 1)])
    assert spec.steps is not None and name == f"{spec.steps}-{spec.setting}"
    steps = ClassSteps.split(spec.steps, legend)
    assert len(data["images"][name]) == len(steps) and len(steps.seen(len(steps) - 1)) == count
    with pytest.raises(UserError) as missing:
        Stream.from_yaml(path)
    folder = "VOC2012" if split.startswith("voc") else "ADEChallengeData2016"
    assert str(missing.value).startswith(str(path)) and str(tmp_path / folder) in str(missing.value)
    assert "\n" not in str(missing.value)
    monkeypatch.delenv("EVERSEG_DATA")
    with pytest.raises(UserError, match=r"\$\{EVERSEG_DATA\} is not set"):
        Stream.from_yaml(path)


@pytest.mark.parametrize("split", [s for s in SPLITS if s.startswith("voc")])
def test_iterations_follow_from_the_images(split: str) -> None:
    data, name = published["parts"](split)
    if name.endswith("overlapped"):
        assert published["iterations"](split, "eir") == PUBLISHED_ITERATIONS[name.removesuffix("-overlapped")]
    else:
        assert sum(data["images"][name]) == 10582, "every image comes once"


def test_figures_agree_with_each_other() -> None:
    """Old and new, weighted by their classes, give all, and their harmonic mean is theirs."""
    compared = 0
    for row in published["figures"]():
        expected = {key: float(row[key]) for key in published["FIGURES"] if row[key]}
        assert bool(expected) == bool(row["source"]), row
        if not {"old", "new"} <= set(expected):
            continue
        old, new = expected["old"], expected["new"]
        if "harmonic" in expected:  # a mean of five runs
            assert expected["harmonic"] == pytest.approx(2 * old * new / (old + new), abs=0.05), row
        count, first = COUNTS[row["split"][:3]], int(row["split"][3:].split("-")[0])
        together = (old * (first + 1) + new * (count - first)) / (count + 1)
        # The rows of the older methods, as printed, do not add up as well.
        older = row["run"] in ("mib", "plop", "fine-tuning")
        assert expected["all"] == pytest.approx(together, abs=0.9 if older else 0.15), row
        compared += 1
    assert compared >= 60


@pytest.mark.parametrize(("split", "run"), RUNS)
def test_the_command_is_one(split: str, run: str) -> None:
    """Its flags exist and have values of their type, and nothing is run; its method has every setting."""
    program, verb, *arguments = published["command"](split, run, Path("runs"))
    assert program == "everseg"
    given = commands().commands[verb].make_context(verb, arguments).params
    assert given["stream"] == Path("runs") / f"{split}.yaml" and given["out"] == Path("runs") / split / run
    config = configure(given["method"], "paper", settings(split, run))
    for assignment in settings(split, run):
        key, _, value = assignment.partition("=")
        assert reduce(getattr, key.split("."), config) == yaml.safe_load(value)
    wanted = published["run_of"](split, run)
    assert [config.tune.first.lr, config.tune.later.lr] == wanted["lr"] and math.isfinite(
        config.tune.first.lr
    )
    assert config.tune.first.epochs == config.tune.later.epochs == wanted["epochs"]
    assert config.tune.first.batch == config.tune.later.batch == wanted["batch"]


def test_the_program_writes_the_stream_and_prints_the_command(tmp_path: Path) -> None:
    def ran(*words: str) -> subprocess.CompletedProcess[str]:
        given = [sys.executable, str(PROGRAM), *words]
        return subprocess.run(given, capture_output=True, text=True, cwd=tmp_path, timeout=60)

    done = ran("ade100-10-overlapped", "rcil", "--out", "streams")
    words = shlex.split(done.stdout)
    assert done.returncode == 0 and words[:3] == ["everseg", "learn", "streams/ade100-10-overlapped.yaml"]
    assert "features=5.0e-06" in words and (tmp_path / words[2]).is_file()
    assert "all 73.0 (appendix of SELECT" in ran("voc15-1-overlapped").stdout
    assert len(ran().stdout.splitlines()) == len(SPLITS)
    assert "choose one of eir" in ran("voc15-1-overlapped", "none").stderr
