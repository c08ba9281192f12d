"""NIfTI volumes and their label volumes: Medical Decathlon, nnU-Net, a folder per patient, and the like."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from everseg.data.domains.nifti import read_volume
from everseg.data.extras import needed
from everseg.data.known.site import Folder, Options, Place, Site
from everseg.data.known.volumes import Paired, holders, paired
from everseg.data.layout import split_of
from everseg.data.proposal import home_of
from everseg.data.samples import take_evenly
from everseg.errors import UserError
from everseg.text import read_text

_ENDINGS = (".nii.gz", ".nii")
_SOFT_TISSUE = [-160, 240]
"""Hounsfield units that show organs of the belly."""
_AIR = -500
"""Values below this occur in CT alone, where air is -1000."""
_AXES = ("sagittal", "coronal", "axial")


def nifti_places(site: Site) -> Iterator[Place]:
    """Pairs of folders of volumes."""
    found = holders(site, _volumes, nested=True)
    pairs = list(paired(found, found))
    for pair in pairs:
        try:
            yield _place(site, pair)
        except UserError as error:
            site.remarks.append(f"NIfTI: {_shown(pair)} is not used: {error}")
    used = {holder.parts for pair in pairs for holder in (pair.images, pair.masks)}
    for holder in found:
        if holder.parts not in used:
            site.remarks.append(
                f"NIfTI: {'/'.join(holder.parts) or '.'} is not used: its volumes have no partners; name "
                "masks like their images, or end their names with _seg or _mask"
            )


def _volumes(folder: Folder) -> dict[str, Path]:
    found = {}
    for file in folder.ending(*_ENDINGS):
        ending = next(end for end in _ENDINGS if file.name.lower().endswith(end))
        found[file.name[: -len(ending)]] = file
    return found


def _shown(pair: Paired) -> str:
    images, masks = ("/".join(holder.parts) or "." for holder in (pair.images, pair.masks))
    return f"{images}/*{pair.image_suffix.strip('/')} with {masks}/*{pair.mask_suffix.strip('/')}"


def _place(site: Site, pair: Paired) -> Place:
    images, masks = ("/".join(holder.parts) or "." for holder in (pair.images, pair.masks))
    base = pair.images.parts[:-1] if pair.images.parts else ()
    options: Options = {"kind": "nifti", "path": "/".join(base) or "."}
    if (pair.images.parts, pair.masks.parts) != ((*base, "images"), (*base, "masks")):
        options |= {"images": images, "masks": masks}
    options |= {
        key: suffix
        for key, suffix in (("image_suffix", pair.image_suffix), ("mask_suffix", pair.mask_suffix))
        if suffix
    }
    doubts, comments = [], {}
    if pair.others:
        others = ", ".join(other.strip("/") for other in pair.others)
        doubts.append(f"there are several images of each mask; {pair.image_suffix} is used, not {others}")
        comments["image_suffix"] = f"or {others}"
    about = _about(site, pair)
    first, values = _first(pair)
    _axis(first, options, doubts, comments)
    if values.ndim == 4:
        options["bands"] = [1]
        channels = _listed(about.get("modality") or about.get("channel_names"))
        named = f" ({channels})" if channels else ""
        doubts.append(f"volumes have {values.shape[3]} channels{named}, of which the first is shown")
        comments["bands"] = "unsure: one channel as grey, or three as red, green and blue, counted from 1"
    if values.dtype != np.uint8:
        finite = values[np.isfinite(values)] if values.dtype.kind == "f" else values
        low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
        options["window"] = _SOFT_TISSUE if low < _AIR else ["1%", "99%"]
        kind = "CT, and soft tissue is shown" if low < _AIR else "no CT, and all but extremes is shown"
        doubts.append(f"values from {low:g} to {high:g} seem to be {kind}; set window: to what matters")
        comments["window"] = "unsure: what becomes black and what becomes white"
    labels = _labels(pair)
    if len(labels) > 1:
        names = {int(k): v for k, v in _names(about.get("labels")).items()}
        each = ", ".join(f"{n} {names[n]}" if n in names else str(n) for n in labels[:8])
        options["instances"] = "each"
        comments["instances"] = (
            f"each label is an object of its own; or merged, or mask_values: [{labels[0]}]"
        )
        doubts.append(f"the masks have the labels {each}; each is taken as an object of its own")
    return Place(
        home_of(pair.images.parts),
        split_of(pair.images.parts),
        options,
        f"NIfTI: {len(pair.names)} volumes {_shown(pair)}",
        lambda: pair.names,
        "",
        doubts,
        comments,
        folder=site.root.joinpath(*base),
    )


def _first(pair: Paired) -> tuple[Path, NDArray[Any]]:
    """The first image that can be read, and its values.

    Raises:
        UserError: none can.
    """
    faults = []
    for name in pair.names:
        try:
            return pair.image(name), read_volume(pair.image(name))[0]
        except UserError as error:
            faults.append(error)
    raise faults[0]


def _labels(pair: Paired) -> list[int]:
    """The labels in a few of the masks."""
    found: set[int] = set()
    for name in take_evenly(pair.names, 4):
        try:
            values, _ = read_volume(pair.mask(name))
        except UserError:  # The check tells of it.
            continue
        found |= {int(v) for v in np.unique(values)[:300] if np.isfinite(v) and v}
    return sorted(found)


def _axis(file: Path, options: Options, doubts: list[str], comments: dict[str, str]) -> None:
    """Choose the direction in which slices are thickest, because that is how they were taken."""
    nibabel = needed("nibabel", "nifti", file)
    _, place = read_volume(file)
    spacing = np.asarray(nibabel.affines.voxel_sizes(place))
    thick = int(spacing.argmax())
    if thick != 2 and spacing[thick] > 1.5 * spacing[2]:
        options["axis"] = _AXES[thick]
        doubts.append(f"slices are thickest from one {_AXES[thick]} one to the next, so these are shown")
        comments["axis"] = "or axial, coronal, sagittal"


def _about(site: Site, pair: Paired) -> dict[str, Any]:
    """What dataset.json of Medical Decathlon or nnU-Net says, near the images."""
    for depth in range(len(pair.images.parts), -1, -1):
        file = site.root.joinpath(*pair.images.parts[:depth], "dataset.json")
        try:
            tree = json.loads(read_text(file))
        except (OSError, ValueError, RecursionError):
            continue
        return tree if isinstance(tree, dict) else {}
    return {}


def _names(labels: Any) -> dict[str, str]:
    """Numbers and names, which the two tools write the other way round."""
    if not isinstance(labels, dict):
        return {}
    rows = [(str(k), str(v)) for k, v in labels.items()]
    return {
        k if k.isdecimal() else v: v if k.isdecimal() else k
        for k, v in rows
        if k.isdecimal() or v.isdecimal()
    }


def _listed(given: Any) -> str:
    return ", ".join(str(v) for v in given.values()) if isinstance(given, dict) else ""
