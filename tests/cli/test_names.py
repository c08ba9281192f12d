"""Files and folders whose names are not UTF-8, as a zip file from Windows leaves them: every command that
prints or writes a name does so, on streams that encode strictly.
"""

from __future__ import annotations

import io
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from everseg import cli

NAME = os.fsdecode(b"M\xfcller")
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def everseg_command(monkeypatch: pytest.MonkeyPatch) -> Iterator[Command]:
    """The console command in this process: exit code, standard output, standard error."""
    before = signal.getsignal(signal.SIGINT)

    def call(*given: object) -> tuple[int, str, str]:
        streams = [io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="strict") for _ in range(2)]
        with monkeypatch.context() as patched, pytest.raises(SystemExit) as ended:
            patched.setattr(sys, "argv", ["everseg", *map(str, given)])
            patched.setattr(sys, "stdout", streams[0])
            patched.setattr(sys, "stderr", streams[1])
            cli.main()
        said = []
        for stream in streams:
            stream.seek(0)
            said.append(stream.read())
        return int(ended.value.code or 0), said[0], said[1]

    yield call
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def stream(tmp_path: Path) -> Path:
    """A stream file in a folder, with images and masks, of such names."""
    root = tmp_path / f"data {NAME}"
    for split in ("train", "test"):
        for part in ("images", "masks"):
            (root / split / part).mkdir(parents=True)
        for n in range(2):
            pixels = np.random.default_rng(n + 2 * (split == "test")).integers(0, 255, (20, 24, 3), np.uint8)
            Image.fromarray(pixels).save(root / split / "images" / f"{NAME}{n}.png")
            mask = np.zeros((20, 24), np.uint8)
            mask[5:15, 5:15] = 255
            Image.fromarray(mask).save(root / split / "masks" / f"{NAME}{n}.png")
    path = root / "stream.yaml"
    path.write_text("stages: [{name: one, train: train, test: test}]")
    return path


def test_every_command_that_names_files(
    everseg_command: Command, stream: Path, micro_folder: Path, tmp_path: Path
) -> None:
    run, base = tmp_path / f"run {NAME}", ("--base", micro_folder)
    assert everseg_command("learn", stream, "--method", "zero-shot", "--out", run, *base)[0] == 0
    code, out, _ = everseg_command("report", run)
    assert code == 0 and "M\\xfcller" in out
    assert "M\\xfcller0.png" in (run / "report.html").read_text()
    assert everseg_command("compare", run)[0] == 0
    images = sorted((stream.parent / "test" / "images").iterdir())
    code, out, _ = everseg_command(
        "predict", run, *images, "--point", "9,9", "--out", run / "out", "--json", *base
    )
    assert code == 0 and [record["image"] for record in json.loads(out)] == [str(image) for image in images]
    assert (run / "out" / f"{NAME}0_mask.png").is_file()
    assert json.loads((run / "out" / f"{NAME}0.json").read_text())["image"] == str(images[0])


def test_checking_names_the_file(everseg_command: Command, stream: Path) -> None:
    broken = stream.parent / "train" / "images" / f"{NAME}0.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n....")
    (stream.parent / "train" / "masks" / f"{NAME}1.png").unlink()
    code, out, err = everseg_command("data", "check", stream, "--sheet", stream.parent / "sheet.png")
    assert (code, "M\\xfcller0.png is not an image" in out) == (2 if err.startswith("error") else 1, True)
    code, out, _ = everseg_command("data", "check", stream, "--json")
    assert code == 1 and str(broken) in [finding["file"] for finding in json.loads(out)["findings"]]
    code, _, err = everseg_command("learn", stream, "--out", stream.parent / "run")
    assert code == 2 and "M\\xfcller1.png" in err and err.count("\n") == 1


@pytest.mark.parametrize("argument", ["x" * 5000, "a\nb", NAME])
def test_arguments_that_name_no_file(
    everseg_command: Command, argument: str, stream: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(stream.parent)
    for given in (
        ("data", "check", argument),
        ("data", "points", argument),
        ("data", "discover", argument),
        ("compare", argument),
        ("learn", argument, "--out", "run"),
        ("predict", argument, "stream.yaml", "--out", "out"),
        ("predict", "run", argument, "--out", "out"),
        ("report", argument),
        ("settings", argument),
        ("learn", "stream.yaml", "--method", argument, "--out", "run"),
        ("learn", "stream.yaml", "--method", "json:loads", "--out", argument),
    ):
        code, _, err = everseg_command(*given)
        assert code == 2 and err.startswith("error: ") and err.count("\n") == 1, (given[0], err[-300:])
        assert len(err) < 900, given[0]
    assert sorted(path.name for path in stream.parent.iterdir()) == ["stream.yaml", "test", "train"]
