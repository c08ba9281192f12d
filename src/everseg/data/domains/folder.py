"""Folders of images and of masks, paired by name: the plain layout, and that of SAMCL."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from everseg.data.domains.points import read_points
from everseg.data.domains.prompts import PromptKind, PromptRule, StoredClicks
from everseg.data.masks import MaskRule, Threshold, mask_rule, read_mask
from everseg.data.names import POINTS, composed, sample_name, some
from everseg.data.pairing import Patterns, fixed_folder, pair_files
from everseg.data.samples import PartlyReadable, Samples, take_evenly, take_part
from everseg.errors import UserError


@dataclass(frozen=True)
class MaskFile:
    """An image and the file that holds its mask."""

    image: Path
    path: Path
    rule: MaskRule
    stored: StoredClicks | None
    name: str

    def mask(self) -> NDArray[np.bool_]:
        return read_mask(self.path, self.rule)

    def truth(self) -> list[Any]:
        return [self.path, str(self.rule)]


@dataclass(frozen=True)
class MaskFiles:
    """An image and several files whose masks are one together."""

    image: Path
    paths: tuple[Path, ...]
    rule: MaskRule
    stored: StoredClicks | None
    name: str

    def mask(self) -> NDArray[np.bool_]:
        first, *others = (read_mask(path, self.rule) for path in self.paths)
        for path, other in zip(self.paths[1:], others, strict=True):
            if other.shape != first.shape:
                raise UserError(
                    f"{path} is {other.shape[1]}x{other.shape[0]} and {self.paths[0]} is "
                    f"{first.shape[1]}x{first.shape[0]}; masks of one image have one size"
                )
            first = first | other
        return first

    def truth(self) -> list[Any]:
        return [*self.paths, str(self.rule)]


class FolderReader(Samples):
    """Samples of a folder of images and a folder of masks.

    path: where both are. images, masks: globs below it, in which `{id}` marks the part of the names that
        pairs, such as "1st_manual/{id}_manual1.gif"; see docs/data.md. Without either, `images/` and
        `masks/`, paired by stem.
    instances: what several masks of an image are: "each" a sample of its own, or "merged" in one.
    resize_masks: resize masks of another size to that of the image (nearest).
    prompts: how to prompt; None takes the stored clicks where `masks/points.json` exists and draws clicks
        where not.
    mask_suffix: what the mask's stem has beyond the image's, as "_segmentation".
    part: [start, stop] of the sorted images; limit: at most so many samples, evenly spaced over the sorted
        list.

    Raises:
        UserError: a folder is missing or empty, files without partner, two files of one stem, several masks
            of an image without `instances`, or no stored clicks.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        images: Patterns | None = None,
        masks: Patterns | None = None,
        instances: Literal["each", "merged"] | None = None,
        resize_masks: bool = False,
        prompts: PromptKind | None = None,
        clicks: int = 3,
        seed: int = 0,
        mask_threshold: Threshold = 127,
        mask_values: tuple[int, ...] | None = None,
        mask_suffix: str = "",
        part: tuple[int, int] | None = None,
        limit: int | None = None,
    ) -> None:
        path = Path(path)
        pairs, problems = pair_files(path, images, masks, mask_suffix)
        folder = path / fixed_folder("masks/*" if masks is None else masks)
        points = folder / POINTS
        kind: PromptKind = prompts or ("stored" if points.exists() else "clicks")
        stored = _stored_clicks(points) if "stored" in kind else {}
        rule = mask_rule(mask_threshold, mask_values)
        entries: list[MaskFile | MaskFiles] = []
        for pair in take_part(pairs, part):
            several = len(pair.masks) > 1
            if several and instances is None:
                problems.append(
                    f"{pair.image} has {len(pair.masks)} masks ({some(pair.masks)}); set instances: each if "
                    "each is an object of its own, or merged if they are one together"
                )
            if several and instances != "each":
                clicked = stored.get(composed(pair.name))
                entries.append(MaskFiles(pair.image, pair.masks, rule, clicked, pair.name))
                continue
            for mask, own in zip(pair.masks, _own_names(pair.masks, folder), strict=True):
                clicked = stored.get(composed(mask.relative_to(folder).as_posix()))
                name = f"{pair.name}#{own}" if instances == "each" else pair.name
                entries.append(MaskFile(pair.image, mask, rule, clicked, name))
        chosen = []
        for entry in take_evenly(entries, limit):
            if "stored" in kind and entry.stored is None:
                mask_name = entry.path.name if isinstance(entry, MaskFile) else entry.name
                problems.append(f"{points} has no clicks for {mask_name}; add them or set prompts: clicks")
            else:
                chosen.append(entry)
        super().__init__(chosen, PromptRule(kind, clicks, seed), resize_masks=resize_masks)
        if problems:
            raise PartlyReadable(problems, self[:])


def _own_names(masks: Sequence[Path], folder: Path) -> list[str]:
    """What each of an image's masks is called: its stem where those differ, or else its path."""
    stems = [sample_name(mask, mask.parent).removesuffix(mask.suffix) for mask in masks]
    if len(set(stems)) == len(stems):
        return stems
    return [sample_name(mask, folder) for mask in masks]


def _stored_clicks(points: Path) -> dict[str, StoredClicks]:
    if not points.exists():
        raise UserError(
            f"{points} does not exist; write it with `everseg data points` or set prompts: clicks"
        )
    return {composed(key): clicks for key, clicks in read_points(points).items()}
