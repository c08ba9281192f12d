"""What a learning job is, how far it is, and the processes that work on it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import psutil

from everseg.serve.changes import Change

State = Literal[
    "queued", "learning", "checking", "ready", "accepting", "accepted", "discarded", "cancelled", "failed"
]
OPEN: tuple[State, ...] = ("queued", "learning", "checking", "ready", "accepting")
"""States of jobs that are not decided."""

KEPT = 20
"""Decided jobs that are still listed."""


@dataclass(frozen=True)
class Job:
    """A domain that is learned, or was.

    stage: what the run calls it.
    later_of: the domain of the run that it continues with, or "".
    images: how many are trained on and held out.
    before: digest of the run that it began with.
    error: why it failed.
    verdict: the gate's; "" before it is known.
    pid: of the process that works on it.
    seconds: that it took so far.
    """

    id: str
    domain: str
    stage: str
    state: State = "queued"
    later_of: str = ""
    images: tuple[int, int] = (0, 0)
    before: str = ""
    error: str = ""
    verdict: str = ""
    pid: int = 0
    seconds: float = 0.0
    changes: tuple[Change, ...] = field(default=())


def progress_of(log: Path, stage: str) -> dict[str, Any]:
    """How far the training of a stage is, from the run's log: steps, epochs, seconds left, and its losses."""
    newest: Mapping[str, Any] = {}
    losses: list[tuple[int, float]] = []
    with suppress(OSError):
        for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
            with suppress(ValueError):
                told = json.loads(line)
                if told.get("event") == "progress" and told.get("stage") == stage:
                    newest = told
                    if told.get("loss") is not None:
                        losses.append((told["step"], told["loss"]))
    wanted = ("step", "steps", "epoch", "epochs", "loss", "images_per_second")
    left = newest.get("seconds_left")
    return {**{key: newest.get(key) for key in wanted}, "left": left, "losses": losses}


def last_line(path: Path) -> str:
    """The last line of a file with something in it."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 2000))
            lines = file.read().decode(errors="replace").split("\n")
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def begin(words: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    """Begin a command of everseg, whose words go to the end of a file."""
    environment = os.environ | {"EVERSEG_PROGRESS_SECONDS": "1", "PYTHONUNBUFFERED": "1", "COLUMNS": "200"}
    with log.open("ab") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "everseg", *words],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            env=environment,
            start_new_session=True,
        )
    with suppress(psutil.Error, OSError):  # Clicks go before.
        psutil.Process(process.pid).nice(10)
    return process


def end(process: subprocess.Popen[bytes] | None) -> None:
    """End a process and those that it began."""
    if process is None or process.poll() is not None:
        return
    with suppress(OSError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGTERM)
        else:
            process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        with suppress(OSError):
            process.kill()


def end_orphan(pid: int, place: Path) -> None:
    """End what a killed server had begun, if it still works."""
    if not pid:
        return
    with suppress(psutil.Error):
        process = psutil.Process(pid)
        if any(str(place) in word for word in process.cmdline()):
            process.kill()
            process.wait(10)
