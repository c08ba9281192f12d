"""Live sessions of open pages: each teaches an adapter of its own, and none of them changes the run."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any

import torch

from everseg.domains.live import Chooses, LiveSession
from everseg.runs.prompts import Asked
from everseg.runs.run import Run
from everseg.serve.answers import Answers
from everseg.serve.gallery import Entry
from everseg.serve.limits import Refused
from everseg.serve.runlengths import Counts, mask_of
from everseg.serve.sessions import Sessions
from everseg.text import plural
from everseg.types import Query

LIVE = 8
"""Pages that teach at a time."""
NOTHING = {"start": None, "corrections": 0, "objects": 0}
"""What a page has taught that has taught nothing."""


class Taught:
    """One page's live session. A page teaches and asks in turns."""

    def __init__(self, run: Run) -> None:
        self.session = LiveSession(run.learner, seed=run.config.seed)
        self.lock = threading.Lock()

    def state(self) -> dict[str, Any]:
        """What it began with, and what it was taught."""
        found = self.session
        return {"start": found.start, "corrections": found.corrections, "objects": found.objects}


class Live:
    """The live sessions of a server. allowed: whether it was started with them."""

    def __init__(self, sessions: Sessions, allowed: bool) -> None:
        self.sessions, self.allowed = sessions, allowed
        self._lock = threading.Lock()
        self._taught: dict[str, tuple[Answers, Taught]] = {}

    def available(self, answers: Answers) -> bool:
        """Whether pages may teach, and the run's method is one that can be taught."""
        return self.allowed and isinstance(answers.run.learner, Chooses)

    def of(self, session: str, answers: Answers) -> Taught | None:
        """The live session of a page; None before its first correction, and again when the run has changed.

        Raises:
            Refused: the server has none, or the page was idle for too long.
        """
        self.sessions.touch(session)
        if not self.allowed:
            raise Refused(409, "this server has no live sessions; start it with --live")
        with self._lock:
            self._taught = {
                name: one
                for name, one in self._taught.items()
                if name in self.sessions and (name != session or one[0] is answers)
            }
            return self._taught[session][1] if session in self._taught else None

    def _begun(self, session: str, answers: Answers) -> Taught:
        """As `of`, but begins one where there is none.

        Raises:
            Refused: as `of`, or too many pages teach.
            UserError: the method cannot be taught.
        """
        known = self.of(session, answers)
        if known is not None:
            return known
        with self._lock:
            if session not in self._taught:
                if len(self._taught) >= LIVE:
                    raise Refused(
                        503,
                        f"the limit of {plural(LIVE, 'live session')} is reached; "
                        'press "Start over" on another page, or close it',
                    )
                self._taught[session] = answers, Taught(answers.run)
            return self._taught[session][1]

    def state(self, session: str, answers: Answers) -> dict[str, Any]:
        """What a page's live session began with, and what it was taught."""
        taught = self.of(session, answers)
        return dict(NOTHING) if taught is None else taught.state()

    def end(self, session: str) -> None:
        """Throw away what a page taught."""
        with self._lock:
            self._taught.pop(session, None)

    def undo(self, session: str, answers: Answers) -> dict[str, Any]:
        """Take a page's last correction back."""
        taught = self.of(session, answers)
        if taught is None:
            return {"undone": False, **NOTHING}
        with taught.lock:
            undone = taught.session.undo()
            return {"undone": undone, **taught.state()}

    def segment(self, session: str, answers: Answers, entry: Entry, asked: Sequence[Asked]) -> dict[str, Any]:
        """As `Answers.segment`, with what the page has taught."""
        taught = self.of(session, answers)
        if taught is None:
            return {**answers.segment(entry, asked, None), "live": dict(NOTHING)}
        with taught.lock:
            found = answers.segment(entry, asked, None, taught.session.predict)
            return {**found, "live": taught.state()}

    def correct(
        self,
        session: str,
        answers: Answers,
        entry: Entry,
        asked: Sequence[Asked],
        masks: Sequence[Counts | None],
    ) -> dict[str, Any]:
        """Learn from clicks that correct, or from accepted masks.

        masks: of each object; None where it is not accepted yet.

        Raises:
            Refused: as `_begun`, or the image is cut into tiles.
            UserError: a click outside the image, or a mask that does not fit it.
        """
        began = time.perf_counter()
        self.of(session, answers)
        image, objects, key = answers.opened(entry, asked)
        height, width = int(image.shape[-2]), int(image.shape[-1])
        if answers.tiling is not None and max(height, width) > answers.tiling.tile:
            raise Refused(409, f"{entry.shown} is cut into tiles, and a live session cannot learn from tiles")
        pixels = [None if one is None else torch.from_numpy(mask_of(one, height, width)) for one in masks]
        taught = self._begun(session, answers)
        with taught.lock:
            for prompts, mask in zip(objects, pixels, strict=True):
                taught.session.correct(Query(image, prompts, key, lasting=False), mask)
            return {**taught.state(), "seconds": time.perf_counter() - began}
