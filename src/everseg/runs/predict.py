"""Predict on image files: from paths and prompts to pictures and a JSON file per image."""

from __future__ import annotations

import glob
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from everseg.data.images import read_image
from everseg.errors import UserError
from everseg.files import write_json
from everseg.pictures.drawn import Drawn
from everseg.pictures.encode import write_png
from everseg.runs.arrays import check_inside
from everseg.runs.run import Run
from everseg.types import Prompts


@dataclass(frozen=True)
class Written:
    """What was written for one image.

    files: the pictures, by what they show first.
    record: the content of the JSON file.
    lines: for the terminal, one per result.
    """

    image: Path
    files: tuple[Path, ...]
    record: dict[str, Any]
    lines: tuple[str, ...]


def parse_numbers(text: str, count: int, what: str) -> tuple[float, ...]:
    """Finite numbers from "x,y" or "x0,y0,x1,y1".

    Raises:
        UserError: not `count` finite numbers.
    """
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if len(values) != count or not all(math.isfinite(v) for v in values):
        form = "x,y" if count == 2 else "x0,y0,x1,y1"
        raise UserError(
            f"{what} {text!r} is not {count} numbers; write {form} in pixels, such as {_SAMPLE[count]}"
        )
    return values


_SAMPLE = {2: "--point 411,230", 4: "--box 40,30,200,180"}


def prompts_of(points: Sequence[str], negatives: Sequence[str], boxes: Sequence[str]) -> Prompts | None:
    """One object from clicks on it, clicks off it, and at most one box; or one object for each of several
    boxes. None where nothing is given.

    Raises:
        UserError: clicks off an object alone, text that is no number, an empty box, or several boxes
            together with clicks.
    """
    if not points and not boxes:
        if negatives:
            raise UserError(
                "nothing points at the object; give --point x,y (repeatable) or --box x0,y0,x1,y1"
            )
        return None
    if len(boxes) > 1 and (points or negatives):
        raise UserError(
            "several boxes are several objects, and clicks cannot say which they mean; give one box"
        )
    corners = [parse_numbers(b, 4, "--box") for b in boxes]
    for text, (x0, y0, x1, y1) in zip(boxes, corners, strict=True):
        if x1 <= x0 or y1 <= y0:
            raise UserError(
                f"--box {text!r} is empty: the second corner must lie right of and below the first"
            )
    clicks = [parse_numbers(p, 2, "--point") for p in points] + [
        parse_numbers(p, 2, "--negative") for p in negatives
    ]
    return Prompts(
        points=torch.tensor([clicks]) if clicks else None,
        labels=torch.tensor([[1] * len(points) + [0] * len(negatives)]) if clicks else None,
        boxes=torch.tensor(corners) if corners else None,
    )


def predict_files(
    run: Run, images: Sequence[Path], prompts: Prompts | None, out: Path, stage: str | None = None
) -> list[Written]:
    """Predict every image with the same prompts, and write pictures and `<stem>.json` into `out`.

    A run of domains gives `<stem>_mask.png` (0 or 255; `<stem>_mask_1.png`, ... for several objects), a run
    of classes `<stem>_classes.png`, whose numbers are channels; both give `<stem>_overlay.png`.

    stage: use this stage's module instead of letting the method choose; "plain" is the untouched base.

    Files of an earlier prediction are replaced; other files of these names are not.

    Raises:
        UserError: an image cannot be read, a click lies outside it, two images have one name, a file that
            everseg did not write is in the way, prompts are missing or not wanted, or there is no such stage.
    """
    problem = run.problem
    stems = [path.stem for path in images]
    twice = next((stem for stem in stems if stems.count(stem) > 1), None)
    if twice is not None:
        raise UserError(
            f"two images are named {twice!r} and would share their output files; predict them apart"
        )
    predict = run.predictor(stage)
    queries = []
    for path in images:
        image = read_image(path)
        queries.append(problem.query(image, prompts, str(run.folder)))
        _check_free(path.stem, problem.outputs, out)
        if prompts is not None:
            check_inside(prompts, image, str(path))
    written = []
    for path, query in zip(images, queries, strict=True):
        (prediction,) = predict([query])
        drawn = problem.draw(path.stem, query.image, prediction, run.classes)
        written.append(_write(path, drawn, out))
    return written


def _check_free(stem: str, outputs: Sequence[str], out: Path) -> None:
    """Ground truth is often named as masks are here: replace only what an earlier prediction wrote."""
    record = out / f"{stem}.json"
    try:
        own = {record.name, *_files_in(json.loads(record.read_text(encoding="utf-8")))}
    except (OSError, ValueError):
        own = set()
    if len(own) == 1:  # JSON of something else.
        own = set()
    there = [path for pattern in outputs for path in out.glob(f"{glob.escape(stem)}{pattern}")]
    strange = next((p for p in [*there, *([record] if record.exists() else [])] if p.name not in own), None)
    if strange is not None:
        raise UserError(f"{strange} already exists and was not written by everseg; choose another --out")


def _files_in(record: Any) -> Iterator[str]:
    """The files that a prediction's record names."""
    if isinstance(record, dict):
        for key, value in record.items():
            if key == "file" and isinstance(value, str):
                yield value
            else:
                yield from _files_in(value)
    elif isinstance(record, list):
        for value in record:
            yield from _files_in(value)


def _write(path: Path, drawn: Drawn, out: Path) -> Written:
    for name, picture in drawn.pictures.items():
        write_png(out / name, picture)
    record = {"image": str(path), **drawn.record}
    write_json(out / f"{path.stem}.json", record)
    lines = tuple(f"{path}: {text} -> {out / name}" for text, name in drawn.lines)
    return Written(path, tuple(out / name for name in drawn.pictures), record, lines)
