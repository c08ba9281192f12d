"""Folders of volumes or scans and of their masks, which pair by what their names share."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from everseg.data.affixes import common_affixes
from everseg.data.known.site import Folder, Site
from everseg.data.layout import role, split_of, words
from everseg.data.proposal import DOMAIN_WORDS, shared


@dataclass
class Holder:
    """A folder of volumes, or one that holds a folder for each patient.

    files: by their paths below it, without endings.
    """

    parts: tuple[str, ...]
    path: Path
    files: dict[str, Path] = field(default_factory=dict)

    @property
    def role(self) -> str:
        return next((said for part in reversed(self.parts) if (said := role(part))), "")


@dataclass(frozen=True)
class Paired:
    """Images and masks.

    image_suffix, mask_suffix: what their names have beyond the patient's.
    names: of the patients or scans, sorted.
    others: what the images' suffix might be as well.
    """

    images: Holder
    masks: Holder
    image_suffix: str
    mask_suffix: str
    names: tuple[str, ...]
    others: tuple[str, ...] = ()

    def image(self, name: str) -> Path:
        return self.images.files[name + self.image_suffix]

    def mask(self, name: str) -> Path:
        return self.masks.files[name + self.mask_suffix]


def holders(site: Site, named: Callable[[Folder], dict[str, Path]], nested: bool) -> list[Holder]:
    """The folders that hold such files.

    named: the files of a folder by their names without endings.
    nested: whether folders of patients, one below each other's parent, count as one.
    """
    own = [Holder(folder.parts, folder.path, files) for folder in site.folders if (files := named(folder))]
    if not nested:
        return own
    alike: dict[tuple[str, ...], list[Holder]] = {}
    for holder in own:
        alike.setdefault(holder.parts[:-1] if holder.parts else ("",), []).append(holder)
    found = []
    for parts, members in alike.items():
        names = [member.parts[-1] for member in members if member.parts]
        patients = (
            len(members) > 1
            and len({re.sub(r"\d+", "#", name) for name in names}) == 1
            and not any(role(name) or set(words(name)) & DOMAIN_WORDS for name in names)
            and all(len(member.files) > 1 for member in members)
        )
        if not patients:
            found += members
            continue
        merged = Holder(parts, members[0].path.parent)
        for member in members:
            merged.files |= {f"{member.parts[-1]}/{name}": file for name, file in member.files.items()}
        found.append(merged)
    return found


def paired(images: Sequence[Holder], masks: Sequence[Holder]) -> Iterator[Paired]:
    """The images of each holder with the masks that fit best."""
    for holder in images:
        if holder.role == "mask":
            continue
        fits = [pair for other in masks if (pair := _pair(holder, other)) is not None]
        if fits:
            yield max(fits, key=lambda pair: (shared(pair.masks.parts, holder.parts), len(pair.names)))


def _pair(images: Holder, masks: Holder) -> Paired | None:
    if images is masks or images.parts == masks.parts:
        return _side_by_side(images, masks)
    split = split_of(images.parts)
    if masks.role != "mask" or split_of(masks.parts) not in ("", split):
        return None
    found = common_affixes(list(images.files), list(masks.files))
    if found is None or found.image[0] or found.mask[0]:
        return None
    return _by_suffix(images, masks, found.mask[1])


def _side_by_side(images: Holder, masks: Holder) -> Paired | None:
    """Images and masks in one folder: names of masks end with a word for masks."""
    ends: dict[str, int] = {}
    for name in masks.files:
        start = len(name) - len(name.rpartition("/")[2])
        cuts = [start, *(start + m.start() for m in re.finditer(r"[_\-. ]", name[start:]))]
        end = next((name[cut:] for cut in reversed(cuts) if role(name[cut:]) == "mask"), "")
        if end:
            ends[end] = ends.get(end, 0) + 1
    if not ends:
        return None
    suffix = max(ends, key=lambda end: (ends[end], len(end)))
    return _by_suffix(images, masks, suffix)


def _by_suffix(images: Holder, masks: Holder, mask_suffix: str) -> Paired | None:
    """The patients of the masks, and what most names of their images end with."""
    keys = {name.removesuffix(mask_suffix) for name in masks.files if name.endswith(mask_suffix)}
    together = images.parts == masks.parts
    others = [name for name in images.files if not (together and name.endswith(mask_suffix))]
    tails: dict[str, int] = {}
    for name in others:
        for key in keys:
            tail = name.removeprefix(key)
            if name.startswith(key) and not (tail[:1].isdigit() and key[-1:].isdigit()):
                tails[tail] = tails.get(tail, 0) + 1
    if not tails:
        return None
    most = max(tails.values())
    best = sorted(tail for tail, count in tails.items() if count == most)
    both = sorted(key for key in keys if key + best[0] in images.files)
    return Paired(images, masks, best[0], mask_suffix, tuple(both), tuple(best[1:]))
