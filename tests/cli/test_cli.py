"""The command line on real files: every verb, and one sentence for everything that a person can get wrong."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from PIL import Image

import everseg
from everseg import cli
from everseg.data import write_synthetic_stream

SMALL = [
    flag
    for setting in ("tune.fit.epochs=2", "tune.fit.batch=4", "selector.size=3", "selector.epochs=2")
    for flag in ("--set", setting)
]


@dataclass(frozen=True)
class Done:
    """How a command ended and what it said."""

    code: int
    out: str
    err: str


Command = Callable[..., Done]


@pytest.fixture
def everseg_command(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Command]:
    """The console command in this process."""
    monkeypatch.setenv("COLUMNS", "200")
    before = signal.getsignal(signal.SIGINT)

    def call(*arguments: object) -> Done:
        capfd.readouterr()
        monkeypatch.setattr(sys, "argv", ["everseg", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
            sys.exit(0)
        said = capfd.readouterr()
        code = ended.value.code
        return Done(code if isinstance(code, int) else 0, said.out, said.err)

    yield call
    signal.signal(signal.SIGINT, before)


TOLD = [[f"{domain}: step 2/2", "epoch 2/2"] for domain in ("lesions", "cracks")]
"""Where there is no terminal, each training ends with a line."""


@dataclass(frozen=True)
class Made:
    """A stream of two domains and a background on the disk, and a run of it. Nobody writes to them."""

    stream: Path
    run: Path
    base: Path

    @property
    def image(self) -> Path:
        return sorted((self.stream.parent / "lesions" / "test" / "images").iterdir())[0]


@pytest.fixture(scope="module")
def made(micro_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("cli")
    stream = write_synthetic_stream(folder / "data", ("lesions", "cracks"), train=4, test=2, size=64)
    arguments = ["learn", str(stream), "--out", str(folder / "run"), "--base", str(micro_folder), *SMALL]
    done = subprocess.run(
        [sys.executable, "-m", "everseg", *arguments], env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0
    assert [line.split(", ")[:2] for line in done.stderr.splitlines()] == TOLD
    assert "lesions" in done.stdout
    return Made(stream, folder / "run", micro_folder)


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "default", "COLUMNS": "200"}


def moved(made: Made, tmp_path: Path) -> Path:
    """The stream in a copy that may be damaged."""
    shutil.copytree(made.stream.parent, tmp_path / "data")
    return tmp_path / "data" / "stream.yaml"


# ---------------------------------------------------------------- every verb


def test_learning_shows_the_matrix_and_goes_on(everseg_command: Command, made: Made, tmp_path: Path) -> None:
    run = tmp_path / "run"
    given = ["learn", made.stream, "--out", run, "--base", made.base, *SMALL]
    done = everseg_command(*given)
    assert (done.code, [line.split(", ")[:2] for line in done.err.splitlines()]) == (0, TOLD)
    assert "iou (higher is better)" in done.out
    assert "untouched base" in done.out
    assert "with each image's own module (oracle): AA 0." in done.out
    again = everseg_command(*given, "--json")
    assert again.code == 0
    assert "nothing new in" in again.err
    assert "learned: 3 stages" in again.err
    told = json.loads(again.out)
    assert told["learned"] == ["lesions", "cracks", "natural"]
    assert set(told["scores"]) == {"iou", "f1", "mae"}
    assert set(told["scores"]["iou"]) == {"AA", "FM", "FT", "unseen", "plasticity", "generalisation"}
    more = told["further"]
    assert more["good"] == 0.5 and more["missing"] == {}
    assert {"insensitivity", "base_insensitivity", "flips", "flips_to_base"} < set(more)
    assert set(more["domains"]) == {"lesions", "cracks", "natural"}
    assert "plasticity" in more["domains"]["cracks"] and "plasticity" not in more["domains"]["natural"]
    beside = told["untouched_base"]["iou"]
    assert set(beside) == {"AA", "FT", "unseen", "domains"}
    assert set(beside["domains"]) == {"lesions", "cracks", "natural"}
    assert set(beside["domains"]["cracks"]) == {"score", "base", "learned", "below_base"}
    assert set(told["stored_bytes"]) == {"modules", "buffer", "selector"}
    # The other process made the very same run.
    for name in ("state-003.safetensors", "results-003.json"):
        assert (run / name).read_bytes() == (made.run / name).read_bytes()


def test_a_base_folder_is_found_again_from_anywhere(
    everseg_command: Command, made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(made.base.parent)
    given = ["--base", made.base.name, "--method", "zero-shot", "--no-baseline"]
    assert everseg_command("learn", made.stream, "--out", tmp_path / "run", *given).code == 0
    monkeypatch.chdir(tmp_path)
    done = everseg_command("compare", "run", "--json")
    assert (done.code, done.err) == (0, "")


@pytest.mark.parametrize("oracle", [False, True])
def test_evaluating(everseg_command: Command, made: Made, oracle: bool) -> None:
    flags = ["--oracle"] * oracle
    done = everseg_command("evaluate", made.run, *flags)
    assert (done.code, done.err) == (0, "")
    assert all(word in done.out for word in ("iou", "f1", "mae", "lesions", "cracks", "natural"))
    done = everseg_command("evaluate", made.run, "--json", *flags)
    told = json.loads(done.out)
    assert set(told) == {"lesions", "cracks", "natural"}
    kept = json.loads((made.run / "run.json").read_text())["oracle"]
    if oracle:
        for domain, scores in kept.items():
            assert told[domain] == pytest.approx(scores, abs=1e-6)
    else:
        values = json.loads((made.run / "results-003.json").read_text())["values"]["iou"][-1]
        assert [told[d]["iou"] for d in ("lesions", "cracks", "natural")] == pytest.approx(values, abs=1e-6)


def test_evaluating_on_another_stream(everseg_command: Command, made: Made, tmp_path: Path) -> None:
    """One with a background that was never learned, and one whose learned data are gone in part."""
    other = write_synthetic_stream(tmp_path / "other", ("nuclei",), train=1, test=2, size=64)
    done = everseg_command("evaluate", made.run, "--stream", other, "--json")
    assert (done.code, done.err) == (0, "")
    assert set(json.loads(done.out)) == {"nuclei", "natural"}
    stream = moved(made, tmp_path)
    shutil.rmtree(stream.parent / "lesions")
    done = everseg_command("evaluate", made.run, "--stream", stream, "--json")
    assert (done.code, done.err) == (0, "")
    assert set(json.loads(done.out)) == {"cracks", "natural"}
    assert everseg_command("evaluate", made.run, "--stream", stream).code == 0


def test_predicting(everseg_command: Command, made: Made, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = everseg_command(
        "predict", made.run, made.image, "--point", "30,30", "--negative", "1,1", "--out", out
    )
    assert (done.code, done.err) == (0, "")
    assert f"{made.image}: " in done.out
    assert f"-> {out / made.image.stem}_mask.png" in done.out
    with Image.open(out / f"{made.image.stem}_mask.png") as mask:
        assert mask.size == (64, 64)
        pixels = int((np.array(mask) > 0).sum())
    told = json.loads(
        everseg_command(
            "predict", made.run, made.image, "--point", "30,30", "--negative", "1,1", "--out", out, "--json"
        ).out
    )
    assert told[0]["masks"][0]["pixels"] == pixels
    assert told[0]["module"] in ("lesions", "cracks", "natural")
    boxes = ["--box", "0,0,20,20", "--box", "30,30,64,64", "--stage", "cracks"]
    done = everseg_command("predict", made.run, made.image, *boxes, "--out", out)
    assert done.code == 0
    assert len(done.out.splitlines()) == 2
    tiles = everseg_command("predict", made.run, made.image, *boxes[:4], "--tile", "32", "--halo", "4",
        "--out", tmp_path / "tiles", "--json")  # fmt: skip
    (record,) = json.loads(tiles.out)
    for n, mask in enumerate(record["masks"], 1):
        with Image.open(tmp_path / "tiles" / f"{made.image.stem}_mask_{n}.png") as picture:
            assert picture.size == (64, 64) and (np.array(picture) > 0).sum() == mask["pixels"]


def test_predicting_a_folder_with_prompts_for_each_image(
    everseg_command: Command, made: Made, tmp_path: Path
) -> None:
    for name, value in (("a/1.png", 40), ("b/1.png", 90), ("b/2.png", 160), ("b/bad.png", 0)):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 48), (value, value, value)).save(tmp_path / "in" / name)
    (tmp_path / "in" / "b" / "bad.png").write_bytes(b"no image")
    (tmp_path / "in" / "b" / "Thumbs.db").write_bytes(b"litter")
    table = tmp_path / "clicks.csv"
    table.write_text(
        "image,object,x,y,label\na/1.png,left,10,10,1\na/1.png,right,50,20,1\na/1.png,right,5,5,0\n"
        "b/1.png,one,99,1,1\nbad.png,one,1,1,1\nc.png,one,1,1,1\n"
    )
    out = tmp_path / "out"
    given = ("predict", made.run, tmp_path / "in", "--prompts", table, "--out", out, "--no-overlay")
    done = everseg_command(*given, "--format", "labels")
    assert done.code == 3
    said = done.err.splitlines()
    assert [line.split(":")[0] for line in said[:-1]] == ["error"] * 4, said
    for line, words in zip(
        said,
        (
            "clicks.csv, line 7 is about c.png, which is not among the given images",
            "b/2.png has no prompts in",
            "(99, 1) lies outside the image of 64x48 pixels",
            "bad.png is not an image",
            "4 images: 1 predicted, 0 finished before, 2 failed, 1 without prompts; results are in",
        ),
        strict=True,
    ):
        assert words in line
    assert sorted(p.name for p in out.rglob("*")) == ["1.json", "1_labels.png", "a"]
    assert len(done.out.splitlines()) == 2
    # The same command goes on: what is right now is predicted, what was finished stays.
    table.write_text(table.read_text().replace("99", "9").replace("c.png", "b/2.png"))
    Image.new("RGB", (64, 48)).save(tmp_path / "in" / "b" / "bad.png")
    done = everseg_command(*given, "--format", "labels", "--json")
    assert (done.code, "3 predicted, 1 finished before, 0 failed" in done.err) == (0, True)
    told = json.loads(done.out)
    assert [(Path(r["image"]).name, len(r["masks"])) for r in told] == [
        ("1.png", 2),
        ("1.png", 1),
        ("2.png", 1),
        ("bad.png", 1),
    ]
    assert [m["object"] for m in told[0]["masks"]] == ["left", "right"]
    # A pattern that the shell has not expanded, and COCO results.
    coco = tmp_path / "coco"
    done = everseg_command(*given[:2], tmp_path / "in" / "*" / "1.png", *given[3:5], "--out", coco,
        "--format", "coco")  # fmt: skip
    assert done.code == 3 and "bad.png, which is not among the given images" in done.err
    results = json.loads((coco / "predictions.coco.json").read_text())
    assert [r["image_id"] for r in results] == [1, 1, 2]
    assert (coco / "b" / "1_overlay.png").is_file()


def test_reporting_and_comparing(everseg_command: Command, made: Made, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    done = everseg_command("report", made.run, "--out", page)
    assert (done.code, done.err, done.out.strip()) == (0, "", str(page))
    assert page.read_text().startswith("<!doctype html>") or "<html" in page.read_text()
    assert everseg_command("report", made.run, "--out", page, "--examples", "0").code == 0
    done = everseg_command("compare", made.run, made.run, "--metric", "mae")
    assert (done.code, done.err) == (0, "")
    assert done.out.count("samcl") == 2 and done.out.count("(base 0.") == 6
    told = json.loads(everseg_command("compare", made.run, "--json").out)
    assert set(told) == {str(made.run)}


def test_gating(everseg_command: Command, made: Made, tmp_path: Path) -> None:
    same = everseg_command("gate", made.run, "--against", made.run)
    assert same.code == 0
    assert f"PASS: {made.run} and {made.run} are the same run to the bit, so nothing is worse" in same.out
    files = {name: tmp_path / f"gate.{name}" for name in ("json", "junit", "html")}
    given = [word for name, path in files.items() for word in (f"--{name}", path)]
    done = everseg_command("gate", made.run, "--against", "plain", "--stream", made.stream, *given)
    told = json.loads(files["json"].read_text())
    assert done.code == {"pass": 0, "fail": 1, "cannot tell": 3}[told["verdict"]]
    assert done.out.splitlines()[-1] == str(files["html"])
    assert told["verdict"].upper() in done.out and told["old"] == "plain"
    assert {c["column"] for c in told["comparisons"]} == {"lesions", "cracks", "natural", "all images"}
    assert "<testsuite" in files["junit"].read_text() and "<svg" in files["html"].read_text()


def test_wrong_gates(everseg_command: Command, made: Made, tmp_path: Path) -> None:
    given = ["gate", made.run, "--against", made.run]
    for more, said in (
        (["--html", tmp_path], "is a folder; name a file"),
        (["--html", tmp_path / "a", "--json", tmp_path / "a"], "name the same file; give each its own"),
        (["--margin", "0"], "the margin is 0.0; give a number between 0 and 1"),
        (["--margin", "nan"], "the margin is nan"),
        (["--group", "("], "is not a regular expression"),
        (["--group", "^x"], "does not match image"),
        (["--stream", tmp_path / "none.yaml"], "none.yaml"),
        (["--base", tmp_path / "none"], "none"),
    ):
        done = everseg_command(*given, *more)
        assert done.code == 2 and said in done.err and len(done.err.splitlines()) == 1, done
    for arguments in (["gate", tmp_path, "--against", made.run], ["gate", made.run, "--against", tmp_path]):
        assert "holds no run" in everseg_command(*arguments).err
    assert everseg_command("gate", made.run).code == 2
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_earlier_states_are_listed_and_restored(everseg_command: Command, made: Made, tmp_path: Path) -> None:
    run = Path(shutil.copytree(made.run, tmp_path / "run"))
    shown = everseg_command("history", run)
    assert shown.code == 0
    assert re.search(
        r"1 +│ lesions +│ +1 │.*\n.*2 +│ cracks +│ +2 │.*\n.*3 +│ natural .*│ current", shown.out
    )
    assert "seed 0, selector.epochs=2, selector.size=3, tune.fit.batch=4, tune.fit.epochs=2\n" in shown.out
    states = json.loads(everseg_command("history", run, "--json").out)["states"]
    assert [state["what"] for state in states] == ["lesions", "cracks", "natural"]
    gone_back = everseg_command("restore", run, "--to", "1")
    assert (gone_back.code, gone_back.out) == (0, f"{run} is in state 1 and has learned lesions\n")
    assert "left" in everseg_command("history", run).out
    refused(everseg_command("restore", run, "--to", "4"), "has no state 4", "restore one of 2, 3")
    refused(everseg_command("history", tmp_path), "holds no run")
    again = everseg_command("learn", made.stream, "--out", run, "--base", made.base, *SMALL, "--keep", "1")
    assert again.code == 0
    states = json.loads(everseg_command("history", run, "--json").out)["states"]
    assert [(s["number"], s["status"], not s["gone"]) for s in states] == [
        (1, "earlier", False),
        (2, "left", False),
        (3, "left", False),
        (4, "earlier", True),
        (5, "current", True),
    ]
    assert states[4]["sha256"] == states[2]["sha256"]


def test_beginning_with_ones_own_data(everseg_command: Command, made: Made, tmp_path: Path) -> None:
    stream = moved(made, tmp_path)
    done = everseg_command("data", "init", stream.parent, "--out", tmp_path / "own.yaml")
    assert done.code == 0 and "found:" in done.out and f"wrote {tmp_path / 'own.yaml'}" in done.out
    assert everseg_command("data", "check", tmp_path / "own.yaml").code == 0
    again = everseg_command("data", "init", stream.parent, "--out", tmp_path / "own.yaml")
    refused(again, "own.yaml exists", "--force")
    assert everseg_command("data", "init", stream.parent, "--out", tmp_path / "own.yaml", "--force").code == 0


def test_data_verbs(everseg_command: Command, made: Made, tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.png"
    done = everseg_command("data", "check", made.stream, "--sheet", sheet)
    assert done.code == 0, done
    assert sheet.stat().st_size > 1000
    assert isinstance(json.loads(everseg_command("data", "check", made.stream, "--json").out), dict)
    stream = moved(made, tmp_path)
    masks = stream.parent / "lesions" / "test" / "masks"
    drawn = (masks / "points.json").read_bytes()
    done = everseg_command("data", "points", masks, "--force", "--seed", "5")
    assert (done.code, done.out.strip()) == (0, str(masks / "points.json"))
    assert (masks / "points.json").read_bytes() != drawn
    everseg_command("data", "points", masks, "--force", "--seed", "0", "--mask-threshold", "==255")
    assert (masks / "points.json").read_bytes() == drawn
    next(masks.glob("*.png")).write_bytes(b"no image")
    done = everseg_command("data", "check", stream)
    assert done.code == 1
    assert ".png" in done.out
    told = json.loads(everseg_command("data", "check", stream, "--json").out)
    assert [f["severity"] for f in told["findings"]].count("error") == 1
    done = everseg_command(
        "data", "synthetic", tmp_path / "new", "--domain", "shadows", "--train", "1", "--test", "1"
    )
    assert (done.code, done.out.strip()) == (0, str(tmp_path / "new" / "stream.yaml"))
    assert (tmp_path / "new" / "shadows" / "train" / "images").is_dir()
    classes = ("--steps", "7-1", "--train", "8", "--test", "8", "--size", "48")
    done = everseg_command("data", "synthetic-classes", tmp_path / "classes", *classes)
    assert (done.code, done.out.strip()) == (0, str(tmp_path / "classes" / "stream.yaml"))
    assert "step-1" in everseg_command("data", "check", done.out.strip()).out


def test_help_and_version(everseg_command: Command) -> None:
    assert everseg_command("--version").out.strip() == everseg.__version__
    shown = everseg_command("--help").out
    for verb in ("learn", "evaluate", "predict", "report", "compare", "demo", "data"):
        assert verb in shown
        assert everseg_command(verb, "--help").code == 0


def test_help_names_values_as_people_do(everseg_command: Command) -> None:
    def pages(command: Any, *words: str) -> Iterator[tuple[str, ...]]:
        yield words
        for name, part in getattr(command, "commands", {}).items():
            yield from pages(part, *words, name)

    for words in pages(typer.main.get_command(cli.app)):
        shown = everseg_command(*words, "--help").out
        assert not re.search(r"--[\w-]+ <(str|int|float|bool|path|list)\b", shown), shown
        listed = shown.partition("Commands:")[2]
        assert "..." not in listed, shown


# ---------------------------------------------------------------- what goes wrong


def refused(done: Done, *said: str) -> None:
    """Exit code 2 and, after what was learned, one line that begins with error: and says all of it."""
    assert done.code == 2, done
    lines = [line for line in done.err.splitlines() if ": step " not in line]
    assert len(lines) == 1, done.err
    assert lines[0].startswith("error: ")
    for part in said:
        assert part in lines[0], lines[0]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--method", "samlc"], "did you mean 'samcl'"),
        (["--method", "no.where:Method"], "cannot be imported"),
        (["--preset", "papr"], "did you mean 'paper'"),
        (["--set", "tune.fit.epoch=3"], "did you mean 'epochs'"),
        (["--set", "tune.fit.epochs=three"], "tune.fit.epochs=three"),
        (["--set", "tune.fit.epochs"], "write it as key=value"),
        (["--set", "tune.fit.batch=0"], "batch is 0"),
        (["--set", "tune.fit.lr=1e30"], "lesions: the loss became "),
        (["--base", "no/such-base"], "'no/such-base' was found neither as a folder nor on the hub"),
    ],
)
def test_wrong_flags(
    everseg_command: Command, made: Made, tmp_path: Path, flags: list[str], said: str
) -> None:
    base = [] if "--base" in flags else ["--base", str(made.base)]
    done = everseg_command("learn", made.stream, "--out", tmp_path / "run", *SMALL, *base, *flags)
    refused(done, said)
    assert not (tmp_path / "run" / "run.json").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("stages: [", "is not valid YAML"),
        ("stages: []", "has no stages"),
        ("[1, 2]", "is not a mapping"),
        ("", "is not a mapping"),
        ("stagse: []", "did you mean 'stages'"),
        ("stages: [{name: a, train: x, test: y, claks: 3}]", "did you mean 'clicks'"),
        ("stages: [{name: a, train: nowhere, test: nowhere}]", "nowhere"),
        ("stages: [{name: a, train: {kind: foldr, path: x}, test: x}]", "did you mean 'folder'"),
        ("root: ${EVERSEG_NOT_SET}\nstages: [{name: a, train: x, test: y}]", "EVERSEG_NOT_SET"),
    ],
)
def test_wrong_stream_files(
    everseg_command: Command, made: Made, tmp_path: Path, text: str, said: str
) -> None:
    file = tmp_path / "stream.yaml"
    file.write_text(text)
    refused(everseg_command("learn", file, "--out", tmp_path / "run", "--base", made.base), str(file), said)


def test_no_stream_file(everseg_command: Command, made: Made, tmp_path: Path) -> None:
    given = ["--out", tmp_path / "run", "--base", made.base]
    refused(everseg_command("learn", tmp_path / "none.yaml", *given), "none.yaml")
    refused(everseg_command("learn", tmp_path, *given), str(tmp_path))
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    refused(everseg_command("learn", tmp_path / "binary.yaml", *given), "binary.yaml", "UTF-8")
    refused(everseg_command("data", "check", tmp_path / "none.yaml"), "none.yaml")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda p: p.unlink(), ""),
        (lambda p: p.write_bytes(p.read_bytes()[:100]), "damaged or truncated"),
        (lambda p: p.write_text("I am a picture"), "is not an image"),
        (lambda p: p.write_bytes(b""), "is empty"),
        (lambda p: Image.new("RGB", (10, 10)).save(p), "is 10x10"),
    ],
    ids=["missing", "truncated", "text", "empty", "other-size"],
)
@pytest.mark.parametrize("split", ["train", "test"])
def test_damaged_images(
    everseg_command: Command,
    made: Made,
    tmp_path: Path,
    damage: Callable[[Path], object],
    said: str,
    split: str,
) -> None:
    stream = moved(made, tmp_path)
    image = sorted((stream.parent / "cracks" / split / "images").iterdir())[1]
    damage(image)
    given = ["--out", tmp_path / "run", "--base", made.base, "--method", "sequential", *SMALL[:4]]
    refused(everseg_command("learn", stream, *given), image.name, said)


def test_damaged_masks(everseg_command: Command, made: Made, tmp_path: Path) -> None:
    stream = moved(made, tmp_path)
    mask = sorted((stream.parent / "lesions" / "train" / "masks").glob("*.png"))[0]
    Image.new("L", (64, 64)).save(mask)
    given = ["--out", tmp_path / "run", "--base", made.base, *SMALL]
    refused(everseg_command("learn", stream, *given), mask.name, "empty mask")


def test_damaged_bases(everseg_command: Command, made: Made, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(made.base, base)
    weights = base / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-50])
    given = ["learn", made.stream, "--out", tmp_path / "run", "--base", base]
    refused(everseg_command(*given), str(base), "cannot be read")
    (base / "config.json").write_text("{")
    refused(everseg_command(*given), str(base))
    (base / "config.json").unlink()
    refused(everseg_command(*given), str(base), "config.json")


@pytest.mark.parametrize("verb", ["evaluate", "predict", "report", "compare"])
def test_no_run_and_damaged_runs(everseg_command: Command, made: Made, tmp_path: Path, verb: str) -> None:
    more = [made.image, "--point", "3,3", "--out", tmp_path / "out"] if verb == "predict" else []
    refused(everseg_command(verb, tmp_path / "none", *more), str(tmp_path / "none"), "holds no run")
    run = tmp_path / "run"
    for name, content in (
        ("run.json", b"{"),
        ("run.json", b'{"format": 1}'),
        ("run.json", b'{"format": 99}'),
        ("state-003.safetensors", b"x"),
        ("results-003.json", b"NaN"),
    ):
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(made.run, run)
        (run / name).write_bytes(content)
        refused(everseg_command(verb, run, *more), name if name != "results-003.json" else "results")


def test_no_process_ends_before_the_main_one_has_told_all(
    everseg_command: Command, made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torchrun ends all processes as soon as one ends with another exit code than 0."""
    monkeypatch.setattr("everseg.distributed.wait", lambda: print("waited", file=sys.stderr))
    done = everseg_command(
        "predict", made.run, made.image, "--point", "999,4", "--json", "--out", tmp_path / "out"
    )
    assert (done.code, json.loads(done.out), done.err.splitlines()[-1]) == (3, [], "waited")


def test_wrong_predictions(everseg_command: Command, made: Made, tmp_path: Path) -> None:
    def predicted(*more: object, image: Path = made.image) -> Done:
        return everseg_command("predict", made.run, image, "--out", tmp_path / "out", *more)

    refused(predicted(), "no prompt points at the object")
    refused(predicted("--point", "3;4"), "'3;4'")
    refused(predicted("--point", "nan,4"), "'nan,4'")
    refused(predicted("--point", "3,4", "--stage", "nuclei"), "no stage 'nuclei'")
    refused(predicted("--point", "3,4", image=tmp_path / "no.png"), "no.png does not exist")
    refused(predicted("--point", "3,4", "--halo", "9"), "give --tile as well")
    refused(predicted("--point", "3,4", "--tile", "9"), "--tile is 9")
    refused(predicted("--point", "3,4", "--prompts", tmp_path / "p.csv"), "give one of them")
    (tmp_path / "text.png").write_text("hello")

    def failed(done: Done, *said: str) -> None:
        assert done.code == 3 and all(text in done.err for text in said), done
        assert done.err.splitlines()[-1] == "1 image: 0 predicted, 0 finished before, 1 failed"

    refused(predicted("--point", "3,4", "--format", "png"), "'--format': 'png' is not one of 'masks'")
    failed(predicted("--point", "999,4"), str(made.image), "outside the image of 64x64")
    failed(predicted("--point", "3,4", image=tmp_path / "text.png"), "text.png is not an image")
    assert not (tmp_path / "out").exists()


def test_other_refusals(everseg_command: Command, made: Made, tmp_path: Path) -> None:
    given = ["--base", made.base, *SMALL]
    other = everseg_command("learn", made.stream, "--out", made.run, *given, "--seed", "3")
    refused(other, str(made.run), "seed is 3 now and was 0")
    (tmp_path / "mine.txt").write_text("mine")
    refused(everseg_command("learn", made.stream, "--out", tmp_path, *given), "is not empty and holds no run")
    refused(everseg_command("learn", made.stream, "--out", tmp_path / "mine.txt", *given), "mine.txt")
    refused(everseg_command("compare", made.run, "--metric", "dice"), "dice")
    masks = made.stream.parent / "lesions" / "test" / "masks"
    refused(everseg_command("data", "points", masks), "points.json", "--force")
    refused(everseg_command("data", "points", tmp_path / "none"), "none")
    refused(
        everseg_command("data", "synthetic", tmp_path / "s", "--domain", "polips"), "did you mean 'polyps'"
    )
    stream = moved(made, tmp_path)
    image = sorted((stream.parent / "lesions" / "train" / "images").iterdir())[0]
    Image.new("RGB", (64, 64)).save(image)
    refused(
        everseg_command("learn", stream, "--out", made.run, *given), "'lesions' was learned from other data"
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["learn"], "STREAM"),
        (["learn", "x", "--out"], "--out"),
        (["lern"], "learn"),
        (["learn", "--no-such"], "--no-such"),
        (["report", "x", "--examples", "99"], "--examples"),
        (["learn", "x", "--out", "y", "--workers", "many"], "--workers"),
    ],
)
def test_a_wrong_command_is_one_sentence(everseg_command: Command, arguments: list[str], said: str) -> None:
    refused(everseg_command(*arguments), said)


def test_no_command_is_a_question_for_help(everseg_command: Command) -> None:
    done = everseg_command()
    assert done.code == 2
    assert "learn" in done.out and done.err == ""


@pytest.mark.slow
def test_workers_decode_and_change_nothing(everseg_command: Command, made: Made, tmp_path: Path) -> None:
    """Not the bytes of what is learned, nor whether a run may go on."""
    given = ["learn", made.stream, "--base", made.base, *SMALL]
    assert everseg_command(*given, "--out", tmp_path / "run", "--workers", 2).code == 0
    states = [next(run.glob("state-*.safetensors")).read_bytes() for run in (made.run, tmp_path / "run")]
    assert states[0] == states[1]
    again = everseg_command(*given, "--out", tmp_path / "run", "--set", "cache.where=disk")
    assert (again.code, "nothing new" in again.err) == (0, True)
    assert everseg_command("evaluate", made.run, "--workers", 2).code == 0


def test_a_run_finds_its_base_where_it_lies_now(everseg_command: Command, made: Made, tmp_path: Path) -> None:
    shutil.copytree(made.run, tmp_path / "run")
    shutil.copytree(made.base, tmp_path / "base")
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    record["config"]["base"] = str(tmp_path / "gone")
    (tmp_path / "run" / "run.json").write_text(json.dumps(record))
    refused(everseg_command("evaluate", tmp_path / "run"), "gone")
    assert everseg_command("evaluate", tmp_path / "run", "--base", tmp_path / "base").code == 0
    given = ["learn", made.stream, "--out", tmp_path / "run", "--base", tmp_path / "base", *SMALL]
    assert "nothing new" in everseg_command(*given).err


@pytest.mark.parametrize(
    "setting", ["aug.rank=0", "selector.size=0", "selector.batch=1", "selector.lr=-1", "cache.budget=-5"]
)
def test_numbers_that_cannot_be_are_refused(
    everseg_command: Command, made: Made, tmp_path: Path, setting: str
) -> None:
    done = everseg_command("learn", made.stream, "--out", tmp_path / "run", "--set", setting)
    name, _, value = setting.partition("=")
    refused(done, f"error: {name} is {value}", "number from")
    assert not (tmp_path / "run").exists()


# ---------------------------------------------------------------- as a process


def learning(made: Made, tmp_path: Path, *more: str) -> list[str]:
    lines = made.stream.read_text().splitlines()
    single = tmp_path / "single.yaml"
    body = "\n".join(lines[lines.index("stages:") : lines.index("stages:") + 4])
    single.write_text(f"root: {made.stream.parent}\nseed: 0\n{body}\n")
    return ["learn", str(single), "--out", str(tmp_path / "run"), "--base", str(made.base), *SMALL, *more]


@pytest.mark.slow
def test_ctrl_c_ends_with_one_line_and_the_same_command_goes_on(
    everseg_command: Command, made: Made, tmp_path: Path
) -> None:
    given = learning(made, tmp_path, "--set", "tune.fit.epochs=80")
    child = subprocess.Popen(
        [sys.executable, "-m", "everseg", *given],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    work = tmp_path / "run" / "work" / "lesions" / "lesions.safetensors"
    began = time.monotonic()
    while not work.exists() and child.poll() is None and time.monotonic() - began < 120:
        time.sleep(0.01)
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=120)
    assert child.returncode == 130, (out, err)
    assert err.splitlines() == ["interrupted; the same command resumes where it stopped"]
    assert out == ""
    assert not (tmp_path / "run" / "run.json").exists()
    assert work.exists()
    assert everseg_command(*given).code == 0
    assert (tmp_path / "run" / "run.json").exists()


def test_a_full_disk_is_said_in_one_line(everseg_command: Command, made: Made, tmp_path: Path) -> None:
    """A limit on the size of files stands for a disk without space. Python ignores the signal that goes with
    it, so that writing fails as it does on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        done = everseg_command(*learning(made, tmp_path))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    refused(done, "cannot write", "run the same command again")
    assert not list((tmp_path / "run").rglob("*.partial"))


# ---------------------------------------------------------------- what domains brought


@pytest.fixture(scope="module")
def sites(made: Made, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two sites that have each learned one domain with RegCL, and one run of both. Nobody writes to them."""
    root = tmp_path_factory.mktemp("sites")
    runs = {}
    for name, domains in {"a": ["lesions"], "b": ["cracks"], "both": ["lesions", "cracks"]}.items():
        lines = [f"root: {made.stream.parent}", "stages:"]
        lines += [f"  - {{name: {d}, train: {d}/train, test: {d}/test}}" for d in domains]
        (root / f"{name}.yaml").write_text("\n".join(lines))
        flags = ["--method", "regcl", "--base", str(made.base), "--no-baseline", *SMALL[:4]]
        given = ["learn", str(root / f"{name}.yaml"), "--out", str(root / name), *flags]
        with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
            patch.setattr(sys, "argv", ["everseg", *given])
            cli.main()
        assert not ended.value.code
        runs[name] = root / name
    return runs


@pytest.mark.slow
def test_sites_are_merged_and_the_merge_can_be_used(
    everseg_command: Command, made: Made, sites: dict[str, Path], tmp_path: Path
) -> None:
    stream = sites["both"].parent / "both.yaml"
    out = tmp_path / "merged"
    done = everseg_command("merge", sites["a"], sites["b"], "--out", out, "--stream", stream)
    assert (done.code, done.err) == (0, "")
    assert "iou (higher is better)" in done.out
    assert re.search(r"2 domains \(lesions, cracks\) merged by regmean: objective 0\.\d+ of", done.out)
    predicted = everseg_command("predict", out, made.image, "--point", "9,9", "--out", tmp_path / "masks")
    assert predicted.code == 0
    page = everseg_command("report", out)
    assert page.code == 0 and "The merges" in (out / "report.html").read_text()
    central = everseg_command("compare", sites["both"], "--json").out
    ours = everseg_command("compare", out, "--json").out
    both = [next(iter(json.loads(text).values()))["scores"]["iou"]["AA"] for text in (central, ours)]
    assert both[0] == pytest.approx(both[1], abs=1e-3)
    told = everseg_command(
        "merge", sites["a"], sites["b"], "--out", tmp_path / "m2", "--rule", "ties", "--json"
    )
    assert json.loads(told.out)["rule"] == "ties" and set(json.loads(told.out)["merged"]) == {
        "lesions",
        "cracks",
    }


def test_a_domain_is_forgotten_and_another_counts_double(
    everseg_command: Command, sites: dict[str, Path], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(sites["both"], run)
    heavier = everseg_command("reweigh", run, "--stage", "cracks", "--weight", "2")
    assert (heavier.code, heavier.err) == (0, "")
    assert "(cracks x 2)" in heavier.out and "cracks counts 2" in heavier.out
    done = everseg_command("forget", run, "--stage", "lesions")
    assert (done.code, done.err) == (0, "")
    assert "(without lesions)" in done.out
    assert "lesions is forgotten exactly: " in done.out and "as if" not in done.out
    assert json.loads((run / "forgotten" / "lesions.json").read_text())["exact"] is True
    told = json.loads(everseg_command("forget", run, "--stage", "cracks", "--no-score", "--json").out)
    assert told["forgotten"] == "cracks" and told["remaining"] == {}
    assert everseg_command("report", run).code == 0


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["merge", "{a}", "{both}"], "both named 'lesions'"),
        (["merge", "{a}", "{nowhere}"], "nowhere is neither a run folder nor a contribution file"),
        (["merge", "{a}", "--rule", "regmeen"], "rule of merging 'regmeen'"),
        (["merge", "{a}", "{b}", "--weight", "cracks"], "write it as NAME=FACTOR"),
        (["merge", "{a}", "{b}", "--weight", "isic=2"], "--weight names 'isic'"),
        (["merge", "{a}", "{b}", "--rule", "fisher"], "has no Fisher information"),
        (["merge", "{a}", "{b}", "--rule", "lorm"], "adapter=lora"),
        (["merge", "{a}", "{b}", "--rule", "concrete"], "kept no samples"),
        (
            ["merge", "{a}", "{b}", "--rule", "ties", "--set", "merger.options={{kep: 1}}"],
            "option of rule ties 'kep'",
        ),
        (["merge", "{samcl}"], "kept nothing that can be merged"),
        (["forget", "{a}", "--stage", "cracks"], "has not learned 'cracks'; it learned lesions"),
        (["forget", "{nowhere}", "--stage", "cracks"], "holds no run"),
        (["reweigh", "{a}", "--stage", "lesions", "--weight", "0"], "a number above 0"),
        (["reweigh", "{samcl}", "--stage", "lesions", "--weight", "2"], "cannot weigh domains"),
    ],
)
def test_mistakes_with_what_domains_brought(
    everseg_command: Command,
    made: Made,
    sites: dict[str, Path],
    tmp_path: Path,
    given: list[str],
    said: str,
) -> None:
    places = {**sites, "samcl": made.run, "nowhere": tmp_path / "nowhere"}
    filled = [part.format(**places) for part in given]
    out = tmp_path / "out"
    done = everseg_command(*filled, *(["--out", out] if given[0] == "merge" else []))
    assert done.code == 2
    assert said in done.err and done.err.startswith("error: ") and done.err.count("\n") == 1
    assert not (out / "run.json").exists()
    assert "Traceback" not in done.err


def test_a_stream_of_classes_is_not_for_methods_that_learn_domains(
    everseg_command: Command, tmp_path: Path
) -> None:
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
        for n in range(2):
            pixels = np.full((8, 8, 3) if folder == "images" else (8, 8), n + 1, np.uint8)
            Image.fromarray(pixels).save(tmp_path / folder / f"{n}.png")
    stream = tmp_path / "classes.yaml"
    stream.write_text(
        f"root: {tmp_path}\nclasses: [background, cat, dog]\nsteps: 1-1\ntrain: {{path: .}}\ntest: "
        f"{{path: .}}\n"
    )
    done = everseg_command("learn", stream, "--out", tmp_path / "run", "--method", "zero-shot")
    assert done.code == 2
    assert "has classes" in done.err


@pytest.mark.skipif(not cli.LARGE_PAGES.exists(), reason="the kernel has no large pages")
@pytest.mark.parametrize(("given", "asked"), [({}, True), ({"THP_MEM_ALLOC_ENABLE": "0"}, False)])
def test_large_tensors_ask_for_large_pages(given: dict[str, str], asked: bool) -> None:
    """As the kernel has it: the mapping that holds a tensor has the flag "hg". A user's own choice holds."""
    program = """
        from everseg import cli
        cli._ask_for_large_pages()
        import torch
        made = torch.zeros(64 << 20, dtype=torch.uint8)
        place, here = made.data_ptr() + (32 << 20), False
        for line in open("/proc/self/smaps"):
            first, *words = line.split()
            if "-" in first:
                begin, end = (int(x, 16) for x in first.split("-"))
                here = begin <= place < end
            elif here and first == "VmFlags:":
                print("hg" in words)
    """
    ours = {name: value for name, value in os.environ.items() if name != "THP_MEM_ALLOC_ENABLE"}
    command = [sys.executable, "-c", textwrap.dedent(program)]
    said = subprocess.run(command, env=ours | given, capture_output=True, text=True)
    assert said.stdout.split() == [str(asked)], said.stderr
