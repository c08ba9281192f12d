"""Unfinished work of a stage: what resumes from it, and what is said where nothing may."""

from __future__ import annotations

import copy
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from everseg.data.stream import Fingerprints
from everseg.models.promptable.load import load_base
from everseg.runs.folder import load
from everseg.runs.run import Run
from everseg.runs.scratch import scratch_of
from everseg.testing import micro_step

EARLIER = Path(__file__).parents[1] / "assets" / "earlier_run"
DATA = Fingerprints("train", "test", "both")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    folder = tmp_path / "earlier"
    shutil.copytree(EARLIER, folder)
    return load(folder / "runs" / "samcl", load_base(str(folder / "base")))


def test_work_with_other_settings_is_discarded_with_a_remark(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    stage = micro_step(0)
    state = {"module": {"weight": torch.ones(2)}}
    scratch_of(run, stage, DATA).save("fit", state)
    found = scratch_of(run, stage, DATA).load("fit")
    assert found is not None and torch.equal(found["module"]["weight"], torch.ones(2))
    assert capsys.readouterr().err == ""
    other = copy.copy(run)
    other.config = replace(run.config, seed=run.config.seed + 1)
    assert scratch_of(other, stage, DATA).load("fit") is None
    assert f"{stage.name}: unfinished training with other settings" in capsys.readouterr().err
    scratch_of(run, stage, DATA)
    assert capsys.readouterr().err == "", "nothing had been kept"
