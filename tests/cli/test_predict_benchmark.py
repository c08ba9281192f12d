"""Predicting in several processes, killed and started again, ends as in one go."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "predict.py"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the script reads /proc")
def test_killed_and_started_again() -> None:
    command = [sys.executable, str(SCRIPT), "200", "--micro", "--rounds", "0"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done
    assert "2 processes: killed after a third" in done.stdout
    assert "650 in one go, 650 after the kill, 0 differ" in done.stdout
