"""What a run was begun with holds for later calls that do not give it again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import everseg
from everseg.data import Stream, SyntheticDomain
from everseg.methods import configure
from everseg.runs.begun import kept_options
from everseg.runs.folder import read_record
from everseg.runs.learn import run
from everseg.runs.run import RunConfig
from everseg.types import Stage


def stream(*domains: str) -> Stream:
    def stage(index: int, name: str) -> Stage:
        return Stage(index, name, SyntheticDomain(name, 2, size=64), SyntheticDomain(name, 1, size=64))

    return Stream(tuple(stage(i, name) for i, name in enumerate(domains)))


def test_archive_and_keep_stay_as_they_were_begun(micro: Any, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert kept_options(out, None, None) == (True, None)
    first = RunConfig("zero-shot", configure("zero-shot"), "micro", archive=False, keep=0)
    run(stream("lesions"), first, out, micro)
    assert kept_options(out, None, None) == (False, 0)
    assert kept_options(out, True, 3) == (True, 3)
    everseg.learn(stream("lesions", "cracks"), "zero-shot", out=out, base=micro)
    config = read_record(out).config
    assert (config["archive"], config["keep"]) == (False, 0)
    everseg.learn(stream("lesions", "cracks"), "zero-shot", out=out, base=micro, keep=2)
    assert read_record(out).config["keep"] == 2
