"""Predict the classes of image files: a class map, an overlay and a JSON file for each."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from everseg.data.images import read_image
from everseg.errors import UserError
from everseg.files import write_json
from everseg.pictures.encode import write_png
from everseg.pictures.overlay import class_map, draw_classes
from everseg.runs.folder import Run
from everseg.types import ImageQuery


@dataclass(frozen=True)
class Written:
    """What was written for one image."""

    image: Path
    classes: Path
    overlay: Path
    record: dict[str, Any]


def predict_class_files(run: Run, images: Sequence[Path], out: Path) -> list[Written]:
    """Give every pixel of the images a class and write `<stem>_classes.png`, `<stem>_overlay.png` and
    `<stem>.json` into `out`.

    The class map has a palette; its numbers are channels, 0 background, 1, 2, ... the classes as learned. The
    JSON file names them and counts their pixels.

    Raises:
        UserError: an image that cannot be read, two of one name, or somebody else's file in the way.
    """
    stems = [path.stem for path in images]
    if twice := next((s for s in stems if stems.count(s) > 1), None):
        raise UserError(
            f"two images are named {twice!r} and would share their output files; predict them apart"
        )
    for stem in stems:
        _in_the_way(stem, out)
    written = []
    for path in images:
        image = read_image(path)
        (channels,) = run.learner.predict([ImageQuery(image)])
        written.append(_write(run, path, image, channels.numpy(), out))
    return written


def _in_the_way(stem: str, out: Path) -> None:
    """Replace only what an earlier prediction wrote: a truth may have these names."""
    record, there = out / f"{stem}.json", out / f"{stem}_classes.png"
    try:
        own = json.loads(record.read_text())["file"] == there.name
    except (OSError, ValueError, KeyError, TypeError):
        own = False
    strange = next((p for p in (there, record) if p.exists() and not own), None)
    if strange is not None:
        raise UserError(f"{strange} is there and no earlier prediction wrote it; choose another --out")


def _write(run: Run, path: Path, image: Tensor, channels: NDArray[np.uint8], out: Path) -> Written:
    counts = np.bincount(channels.ravel(), minlength=len(run.classes))
    record: dict[str, Any] = {
        "image": str(path),
        "size": {"width": channels.shape[1], "height": channels.shape[0]},
        "file": f"{path.stem}_classes.png",
        "classes": [
            {"channel": channel, "name": name, "pixels": int(counts[channel])}
            for channel, name in enumerate(run.classes)
        ],
    }
    write_png(out / record["file"], class_map(channels))
    overlay = out / f"{path.stem}_overlay.png"
    write_png(overlay, Image.fromarray(draw_classes(image, channels)))
    write_json(out / f"{path.stem}.json", record)
    return Written(path, out / record["file"], overlay, record)
