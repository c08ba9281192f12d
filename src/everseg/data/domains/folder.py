"""A folder of `images/` and `masks/`, paired by stem: the plain layout, and that of SAMCL."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from everseg.data.decoding import Bands, Decoding, Window
from everseg.data.domains.points import POINTS, read_points
from everseg.data.domains.prompts import PromptKind, PromptRule, StoredClicks
from everseg.data.masks import MaskRule, Threshold, mask_rule, read_mask
from everseg.data.samples import PartlyReadable, Samples, take_evenly, take_part
from everseg.errors import UserError


@dataclass(frozen=True)
class MaskFile:
    """An image and the file that holds its mask."""

    image: Path
    path: Path
    rule: MaskRule
    stored: StoredClicks | None

    @property
    def name(self) -> str:
        return self.image.name

    def mask(self) -> NDArray[np.bool_]:
        return read_mask(self.path, self.rule)

    def truth(self) -> list[Any]:
        return [self.path, str(self.rule)]


class FolderReader(Samples):
    """Samples of `path/images` and `path/masks`, all objects of an image in one mask.

    prompts: how to prompt; None takes the stored clicks where `masks/points.json` exists and draws clicks
        where not.
    mask_suffix: what the mask's stem has beyond the image's, as "_segmentation".
    part: [start, stop] of the sorted images; limit: at most so many, evenly spaced over the sorted list.

    Raises:
        UserError: a folder is missing or empty, files without partner, two files of one stem, or no stored
            clicks.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        prompts: PromptKind | None = None,
        clicks: int = 3,
        seed: int = 0,
        mask_threshold: Threshold = 127,
        mask_values: tuple[int, ...] | None = None,
        mask_suffix: str = "",
        part: tuple[int, int] | None = None,
        limit: int | None = None,
        bands: Bands = None,
        window: Window = None,
    ) -> None:
        path = Path(path)
        pairs, problems = pair_by_stem(path / "images", path / "masks", mask_suffix)
        points = path / "masks" / POINTS
        kind: PromptKind = prompts or ("stored" if points.exists() else "clicks")
        stored = _stored_clicks(points) if "stored" in kind else {}
        rule = mask_rule(mask_threshold, mask_values)
        entries = []
        for image, mask in take_evenly(take_part(pairs, part), limit):
            if "stored" in kind and mask.name not in stored:
                problems.append(f"{points} has no clicks for {mask.name}; add them or set prompts: clicks")
            else:
                entries.append(MaskFile(image, mask, rule, stored.get(mask.name)))
        super().__init__(entries, PromptRule(kind, clicks, seed), decoding=Decoding(bands, window))
        if problems:
            raise PartlyReadable(problems, self[:])


def _stored_clicks(points: Path) -> dict[str, StoredClicks]:
    if not points.exists():
        raise UserError(
            f"{points} does not exist; write it with `everseg data points` or set prompts: clicks"
        )
    return read_points(points)


def pair_by_stem(images: Path, masks: Path, suffix: str = "") -> tuple[list[tuple[Path, Path]], list[str]]:
    """(image, mask) pairs sorted by name, and a sentence for each kind of thing that hinders pairing.

    Hidden files and points.json are passed over. Extensions do not matter: `a.JPG` pairs with `a.png`.

    Raises:
        UserError: a folder is missing or holds nothing.
    """
    problems: list[str] = []
    by_stem = [_files_by_stem(folder, problems) for folder in (images, masks)]
    of_image = by_stem[0]
    of_mask = {stem.removesuffix(suffix): f for stem, f in by_stem[1].items() if stem.endswith(suffix)}
    lonely = [f for stem, f in of_image.items() if stem not in of_mask]
    if lonely:
        fix = f"add masks of the same name with {suffix!r} added" if suffix else "add masks of the same name"
        problems.append(f"{images} has {_some(lonely)} without a mask in {masks}; {fix} or remove the images")
    lonely = [
        f
        for stem, f in by_stem[1].items()
        if not stem.endswith(suffix) or stem.removesuffix(suffix) not in of_image
    ]
    if lonely:
        problems.append(
            f"{masks} has {_some(lonely)} without an image in {images}; add images, remove masks, or set "
            "mask_suffix if masks are named a_mask.png for a.jpg"
        )
    return [(of_image[stem], of_mask[stem]) for stem in sorted(of_image.keys() & of_mask.keys())], problems


def _files_by_stem(folder: Path, problems: list[str]) -> dict[str, Path]:
    if not folder.is_dir():
        raise UserError(
            f"{folder} is not a folder; a folder of samples holds images/ and masks/ (or instances/)"
        )
    files: dict[str, Path] = {}
    double: list[Path] = []
    for file in sorted(folder.iterdir()):
        if file.name.startswith(".") or file.name == POINTS:
            continue
        if file.is_dir():
            problems.append(
                f"{file} is a folder among files; move its files up or give it as a stage of its own"
            )
        elif file.stem in files:
            double += [f for f in (files[file.stem], file) if f not in double]
        else:
            files[file.stem] = file
    if double:
        problems.append(f"{folder} has {_some(double)} with the same stem; keep one of each")
    if not files:
        raise UserError(
            f"{folder} holds no files; a folder of samples holds images/ and masks/ (or instances/)"
        )
    return files


def _some(files: Iterable[Path]) -> str:
    names = [f.name for f in files]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
