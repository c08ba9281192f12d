"""Read one picture from an image file of any kind, for predictions and in Python.

Nothing here loads torch before a file needs it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from everseg.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from everseg.data.decoding import Decoding
    from everseg.data.domains.nifti import Axis

_VOLUMES = (".nii.gz", ".nii")
_DICOM = ("", ".dcm", ".dicom", ".ima")


def is_volume(path: Path) -> bool:
    """Whether a file is called as NIfTI volumes are."""
    return path.name.lower().endswith(_VOLUMES)


def frames_of(path: Path, axis: Axis) -> int | None:
    """How many slices along `axis` a NIfTI volume has, or frames a DICOM file of several; None for any other
    file, and for a damaged one, of which `read_image` says what is wrong.
    """
    try:
        if is_volume(path):
            from everseg.data.domains.nifti import slices_in

            return slices_in(path, axis)
        if path.suffix.lower() in _DICOM and _is_dicom(path):
            from everseg.data.domains.dicom import frames_in

            frames = frames_in(path)
            return frames if frames > 1 else None
    except (UserError, OSError):
        pass
    return None


def read_image(
    path: str | Path,
    *,
    bands: Sequence[int] | None = None,
    window: Sequence[float | str] | None = None,
    frame: int | None = None,
    axis: Axis = "axial",
) -> Tensor:
    """(3, H, W) uint8 from an image file: what Pillow reads, TIFF of any depth, DICOM, NIfTI. A georeferenced
    TIFF is read as the kind `geotiff` reads it, any other file as `folder`, `dicom` or `nifti` do.

    bands: one band as grey, or three as red, green and blue, counted from 1.
    window: what becomes black and what becomes white, as (0, 4000) or ("2%", "98%").
    frame: which frame of a DICOM file or slice of a volume, counted from 0.
    axis: direction of a volume's slices.

    Raises:
        UserError: the file cannot be read, or does not say what is its picture.
    """
    from everseg.data.decoding import Decoding

    ends = None if window is None else tuple(window)
    if ends is not None and len(ends) != 2:
        raise UserError(f"window is {list(ends)}; give two values, the lower one first")
    decoding = Decoding(None if bands is None else tuple(bands), ends)
    return decoded(Path(path), decoding, frame, axis)


def decoded(path: Path, decoding: Decoding, frame: int | None = None, axis: Axis = "axial") -> Tensor:
    """As `read_image`."""
    from everseg.data.geo import georeferenced, read_raster
    from everseg.data.images import read_file

    if is_volume(path):
        from everseg.data.domains.nifti import NiftiSlice, slices_in

        index = _chosen(frame, slices_in(path, axis), path, f"{axis} slices")
        return NiftiSlice(path, path, axis, index, (), path.name).picture(decoding)
    if path.is_file() and _is_dicom(path):
        from everseg.data.domains.dicom import read_dicom

        file = read_dicom(path)
        return file.shown(_chosen(frame, len(file.values), path, "frames"), decoding)
    _chosen(frame, 1, path, "frames")
    if path.is_file() and georeferenced(path):
        return read_raster(path, decoding)
    return decoding.decode(read_file(path), path)


def _is_dicom(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False  # Reading the file gives the reason.


def _chosen(frame: int | None, count: int, path: Path, what: str) -> int:
    """The frame that is wanted.

    Raises:
        UserError: it is unknown which of several, or there is no such frame.
    """
    if frame is None and count > 1:
        raise UserError(f"{path} has {count} {what}; choose one, as in frame=0")
    if frame is not None and not 0 <= frame < count:
        raise UserError(f"{path} has {count} {what} and no frame {frame}; frames are counted from 0")
    return frame or 0
