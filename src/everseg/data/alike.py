"""List the files of a folder by name, and pair those of two folders."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from everseg.data.names import POINTS, composed, is_folder, is_litter
from everseg.errors import UserError


def stem_of(name: str, form: Callable[[str], str] = composed) -> str:
    """As the stem of a path, which would keep every name (`sys.intern`)."""
    dot = name.rfind(".")
    return form(name[:dot] if 0 < dot < len(name) - 1 else name)


def alike(images: list[str], masks: list[str], suffix: str) -> list[tuple[str, str]] | None:
    """The pairs of two folders in which every stem is there once on either side, as in most: what the rules
    of `everseg.data.pairing` find, without an object per file. None for other folders.

    suffix: what masks' stems have beyond the images'.
    """
    if len(images) != len(masks) or not all(stem_of(mask).endswith(suffix) for mask in masks):
        return None
    by_image = sorted(images, key=stem_of)
    by_mask = sorted(masks, key=lambda name: stem_of(name).removesuffix(suffix))
    before = None
    for image, mask in zip(by_image, by_mask, strict=True):
        stem = stem_of(image)
        if stem == before or stem != stem_of(mask).removesuffix(suffix):
            return None
        before = stem
    return list(zip(by_image, by_mask, strict=True))


def file_names(folder: Path, problems: list[str]) -> list[str]:
    """The names of the files in a folder, sorted, without litter and points.json. Folders in it are problems.

    Raises:
        UserError: it is not a folder or holds no files.
    """
    if not folder.is_dir():
        raise UserError(
            f"{folder} is not a folder; give a folder with images/ and masks/ (or instances/), or name "
            "the folders with images: and masks:"
        )
    with os.scandir(folder) as entries:  # which knows folders without asking for each file
        files, folders = list[str](), list[str]()
        for entry in entries:
            if not is_litter(entry.name) and entry.name != POINTS:
                (folders if is_folder(entry) else files).append(entry.name)
    for below in (folder / name for name in sorted(folders)):
        problems.append(
            f"{below} is a folder among files; move its files up, give it as a stage of its own, or say "
            'images: "images/**" and masks: "masks/**"'
        )
    files.sort()
    if not files:
        raise UserError(f"{folder} has no files; give a folder with images/ and masks/ (or instances/)")
    return files
