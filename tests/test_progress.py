"""Progress: a bar on a terminal, a line every ten seconds elsewhere, and readings for who listens."""

from __future__ import annotations

import io
import math

import pytest
from rich.console import Console

from everseg import progress
from everseg.errors import UserError


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


def test_the_seconds_between_two_lines_can_be_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    for given, seconds in (("", 10.0), ("0", 0.0), ("2.5", 2.5)):
        monkeypatch.setenv(progress.SECONDS, given)
        assert progress.every() == seconds
    for wrong in ("often", "-1", "nan", "inf"):
        monkeypatch.setenv(progress.SECONDS, wrong)
        with pytest.raises(UserError, match=f"EVERSEG_PROGRESS_SECONDS is '{wrong}'; give a number"):
            progress.every()


class Clock:
    """A clock that goes when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(progress.time, "monotonic", lambda: self.now)


class Loss:
    """A loss on a device, which counts how often it is read."""

    read = 0

    def __init__(self, value: float) -> None:
        self.value = value

    def __radd__(self, other: float) -> Loss:
        return Loss(self.value + other)

    def __add__(self, other: Loss) -> Loss:
        return Loss(self.value + other.value)

    def __float__(self) -> float:
        Loss.read += 1
        return self.value


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What goes to a log where there is no terminal."""
    written = io.StringIO()
    monkeypatch.setattr(progress, "console", Console(file=written, force_terminal=False, width=40))
    return written


def test_a_training_is_told_every_ten_seconds_and_at_its_end(
    monkeypatch: pytest.MonkeyPatch, log: io.StringIO
) -> None:
    clock, heard = Clock(monkeypatch), []
    monkeypatch.setattr(Loss, "read", 0)
    with (
        progress.listening(heard.append),
        progress.watch("site-a", done=10, steps=40, epochs=4, seconds=50) as meter,
    ):
        for step in range(30):  # Two seconds each.
            clock.now += 2
            meter.step(Loss(1.0 + step), 8, 2 + step // 10)
        assert Loss.read == 6, "a loss is read when it is told, not at each step"
        meter.end(progress.Curve("site-a", [4.0, 3.0, 2.0, 1.5]))
    *told, last, curve = heard
    assert [(r.step, r.epoch, r.loss) for r in told] == [
        (10 + 5 * k, 2 + (5 * k - 1) // 10, 5.0 * k - 2) for k in range(1, 7)
    ], "the mean loss since the last reading"
    assert [r.left for r in told] == [50, 40, 30, 20, 10, 0]
    assert {r.images_per_second for r in told} == {4.0} and told[0].seconds == 60
    assert (last.step, last.loss, last.left, last.seconds) == (40, 1.5, 0, 110)
    assert curve == progress.Curve("site-a", [4.0, 3.0, 2.0, 1.5])
    lines = log.getvalue().splitlines()
    assert lines[0] == "site-a: step 15/40, epoch 2/4, loss 3, 4.0 images/s, 50 s left"
    assert lines[-1] == "site-a: step 40/40, epoch 4/4, loss 1.5, 4.0 images/s, done in 1 min 50 s"
    assert len(lines) == 7


def test_a_short_training_is_told_once_and_an_empty_one_not_at_all(
    monkeypatch: pytest.MonkeyPatch, log: io.StringIO
) -> None:
    heard: list[object] = []
    with progress.listening(heard.append), progress.watch("a", done=0, steps=2, epochs=2, seconds=0) as meter:
        meter.step(1.0, 4, 1)
        meter.score = 0.25
        meter.step(1.0, 4, 2)
        meter.end(progress.Curve("a", [2.0, 1.0], [0.5, 0.25], 1))
    (line,) = log.getvalue().splitlines()
    assert line.startswith("a: step 2/2, epoch 2/2, loss 1, val 0.250, ")
    assert line.endswith(" images/s, done in 0 s, epoch 1 is kept (val 0.500)")
    with progress.listening(heard.append), progress.watch("b", done=0, steps=0, epochs=0, seconds=0) as meter:
        meter.end(progress.Curve("b", []))
    assert len(heard) == 2 and log.getvalue().count("\n") == 1


def test_only_the_main_process_tells(monkeypatch: pytest.MonkeyPatch, log: io.StringIO) -> None:
    clock = Clock(monkeypatch)
    monkeypatch.setattr(progress, "world", lambda: _Other())
    heard: list[object] = []
    with progress.listening(heard.append), progress.watch("a", done=0, steps=2, epochs=1, seconds=0) as meter:
        for _ in range(2):
            clock.now += 20
            meter.step(math.nan, 4, 1)
        meter.end(progress.Curve("a", [1.0]))
    with progress.bar("features", 1) as advance:
        clock.now += 20
        advance("")
    assert not heard and not log.getvalue()


class _Other:
    """Not the main process."""

    main, size = False, 2


def test_other_work_is_told_where_it_takes_long(monkeypatch: pytest.MonkeyPatch, log: io.StringIO) -> None:
    clock = Clock(monkeypatch)
    with progress.bar("site-a: features", 40) as advance:
        for _ in range(40):
            clock.now += 1
            advance("")
    assert log.getvalue().splitlines()[:2] == [
        "site-a: features: 10/40, 30 s left",
        "site-a: features: 20/40, 20 s left",
    ]


def test_on_a_terminal_there_is_no_line(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, screen = Clock(monkeypatch), io.StringIO()
    monkeypatch.setattr(progress, "console", Console(file=screen, force_terminal=True, width=120))
    with progress.watch("site-a", done=0, steps=2, epochs=1, seconds=0) as meter:
        for _ in range(2):
            clock.now += 20
            meter.step(0.5, 4, 1)
        meter.end(progress.Curve("site-a", [0.5]))
    assert "epoch 1/1" in screen.getvalue() and "images/s" not in screen.getvalue()


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.4, "0 s"), (59.6, "1 min 0 s"), (75, "1 min 15 s"), (7500, "2 h 5 min")]
)
def test_durations_for_people(seconds: float, said: str) -> None:
    assert progress.duration(seconds) == said


def test_a_bar_within_a_bar_is_not_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(progress, "console", Console(file=screen, force_terminal=True, width=120))
    with progress.watch("site-a", done=0, steps=2, epochs=1, seconds=0) as meter:
        meter.step(0.5, 4, 1)
        with progress.bar("score site-a", 1) as advance:
            advance("")
        meter.step(0.5, 4, 1)
    with progress.bar("score site-b", 1) as advance:
        advance("")
    assert "score site-a" not in screen.getvalue() and "score site-b" in screen.getvalue()
    assert "2/2" in screen.getvalue()


def test_a_remark_is_one_line_and_takes_a_path_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    said = io.StringIO()
    monkeypatch.setattr(progress, "console", Console(file=said, width=40))
    progress.remark("/data/run[1]/" + "long/" * 20 + ": nothing new")
    assert said.getvalue() == "/data/run[1]/" + "long/" * 20 + ": nothing new\n"
