"""Predict on image files: read ahead, predict one by one, write behind.

Threads decode the next images and write the last ones while this one predicts. Only a few images are in
memory, however many there are. Images never share a pass through the model, so that a result does not depend
on what else is predicted, in how many processes, or where an earlier command stopped.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from everseg.data.images import DECODING, read_image
from everseg.data.tiling import Tiling
from everseg.errors import UserError
from everseg.files import sha256_file
from everseg.models.precision import resolved
from everseg.pictures.drawn import Form, Wanted
from everseg.runs.arrays import check_inside
from everseg.runs.inputs import Source
from everseg.runs.outputs import CannotWrite, OutputFolder
from everseg.runs.prompts import ImagePrompts
from everseg.runs.run import Run
from everseg.types import Prompts

RULES = "predict-1"
"""Names what is written for a prediction. A change to it must change this, so that files are written anew."""


@dataclass(frozen=True)
class How:
    """How images are predicted and what is written.

    stage: use this stage's module instead of letting the method choose; "plain" is the untouched base.
    workers: threads that decode and encode; 0: none.
    """

    form: Form = "masks"
    overlay: bool = True
    stage: str | None = None
    tiling: Tiling | None = None
    workers: int = 2


@dataclass(frozen=True)
class Outcome:
    """What became of one image.

    record: the content of its JSON file; None where it failed.
    files: the pictures.
    error: why it failed, in a sentence; "" where it did not.
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
    wanted: Wanted
    inputs: str
    content: str


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
        self.run, self.how, self.problem = run, how, run.problem
        self.predict = run.predictor(how.stage)
        self.folder = OutputFolder(out, self.problem.outputs)
        state = "" if run.record.sha256 is None else run.record.sha256.state
        precision = resolved(run.config.precision, run.base.device)
        self.made_of = [
            RULES,
            DECODING,
            run.config.method,
            run.base.fingerprint,
            state,
            precision,
            run.classes,
            how.stage,
            how.form,
            how.overlay,
            how.tiling and asdict(how.tiling),
        ]

    def load(self, source: Source, prompts: ImagePrompts | None) -> _Loaded | Outcome:
        """Decode an image, unless it is finished or cannot be predicted. Runs in a thread."""
        try:
            content = _digest_of(source.path)
            asked = () if prompts is None else prompts.objects
            about = [content, [asdict(one) for one in asked], 0 if prompts is None else prompts.frame]
            inputs = hashlib.sha256(json.dumps([*self.made_of, about]).encode()).hexdigest()
            record = self.folder.finished(source.name, inputs, overlay=self.how.overlay)
            if record is not None:
                return Outcome(source, record, skipped=True)
            self.folder.check_free(source.name)
            image = read_image(source.path)
            objects = () if prompts is None else tuple(prompts.tensors(*image.shape[-2:]))
            for one in objects:
                check_inside(one, image, str(source.path))
        except UserError as error:
            return Outcome(source, None, error=str(error))
        except MemoryError:
            return Outcome(source, None, error=_no_room(source))
        wanted = Wanted(
            Path(source.name).name,
            self.how.form,
            self.how.overlay,
            self.run.classes,
            tuple(one.name for one in asked),
            tuple(one.category for one in asked),
        )
        return _Loaded(source, image, objects, wanted, inputs, content)

    def segment(self, loaded: _Loaded | Outcome) -> Any:
        """What the model finds in an image, or why it does not."""
        if isinstance(loaded, Outcome):
            return None
        key = f"{loaded.content}:{DECODING}"
        try:
            return self.problem.segment(
                self.run, self.predict, loaded.image, loaded.objects, self.how.tiling, key
            )
        except (MemoryError, RuntimeError) as error:
            if not isinstance(error, MemoryError | torch.OutOfMemoryError) and "alloc" not in str(error):
                raise
            return _no_room(loaded.source)

    def finish(self, loaded: _Loaded | Outcome, found: Any) -> Outcome:
        """Draw and write. Runs in a thread."""
        if isinstance(loaded, Outcome):
            return loaded
        source = loaded.source
        if isinstance(found, str):
            return Outcome(source, None, error=found)
        try:
            drawn = self.problem.draw(loaded.image, found, loaded.wanted)
            record = {"image": str(source.path), **drawn.record, "inputs": loaded.inputs}
            files = self.folder.write(source.name, drawn, record)
        except CannotWrite:
            raise
        except UserError as error:
            return Outcome(source, None, error=str(error))
        except MemoryError:
            return Outcome(source, None, error=_no_room(source))
        return Outcome(source, record, files)


def _digest_of(path: Path) -> str:
    try:
        return sha256_file(path)
    except OSError as error:
        raise UserError(
            f"cannot read {path}: {error.strerror}; check the path and its permissions"
        ) from error


def _no_room(source: Source) -> str:
    return f"{source.path} does not fit into memory; give --tile, or a smaller --tile"
