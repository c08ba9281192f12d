"""All that a server has open: the run, the images, the labels and the jobs."""

from __future__ import annotations

import threading
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from everseg.data.decoding import PLAIN as PLAIN_DECODING
from everseg.data.decoding import Decoding
from everseg.data.synthetic.scenes import SCENES
from everseg.data.tiling import Tiling
from everseg.errors import UserError
from everseg.files import locked
from everseg.pictures.palette import BOX, LINES, MASK, OFF, ON, TRUTH, class_colour
from everseg.runs.fetched import located
from everseg.runs.folder import load, read_record
from everseg.runs.record import RECORD
from everseg.runs.run import Run
from everseg.serve.answers import Answers
from everseg.serve.gallery import Entry, Gallery
from everseg.serve.labels import Accepted, Labels
from everseg.serve.learning import Learning
from everseg.serve.limits import Limits, Refused
from everseg.serve.live import Live
from everseg.serve.runlengths import counts_of, mask_of
from everseg.serve.schema import AcceptRequest
from everseg.serve.sessions import Sessions
from everseg.serve.streams import may_go_on_with
from everseg.serve.turns import Turns, cores


@dataclass(frozen=True)
class ServeConfig:
    """What is served, and to whom.

    images: a folder of images or one image.
    labels: where labels, jobs and uploads are kept.
    base: path of the base model, if it has moved.
    host, names, token: see `guard.Guard`.
    jobs: at a time; 0: one per core.
    live: whether pages may teach.
    """

    run: Path
    images: Path | None = None
    labels: Path | None = None
    base: str = ""
    host: str = "127.0.0.1"
    names: tuple[str, ...] = ()
    token: str = ""
    jobs: int = 0
    live: bool = False
    tiling: Tiling | None = None
    decoding: Decoding = PLAIN_DECODING
    limits: Limits = field(default_factory=Limits)

    @property
    def folder(self) -> Path:
        """Where labels, jobs and uploads are kept."""
        return self.labels or self.run.with_name(f"{self.run.name}-labels")


class Server:
    """All that the endpoints share.

    Raises:
        UserError: the run or the images cannot be opened, or another server has the same labels.
    """

    def __init__(self, config: ServeConfig, run: Run | None = None) -> None:
        self.config, limits = config, config.limits
        folder = config.folder.absolute()
        self._changing = threading.Lock()
        self._seen: tuple[int, ...] | None = None
        self._held = locked(folder, "choose another folder with --labels")
        self._held.__enter__()
        try:
            loaded = run or load(config.run, config.base or None)
            self.labels = Labels(folder)
            self.gallery = Gallery(config.images, folder / "uploads", config.decoding, limits)
            self.answers = Answers(loaded, self.gallery, limits, config.tiling)
            self.sessions = Sessions(limits)
            self.live = Live(self.sessions, config.live)
            self.turns = Turns(config.jobs or cores(), limits.waiting)
            self.learning = Learning(self.labels, self.turns, self.current, self._grown, config.base)
        except BaseException:
            self._held.__exit__(None, None, None)
            raise

    def fresh(self) -> Answers:
        """What answers now: the run as it is on the disk, from which another command may have forgotten a
        domain, or which it has taken back or taught more, since this server read it.

        Raises:
            UserError: the run is gone or damaged.
        """
        with self._changing:
            run = self.answers.run
            while (now := _signature(run.folder)) != self._seen:
                try:
                    if read_record(run.folder) != run.record:
                        self._grown(load(run.folder, run.base))
                    self._seen = now
                except UserError:
                    if now == _signature(run.folder):
                        raise  # It did not change while it was read.
            return self.answers

    def current(self) -> Run:
        """The run of `fresh`."""
        return self.fresh().run

    def _grown(self, run: Run) -> None:
        self.answers = Answers(run, self.gallery, self.config.limits, self.config.tiling)

    def close(self) -> None:
        """End jobs and let another server have the labels."""
        self.learning.close()
        self.turns.close()
        self._held.__exit__(None, None, None)

    # ------------------------------------------------------------ what the endpoints say

    def about(self) -> dict[str, Any]:
        """The run, its modules and colours, and the server's limits."""
        answers, limits = self.fresh(), self.config.limits
        run = answers.run
        named = enumerate(run.classes) if len(run.classes) > 1 else ()
        classes = [{"channel": n, "name": name, "colour": _hex(class_colour(n))} for n, name in named]
        known = {*run.learned, "natural"}
        return {
            "version": version("everseg"),
            "run": str(run.folder),
            "method": run.config.method,
            "base": run.base.name,
            "problem": run.problem.name,
            "learned": run.learned,
            "state": answers.state,
            "modules": answers.modules,
            "live": self.live.available(answers),
            "classes": classes,
            "painted": [scene for scene in SCENES if scene not in known] if answers.prompted else [],
            "colours": {
                "mask": _hex(MASK),
                "truth": _hex(TRUTH),
                "on": _hex(ON),
                "off": _hex(OFF),
                "box": _hex(BOX),
                "objects": list(LINES[:6]),
            },
            "limits": vars(limits),
            "labels": str(self.labels.folder),
        }

    def told(self, entry: Entry) -> dict[str, Any]:
        """An image in a list."""
        labels = [
            {"domain": domain, "name": label.name, "split": label.split, "objects": len(label.objects)}
            for domain, label in self.labels.of(entry.id)
            if label.objects
        ]
        return {"id": entry.id, "name": entry.shown, "uploaded": entry.uploaded, "labels": labels}

    def domains(self) -> list[dict[str, Any]]:
        """The labelled domains and their images."""
        found = []
        for name, labels in self.labels.domains.items():
            own = [label for label in labels if label.objects]
            images = [
                {"name": x.name, "image": x.image, "split": x.split, "objects": len(x.objects)} for x in own
            ]
            counts = {split: sum(x.split == split for x in own) for split in ("train", "test")}
            if own:
                found.append({"domain": name, **counts, "images": images})
        return found

    def routes(self, domain: str) -> dict[str, Any]:
        """Which modules the method chooses for a domain's labelled images that are still among the images,
        and the domain of the run that it chooses for at least half of them, if the run may continue with it.

        Raises:
            Refused: there is no such domain.
        """
        answers, found = self.fresh(), Counter[str]()
        own = [label for label in self.labels.domains.get(domain, []) if label.objects]
        if not own:
            raise Refused(404, f"no image of {domain[:60]!r} is labelled; reload the page")
        known = may_go_on_with(answers.run)
        if known:  # Else nobody needs to know.
            for label in own:
                with suppress(UserError):  # Its file is gone.
                    found[answers.module(self.gallery.entry(label.image))] += 1
        name, count = (found.most_common(1) or [("", 0)])[0]
        go_on = name if name in known and 2 * count >= found.total() else None
        return {"domain": domain, "modules": dict(found.most_common()), "later_of": go_on}

    def accept(self, request: AcceptRequest) -> dict[str, Any]:
        """Write an accepted image; what it is called and where it lies when it is on the disk."""
        entry = self.gallery.entry(request.image)
        pixels = self.gallery.pixels(entry)
        if len(request.objects) > self.config.limits.objects:
            raise Refused(413, f"an image has at most {self.config.limits.objects} objects")
        height, width = int(pixels.shape[-2]), int(pixels.shape[-1])
        objects = [Accepted(mask_of(one.mask, height, width), one.asked()) for one in request.objects]
        label = self.labels.accept(request.domain, entry.id, entry.shown, pixels, objects)
        return {"domain": request.domain, "name": label.name, "split": label.split}

    def masks(self, domain: str, name: str) -> dict[str, Any]:
        """The masks of an accepted image, to correct them."""
        for label in self.labels.domains.get(domain, []):
            if label.name == name and label.objects:
                found = self.labels.masks(domain, label)
                return {"domain": domain, "split": label.split, "masks": [counts_of(mask) for mask in found]}
        raise Refused(404, f"domain {domain[:60]!r} has no image {name[:60]!r}; reload the page")


def _signature(folder: Path) -> tuple[int, ...]:
    """Of a run's record, which is replaced whenever the run changes; () where there is none."""
    try:
        found = (located(folder) / RECORD).stat()
    except OSError:
        return ()
    return found.st_mtime_ns, found.st_size, found.st_ino


def _hex(colour: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)
