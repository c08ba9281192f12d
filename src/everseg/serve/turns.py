"""Jobs in turn: so many at a time, the others wait with a position."""

from __future__ import annotations

import asyncio
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from everseg.serve.limits import Refused

T = TypeVar("T")


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass
class _Ticket:
    owner: str
    work: Callable[[], Any]
    done: Future[Any] = field(default_factory=Future)


class Turns:
    """Threads that do jobs, first come first served.

    jobs: how many at a time; each computes with its share of the cores. most: how many may wait.
    """

    def __init__(self, jobs: int, most: int) -> None:
        self.jobs, self.most = jobs, most
        self._taken = 0
        self._running = 0
        self._waiting: deque[_Ticket] = deque()
        self._change = threading.Condition()
        self._closed = False
        self._threads = [threading.Thread(target=self._serve, daemon=True) for _ in range(jobs)]
        for thread in self._threads:
            thread.start()

    async def run(self, owner: str, work: Callable[[], T]) -> T:
        """Do a job when its turn comes.

        owner: who asks, for `position`.

        Raises:
            Refused: too many wait.
        """
        ticket = _Ticket(owner, work)
        with self._change:
            if self._closed or len(self._waiting) >= self.most:
                raise Refused(503, f"{len(self._waiting)} requests are waiting; try again in a moment")
            self._waiting.append(ticket)
            self._change.notify()
        try:
            return await asyncio.wrap_future(ticket.done)
        except asyncio.CancelledError:  # The page that asked has gone.
            ticket.done.cancel()
            raise

    def position(self, owner: str) -> int:
        """How many jobs are before this owner's first one that waits; 0 where none waits."""
        with self._change:
            places = [n for n, ticket in enumerate(self._waiting, 1) if ticket.owner == owner]
        return places[0] if places else 0

    @property
    def state(self) -> dict[str, int]:
        """How many jobs run and wait."""
        with self._change:
            return {"slots": self._slots, "running": self._running, "waiting": len(self._waiting)}

    @property
    def _slots(self) -> int:
        return max(1, self.jobs - self._taken)

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Leave one of the cores to another process for the length of the block."""
        with self._change:
            self._taken += 1
        try:
            yield
        finally:
            with self._change:
                self._taken -= 1
                self._change.notify_all()

    def close(self) -> None:
        """End the threads after the jobs that run; those that wait are refused."""
        with self._change:
            self._closed = True
            while self._waiting:
                self._waiting.popleft().done.cancel()
            self._change.notify_all()
        for thread in self._threads:
            thread.join()

    def _serve(self) -> None:
        import torch

        # Threads of several jobs on one core would wait for each other for longer than they compute.
        torch.set_num_threads(max(1, cores() // self.jobs))
        while True:
            with self._change:
                while not self._closed and not (self._waiting and self._running < self._slots):
                    self._change.wait()
                if self._closed:
                    return
                ticket = self._waiting.popleft()
                if not ticket.done.set_running_or_notify_cancel():
                    continue
                self._running += 1
            try:
                ticket.done.set_result(ticket.work())
            except BaseException as error:
                ticket.done.set_exception(error)
            finally:
                with self._change:
                    self._running -= 1
                    self._change.notify_all()
