"""points.json: clicks stored beside masks, in the layout that SAMCL publishes.

One JSON object, mask file name -> [[[x, y], ...], [label, ...]]; x (column) and y (row) are in the square
frame that the image is stretched to (1024 x 1024), labels are 1 on the object and 0 off it. Its source:
specs/samcl.md section 1.3.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from everseg.data.domains.prompts import FRAME, StoredClicks
from everseg.data.masks import Threshold, mask_rule, read_mask
from everseg.data.names import POINTS, is_litter
from everseg.errors import UserError
from everseg.files import read_json, write_text
from everseg.types.pixels import draw_clicks


def read_points(path: str | Path) -> dict[str, StoredClicks]:
    """Stored clicks for each mask file name.

    Raises:
        UserError: not JSON, or an entry of the wrong shape, outside 0..1024, NaN, or with labels other than 0
            and 1.
    """
    path = Path(path)
    tree = read_json(path)
    if not isinstance(tree, dict):
        raise UserError(
            f"{path} holds a {type(tree).__name__}; it must map mask file names to [[[x, y], ...], [1, ...]]"
        )
    return {key: _entry(value, key, path) for key, value in tree.items()}


def _entry(value: Any, key: str, path: Path) -> StoredClicks:
    def wrong(what: str) -> UserError:
        return UserError(
            f"{path}: {key!r} {what}; write it anew with `everseg data points --force` or correct it by hand"
        )

    match value:
        case [[_, *_] as points, [_, *_] as labels] if len(points) == len(labels):
            pass
        case _:
            raise wrong("is not [[[x, y], ...], [label, ...]] with one label a point")
    for point in points:
        if not (isinstance(point, list) and len(point) == 2 and all(_is_number(v) for v in point)):
            raise wrong(f"has the point {point!r}, which is not [x, y]")
        if not all(math.isfinite(v) and 0 <= v < FRAME for v in point):
            raise wrong(f"has the point {point!r}, outside the {FRAME}x{FRAME} frame")
    if any(not _is_number(label) or label not in (0, 1) for label in labels):
        raise wrong(f"has labels {labels!r}; 1 is on the object, 0 off it")
    return StoredClicks(tuple((float(x), float(y)) for x, y in points), tuple(int(label) for label in labels))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def write_points(
    masks: str | Path,
    seed: int = 0,
    clicks: int = 3,
    frame: int = FRAME,
    threshold: Threshold = 127,
    values: tuple[int, ...] | None = None,
    force: bool = False,
) -> Path:
    """Draw clicks for every mask of a folder and keep them in its points.json, written atomically.

    As SAMCL's generator: the mask is resized to `frame` x `frame` (nearest) and foreground pixels are drawn
    uniformly with replacement. Unlike it, each draw is seeded by (seed, file name), so adding a mask changes
    no other's clicks. A frame other than 1024 is for other programs: everseg reads 1024.

    Raises:
        UserError: no masks, an unreadable or empty one, or the file exists and `force` is not given.
    """
    folder = Path(masks)
    target = folder / POINTS
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; give the folder that holds the masks")
    if clicks < 1:
        raise UserError(f"clicks is {clicks}; a mask needs at least 1")
    if target.exists() and not force:
        raise UserError(f"{target} exists and may be somebody's clicks; give force (--force) to replace it")
    files = sorted(f for f in folder.iterdir() if f.is_file() and f.name != POINTS and not is_litter(f.name))
    if not files:
        raise UserError(f"{folder} holds no masks; give the folder that holds the masks")
    rule = mask_rule(threshold, values)
    drawn: dict[str, Any] = {}
    for file in files:
        small = Image.fromarray(read_mask(file, rule).astype(np.uint8))
        mask = np.asarray(small.resize((frame, frame), Image.Resampling.NEAREST)) > 0
        if not mask.any():
            raise UserError(
                f"{file}: its object vanishes when resized to {frame}x{frame}; remove it or draw it larger"
            )
        drawn[file.name] = [draw_clicks(mask, clicks, seed, file.name).tolist(), [1] * clicks]
    write_text(target, json.dumps(drawn))
    return target
