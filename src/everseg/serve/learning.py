"""Learn a labelled domain in a process of its own, let the gate judge it, and wait for somebody to decide.

    jobs/003-crystals/job.json   what it is and how far; read again when the server starts
    jobs/003-crystals/run/       a copy of the run, which `everseg learn` continues with
    jobs/003-crystals/log.txt    what the commands said
    jobs/003-crystals/gate.json, gate.html, pictures/

The run itself is what it was until the job is accepted. One job at a time learns or waits for a decision,
since each begins with the run as it is; further ones are queued. After a kill, what was learning resumes,
and what was being accepted is accepted.
"""

from __future__ import annotations

import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from everseg.errors import UserError
from everseg.files import read_json, write_json
from everseg.runs.candidate import accept_candidate, begin_candidate
from everseg.runs.continued import learn_command
from everseg.runs.data import own_stream
from everseg.runs.folder import LOG, is_run, load
from everseg.runs.run import Run
from everseg.serve.changes import draw_changes
from everseg.serve.jobs import KEPT, OPEN, Job, State, begin, end, end_orphan, last_line, progress_of
from everseg.serve.labels import Labels
from everseg.serve.limits import Refused, on_page
from everseg.serve.streams import check_learns, free_stage, freeze, may_go_on_with, write_stream
from everseg.serve.turns import Turns


class Learning:
    """The jobs of one server.

    run: gives the run as it is on the disk. grown: called with the run after a job was accepted. base: path
    of the base model, where it has moved.
    """

    def __init__(
        self, labels: Labels, turns: Turns, run: Callable[[], Run], grown: Callable[[Run], None], base: str
    ) -> None:
        self.labels, self.turns, self.run, self.grown, self.base = labels, turns, run, grown, base
        self.folder = labels.folder / "jobs"
        self._lock = threading.RLock()
        self._wake = threading.Condition(self._lock)
        self._jobs: dict[str, Job] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped: set[str] = set()
        self._closed = False
        for path in sorted(self.folder.glob("*/job.json")):
            self._jobs[path.parent.name] = self._found(path)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    # ------------------------------------------------------------ asked by the page

    def jobs(self) -> list[dict[str, Any]]:
        """All jobs, the newest first, with positions in the queue and with progress."""
        with self._lock:
            jobs = list(self._jobs.values())
        undecided = [job.id for job in jobs if job.state in OPEN]
        return [self._told(job, undecided) for job in reversed(jobs)]

    def job(self, name: str) -> dict[str, Any]:
        """One job, with what the gate found.

        Raises:
            Refused: there is none.
        """
        job = self._job(name)
        told = next(one for one in self.jobs() if one["id"] == name)
        gate = self.folder / job.id / "gate.json"
        if job.state in ("ready", "accepting") and gate.is_file():
            found = read_json(gate)
            told["gate"] = {k: found[k] for k in ("verdict", "comparisons", "left_out", "settings")}
        return told

    def start(self, domain: str, later_of: str = "") -> dict[str, Any]:
        """Queue a domain, as it is labelled now.

        later_of: the domain of the run to continue with; "" for a domain of its own.

        Raises:
            Refused: the run learns nothing more, the domain has too few images, it is learned already, or
                the run cannot continue with `later_of`.
        """
        run = self.run()
        check_learns(run)
        if later_of and later_of not in (known := may_go_on_with(run)):
            raise Refused(
                409,
                f"the run cannot continue with {later_of!r}; choose one of {', '.join(known) or 'no domain'}",
            )
        with self._lock:
            if any(job.domain == domain and job.state in OPEN for job in self._jobs.values()):
                raise Refused(409, f"{domain} is being learned; accept it or throw it away first")
            stage = free_stage(run, domain)
            for job in [j for j in self._jobs.values() if j.stage == stage and j.state == "failed"]:
                self._drop(job, "discarded")
            freeze(self.labels, domain, stage)
            split = [label.split for label in self.labels.domains[domain] if label.objects]
            number = 1 + max([int(name[:3]) for name in self._jobs if name[:3].isdecimal()], default=0)
            job = Job(
                f"{number:03d}-{stage}",
                domain,
                stage,
                later_of=later_of,
                images=(split.count("train"), split.count("test")),
            )
            self._save(job)
            self._wake.notify_all()
        return self.job(job.id)

    def cancel(self, name: str) -> dict[str, Any]:
        """Stop a job that learns or waits; nothing of it is kept but the labels.

        Raises:
            Refused: it is no longer one that can be stopped.
        """
        with self._lock:
            job = self._job(name)
            if job.state not in ("queued", "learning", "checking"):
                raise Refused(409, f"{job.stage} is {job.state}; only jobs that wait or run can be cancelled")
            self._stopped.add(name)
            if job.state == "queued":
                self._drop(job, "cancelled")
            else:
                end(self._process)
        return self.job(name)

    def discard(self, name: str) -> dict[str, Any]:
        """Throw away what was learned; the run stays what it was, and so do the labels.

        Raises:
            Refused: there is nothing to decide.
        """
        with self._lock:
            job = self._job(name)
            if job.state not in ("ready", "failed"):
                raise Refused(409, f"{job.stage} is {job.state}; there is nothing to throw away")
            self._drop(job, "discarded")
            self._wake.notify_all()
        return self.job(name)

    def accept(self, name: str, *, anyway: bool = False) -> dict[str, Any]:
        """Make the run what was learned.

        anyway: although the gate found something worse.

        Raises:
            Refused: there is nothing to decide, or something is worse and nobody said "anyway".
            UserError: the run has changed since.
        """
        with self._lock:
            job = self._job(name)
            if job.state != "ready":
                raise Refused(409, f"{job.stage} is {job.state}; there is nothing to accept")
            if job.verdict == "fail" and not anyway:
                raise Refused(409, f"{job.stage} makes the run worse; confirm to accept it all the same")
            self._save(replace(job, state="accepting"))
            try:
                self._accept(job)
            except UserError:
                self._jobs[name] = job
                with suppress(UserError):
                    self._save(job)
                raise
        return self.job(name)

    def picture(self, name: str, file: str) -> Path:
        """A picture or the gate's page of a job.

        Raises:
            Refused: there is none.
        """
        job = self._job(name)
        allowed = {"gate.html": self.folder / job.id / "gate.html"}
        for change in job.changes:
            allowed |= {one: self.folder / job.id / "pictures" / one for one in change.pictures.values()}
        if file not in allowed or not allowed[file].is_file():
            raise Refused(404, f"{job.stage} has no file {file[:60]!r}; reload the page")
        return allowed[file]

    def close(self) -> None:
        """Stop working. What learns now resumes when the server starts again."""
        with self._lock:
            self._closed = True
            end(self._process)
            self._wake.notify_all()
        self._thread.join()

    # ------------------------------------------------------------ work

    def _serve(self) -> None:
        with self._lock:
            for job in [one for one in self._jobs.values() if one.state == "accepting"]:
                try:
                    self._accept(job)
                except UserError:  # Somebody decides again, and hears why.
                    self._jobs[job.id] = replace(job, state="ready")
        while True:
            with self._wake:
                while not self._closed and self._next() is None:
                    self._wake.wait()
                if self._closed:
                    return
                following = self._next()
                assert following is not None
                end_orphan(following.pid, self.folder / following.id)
            try:
                job = self._save(replace(following, state="learning", error=""))
                with self.turns.taken():
                    self._learn(job)
            except (UserError, OSError) as error:
                self._failed(following, str(error))
            except Exception as error:  # So that the next job has its turn.
                self._failed(following, f"{type(error).__name__}: {error}")

    def _next(self) -> Job | None:
        """The job that is to be worked on now: none while another one waits for a decision."""
        for job in self._jobs.values():
            if job.state in ("queued", "learning", "checking"):
                return job
            if job.state in ("ready", "accepting"):
                return None
        return None

    def _failed(self, job: Job, sentence: str) -> None:
        with self._lock:
            if self._closed:
                return
            if job.id in self._stopped:
                self._drop(self._jobs[job.id], "cancelled")
                return
            failed = replace(self._jobs[job.id], state="failed", error=on_page(sentence), pid=0)
            self._jobs[job.id] = failed  # Also where the disk is full.
            with suppress(UserError):
                self._save(failed)

    def _learn(self, job: Job) -> None:
        place, run = self.folder / job.id, self.run()
        candidate = place / "run"
        stream = write_stream(run, self.labels.folder, job.stage, job.later_of)
        if not is_run(candidate):
            shutil.rmtree(candidate, ignore_errors=True)
            job = self._save(replace(job, before=begin_candidate(run.folder, candidate)))
        began = time.monotonic() - job.seconds
        # The gate judges the candidate below, and a person decides.
        self._command(job, [*learn_command(run, stream, candidate, self.base), "--no-gate"], (0,))
        job = self._save(replace(self._jobs[job.id], state="checking", seconds=time.monotonic() - began))
        # How both listen to prompts takes most of the time and does not change the verdict.
        words = ["gate", str(candidate), "--against", str(run.folder), "--checked", "0"]
        words += ["--json", str(place / "gate.json"), "--html", str(place / "gate.html")]
        self._command(job, words + (["--base", self.base] if self.base else []), (0, 1, 3))
        gate, new = read_json(place / "gate.json"), load(candidate, run.base)
        old = load(run.folder, run.base)
        streams = [own_stream(one) for one in (new, old) if one.record.stream]
        changes = draw_changes(old, new, streams, gate, place / "pictures")
        with self._lock:
            if job.id in self._stopped:
                raise UserError("learning was cancelled")
            took = time.monotonic() - began
            ready = replace(self._jobs[job.id], state="ready", verdict=gate["verdict"], pid=0, seconds=took)
            self._save(replace(ready, changes=tuple(changes)))

    def _command(self, job: Job, words: list[str], fine: tuple[int, ...]) -> None:
        """Run a command of everseg until it ends.

        Raises:
            UserError: it failed, or was stopped.
        """
        log = self.folder / job.id / "log.txt"
        with self._lock:
            if self._closed or job.id in self._stopped:
                raise UserError("learning was stopped")
            process = self._process = begin(words, log)
            self._save(replace(self._jobs[job.id], pid=process.pid))
        code = process.wait()
        with self._lock:
            self._process = None
        if code not in fine:
            said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["it ended"]
            raise UserError(f"everseg {words[0]}: {said[-1].removeprefix('error: ')}")

    def _accept(self, job: Job) -> None:
        place, run = self.folder / job.id, self.run()
        accept_candidate(run.folder, place / "run", job.before, place / "gate.json")
        self.grown(load(run.folder, run.base))
        self._decided(replace(job, state="accepted"))

    def _drop(self, job: Job, state: State) -> None:
        """Delete what was learned, and the copy of the data that it was learned from, also where the disk is
        full."""
        self._stopped.discard(job.id)
        self._decided(replace(job, state=state, pid=0))
        shutil.rmtree(self.labels.folder / "stages" / job.stage, ignore_errors=True)
        (self.labels.folder / "streams" / f"{job.stage}.yaml").unlink(missing_ok=True)

    def _decided(self, job: Job) -> None:
        """Keep a job that is decided, and delete the copy of the run, which makes room on a full disk."""
        self._jobs[job.id] = job
        with suppress(UserError):
            self._save(job)
        shutil.rmtree(self.folder / job.id / "run", ignore_errors=True)
        with suppress(UserError):
            self._save(job)
        self._wake.notify_all()
        decided = [job for job in self._jobs.values() if job.state not in (*OPEN, "failed")]
        for job in decided[:-KEPT]:
            shutil.rmtree(self.folder / job.id, ignore_errors=True)
            del self._jobs[job.id]

    # ------------------------------------------------------------ records

    def _job(self, name: str) -> Job:
        with self._lock:
            if name not in self._jobs:
                raise Refused(404, f"there is no job {name[:60]!r}; reload the page")
            return self._jobs[name]

    def _save(self, job: Job) -> Job:
        """Keep a job as it is now.

        Raises:
            UserError: it cannot be written, and is what it was.
        """
        with self._lock:
            write_json(self.folder / job.id / "job.json", TypeAdapter(Job).dump_python(job, mode="json"))
            self._jobs[job.id] = job
            return job

    def _found(self, path: Path) -> Job:
        try:
            return TypeAdapter(Job).validate_python(read_json(path))
        except ValidationError as error:
            raise UserError(
                f"{path} is damaged; delete its folder (the labels are stored elsewhere)"
            ) from error

    def _told(self, job: Job, undecided: list[str]) -> dict[str, Any]:
        told: dict[str, Any] = TypeAdapter(Job).dump_python(job, mode="json")
        for name in ("pid", "before"):
            del told[name]
        told["position"] = undecided.index(job.id) if job.state == "queued" else 0
        if job.state in ("learning", "checking", "failed"):
            told["progress"] = progress_of(self.folder / job.id / "run" / LOG, job.stage)
            told["says"] = last_line(self.folder / job.id / "log.txt")
        return told
