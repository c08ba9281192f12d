"""NIfTI volumes: slices of an image volume and of the label volume that belongs to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Unpack

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from everseg.data.decoding import Decoding, choose
from everseg.data.domains.options import SampleOptions
from everseg.data.domains.prompts import StoredClicks
from everseg.data.domains.slices import SliceReader, refuse_gone
from everseg.data.extras import needed
from everseg.data.names import sample_name
from everseg.data.samples import take_part
from everseg.errors import UserError, first_line
from everseg.text import plural

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
                    f"{self.image} has values from {low:g} to {high:g}; set the range to show, as in window: "
                    "[-160, 240] or window: [1%, 99%]"
                )
            return decoding.shown(plane, self.place)
        return decoding.shown(plane, self.place, ends=_ends(self.image, _changed(self.image), decoding))

    def mask(self) -> NDArray[np.bool_]:
        values, _ = read_volume(self.path)
        mask = np.isin(_plane(values, self.axis, self.index), self.labels)
        return refuse_gone(mask, self.path)

    def truth(self) -> list[Any]:
        return [self.path, self.axis, self.index, list(self.labels)]


class NiftiReader(SliceReader):
    """Slices of NIfTI volumes, those that have an object.

    Volumes are turned so that their axes point to the right, to the front and up; an axial slice is seen from
    below, with the front at the top, coronal and sagittal ones have the head at the top. To find the objects
    every label volume is read once, when the reader is made.

    images, masks: the folders; `path/images` and `path/masks` where None. They may hold a folder for each
        patient.
    image_suffix, mask_suffix: what the names have beyond the patient's, as "_0000".
    axis: the slices' direction.
    mask_values: the labels that are objects; all but 0 where None.
    instances: "each" label of a slice is a sample, or all are "merged" in one; it must be said where there
        are several labels and `mask_values` does not choose among them. bands: of volumes with a fourth axis.
        window: percentiles are those of the whole volume. `part` is of the sorted volumes; for other options
        see `SampleOptions`.

    Raises:
        UserError: nibabel is missing; a folder is missing or empty, volumes without partner or of two sizes
            or places, several labels without names, or no object at all.
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
        **options: Unpack[SampleOptions],
    ) -> None:
        folders = images or Path(path) / "images", masks or Path(path) / "masks"
        pairs, problems = _pairs(folders[0], image_suffix, folders[1], mask_suffix)

        def said(slices: Sequence[NiftiSlice]) -> str:
            labels = sorted({label for one in slices for label in one.labels})
            if instances is None and mask_values is None and len(labels) > 1:
                shown = ", ".join(map(str, labels[:6])) + (", ..." if len(labels) > 6 else "")
                raise UserError(
                    f"the masks in {folders[1]} have the labels {shown}; list those of the object, as in "
                    f"mask_values: [{labels[0]}], or set instances: each if every label is an object, or "
                    "instances: merged if all labels together are one"
                )
            if not labels:
                return ""
            return (
                f"labels {'/'.join(map(str, labels))}, {plural(len(slices), 'sample')} in "
                f"{plural(len(pairs), 'volume')}"
            )

        super().__init__(
            folders[1],
            take_part(pairs, options.get("part"), problems),
            problems,
            lambda image, mask: _slices(image, mask, folders[0], axis, instances == "each", mask_values),
            said,
            **options,
        )


def _pairs(
    images: Path, image_suffix: str, masks: Path, mask_suffix: str
) -> tuple[list[tuple[Path, Path]], list[str]]:
    """(image, mask) volumes sorted by name, and a sentence for each that lacks its partner."""
    of_image, of_mask = _by_patient(images, image_suffix), _by_patient(masks, mask_suffix)
    if images == masks and not image_suffix:  # Where all files count as images, masks are none.
        of_image = {name: file for name, file in of_image.items() if file not in of_mask.values()}
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
    files = [file for file in sorted(folder.iterdir()) if _ending(file)]
    for file in files or sorted(filter(_ending, folder.rglob("*"))):  # or a folder for each patient
        name = file.relative_to(folder).as_posix().removesuffix(_ending(file))
        if not name.endswith(suffix):
            continue
        name = name.removesuffix(suffix)
        if name in found:
            raise UserError(f"{file} and {found[name].name} have the same name; keep one of them")
        found[name] = file
    if not found:
        raise UserError(
            f"{folder} has no volumes (.nii, .nii.gz) whose names end with {suffix!r}; correct the suffix"
        )
    return found


def _ending(file: Path) -> str:
    """The part of a volume's name that says what it is; "" for any other file."""
    ending = next((e for e in _ENDINGS if file.name.lower().endswith(e)), "")
    return "" if file.name.startswith(".") else file.name[len(file.name) - len(ending) :]


def _slices(
    image: Path, path: Path, base: Path, axis: Axis, each: bool, wanted: Sequence[int] | None
) -> list[NiftiSlice]:
    """The slices of a pair that have an object.

    base: where their names start.
    """
    labels, where = read_volume(path)
    size, place = _header(image)
    if labels.ndim != 3 or labels.shape != size:
        shapes = ["x".join(map(str, s)) for s in (size, labels.shape)]
        raise UserError(
            f"{image} is {shapes[0]} but its mask {path} is {shapes[1]}; resample the mask to the grid "
            "of the image"
        )
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in size], [1], indexing="ij")).reshape(4, -1)
    apart = float(np.linalg.norm(((where - place) @ corners)[:3], axis=0).max())
    if apart > 0.5 * float(np.linalg.norm(place[:3, :3], axis=0).min()):
        raise UserError(
            f"{path} is shifted by up to {apart:.3g} mm against its image {image}; resample it to the "
            "grid of the image"
        )
    objects = _objects(labels, wanted, path)
    across = tuple(a for a in range(3) if a != _AXES[axis])
    found: list[NiftiSlice] = []
    for index in np.flatnonzero(objects.any(axis=across)):
        inside = np.take(labels, index, _AXES[axis])[np.take(objects, index, _AXES[axis])]
        numbers = tuple(int(n) for n in np.unique(inside))
        name = f"{sample_name(image, base)}@{index}"
        groups = [((n,), f"{name}#{n}") for n in numbers] if each else [(numbers, name)]
        found += [NiftiSlice(image, path, axis, int(index), group, called) for group, called in groups]
    return found


def _objects(labels: NDArray[Any], wanted: Sequence[int] | None, path: Path) -> NDArray[np.bool_]:
    """Where a volume has one of the labels `wanted`, or any but 0 where None.

    Raises:
        UserError: its values are not labels.
    """
    if labels.dtype.kind == "f" and not (np.isfinite(labels).all() and (labels == np.rint(labels)).all()):
        raise UserError(
            f"{path} has values that are not whole numbers, but a mask numbers its objects; round "
            "them, or cut at 0.5"
        )
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
    elif values.ndim == 2:  # One slice, as CAMUS has them.
        values = values[..., None]
    if values.ndim not in (3, 4) or values.dtype.kind not in "iufb":
        raise UserError(
            f"{path} is not a volume of grey values ({values.dtype}, shape {values.shape}); convert or "
            "remove it"
        )
    values = orientations.apply_orientation(values, orientations.io_orientation(image.affine))
    return values.astype(np.float32) if values.dtype == np.float64 else values, where


def slices_in(path: Path, axis: Axis) -> int:
    """How many slices a volume has, by its header.

    Raises:
        UserError: as `read_volume`.
    """
    return _header(path)[0][_AXES[axis]]


def _opened(path: Path) -> Any:
    nibabel = needed("nibabel", "nifti", path)
    try:
        return nibabel.load(path)
    except Exception as error:
        raise UserError(
            f"{path} is not a NIfTI file or is damaged ({first_line(error)}); copy it again or remove it"
        ) from error


def _header(path: Path) -> tuple[tuple[int, ...], NDArray[np.float64]]:
    """The size of a volume and the affine of its places, once it is turned; nothing else is read."""
    image = _opened(path)
    if len(image.shape) < 2:
        raise UserError(f"{path} is not a volume (shape {image.shape}); remove it")
    shape = (*image.shape, 1)[:3]
    orientations = needed("nibabel.orientations", "nifti", path)
    turns = orientations.io_orientation(image.affine)
    if not np.isfinite(turns).all():
        raise UserError(
            f"{path} has an affine matrix without three directions; save it again with a valid one"
        )
    size = np.empty(3, int)
    size[turns[:, 0].astype(int)] = shape
    place = image.affine @ orientations.inv_ornt_aff(turns, shape)
    return tuple(int(n) for n in size), np.asarray(place)


@lru_cache(maxsize=64)
def _ends(path: Path, changed: int, decoding: Decoding) -> tuple[float, float]:
    """The window of a whole volume."""
    values, _ = _volume(path, changed)
    channels = values[None] if values.ndim == 3 else np.moveaxis(values, 3, 0)
    return decoding.ends(choose(channels, decoding.bands, path), path)
