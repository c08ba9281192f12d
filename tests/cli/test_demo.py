"""The demo shows what it is there to show: fine-tuning in turn forgets, SAMCL does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from everseg.cli.demo import DOMAINS, run_demo
from everseg.data import write_synthetic_stream
from everseg.results import average, forgetting


@pytest.mark.slow
def test_the_demo_forgets_and_remembers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of its domains, with half as many images and two thirds of the steps."""

    def fewer(folder: Path, domains: Any, *, train: int, test: int, **more: Any) -> Path:
        return write_synthetic_stream(folder, domains, train=train // 2, test=test // 2, **more)

    monkeypatch.setattr("everseg.data.write_synthetic_stream", fewer)
    monkeypatch.setattr("everseg.cli.demo.SETTINGS", ("tune.fit.steps=40",))
    shown = {done.method: done for done in run_demo(tmp_path, domains=DOMAINS[:2])}
    sequential, samcl = (shown[m].results.matrix("iou") for m in ("sequential", "samcl"))
    assert forgetting(sequential) > 0.1
    assert abs(forgetting(samcl)) < 0.02
    assert average(samcl) > average(sequential) + 0.1
    assert shown["samcl"].summary["routing_accuracy"] > 0.95
    assert (tmp_path / "story.png").stat().st_size > 10_000
    for method in shown:
        page = (tmp_path / method / "report.html").read_text(encoding="utf-8")
        assert "<svg" in page and "http://" not in page.replace("http://www.w3.org", "")
