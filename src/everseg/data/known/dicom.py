"""DICOM files and the masks that belong to them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from everseg.data.decoding import PLAIN
from everseg.data.domains.dicom import read_dicom
from everseg.data.known.site import Folder, Options, Place, Site
from everseg.data.known.volumes import Holder, Paired, holders, paired
from everseg.data.layout import SUFFIXES, split_of, words
from everseg.data.proposal import DOMAIN_WORDS, home_of
from everseg.errors import UserError
from everseg.text import plural

_ENDINGS = (".dcm", ".dicom", ".ima")
_CT = [-160, 240]
_MAGIC = 128
"""Where a DICOM file says that it is one."""


def dicom_places(site: Site) -> Iterator[Place]:
    """Pairs of a folder of DICOM files and one of masks, which are DICOM files or images."""
    scans = holders(site, _scans, nested=False)
    if not scans:
        return
    pictures = [
        Holder(folder.parts, folder.path, own) for folder in site.folders if (own := _pictures(folder))
    ]
    pairs = _together(list(paired(scans, [*scans, *pictures])))
    for pair, parts in pairs:
        try:
            yield _place(site, pair, parts)
        except UserError as error:
            site.remarks.append(f"DICOM: {'/'.join(pair.images.parts) or '.'} is not used: {error}")
    used = {parts for _, several in pairs for both in several for parts in both}
    for holder in scans:
        if holder.parts not in used:
            first = next(iter(holder.files.values()))
            if _modality(first) == "SEG":
                site.remarks.append(
                    f"DICOM: {first.relative_to(site.root).as_posix()} is a segmentation object (SEG), which "
                    "is not read; convert it to masks, for example with highdicom or dcmqi"
                )
                continue
            site.remarks.append(
                f"DICOM: {'/'.join(holder.parts) or '.'} is not used: {plural(len(holder.files), 'file')} "
                "without masks; put masks of the same names into a folder masks beside it"
            )


def _modality(file: Path) -> str:
    try:
        return str(read_dicom(file).header.get("Modality"))
    except UserError:
        return ""


def _scans(folder: Folder) -> dict[str, Path]:
    return {file.stem: file for file in folder.files if _is_dicom(file)}


def _is_dicom(file: Path) -> bool:
    if file.suffix.lower() in _ENDINGS:
        return True
    if file.suffix and not file.suffix[1:].isdecimal():  # Names end with numbers: 1.2.840.113619
        return False
    try:
        with file.open("rb") as content:
            content.seek(_MAGIC)
            return content.read(4) == b"DICM"
    except OSError:
        return False


def _pictures(folder: Folder) -> dict[str, Path]:
    return {file.stem: file for file in folder.files if file.suffix.lower() in SUFFIXES}


Parts = tuple[str, ...]


def _together(pairs: list[Paired]) -> list[tuple[Paired, list[tuple[Parts, Parts]]]]:
    """Pairs and the folders that they are of. Folders of patients, numbered alike and each with folders of
    scans and masks, are one, in which `*` stands for the patient."""
    alike: dict[object, list[Paired]] = {}
    for pair in pairs:
        images, masks = pair.images.parts, pair.masks.parts
        below = images[:-2] == masks[:-2] and images[-2:-1] == masks[-2:-1] and len(images) > 1
        own = images[-2] if below else ""
        patients = below and any(c.isdigit() for c in own) and not set(words(own)) & DOMAIN_WORDS
        form = (images[:-2], re.sub(r"\d+", "#", own), images[-1], masks[-1], pair.mask_suffix)
        alike.setdefault(form if patients else (images, masks), []).append(pair)
    folders = [[(p.images.parts, p.masks.parts) for p in members] for members in alike.values()]
    joined = [members[0] if len(members) == 1 else _joined(members) for members in alike.values()]
    return list(zip(joined, folders, strict=True))


def _joined(pairs: list[Paired]) -> Paired:
    """Several patients' folders as one pair."""
    first = pairs[0]
    images, masks = {}, {}
    for pair in pairs:
        patient = pair.images.parts[-2]
        for name in pair.names:
            images[f"{patient}/{name}"] = pair.image(name)
            masks[f"{patient}/{name}{pair.mask_suffix}"] = pair.mask(name)
    start = first.images.parts[:-2]
    holders = [
        Holder((*start, "*", old.parts[-1]), old.path.parent.parent, files)
        for old, files in ((first.images, images), (first.masks, masks))
    ]
    return replace(first, images=holders[0], masks=holders[1], names=tuple(sorted(images)))


def _place(site: Site, pair: Paired, folders: list[tuple[Parts, Parts]]) -> Place:
    shown = "/".join(pair.images.parts) or "."
    masks = "/".join(pair.masks.parts) or "."
    if pair.images.parts == pair.masks.parts or pair.image_suffix:
        raise UserError(
            f"its masks in {masks} have other names than the scans; put scans and masks into two "
            "folders, and name each mask like its scan"
        )
    base = pair.images.parts[: -1 if len(folders) == 1 else -2]
    options: Options = {"kind": "dicom", "path": "/".join(base) or "."}
    if (pair.images.parts, pair.masks.parts) != ((*base, "images"), (*base, "masks")):
        options |= {"images": shown, "masks": masks}
    if pair.mask_suffix:
        options["mask_suffix"] = pair.mask_suffix
    site.take([group for group in site.groups if group.folder in {parts for _, parts in folders}])
    doubts, comments = [], {}
    first = read_dicom(pair.image(pair.names[0]))
    try:
        first.shown(0, PLAIN)
    except UserError:
        ct = first.header.get("Modality") == "CT"
        options["window"] = _CT if ct else ["1%", "99%"]
        what = "soft tissue is shown" if ct else "all but extremes is shown"
        doubts.append(f"the files give no window, so {what}; set window: to what matters")
        comments["window"] = "unsure: what becomes black and what becomes white"
    return Place(
        home_of(base),
        split_of(base),
        options,
        f"DICOM: {plural(len(pair.names), 'file')} {shown}, masks {masks}",
        lambda: pair.names,
        "",
        doubts,
        comments,
        folder=site.root.joinpath(*base),
    )
