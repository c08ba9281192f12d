"""The pages that are open: how many there may be, and which ask no more."""

from __future__ import annotations

import secrets
import threading
import time

from everseg.serve.limits import Limits, Refused


class Sessions:
    """Ids of open pages."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._seen: dict[str, float] = {}
        self._lock = threading.Lock()

    def open(self) -> str:
        """A new session.

        Raises:
            Refused: too many are open.
        """
        now = time.monotonic()
        with self._lock:
            self._seen = {name: at for name, at in self._seen.items() if now - at < self.limits.idle}
            if len(self._seen) >= self.limits.sessions:
                raise Refused(503, f"{len(self._seen)} pages are open already; close one and reload")
            name = secrets.token_urlsafe(12)
            self._seen[name] = now
            return name

    def touch(self, name: str) -> None:
        """Note that a session is in use.

        Raises:
            Refused: there is no such session.
        """
        with self._lock:
            if name not in self._seen:
                raise Refused(410, "this page was idle for too long or the server was restarted; reload it")
            self._seen[name] = time.monotonic()

    def close(self, name: str) -> None:
        """End a session, if it is open."""
        with self._lock:
            self._seen.pop(name, None)

    def __contains__(self, name: str) -> bool:
        return name in self._seen

    def __len__(self) -> int:
        return len(self._seen)
