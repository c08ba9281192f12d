"""Runs that the version before the rooms were rebuilt wrote: they load, predict the same, and go on to the
same end.

`tests/assets/earlier_run` holds two runs of two stages on a random SAM of 64 x 64 pixels, the logits that
the earlier version predicted, and what it had when it went on with the third stage.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from everseg.data import Stream
from everseg.files import load_state
from everseg.models.promptable.load import load_base
from everseg.report.collect import collect
from everseg.report.page import write_report
from everseg.runs.folder import learned_stages, load, read_record
from everseg.runs.forget import forget
from everseg.runs.learn import run

EARLIER = Path(__file__).parents[1] / "assets" / "earlier_run"
METHODS = ("samcl", "regcl")


@pytest.fixture(scope="module")
def micro_earlier() -> Any:
    return load_base(str(EARLIER / "base"))


@pytest.fixture(scope="module")
def stream() -> Stream:
    return Stream.from_yaml(EARLIER / "data" / "stream.yaml")


@pytest.fixture
def folder(tmp_path: Path, method: str) -> Path:
    return Path(shutil.copytree(EARLIER / "runs" / method, tmp_path / method))


def close(ours: Any, theirs: Any) -> None:
    """Every tensor and number of a nested state. Another machine may round otherwise."""
    if isinstance(theirs, torch.Tensor):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
    elif isinstance(theirs, dict):
        assert set(ours) == set(theirs)
        for key in theirs:
            close(ours[key], theirs[key])
    elif isinstance(theirs, list):
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            close(one, other)
    elif isinstance(theirs, float):
        assert ours == pytest.approx(theirs, abs=0.02)
    else:
        assert ours == theirs


@pytest.mark.parametrize("method", METHODS)
def test_it_predicts_as_it_did(folder: Path, method: str, micro_earlier: Any, stream: Stream) -> None:
    current = load(folder, micro_earlier)
    assert current.learned == ["polyps", "cracks"] and learned_stages(folder) == ("polyps", "cracks")
    predicted = current.learner.predict([sample.query() for sample in stream.stages[1].test])
    wanted = load_state(EARLIER / "predictions.safetensors")[method]
    close([p.logits for p in predicted], wanted["logits"])
    close([p.iou for p in predicted], wanted["iou"])
    assert ["" if p.route is None else p.route.name for p in predicted] == wanted["route"]


@pytest.mark.parametrize("method", METHODS)
def test_it_goes_on_to_the_same_end(folder: Path, method: str, micro_earlier: Any, stream: Stream) -> None:
    before = load(folder, micro_earlier)
    # That version did not measure it, and what it takes is this machine's business.
    how = replace(before.config.score, insensitivity=False)
    done = run(stream, replace(before.config, score=how), folder, micro_earlier)
    assert done.learned == ["polyps", "cracks", "natural"]
    assert done.record.learned[:2] == before.record.learned
    close(load_state(folder / done.record.state), load_state(EARLIER / "after" / f"{method}.safetensors"))
    results = json.loads((folder / done.record.results).read_text())
    close(results, json.loads((EARLIER / "after" / f"{method}.json").read_text()))
    assert [event.stage for event in done.events()] == ["polyps", "cracks", "natural"]


@pytest.mark.parametrize("method", METHODS)
def test_every_command_takes_it(
    folder: Path, method: str, micro_earlier: Any, stream: Stream, tmp_path: Path
) -> None:
    current = load(folder, micro_earlier)
    assert current.summary()["method"] == method and current.figures()["learned"] == current.learned
    page = write_report(collect(current, stream, 1), tmp_path / "page.html")
    assert "polyps" in page.read_text(encoding="utf-8")
    assert "Insensitivity is not known" in page.read_text(encoding="utf-8")
    certificate = forget(folder, "cracks", base=micro_earlier)
    assert certificate.exact or method == "samcl"
    assert read_record(folder).names == ["polyps"]
