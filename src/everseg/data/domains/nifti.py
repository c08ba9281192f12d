"""NIfTI volumes: slices of an image volume and of the label volume that belongs to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from everseg.data.decoding import Bands, Decoding, Window, choose
from everseg.data.domains.prompts import PromptKind, PromptRule, StoredClicks
from everseg.data.domains.slices import SliceSamples
from everseg.data.extras import needed
from everseg.data.names import sample_name
from everseg.data.samples import PartlyReadable, take_evenly, take_part
from everseg.errors import UserError, first_line

Axis = Literal["sagittal", "coronal", "axial"]
_AXES: dict[str, int] = {"sagittal": 0, "coronal": 1, "axial": 2}
"""Of a volume whose axes point to the right, to the front and up."""

_ENDINGS = (".nii.gz", ".nii")


@dataclass(frozen=True)
class NiftiSlice:
    """One slice of a volume and the labels in it that are its object."""

    image: Path
    path: Path
    axis: Axis
    index: int
    labels: tuple[int, ...]
    name: str
    stored: StoredClicks | None = None

    @property
    def place(self) -> str:
        return f"{self.image}, {self.axis} slice {self.index}"

    def picture(self, decoding: Decoding) -> Tensor:
        values, _ = read_volume(self.image)
        channels = values[None] if values.ndim == 3 else np.moveaxis(values, 3, 0)
        plane = np.stack([_plane(channel, self.axis, self.index) for channel in channels])
        if decoding.window is None:
            if values.dtype != np.uint8:
                low, high = values.min(), values.max()
                raise UserError(
                    f"{self.image} has values from {low:g} to {high:g}; say which are shown, as in "
                    "window: [-160, 240] or window: [1%, 99%]"
                )
            return decoding.shown(plane, self.place)
        return decoding.shown(plane, self.place, ends=_ends(self.image, _changed(self.image), decoding))

    def mask(self) -> NDArray[np.bool_]:
        values, _ = read_volume(self.path)
        mask = np.isin(_plane(values, self.axis, self.index), self.labels)
        if not mask.any():
            raise UserError(f"{self.path} has changed: an object is gone; run the same command again")
        return mask

    def truth(self) -> list[Any]:
        return [self.path, self.axis, self.index, list(self.labels)]


class NiftiReader(SliceSamples):
    """Slices of NIfTI volumes, those that have an object.

    Volumes are turned so that their axes point to the right, to the front and up; an axial slice is seen from
    below, with the front at the top, coronal and sagittal ones have the head at the top. To find the objects
    every label volume is read once, when the reader is made.

    images, masks: the folders; `path/images` and `path/masks` where None. image_suffix, mask_suffix: what the
    names have beyond the patient's, as "_0000". axis: the slices' direction. mask_values: the labels that are
    objects; all but 0 where None. instances: "each" label of a slice is a sample, or all are "merged" in one;
    it must be said where there are several labels and `mask_values` does not choose among them.
    bands: of volumes with a fourth axis. window: percentiles are those of the whole volume.
    part: [start, stop] of the sorted volumes; limit: at most so many slices, evenly spaced.

    Raises:
        UserError: nibabel is missing; a folder is missing or empty, volumes without partner or of two sizes
            or places, several labels of which nobody says what they are, or no object at all.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        images: Path | None = None,
        masks: Path | None = None,
        image_suffix: str = "",
        mask_suffix: str = "",
        axis: Axis = "axial",
        instances: Literal["each", "merged"] | None = None,
        mask_values: tuple[int, ...] | None = None,
        prompts: Literal["clicks", "box", "clicks+box"] = "clicks",
        clicks: int = 3,
        seed: int = 0,
        part: tuple[int, int] | None = None,
        limit: int | None = None,
        bands: Bands = None,
        window: Window = None,
    ) -> None:
        folders = images or Path(path) / "images", masks or Path(path) / "masks"
        pairs, problems = _pairs(folders[0], image_suffix, folders[1], mask_suffix)
        entries: list[NiftiSlice] = []
        for image, mask in take_part(pairs, part):
            try:
                entries += _slices(image, mask, axis, instances == "each", mask_values)
            except UserError as error:
                problems.append(str(error))
        kind: PromptKind = prompts
        labels = sorted({label for entry in entries for label in entry.labels})
        if instances is None and mask_values is None and len(labels) > 1:
            shown = ", ".join(map(str, labels[:6])) + (", ..." if len(labels) > 6 else "")
            entries = []
            problems.append(
                f"the masks in {folders[1]} have the labels {shown}; say which are the object, as in "
                f"mask_values: [{labels[0]}], or set instances: each if each is one, or merged if they are "
                "one together"
            )
        said = f"labels {'/'.join(map(str, labels))}, {len(entries)} samples in {len(pairs)} volumes"
        prompted, decoding = PromptRule(kind, clicks, seed), Decoding(bands, window)
        super().__init__(take_evenly(entries, limit), prompted, said, decoding=decoding)
        if problems:
            raise PartlyReadable(problems, self[:])
        if not entries:
            raise UserError(f"{folders[1]} has no object in any slice; check mask_values")


def _pairs(
    images: Path, image_suffix: str, masks: Path, mask_suffix: str
) -> tuple[list[tuple[Path, Path]], list[str]]:
    """(image, mask) volumes sorted by name, and a sentence for each that lacks its partner."""
    of_image, of_mask = _by_patient(images, image_suffix), _by_patient(masks, mask_suffix)
    problems = [
        f"{one[name]} has no partner {name} in {other}; add it, remove it, or set image_suffix or mask_suffix"
        for one, other, names in (
            (of_image, masks, of_image.keys() - of_mask.keys()),
            (of_mask, images, of_mask.keys() - of_image.keys()),
        )
        for name in sorted(names)
    ]
    return [(of_image[n], of_mask[n]) for n in sorted(of_image.keys() & of_mask.keys())], problems


def _by_patient(folder: Path, suffix: str) -> dict[str, Path]:
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; give the folders of volumes as images: and masks:")
    found: dict[str, Path] = {}
    for file in sorted(folder.iterdir()):
        ending = next((e for e in _ENDINGS if file.name.lower().endswith(e)), None)
        if ending is None or file.name.startswith("."):
            continue
        name = file.name[: -len(ending)]
        if not name.endswith(suffix):
            continue
        name = name.removesuffix(suffix)
        if name in found:
            raise UserError(f"{file} and {found[name].name} are of one name; keep one of them")
        found[name] = file
    if not found:
        raise UserError(
            f"{folder} has no volumes (.nii, .nii.gz) whose names end with {suffix!r}; correct it"
        )
    return found


def _slices(
    image: Path, path: Path, axis: Axis, each: bool, wanted: Sequence[int] | None
) -> list[NiftiSlice]:
    """The slices of a pair that have an object."""
    labels, where = read_volume(path)
    size, place = _header(image)
    if labels.ndim != 3 or labels.shape != size:
        shapes = ["x".join(map(str, s)) for s in (size, labels.shape)]
        raise UserError(f"{image} is {shapes[0]} but its mask {path} is {shapes[1]}; give masks of its grid")
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in size], [1], indexing="ij")).reshape(4, -1)
    apart = float(np.linalg.norm(((where - place) @ corners)[:3], axis=0).max())
    if apart > 0.5 * float(np.linalg.norm(place[:3, :3], axis=0).min()):
        raise UserError(f"{path} lies up to {apart:.3g} mm beside its image {image}; resample it to its grid")
    objects = _objects(labels, wanted, path)
    across = tuple(a for a in range(3) if a != _AXES[axis])
    found: list[NiftiSlice] = []
    for index in np.flatnonzero(objects.any(axis=across)):
        inside = np.take(labels, index, _AXES[axis])[np.take(objects, index, _AXES[axis])]
        numbers = tuple(int(n) for n in np.unique(inside))
        name = f"{sample_name(image, image.parent)}@{index}"
        groups = [((n,), f"{name}#{n}") for n in numbers] if each else [(numbers, name)]
        found += [NiftiSlice(image, path, axis, int(index), group, called) for group, called in groups]
    return found


def _objects(labels: NDArray[Any], wanted: Sequence[int] | None, path: Path) -> NDArray[np.bool_]:
    """Where a volume has one of the labels `wanted`, or any but 0 where None.

    Raises:
        UserError: its values are no labels.
    """
    if labels.dtype.kind == "f" and not (np.isfinite(labels).all() and (labels == np.rint(labels)).all()):
        raise UserError(f"{path} has values that are not whole; a mask numbers its objects")
    return np.asarray(labels != 0 if wanted is None else np.isin(labels, wanted))


def _plane(volume: NDArray[Any], axis: Axis, index: int) -> NDArray[Any]:
    """(H, W) as it is looked at: what is in front or above is at the top."""
    return np.rot90(np.take(volume, index, _AXES[axis]))


def _changed(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; check the path") from error


def read_volume(path: Path) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """(X, Y, Z) or (X, Y, Z, C) values, axes pointing to the right, to the front and up, and the affine of
    their places in mm. The last two volumes are kept, because slices of one follow each other.

    Raises:
        UserError: nibabel is missing, or the file is damaged or no volume.
    """
    return _volume(path, _changed(path))


@lru_cache(maxsize=2)
def _volume(path: Path, changed: int) -> tuple[NDArray[Any], NDArray[np.float64]]:
    image = _opened(path)
    _, where = _header(path)
    orientations = needed("nibabel.orientations", "nifti", path)
    try:
        values = np.asanyarray(image.dataobj)
    except Exception as error:  # Damaged files raise errors of gzip, zlib, numpy and nibabel.
        raise UserError(
            f"{path} is damaged or truncated ({first_line(error)}); copy it again or remove it"
        ) from error
    if values.ndim == 4 and values.shape[3] == 1:
        values = values[..., 0]
    if values.ndim not in (3, 4) or values.dtype.kind not in "iufb":
        raise UserError(f"{path} is no volume of grey values ({values.dtype}, shape {values.shape})")
    values = orientations.apply_orientation(values, orientations.io_orientation(image.affine))
    return values.astype(np.float32) if values.dtype == np.float64 else values, where


def _opened(path: Path) -> Any:
    nibabel = needed("nibabel", "nifti", path)
    try:
        return nibabel.load(path)
    except Exception as error:
        raise UserError(
            f"{path} is no NIfTI file or is damaged ({first_line(error)}); copy it again or remove it"
        ) from error


def _header(path: Path) -> tuple[tuple[int, ...], NDArray[np.float64]]:
    """The size of a volume and the affine of its places, once it is turned; nothing else is read."""
    image = _opened(path)
    if len(image.shape) < 3:
        raise UserError(f"{path} is no volume (shape {image.shape}); remove it")
    orientations = needed("nibabel.orientations", "nifti", path)
    turns = orientations.io_orientation(image.affine)
    if not np.isfinite(turns).all():
        raise UserError(f"{path} has an affine without three directions; write it again with a proper one")
    size = np.empty(3, int)
    size[turns[:, 0].astype(int)] = image.shape[:3]
    place = image.affine @ orientations.inv_ornt_aff(turns, image.shape[:3])
    return tuple(int(n) for n in size), np.asarray(place)


@lru_cache(maxsize=64)
def _ends(path: Path, changed: int, decoding: Decoding) -> tuple[float, float]:
    """The window of a whole volume."""
    values, _ = _volume(path, changed)
    channels = values[None] if values.ndim == 3 else np.moveaxis(values, 3, 0)
    return decoding.ends(choose(channels, decoding.bands, path), path)
