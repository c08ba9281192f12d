"""Progress: bars on a terminal, a line every ten seconds elsewhere, readings for listeners."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from everseg.distributed import world
from everseg.errors import UserError

console = Console(stderr=True, force_jupyter=False)  # In a notebook, lines go to stderr as well.
"""Where progress and remarks go; results go to standard output."""

SECONDS = "EVERSEG_PROGRESS_SECONDS"
"""Names the seconds between two readings, and between two lines of one piece of work."""


def every() -> float:
    """These seconds; ten where nothing is said.

    Raises:
        UserError: it is not a number, or is negative.
    """
    given = os.environ.get(SECONDS) or "10"
    try:
        seconds = float(given)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < math.inf:
        raise UserError(f"{SECONDS} is {given!r}; give a number of seconds, such as 10")
    return seconds


@dataclass(frozen=True)
class Reading:
    """The progress of a training.

    name: of the training.
    loss: mean over the steps since the last reading, in the last one over the last epoch. With several
        processes, the main process's share of each batch stands for the whole, except in the last one.
    images_per_second: training rows per second since the last reading, over all processes; in the last one
        since this call began.
    seconds: of the training so far, with those before an interruption.
    left: seconds to go.
    score: the newest score on the validation images; None without any.
    """

    name: str
    step: int
    steps: int
    epoch: int
    epochs: int
    loss: float
    images_per_second: float
    seconds: float
    left: float
    score: float | None = None

    def line(self) -> str:
        """One line for a log."""
        shown = [f"step {self.step}/{self.steps}", f"epoch {self.epoch}/{self.epochs}"]
        if not math.isnan(self.loss):
            shown.append(f"loss {self.loss:.4g}")
        if self.score is not None:
            shown.append(f"val {self.score:.3f}")
        shown.append(f"{self.images_per_second:.1f} images/s")
        return f"{self.name}: {', '.join(shown)}"


@dataclass(frozen=True)
class Curve:
    """What a training that has ended was like, epoch by epoch.

    losses: mean loss of each epoch.
    scores: on the validation images after each epoch; empty without any.
    best: the epoch whose weights were kept, from 1; 0 without validation images.
    """

    name: str
    losses: Sequence[float]
    scores: Sequence[float] = ()
    best: int = 0


Listener = Callable[[Reading | Curve], None]

_drawing: ContextVar[bool] = ContextVar("drawing", default=False)
"""Whether there is a bar: work within it, such as scoring between epochs, draws none of its own."""

_listeners: ContextVar[tuple[Listener, ...]] = ContextVar("listeners", default=())


@contextmanager
def listening(*listeners: Listener) -> Iterator[None]:
    """Let functions hear of each training in this block, in the main process: a reading at most every ten
    seconds, and a reading and a curve at its end."""
    token = _listeners.set((*_listeners.get(), *listeners))
    try:
        yield
    finally:
        _listeners.reset(token)


@contextmanager
def bar(description: str, total: int) -> Iterator[Callable[[str], None]]:
    """A bar of `total` steps; where there is no terminal, lines for what takes longer than ten seconds.
    Yields a function that advances it by one and shows a short remark ("loss 0.31")."""
    began = last = time.monotonic()
    done, pause = 0, every()

    with _on_terminal(description, total) as show:

        def advance(remark: str) -> None:
            nonlocal done, last
            done += 1
            show(remark, 1)
            if (now := time.monotonic()) - last >= pause:
                last = now
                left = (now - began) / done * (total - done)
                _log(f"{description}: {done}/{total}, {duration(left)} left")

        yield advance


class Meter:
    """Counts the steps of a training and reports progress, during it and at its end.

    A loss may be on a device: it is read only when progress is reported, so that no step waits for it.
    """

    def __init__(
        self, name: str, done: int, steps: int, epochs: int, seconds: float, show: Callable[[str, int], None]
    ) -> None:
        self.name, self.first, self.done, self.steps, self.epochs = name, done, done, steps, epochs
        self.before, self.began, self.last = seconds, time.monotonic(), time.monotonic()
        self.losses: Any = 0.0
        self.since, self.rows, self.all_rows = 0, 0, 0
        self.score: float | None = None
        self.show, self.pause = show, every()

    @property
    def seconds(self) -> float:
        """Seconds of the training so far, with those before an interruption."""
        return self.before + time.monotonic() - self.began

    def step(self, loss: Any, rows: int, epoch: int) -> None:
        """Count a step.

        loss: this process's share of it, a number or a tensor of one.
        rows: of the whole batch.
        epoch: from 1.
        """
        self.done += 1
        self.since += 1
        self.rows += rows
        self.all_rows += rows
        self.losses = self.losses + loss
        self.show(f"epoch {epoch}/{self.epochs}", 1)
        now = time.monotonic()
        if now - self.last < self.pause or not world().main:
            return
        left = (now - self.began) / (self.done - self.first) * (self.steps - self.done)
        mean = float(self.losses) / self.since * world().size
        reading = self._reading(epoch, mean, self.rows / (now - self.last), left)
        self.show(f"epoch {epoch}/{self.epochs}, loss {mean:.4g}", 0)
        _log(f"{reading.line()}, {duration(left)} left")
        _tell(reading)
        self.losses, self.since, self.rows, self.last = 0.0, 0, 0, now

    def end(self, curve: Curve) -> None:
        """Tell that the training has ended."""
        if not (self.steps and world().main):
            return
        took = max(time.monotonic() - self.began, 1e-9)
        loss = curve.losses[-1] if curve.losses else math.nan
        reading = self._reading(len(curve.losses), loss, self.all_rows / took, 0.0)
        kept = f", epoch {curve.best} is kept (val {max(curve.scores):.3f})" if curve.best else ""
        _log(f"{reading.line()}, done in {duration(self.seconds)}{kept}")
        _tell(reading)
        _tell(curve)

    def _reading(self, epoch: int, loss: float, rate: float, left: float) -> Reading:
        counts = (self.done, self.steps, epoch, self.epochs)
        return Reading(self.name, *counts, loss, rate, self.seconds, left, self.score)


@contextmanager
def watch(name: str, *, done: int, steps: int, epochs: int, seconds: float) -> Iterator[Meter]:
    """A bar for a training, or lines where there is no terminal, and readings for who listens.

    done: steps taken before an interruption.
    seconds: those that they took.
    """
    with _on_terminal(name, max(0, steps - done)) as show:
        yield Meter(name, done, steps, epochs, seconds, show)


def _tell(what: Reading | Curve) -> None:
    for listener in _listeners.get():
        listener(what)


@contextmanager
def _on_terminal(description: str, total: int) -> Iterator[Callable[[str, int], None]]:
    if _drawing.get() or not (console.is_terminal and world().main):
        yield lambda remark, by: None
        return
    columns = [
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[remark]}"),
    ]
    token = _drawing.set(True)
    try:
        with Progress(*columns, console=console, transient=True) as progress:
            task = progress.add_task(description, total=total, remark="")
            yield lambda remark, by: progress.update(task, advance=by, remark=remark)
    finally:
        _drawing.reset(token)


def _log(line: str) -> None:
    if not console.is_terminal and world().main:
        remark(line)


def duration(seconds: float) -> str:
    """Seconds for people: 75 -> "1 min 15 s"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def remark(text: str) -> None:
    """Say something beside the results, as one line however long it is."""
    console.print(text, soft_wrap=True, markup=False)
