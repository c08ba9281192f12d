"""What the run says of an image, as `everseg predict` would write it and as the page shows it."""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from everseg.data.tiling import Tiling
from everseg.domains.gate import Caches
from everseg.domains.segment import Segmented
from everseg.errors import UserError
from everseg.files import json_text
from everseg.pictures.drawn import Form
from everseg.pictures.encode import png
from everseg.pictures.overlay import class_map
from everseg.runs.arrays import check_inside
from everseg.runs.outputs import encoded
from everseg.runs.predicting import How, Predicting
from everseg.runs.prompts import Asked, ImagePrompts
from everseg.runs.run import Run
from everseg.serve.gallery import Entry, Gallery
from everseg.serve.limits import Limits, Refused
from everseg.serve.runlengths import counts_of
from everseg.serve.truth import Truth, errors_of
from everseg.types import PLAIN, Prompts, Query
from everseg.types.abilities import PredictsAs


class Answers:
    """A run that answers. Exchange `run` by a new object when the run grows.

    tiling: how images larger than a tile are cut; None: not at all.
    """

    def __init__(self, run: Run, gallery: Gallery, limits: Limits, tiling: Tiling | None = None) -> None:
        self.run, self.gallery, self.limits, self.tiling = run, gallery, limits, tiling
        self.truth = Truth(run)
        self._lock = threading.Lock()
        self._known: dict[tuple[str | None, Form], Predicting] = {}
        self._busy: dict[str, threading.Lock] = {}
        if isinstance(run.learner, Caches):
            run.learner.cache.most_recent = limits.sessions

    @property
    def state(self) -> str:
        """Changes with what the run has learned."""
        run = self.run
        return f"{run.config.method}-{run.record.sha256.state[:12] if run.record.sha256 else 'new'}"

    @property
    def prompted(self) -> bool:
        """Whether an object is pointed at, as in a run of domains."""
        return self.run.problem.name == "domains"

    @property
    def modules(self) -> list[str]:
        """What can be asked for instead of the method's own choice."""
        plain = [PLAIN] if self.run.problem.untouched(self.run) is not None else []
        own = self.run.learned if isinstance(self.run.learner, PredictsAs) else []
        background = {stage.name for stage in self.run.record.learned if stage.background}
        return [*plain, *(name for name in own if name not in background)]

    def _predicting(self, stage: str | None, form: Form) -> Predicting:
        with self._lock:
            if (stage, form) not in self._known:
                if stage is not None and stage not in self.modules:
                    raise Refused(404, f"the run has no module {stage!r}; it has {', '.join(self.modules)}")
                how = How(form, stage=stage, tiling=self.tiling, decoding=self.gallery.decoding)
                self._known[stage, form] = Predicting(self.run, how)
            return self._known[stage, form]

    def opened(self, entry: Entry, asked: Sequence[Asked]) -> tuple[Tensor, list[Prompts], str]:
        """An image, the prompts of the objects on it, and the key by which its features are found again.

        Raises:
            Refused: too many objects.
            UserError: no object, or clicks outside the image.
        """
        image, objects, _ = self._checked(entry, asked)
        about = self._predicting(None, "masks").about(entry.source, None, self.gallery.digest(entry))
        return image, objects, about.key

    def _checked(
        self, entry: Entry, asked: Sequence[Asked]
    ) -> tuple[Tensor, list[Prompts], ImagePrompts | None]:
        if len(asked) > self.limits.objects:
            raise Refused(413, f"{len(asked)} objects; an image has at most {self.limits.objects}")
        if self.prompted and not asked:
            raise UserError("no prompt points at an object; click on one or draw a box around it")
        if not self.prompted and asked:
            raise UserError("a run of classes uses neither clicks nor boxes; send no objects")
        image = self.gallery.pixels(entry)
        prompts = ImagePrompts(tuple(asked)) if asked else None
        objects = [] if prompts is None else prompts.tensors(*image.shape[-2:])
        for one in objects:
            check_inside(one, image, entry.shown)
        return image, objects, prompts

    def _found(
        self, entry: Entry, asked: Sequence[Asked], stage: str | None, form: Form, predict: Any = None
    ) -> tuple[Predicting, Any, Any, Any, ImagePrompts | None]:
        image, objects, prompts = self._checked(entry, asked)
        predicting = self._predicting(stage, form)
        about = predicting.about(entry.source, prompts, self.gallery.digest(entry))
        with self._lock:
            busy = self._busy.setdefault(entry.id, threading.Lock())
            if len(self._busy) > 4096:
                self._busy = {entry.id: busy}
        with busy:  # Several clicks on one image encode it once.
            try:
                found = predicting.segment(image, objects, about.key, predict)
            except MemoryError as error:
                raise Refused(507, f"{entry.shown} does not fit into memory; start with --tile") from error
        return predicting, image, found, about, prompts

    def segment(
        self, entry: Entry, asked: Sequence[Asked], stage: str | None, predict: Any = None
    ) -> dict[str, Any]:
        """Masks of the objects, or the class map: the record of `everseg predict`, and what the page draws.

        predict: what answers instead of the run, as `Learner.predict`.

        Raises:
            UserError: clicks outside the image, no object, or no such module.
        """
        began = time.perf_counter()
        predicting, image, found, about, prompts = self._found(entry, asked, stage, "masks", predict)
        _, record = predicting.draw(entry.source, image, found, prompts, about)
        answer: dict[str, Any] = {"record": record, "stage": stage, "state": self.state}
        if self.prompted:
            masks = [one.region.full() for one in found]
            answer["masks"] = [counts_of(mask) for mask in masks]
            answer |= self._beside_truth(entry, masks)
        else:
            answer["map"] = _url(class_map(found))
            truth = self.truth.of(entry.source.path)
            if truth is not None and truth.shape == found.shape:
                wrong = errors_of(found, truth)
                answer["truth"] = _url(class_map(np.where(truth == 255, 0, truth).astype(np.uint8)))
                answer["errors"] = counts_of(wrong)
                answer["wrong"] = float(wrong.sum() / max(1, (truth != 255).sum()))
        return {**answer, "seconds": time.perf_counter() - began}

    def module(self, entry: Entry) -> str:
        """The name of the module that the method chooses for an image, "" where it chooses none.

        Raises:
            UserError: the image cannot be read.
        """
        height, width = self.gallery.pixels(entry).shape[-2:]
        image, (middle,), key = self.opened(entry, [Asked(((width / 2, height / 2),), (1,))])
        query = Query(image, middle, key, lasting=False)
        route = self.run.learner.predict([query])[0].route
        return "" if route is None else str(route.name)

    def _beside_truth(self, entry: Entry, masks: Sequence[NDArray[np.bool_]]) -> dict[str, Any]:
        """How far the masks are from the truth, where there is one."""
        truth = self.truth.of(entry.source.path)
        if truth is None or not masks or truth.shape != masks[0].shape:
            return {}
        ious = []
        for mask in masks:
            inside = np.bincount(truth[mask & (truth != 255)], minlength=256)
            inside[[0, 255]] = 0
            number = int(inside.argmax())
            true = truth == number if inside[number] else np.zeros_like(mask)
            union = int((mask | true).sum())
            ious.append(float((mask & true).sum() / union) if union else 0.0)
        return {"truth_masks": counts_of((truth > 0) & (truth != 255)), "iou": ious}

    def objects(self, entry: Entry, asked: Sequence[Asked]) -> list[Segmented]:
        """The objects themselves, by the method's own choice of a module.

        Raises:
            UserError: as `segment`.
        """
        return list(self._found(entry, asked, None, "masks")[2])

    def files(self, entry: Entry, asked: Sequence[Asked], stage: str | None, form: Form) -> dict[str, bytes]:
        """What `everseg predict` writes for one image, byte for byte, by file name. COCO results are in the
        record.

        Raises:
            UserError: as `segment`.
        """
        predicting, image, found, about, prompts = self._found(entry, asked, stage, form)
        drawn, record = predicting.draw(entry.source, image, found, prompts, about)
        pictures = {name: encoded(draw(), name, about.like) for name, draw in drawn.pictures.items()}
        stem = predicting_stem(entry)
        return {**pictures, f"{stem}.json": json_text(record).encode(errors="printable")}


def predicting_stem(entry: Entry) -> str:
    """What the files of an image's results are called."""
    return entry.source.name.rpartition("/")[2]


def limited(asked: Sequence[Asked], limits: Limits) -> list[Asked]:
    """The prompts, with the clicks of each object as tuples.

    Raises:
        Refused: too many clicks.
        UserError: an object with neither a click on it nor a box, or an empty box.
    """
    for number, one in enumerate(asked, 1):
        if len(one.points) > limits.clicks:
            raise Refused(413, f"object {number} has {len(one.points)} clicks, more than {limits.clicks}")
        if one.box is None and not any(one.labels):
            raise UserError(f"object {number} has no click on it and no box; click on it")
        if one.box is not None and not (one.box[0] < one.box[2] and one.box[1] < one.box[3]):
            raise UserError(f"the box of object {number} is empty; draw it from corner to corner")
    return [replace(one, name="", category=1) for one in asked]


def _url(picture: Image.Image) -> str:
    return "data:image/png;base64," + base64.b64encode(png(picture)).decode()
