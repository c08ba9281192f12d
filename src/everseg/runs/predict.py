"""Predict on image files: read ahead, predict one by one, write behind.

Threads decode the next images and write the last ones while this one predicts. Only a few images are in
memory, however many there are. Images never share a pass through the model, so that a result does not depend
on what else is predicted, in how many processes, or where an earlier command stopped.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from everseg.data.imagefiles import decoded
from everseg.errors import UserError
from everseg.files import sha256_file
from everseg.runs.arrays import check_inside
from everseg.runs.inputs import Source
from everseg.runs.outputs import CannotWrite, OutputFolder
from everseg.runs.predicting import About, How, Predicting
from everseg.runs.prompts import ImagePrompts
from everseg.runs.run import Run
from everseg.types import Prompts


@dataclass(frozen=True)
class Outcome:
    """Outcome of the prediction of one image.

    record: content of its JSON file; None if the image failed.
    files: pictures that were written.
    error: why it failed, as a sentence; "" if it did not.
    skipped: whether an earlier command had finished it.
    """

    source: Source
    record: dict[str, Any] | None
    files: tuple[Path, ...] = ()
    error: str = ""
    skipped: bool = False


@dataclass(frozen=True)
class _Loaded:
    source: Source
    image: Tensor
    objects: tuple[Prompts, ...]
    prompts: ImagePrompts | None
    about: About


def predict_files(
    run: Run,
    sources: Sequence[Source],
    prompts: Sequence[ImagePrompts | None],
    out: Path,
    how: How | None = None,
) -> Iterator[Outcome]:
    """Predict images and write pictures and a JSON record of each into `out`; the outcomes, in order.

    Images that an earlier command finished with the same run, prompts and options are skipped. Files of an
    earlier prediction are replaced; other files of their names are not, and the image fails.

    Raises:
        UserError: there is no such stage, or nothing can be written any more; what is finished stays.
    """
    how = how or How()
    job = _Job(run, out, how)
    most = how.workers + 1
    reading: deque[Future[_Loaded | Outcome]] = deque()
    writing: deque[Future[Outcome]] = deque()
    waiting = iter(zip(sources, prompts, strict=True))
    with _threads(how.workers) as submit:
        while True:
            while len(reading) < most and (following := next(waiting, None)) is not None:
                reading.append(submit(job.load, *following))
            if not reading:
                break
            loaded = reading.popleft().result()
            writing.append(submit(job.finish, loaded, job.segment(loaded)))
            del loaded
            while len(writing) > most:
                yield writing.popleft().result()
        while writing:
            yield writing.popleft().result()


Submit = Callable[..., "Future[Any]"]


@contextmanager
def _threads(count: int) -> Iterator[Submit]:
    """Work in threads. However it ends, what has begun is finished and what has not is left."""
    if count == 0:
        yield _at_once
        return
    pool = ThreadPoolExecutor(count)
    try:
        yield pool.submit
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _at_once(work: Callable[..., Any], *arguments: Any) -> Future[Any]:
    done: Future[Any] = Future()
    done.set_result(work(*arguments))
    return done


class _Job:
    """What the images of one command have in common."""

    def __init__(self, run: Run, out: Path, how: How) -> None:
        self.how, self.predicting = how, Predicting(run, how)
        self.folder = OutputFolder(out, run.problem.outputs)

    def load(self, source: Source, prompts: ImagePrompts | None) -> _Loaded | Outcome:
        """Decode an image, unless it is finished or cannot be predicted. Runs in a thread."""
        try:
            about = self.predicting.about(source, prompts, _digest_of(source))
            record = self.folder.finished(source.name, about.inputs, overlay=self.how.overlay)
            if record is not None:
                return Outcome(source, record, skipped=True)
            self.folder.check_free(source.name)
            image = decoded(source.path, self.how.decoding, source.frame, self.how.axis)
            objects = () if prompts is None else tuple(prompts.tensors(*image.shape[-2:]))
            for one in objects:
                check_inside(one, image, source.place)
        except UserError as error:
            return Outcome(source, None, error=str(error))
        except MemoryError:
            return Outcome(source, None, error=_no_room(source))
        return _Loaded(source, image, objects, prompts, about)

    def segment(self, loaded: _Loaded | Outcome) -> Any:
        """What the model finds in an image, or why it does not."""
        if isinstance(loaded, Outcome):
            return None
        try:
            return self.predicting.segment(loaded.image, loaded.objects, loaded.about.key)
        except MemoryError:
            return _no_room(loaded.source)

    def finish(self, loaded: _Loaded | Outcome, found: Any) -> Outcome:
        """Draw and write. Runs in a thread."""
        if isinstance(loaded, Outcome):
            return loaded
        source = loaded.source
        if isinstance(found, str):
            return Outcome(source, None, error=found)
        try:
            drawn, record = self.predicting.draw(source, loaded.image, found, loaded.prompts, loaded.about)
            files = self.folder.write(source.name, drawn, record, loaded.about.like)
        except CannotWrite:
            raise
        except UserError as error:
            return Outcome(source, None, error=str(error))
        except MemoryError:
            return Outcome(source, None, error=_no_room(source))
        return Outcome(source, dict(record), files)


def _digest_of(source: Source) -> str:
    path = source.path
    try:
        if source.frame is not None:
            return _digest_of_all(path, path.stat().st_mtime_ns)
        return sha256_file(path)
    except OSError as error:
        raise UserError(
            f"cannot read {path}: {error.strerror}; check the path and its permissions"
        ) from error


@functools.lru_cache(maxsize=4)
def _digest_of_all(path: Path, changed: int) -> str:
    """Once for all frames of a file, which follow each other."""
    return sha256_file(path)


def _no_room(source: Source) -> str:
    return f"{source.place} does not fit into memory; give --tile, or a smaller --tile"
