"""Progress shows on a terminal and nowhere else."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from everseg import progress


def test_elsewhere_than_on_a_terminal_there_is_silence(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "console", Console(file=io.StringIO(), force_terminal=False))
    with progress.bar("learning", 3) as advance:
        advance("loss 0.3")
    assert capfd.readouterr() == ("", "")
    assert progress.console.file.getvalue() == ""  # type: ignore[attr-defined]


def test_a_terminal_sees_description_count_and_remark(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(progress, "console", Console(file=screen, force_terminal=True, width=120))
    with progress.bar("learning", 2) as advance:
        advance("loss 0.31")
        advance("loss 0.30")
    assert "learning" in screen.getvalue()
    assert "2/2" in screen.getvalue()
    assert "loss 0.30" in screen.getvalue()


def test_a_bar_of_nothing_and_a_bar_that_breaks_end_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "console", Console(file=io.StringIO(), force_terminal=True))
    with progress.bar("nothing", 0):
        pass
    with pytest.raises(ValueError, match="inside"), progress.bar("broken", 2):
        raise ValueError("inside")
    with progress.bar("after", 1):  # rich allows one live display: the broken one has let go of it.
        pass


def test_a_remark_is_one_line_and_takes_a_path_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    said = io.StringIO()
    monkeypatch.setattr(progress, "console", Console(file=said, width=40))
    progress.remark("/data/run[1]/" + "long/" * 20 + ": nothing new")
    assert said.getvalue() == "/data/run[1]/" + "long/" * 20 + ": nothing new\n"
