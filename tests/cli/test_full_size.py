"""The families at their real size with random weights: 1024 x 1024 pixels, from the command line.

One image per domain to learn from and one to score on. What is learned is worth nothing; that it is learned,
kept, found again and shown is the point. A selector that has two domains to choose from is shown with the
smaller family; one pass through the larger takes ten seconds.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from transformers import PreTrainedModel, Sam2Config, Sam2Model, SamConfig, SamModel

pytestmark = [pytest.mark.slow, pytest.mark.realdata]


def everseg(*arguments: object) -> str:
    """What the console command printed; it must have ended well and warned of nothing."""
    done = subprocess.run(
        [sys.executable, "-m", "everseg", *map(str, arguments)],
        env={**os.environ, "PYTHONWARNINGS": "default"},
        capture_output=True,
        text=True,
    )
    said = [line for line in done.stderr.splitlines() if not re.search(r": (step )?\d+/\d+", line)]
    assert (done.returncode, said) == (0, [])
    return done.stdout


def stream_file(root: Path, folder: Path, domains: Sequence[str]) -> Path:
    stages = [
        {
            "name": name,
            "train": {"path": f"{name}/train", "limit": 1},
            "test": {"path": f"{name}/test", "limit": 1},
        }
        for name in domains
    ]
    path = folder / "stream.yaml"
    path.write_text(yaml.safe_dump({"root": str(root.resolve()), "stages": stages}))
    return path


@pytest.mark.parametrize(
    ("build", "domains", "width", "neck"),
    [
        pytest.param(lambda: SamModel(SamConfig()), ["kvasir"], 768, True, id="vit-b"),
        pytest.param(lambda: Sam2Model(Sam2Config()), ["kvasir", "isic"], 384, False, id="hiera-tiny"),
    ],
)
def test_learn_predict_report(
    data_root: Path,
    tmp_path: Path,
    build: Callable[[], PreTrainedModel],
    domains: list[str],
    width: int,
    neck: bool,
) -> None:
    torch.manual_seed(0)
    build().save_pretrained(tmp_path / "base")
    stream, run = stream_file(data_root, tmp_path, domains), tmp_path / "run"
    small = ["--set", "tune.fit.steps=1", "--set", "tune.fit.batch=1"]
    learned = json.loads(
        everseg("learn", stream, "--base", tmp_path / "base", "--out", run, *small, "--no-baseline", "--json")
    )
    assert learned["learned"] == domains
    blocks = 5 if neck else 4
    parameters = 10 * width + 10 + blocks * (11 * width + 40) + 110 + 20
    assert learned["trainable_parameters"] == parameters + (11 * width + 11 * 256 if neck else 0)

    image = sorted((data_root / "kvasir" / "test" / "images").iterdir())[0]
    with Image.open(image) as opened:
        x, y = opened.width // 2, opened.height // 2
    everseg("predict", run, image, "--point", f"{x},{y}", "--out", tmp_path / "out")
    record = json.loads((tmp_path / "out" / f"{image.stem}.json").read_text())
    assert record["module"] in domains
    with Image.open(tmp_path / "out" / record["masks"][0]["file"]) as mask, Image.open(image) as opened:
        assert mask.size == opened.size

    everseg("report", run, "--examples", 0)
    page = (run / "report.html").read_text()
    assert all(name in page for name in domains)
