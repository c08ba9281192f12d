"""Accepted masks as an ordinary stage on the disk, written so that a killed server loses none.

    labels.yaml                           a stream of all domains below: `everseg data check` reads it
    domains/crystals/labels.json          what was accepted, in order
    domains/crystals/train/images/x.png   the pixels as they were labelled
    domains/crystals/train/masks/x/1.png  a mask of 0 and 255 for each object
    domains/crystals/train/masks/points.json   the clicks on them, x/1.png -> [[[x, y], ...], [1, ...]]
    domains/crystals/test/...             the held-out part, in the same form

One image of every four is held out. Which one is drawn when the image is first accepted, by the domain's
name and the image's place alone, and never changes, whatever is corrected later; also where the same picture
is accepted in a further domain.
"""

from __future__ import annotations

import json
import re
import shutil
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from PIL import Image
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from everseg.data.domains.prompts import FRAME
from everseg.data.names import POINTS
from everseg.data.streamfile import is_name
from everseg.errors import UserError
from everseg.files import atomic_folder, read_json, write_bytes, write_json, write_text
from everseg.pictures.encode import png, write_png
from everseg.pictures.tile import picture_of
from everseg.runs.inputs import stem
from everseg.runs.prompts import Asked
from everseg.seed import numpy_generator
from everseg.serve.limits import Refused
from everseg.types import RESERVED
from everseg.types.pixels import content_key, draw_clicks

BLOCK = 4
"""The number of images of which one is held out."""

CLICKS = 3
"""Clicks that each object has at least, as SAMCL's stored clicks."""

IMAGES, MASKS = "images/{id}.png", "masks/{id}/*.png"
"""Where the stage's reader finds the files."""

SPLITS = ("train", "test")


@dataclass(frozen=True)
class Label:
    """One accepted image.

    name: of its files.
    split: "train", or "test" for a held-out one.
    pixels: digest of its pixels.
    image: id of the image that was labelled.
    objects: the clicks of each, in the 1024 x 1024 frame.
    """

    name: str
    split: str
    pixels: str
    image: str
    objects: list[Any] = field(default_factory=list)


@dataclass(frozen=True)
class Accepted:
    """One object that somebody accepted.

    mask: (H, W).
    asked: the clicks and the box by which it was found.
    """

    mask: NDArray[np.bool_]
    asked: Asked


class Labels:
    """All labelled domains in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lock = threading.RLock()
        self._domains: dict[str, list[Label]] = {}
        for path in sorted((folder / "domains").glob("*")):
            if path.is_dir() and is_name(path.name):
                self._domains[path.name] = self._read(path)

    @property
    def domains(self) -> dict[str, list[Label]]:
        """The labels of each domain, in the order in which their images came."""
        with self.lock:
            return {name: list(labels) for name, labels in self._domains.items() if labels}

    def place(self, domain: str) -> Path:
        """The folder of a domain."""
        return self.folder / "domains" / domain

    def of(self, image: str) -> list[tuple[str, Label]]:
        """In which domains an image is labelled."""
        return [(name, one) for name, labels in self.domains.items() for one in labels if one.image == image]

    def masks(self, domain: str, label: Label) -> list[NDArray[np.bool_]]:
        """The masks of a label (H, W), one for each object."""
        folder = self.place(domain) / label.split / "masks" / label.name
        found = []
        for number in range(1, len(label.objects) + 1):
            with Image.open(folder / f"{number}.png") as picture:
                found.append(np.asarray(picture) > 127)
        return found

    # ------------------------------------------------------------ writing

    def accept(
        self, domain: str, image: str, shown: str, pixels: Tensor, objects: Sequence[Accepted]
    ) -> Label:
        """Write an image and its masks, and return when they are on the disk. The masks of an image that was
        accepted before take the place of the earlier ones.

        image: id of the image.
        shown: its name for people.

        Raises:
            Refused: the name cannot be a domain's.
            UserError: no object, or one without a pixel, or the files cannot be written.
        """
        check_domain(domain)
        if not objects:
            raise UserError("there is no object to accept; click on one first")
        for number, one in enumerate(objects, 1):
            if not one.mask.any():
                raise UserError(f"object {number} has no pixels; click on it or remove it")
        digest = content_key(pixels)
        with self.lock:
            twin = next((name for name in self._domains if name.lower() == domain.lower()), domain)
            if twin != domain:
                raise Refused(
                    409, f"a domain {twin!r} exists already; choose a name that differs in more than case"
                )
            labels = self._domains.setdefault(domain, [])
            known = next((label for label in labels if label.pixels == digest), None)
            name = known.name if known else _free_name(shown, labels)
            # No picture that one domain trains on is held out of another.
            twins = (label for own in self._domains.values() for label in own if label.pixels == digest)
            seen = known or next(twins, None)
            split = seen.split if seen else split_of(domain, len(labels))
            clicks = [_clicks(one, f"{name}/{n}.png") for n, one in enumerate(objects, 1)]
            label = Label(name, split, digest, image, clicks)
            place = self.place(domain) / split
            if not (file := place / "images" / f"{name}.png").is_file():
                write_bytes(file, png(picture_of(pixels), 1))
            with atomic_folder(place / "masks" / name) as within:
                for number, one in enumerate(objects, 1):
                    write_png(within / f"{number}.png", Image.fromarray(one.mask.astype(np.uint8) * 255))
            after = [label if known is not None and old is known else old for old in labels]
            self._write(domain, after if known else [*after, label])
            return label

    def remove(self, domain: str, name: str) -> None:
        """Delete an accepted image.

        Raises:
            Refused: there is none of this name.
        """
        with self.lock:
            labels = self._domains.get(domain, [])
            gone = next((label for label in labels if label.name == name), None)
            if gone is None:
                raise Refused(404, f"domain {domain!r} has no image {name!r}; reload the page")
            # A gap is left in the order, so that no other image moves to another part.
            self._write(domain, [replace(x, objects=[]) if x is gone else x for x in labels])
            place = self.place(domain) / gone.split
            shutil.rmtree(place / "masks" / name, ignore_errors=True)
            (place / "images" / f"{name}.png").unlink(missing_ok=True)

    def _write(self, domain: str, labels: list[Label]) -> None:
        """The points of both parts, then the list of what is accepted, then the stream file."""
        place = self.place(domain)
        for split in SPLITS:
            points = {
                f"{label.name}/{n}.png": clicks
                for label in labels
                if label.split == split
                for n, clicks in enumerate(label.objects, 1)
            }
            if points:
                write_text(place / split / "masks" / POINTS, json.dumps(points))
            else:
                (place / split / "masks" / POINTS).unlink(missing_ok=True)
        write_json(place / "labels.json", {"labels": [vars(label) for label in labels]})
        self._domains[domain] = labels
        self._write_stream()

    def _write_stream(self) -> None:
        stages = [
            stage_of(name, Path("domains") / name)
            for name, labels in self._domains.items()
            if set(SPLITS) <= {label.split for label in labels if label.objects}
        ]
        path = self.folder / "labels.yaml"
        if stages:
            write_text(path, yaml.safe_dump({"name": "labels", "stages": stages}, sort_keys=False))
        else:
            path.unlink(missing_ok=True)

    # ------------------------------------------------------------ after a kill

    def _read(self, place: Path) -> list[Label]:
        """What was accepted, with files that a killed server had not finished deleted.

        Raises:
            UserError: labels.json is damaged.
        """
        path = place / "labels.json"
        labels: list[Label] = []
        if path.is_file():
            try:
                labels = TypeAdapter(list[Label]).validate_python(read_json(path)["labels"])
            except (ValidationError, KeyError, TypeError) as error:
                raise UserError(f"{path} is damaged; restore it from a copy") from error
        for split in SPLITS:
            own = {label.name: label for label in labels if label.split == split and label.objects}
            for image in (place / split / "images").glob("*"):
                if image.stem not in own or image.suffix != ".png":
                    image.unlink()
            for masks in (place / split / "masks").glob("*"):
                if masks.is_dir() and masks.name not in own:
                    shutil.rmtree(masks)
        mended = [self._mended(place, label) for label in labels]
        if mended != labels:
            with self.lock:
                self._write(place.name, mended)
        return mended

    def _mended(self, place: Path, label: Label) -> Label:
        """A label whose masks were exchanged, but not its clicks, when the server was killed."""
        folder = place / label.split / "masks" / label.name
        masks = sorted(folder.glob("*.png"), key=lambda path: int(path.stem)) if label.objects else []
        if len(masks) == len(label.objects):
            return label
        objects = []
        for path in masks:
            with Image.open(path) as picture:
                accepted = Accepted(np.asarray(picture) > 127, Asked())
            objects.append(_clicks(accepted, f"{label.name}/{path.name}"))
        return replace(label, objects=objects)


def check_domain(domain: str) -> None:
    """Check that a name can be a domain's.

    Raises:
        Refused: it cannot.
    """
    if not is_name(domain) or domain in RESERVED:
        raise Refused(
            422, f"{domain[:60]!r} cannot be a domain's name; use letters, digits, '.', '_' and '-'"
        )


def stage_of(name: str, place: Path) -> dict[str, Any]:
    """A stage for a stream file: the domain in a folder."""
    split = {part: {"path": (place / part).as_posix(), "images": IMAGES, "masks": MASKS} for part in SPLITS}
    return {"name": name, **{part: {**split[part], "instances": "each"} for part in SPLITS}}


def split_of(domain: str, place: int) -> str:
    """The part of the n-th image of a domain: one of each block is held out, at a place drawn by the name.

    Of the first block it is one of the first two, so that a domain can be learned from few images.
    """
    block, within = divmod(place, BLOCK)
    choices = 2 if block == 0 else BLOCK
    held_out = int(numpy_generator(0, "held-out", domain, block).integers(0, choices))
    return "test" if within == held_out else "train"


def _free_name(shown: str, labels: Sequence[Label]) -> str:
    """A file name after the image's own that no other image of the domain has."""
    clean = re.sub(r"[^A-Za-z0-9_-]+", "-", stem(shown.rpartition("/")[2])).strip("-")[:60] or "image"
    taken = {label.name.lower() for label in labels}
    number, name = 1, clean
    while name.lower() in taken or not is_name(name):
        number += 1
        name = f"{clean}-{number}"
    return name


def _clicks(one: Accepted, name: str) -> list[Any]:
    """What points.json says of an object: the clicks that lie where they say, and further ones that are drawn
    on it up to `CLICKS`; in the stretched frame."""
    height, width = one.mask.shape
    clicks: list[tuple[int, int, int]] = []
    for (x, y), label in zip(one.asked.points, one.asked.labels, strict=True):
        column, row = min(int(x), width - 1), min(int(y), height - 1)
        if one.mask[row, column] == bool(label):
            clicks.append((column, row, label))
    lacking = max(0, CLICKS - sum(label for *_, label in clicks))
    if lacking:
        clicks += [(int(x), int(y), 1) for x, y in draw_clicks(one.mask, lacking, 0, name)]
    frame = [[_in_frame(column, width), _in_frame(row, height)] for column, row, _ in clicks]
    return [frame, [label for *_, label in clicks]]


def _in_frame(pixel: int, side: int) -> float:
    """The middle of a pixel in the stretched frame."""
    return round(min(max((pixel + 0.5) * FRAME / side - 0.5, 0.0), FRAME - 1.0), 2)
