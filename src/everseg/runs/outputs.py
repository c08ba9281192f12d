"""The folder that predictions are written to: whole files only, and never over somebody else's.

    x_mask.png, x_overlay.png, ...   pictures, which say in their `Software` entry who wrote them; x_mask.tif
                                     of a georeferenced image
    x.json                           the record, written last: what it names is there

A record holds a digest of all that the prediction was made from (`inputs`), by which a finished image is
known. It is taken out before the pictures are replaced, so that a record with a digest is always of these
pictures.
"""

from __future__ import annotations

import bisect
import errno
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from everseg.data.geo import mask_like
from everseg.errors import UserError
from everseg.files import atomic_path, write_bytes, write_json
from everseg.pictures.drawn import GEOTIFF, Drawn
from everseg.pictures.encode import SOFTWARE, is_ours, png
from everseg.runs.inputs import Source

COCO = "predictions.coco.json"
WRITER = '{"writer": "everseg"'
"""How each line of everseg's COCO results begins, by which they are known from others."""

_PARTIAL = re.compile(r"\.(.+)\.[0-9a-f]{8}\.partial")
_OF_ONE_FILE = (errno.ENAMETOOLONG, errno.EISDIR, errno.ENOTDIR, errno.EEXIST)


class CannotWrite(UserError):
    """No file can be written any more, for example on a full disk; the command ends."""


class OutputFolder:
    """Output folder of one command.

    endings: regular expression of the part of a picture's name that follows the prediction's name.
    """

    def __init__(self, root: Path, endings: str) -> None:
        self.root, self.endings = root, re.compile(endings)
        self._names: dict[Path, list[str]] = {}

    def record_path(self, name: str) -> Path:
        return self.root / f"{name}.json"

    def record(self, name: str) -> dict[str, Any] | None:
        """The record of an earlier prediction, or None if there is no record."""
        try:
            found = json.loads(self.record_path(name).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return None
        if isinstance(found, dict) and ("inputs" in found or _files_in(found)):
            return found
        return None

    def finished(self, name: str, inputs: str, *, overlay: bool) -> dict[str, Any] | None:
        """The record of the prediction that was made from just these inputs, if all its files are there."""
        record = self.record(name)
        if record is None or record.get("inputs") != inputs:
            return None
        folder = self.record_path(name).parent
        named = [*_files_in(record), *([_overlay(name)] if overlay else [])]
        return record if all((folder / file).is_file() for file in named) else None

    def check_free(self, name: str) -> None:
        """Check that what is there under this name was written by everseg. Ground truth is often named as
        masks are here.

        Raises:
            UserError: it was not.
        """
        path, record = self.record_path(name), self.record(name)
        own = {_overlay(name), *_files_in(record)} if record is not None else set()
        strange = [p for p in self._pictures(name) if p.name not in own and not is_ours(p)]
        if record is None and os.path.lexists(path):
            strange.append(path)
        if strange:
            raise UserError(
                f"{strange[0]} already exists and was not written by everseg; choose another --out"
            )

    def write(
        self, name: str, drawn: Drawn, record: Mapping[str, Any], like: Path | None = None
    ) -> tuple[Path, ...]:
        """Write a prediction's pictures and then its record, in place of an earlier one's.

        like: the image whose georeference the TIFF files get.

        Raises:
            CannotWrite: the disk is full or the folder cannot be written to.
            UserError: these files alone cannot be written.
        """
        path, old = self.record_path(name), self.record(name)
        pictures = {path.parent / file: draw for file, draw in drawn.pictures.items()}
        try:
            if old is not None:
                write_json(path, {**old, "inputs": ""})
            for file, draw in pictures.items():
                write_bytes(file, encoded(draw(), file.name, like))
            for rest in set(self._pictures(name)) - set(pictures):
                rest.unlink(missing_ok=True)
            write_json(path, record)
        except UserError as error:
            cause = error.__cause__
            if isinstance(cause, OSError) and cause.errno in _OF_ONE_FILE:
                raise
            raise CannotWrite(str(error)) from error
        return tuple(pictures)

    def sweep(self, names: Sequence[str]) -> None:
        """Delete what a killed command left of files that it had not finished."""
        for folder in {self.record_path(name).parent for name in names}:
            for file in self._listing(folder):
                if _PARTIAL.fullmatch(file):
                    (folder / file).unlink(missing_ok=True)

    def _pictures(self, name: str) -> list[Path]:
        """The pictures that were there for this name when the command began."""
        folder, stem = self.record_path(name).parent, Path(name).name
        names = self._listing(folder)
        first = bisect.bisect_left(names, f"{stem}_")
        found = []
        for file in names[first:]:
            if not file.startswith(f"{stem}_"):
                break
            if self.endings.fullmatch(file[len(stem) :]):
                found.append(folder / file)
        return found

    def _listing(self, folder: Path) -> list[str]:
        """Names in a folder, sorted: one look for all images."""
        if folder not in self._names:
            try:
                self._names[folder] = sorted(os.listdir(folder))
            except FileNotFoundError:
                self._names[folder] = []
            except OSError as error:
                raise UserError(f"cannot read {folder}: {error.strerror}; choose another --out") from error
        return self._names[folder]


def _overlay(name: str) -> str:
    return f"{Path(name).name}_overlay.png"


def encoded(picture: Image.Image, name: str, like: Path | None) -> bytes:
    """A picture as the content of a file of this name: PNG, or TIFF with the georeference of `like`."""
    if name.endswith(GEOTIFF):
        assert like is not None, "only georeferenced images are answered in TIFF"
        return mask_like(np.asarray(picture), like, SOFTWARE)
    return png(picture, 1 if name.endswith("_overlay.png") else 6)


def _files_in(record: Any) -> list[str]:
    """The files that a prediction's record names."""
    found: list[str] = []
    if isinstance(record, dict):
        for key, value in record.items():
            if key == "file" and isinstance(value, str):
                found.append(value)
            else:
                found += _files_in(value)
    elif isinstance(record, list):
        for value in record:
            found += _files_in(value)
    return found


# ---------------------------------------------------------------- COCO results


def check_coco(root: Path) -> None:
    """Check that COCO results may be written into a folder.

    Raises:
        UserError: results that everseg did not write are there.
    """
    path = root / COCO
    try:
        with path.open("rb") as file:
            begins = file.read(64).decode(errors="replace")
    except FileNotFoundError:
        return
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; choose another --out") from error
    if not begins.startswith(("[]", f"[\n{WRITER}")):
        raise UserError(f"{path} already exists and was not written by everseg; choose another --out")


def write_coco(folder: OutputFolder, images: Iterator[tuple[Source, int | str]]) -> Path:
    """Gather the entries of images, each with its number, in one file, image by image."""
    path, between = folder.root / COCO, "[\n"
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for source, number in images:
            record = folder.record(source.name)
            assert record is not None, "the image is finished"
            for entry in record["masks"]:
                about = {"image_id": number, "file_name": source.place}
                kept = {
                    k: v for k, v in entry.items() if k in ("segmentation", "bbox", "area", "category_id")
                }
                line = json.dumps({**about, **kept, "score": entry.get("predicted_iou", 1.0)})
                file.write(f"{between}{WRITER}, {line[1:]}")
                between = ",\n"
        file.write("\n]\n" if between == ",\n" else "[]\n")
    return path
