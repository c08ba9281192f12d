"""Predict on image files: from paths and clicks to mask, overlay and JSON files."""

from __future__ import annotations

import glob
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from everseg.data.images import read_image
from everseg.errors import UserError
from everseg.files import write_json
from everseg.pictures.encode import write_png
from everseg.pictures.overlay import draw_mask
from everseg.runs.folder import Run
from everseg.types import PredictsAs, PromptPrediction, Prompts, Query


@dataclass(frozen=True)
class Written:
    """What was written for one image: its files, the module that was chosen, how sure, and the masks'
    areas."""

    image: Path
    masks: tuple[Path, ...]
    overlay: Path
    record: dict[str, Any]


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


def prompts_of(points: Sequence[str], negatives: Sequence[str], boxes: Sequence[str]) -> Prompts:
    """One object from clicks on it, clicks off it, and at most one box; or one object for each of several
    boxes.

    Raises:
        UserError: nothing given, numbers that are none, an empty box, or several boxes together with clicks.
    """
    if not points and not boxes:
        raise UserError("nothing points at the object; give --point x,y (repeatable) or --box x0,y0,x1,y1")
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
    run: Run, images: Sequence[Path], prompts: Prompts, out: Path, stage: str | None = None
) -> list[Written]:
    """Predict every image with the same prompts and write `<stem>_mask.png` (0 or 255), `<stem>_overlay.png`
    and `<stem>.json` into `out`; with several boxes one mask for each, `<stem>_mask_1.png` and so on.

    stage: use this stage's module instead of letting the method choose.

    Files of an earlier prediction are replaced; others that have these names are not.

    Raises:
        UserError: an image that cannot be read, clicks outside it, two images of one name, somebody else's
        file in the way, or no such stage.
    """
    stems = [p.stem for p in images]
    twice = next((s for s in stems if stems.count(s) > 1), None)
    if twice is not None:
        raise UserError(
            f"two images are named {twice!r} and would share their output files; predict them apart"
        )
    queries = []
    for path in images:
        _in_the_way(path.stem, out)
        image = read_image(path)
        _inside(prompts, image, path)
        queries.append(Query(image, prompts))
    if stage is None:
        predictions = run.learner.predict(queries)
    else:
        predictions = _told(run, stage)(queries, stage)
    return [_write(p, q, r, out) for p, q, r in zip(images, queries, predictions, strict=True)]


def _in_the_way(stem: str, out: Path) -> None:
    """Ground truth is often named as we name masks: replace only what an earlier prediction wrote."""
    record = out / f"{stem}.json"
    try:
        earlier = json.loads(record.read_text())
        own = {record.name, *(m["file"] for m in earlier["masks"])}
    except (OSError, ValueError, KeyError, TypeError):
        own = set()
    there = [*out.glob(f"{glob.escape(stem)}_mask*.png"), *([record] if record.exists() else [])]
    strange = next((p for p in there if p.name not in own), None)
    if strange is not None:
        raise UserError(f"{strange} is there and no earlier prediction wrote it; choose another --out")


def _told(run: Run, stage: str) -> Any:
    if not isinstance(run.learner, PredictsAs):
        raise UserError(f"method {run.config.method!r} keeps no module for each stage; leave --stage out")
    if stage not in run.learned:
        raise UserError(f"the run has no stage {stage!r}; it learned {', '.join(run.learned)}")
    return run.learner.predict_as


def _inside(prompts: Prompts, image: Tensor, path: Path) -> None:
    height, width = image.shape[-2:]
    given = [t.reshape(-1, 2) for t in (prompts.points, prompts.boxes) if t is not None]
    for x, y in torch.cat(given).tolist():
        if not (0 <= x <= width and 0 <= y <= height):
            raise UserError(
                f"{path}: ({x:g}, {y:g}) lies outside the image of {width}x{height} pixels; "
                "coordinates are x,y"
            )


def _write(path: Path, query: Query, prediction: PromptPrediction, out: Path) -> Written:
    masks = prediction.masks().numpy()
    names = (
        [f"{path.stem}_mask.png"]
        if len(masks) == 1
        else [f"{path.stem}_mask_{n + 1}.png" for n in range(len(masks))]
    )
    for name, mask in zip(names, masks, strict=True):
        write_png(out / name, Image.fromarray(mask.astype(np.uint8) * 255))
    overlay = out / f"{path.stem}_overlay.png"
    write_png(overlay, Image.fromarray(draw_mask(query.image, prediction.masks().any(0).numpy())))
    route = prediction.route
    record: dict[str, Any] = {
        "image": str(path),
        "size": {"width": prediction.size[1], "height": prediction.size[0]},
        "masks": [
            {"file": name, "pixels": int(mask.sum()), "predicted_iou": round(float(iou), 4)}
            for name, mask, iou in zip(names, masks, prediction.iou, strict=True)
        ],
        "module": None if route is None else route.name,
        "probability": None if route is None else round(route.probability, 4),
    }
    write_json(out / f"{path.stem}.json", record)
    return Written(path, tuple(out / n for n in names), overlay, record)
