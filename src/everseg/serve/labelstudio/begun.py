"""Jobs that Label Studio began: nobody there can decide, so what makes the run no worse is accepted."""

from __future__ import annotations

import threading

from everseg.errors import UserError
from everseg.serve.jobs import OPEN
from everseg.serve.labelstudio.tasks import Memory
from everseg.serve.learning import Learning

EVERY = 0.5
"""Seconds between looks at the jobs."""


class Begun:
    """The jobs that Label Studio began, and a thread that accepts them.

    A job of which the gate says that it makes the run worse waits for somebody to decide on the page.
    """

    def __init__(self, learning: Learning, memory: Memory) -> None:
        self.learning, self.memory = learning, memory
        self._lock = threading.Lock()
        self._waits = False
        if self.jobs():
            self._wait()

    def jobs(self) -> list[str]:
        """Those that the server still lists, in order."""
        listed = {job["id"] for job in self.learning.jobs()}
        return [name for name in self.memory.jobs if name in listed]

    def start(self, domain: str) -> str:
        """Begin to learn a domain; returns the job.

        Raises:
            Refused: it has too few images, or is being learned.
        """
        name = str(self.learning.start(domain)["id"])
        self.memory.keep_job(name)
        self._wait()
        return name

    def _wait(self) -> None:
        with self._lock:
            if not self._waits:
                self._waits = True
                threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        """Accept what is ready and not worse, until no job is open."""
        pause, refused = threading.Event(), set[str]()
        while True:
            own = set(self.memory.jobs) - refused
            jobs = [job for job in self.learning.jobs() if job["id"] in own and job["state"] in OPEN]
            with self._lock:
                if not jobs:
                    self._waits = False
                    return
            for job in jobs:
                if job["state"] == "ready" and job["verdict"] != "fail":
                    try:
                        self.learning.accept(job["id"])
                    except UserError:  # Somebody decided meanwhile, or will on the page, which says why.
                        refused.add(job["id"])
            pause.wait(EVERY)
