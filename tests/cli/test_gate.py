"""A module that was really damaged, at the gate of the console command."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

import everseg
from everseg.cli import main
from everseg.cli.gate import _check_files
from everseg.data import write_synthetic_stream
from everseg.errors import UserError
from everseg.runs.folder import load, write


@pytest.mark.slow
def test_a_damaged_module_fails_on_its_domain_and_nowhere_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stream = write_synthetic_stream(tmp_path / "data", ("polyps", "lesions"), train=6, test=10)
    everseg.learn(stream, method="samcl", out=tmp_path / "old", tune__fit__steps=5)
    shutil.copytree(tmp_path / "old", tmp_path / "new")
    run = load(tmp_path / "new")
    noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in run.learner.state_dict()["modules"]["polyps"].values():
            value.add_(0.5 * torch.randn(value.shape, generator=noise))
    write(run)
    out = tmp_path / "gate.json"
    given = ["gate", tmp_path / "new", "--against", tmp_path / "old", "--json", out]
    monkeypatch.setattr("sys.argv", ["everseg", *map(str, given)])
    with pytest.raises(SystemExit) as ended:
        main()
    told = json.loads(out.read_text())
    assert ended.value.code == 1 and "do not deploy" in capsys.readouterr().out
    worse = {c["column"] for c in told["comparisons"] if c["finding"] == "worse"}
    assert "polyps" in worse and worse <= {"polyps", "all images"}
    assert all(c["changed"] == 0 for c in told["comparisons"] if c["column"] in ("lesions", "natural"))


def test_a_file_that_could_not_be_written_is_refused_before_anything_is_computed(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write .*x.json: .*; name another folder"):
        _check_files(tmp_path / "file" / "x.json")
    with pytest.raises(UserError, match="is a folder; name a file"):
        _check_files(tmp_path)
    with pytest.raises(UserError, match="name the same file"):
        _check_files(tmp_path / "x.json", None, tmp_path / "x.json")
    _check_files(tmp_path / "new" / "x.json")
    assert (tmp_path / "new").is_dir()
