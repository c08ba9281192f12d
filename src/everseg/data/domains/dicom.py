"""DICOM files, of one frame or many, and the masks that belong to them."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Unpack

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from everseg.data.decoding import Decoding
from everseg.data.domains.options import SampleOptions
from everseg.data.domains.prompts import StoredClicks
from everseg.data.domains.slices import SliceReader, refuse_gone
from everseg.data.extras import needed
from everseg.data.images import read_file, shallow
from everseg.data.maskrule import Threshold, mask_rule
from everseg.data.masks import Meaning
from everseg.data.meaning import settled
from everseg.data.names import sample_name
from everseg.data.pairing import one_each, pair_by_stem, pair_files
from everseg.data.raster import Raster, decode_raster, raster_of
from everseg.data.samples import take_part
from everseg.errors import UserError, first_line
from everseg.text import plural


@dataclass(frozen=True)
class DicomFrame:
    """One frame of a file and of its mask."""

    image: Path
    path: Path
    frame: int
    meaning: Meaning
    name: str
    stored: StoredClicks | None = None

    @property
    def place(self) -> str:
        return f"{self.image}, frame {self.frame}"

    def picture(self, decoding: Decoding) -> Tensor:
        return read_dicom(self.image).shown(self.frame, decoding)

    def mask(self) -> NDArray[np.bool_]:
        return refuse_gone(self.meaning.object_in(mask_frames(self.path)[self.frame], self.path), self.path)

    def truth(self) -> list[Any]:
        return [self.path, self.frame, self.meaning.key]


class DicomReader(SliceReader):
    """Frames of DICOM files, those that have an object.

    Masks are DICOM files with as many frames, or images of any other kind for files of one frame, paired by
    stem. To find the objects every mask is read once, when the reader is made.

    images, masks: the folders; `path/images` and `path/masks` where None; or globs such as `*/scans`, where
        each patient has folders of their own.
    mask_suffix: what the mask's stem has beyond the image's.
    mask_threshold, mask_values, mask_colours, void: what the object is, where the masks leave it open; see
        `mask_rule`. window: in the values that the file's rescaling gives (HU in CT); the file's own window
        where None. Percentiles are those of all frames. `part` is of the sorted files; for other options see
        `SampleOptions`.

    Raises:
        UserError: pydicom is missing; a folder is missing or empty, files without partner or of other frames
            or sizes, masks that may mean more than one thing, or no object at all.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        images: Path | None = None,
        masks: Path | None = None,
        mask_suffix: str = "",
        mask_threshold: Threshold | None = None,
        mask_values: tuple[int, ...] | None = None,
        mask_colours: tuple[str | tuple[int, int, int], ...] | None = None,
        void: tuple[int, ...] = (),
        **options: Unpack[SampleOptions],
    ) -> None:
        folders = images or Path(path) / "images", masks or Path(path) / "masks"
        pairs, problems = _paired(Path(path), folders, mask_suffix)
        chosen = take_part(pairs, options.get("part"))
        rule = mask_rule(mask_threshold, mask_values, mask_colours, void)
        meaning = settled([mask for _, mask, _ in chosen], rule, _stacked)
        names = {image: name for image, _, name in chosen}
        super().__init__(
            folders[1],
            [(image, mask) for image, mask, _ in chosen],
            problems,
            lambda image, mask: _frames(image, mask, names[image], meaning),
            lambda frames: str(meaning),
            **options,
        )


def _paired(
    path: Path, folders: tuple[Path, Path], mask_suffix: str
) -> tuple[list[tuple[Path, Path, str]], list[str]]:
    """Image, mask and the name of each pair, and what is wrong. Folders may be globs, as `*/scans` is of
    patients' folders; then the files pair by what the wildcards stand for."""
    if not any(folder.exists() for folder in folders) and any("*" in str(folder) for folder in folders):
        patterns = [f"{os.path.relpath(folder, path)}/*" for folder in folders]
        found, problems = pair_files(path, patterns[0], patterns[1], mask_suffix)
        return list(one_each(found, problems)), problems
    pairs, problems = pair_by_stem(*folders, mask_suffix)
    return [(image, mask, sample_name(image, image.parent)) for image, mask in pairs], problems


def _frames(image: Path, path: Path, name: str, meaning: Meaning) -> list[DicomFrame]:
    """The frames of a pair that have an object."""
    count, height, width = _size(image)
    masks = mask_frames(path)
    size = (len(masks), *masks[0].values.shape)
    if size != (count, height, width):
        shapes = [f"{plural(n, 'frame')} of {w}x{h}" for n, h, w in ((count, height, width), size)]
        raise UserError(
            f"{image} has {shapes[0]}, but its mask {path} has {shapes[1]}; give one mask per frame, "
            "of the same size"
        )
    return [
        DicomFrame(image, path, i, meaning, name if count == 1 else f"{name}@{i}")
        for i, mask in enumerate(masks)
        if meaning.object_in(mask, path).any()
    ]


@dataclass(frozen=True)
class Dicom:
    """A file's pixels and what it says of them.

    values: (F, H, W), or (F, H, W, 3) in colour.
    """

    path: Path
    values: NDArray[Any]
    header: Any

    def shown(self, frame: int, decoding: Decoding) -> Tensor:
        """(3, H, W) uint8 of a frame, as `decoding` or the file itself has it.

        Raises:
            UserError: it is unknown which values to show.
        """
        what = f"{self.path}, frame {frame}"
        if self.values.ndim == 4:
            colours = self.values[frame].transpose(2, 0, 1)
            return decoding.shown(colours, what, 3)
        with _sound(self.path):
            header = _of_frame(self.header, frame)
            grey = _rescaled(self.values[frame], header)[None]
            own = _own_window(header)
            inverted = header.get("PhotometricInterpretation") == "MONOCHROME1"
        if decoding.window is not None:
            ends = None
            if len(self.values) > 1:
                ends = _ends(self.path, self.path.stat().st_mtime_ns, decoding)
            image = decoding.shown(grey, what, ends=ends)
        elif own is not None:
            image = decoding.shown(grey, what, ends=own)
        elif self.values.dtype == np.uint8 and grey.min() >= 0 and grey.max() <= 255:
            image = decoding.shown(shallow(grey, what), what)
        else:
            raise UserError(
                f"{self.path} has values from {grey.min():g} to {grey.max():g} and no window that can be "
                "read; set the range to show, as in window: [-160, 240] or window: [1%, 99%]"
            )
        return 255 - image if inverted else image


def read_dicom(path: Path) -> Dicom:
    """Read a file; the last few are kept, because frames of one follow each other.

    Raises:
        UserError: pydicom is missing, or the file is damaged, has no pixels, or its compression needs more
            packages.
    """
    try:
        return _read(path, path.stat().st_mtime_ns)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; check the path") from error


@lru_cache(maxsize=4)
def _read(path: Path, changed: int) -> Dicom:
    header = _header(path)
    pixels = needed("pydicom.pixels", "dicom", path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            values = header.pixel_array
            if header.get("PhotometricInterpretation") == "PALETTE COLOR":
                values = pixels.apply_color_lut(values, header)
    except Exception as error:  # pydicom and its decoders raise errors of many types.
        if "missing dependencies" in str(error) or isinstance(error, ImportError):
            raise UserError(
                f"pydicom needs other packages to decompress {path} ({first_line(error)}); pip install "
                "pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg, or save it uncompressed"
            ) from error
        raise UserError(
            f"{path} has no pixels that can be read ({first_line(error)}); copy it again or remove it"
        ) from error
    if values.dtype == np.uint16 and header.get("PhotometricInterpretation") == "PALETTE COLOR":
        values = (values >> 8).astype(np.uint8)
    return Dicom(path, values if int(header.get("NumberOfFrames", 1) or 1) > 1 else values[None], header)


@contextmanager
def _sound(path: Path) -> Iterator[None]:
    """What a header says is read when it is asked for, and damage shows then, in errors of many types.

    Raises:
        UserError: it is damaged.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except Exception as error:
        raise UserError(
            f"{path} has a header that cannot be read ({first_line(error)}); copy it again or remove it"
        ) from error


def _header(path: Path, pixels: bool = True) -> Any:
    pydicom = needed("pydicom", "dicom", path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return pydicom.dcmread(path, stop_before_pixels=not pixels)
    except FileNotFoundError:
        raise
    except Exception as error:
        raise UserError(
            f"{path} is not a DICOM file or is damaged ({first_line(error)}); copy it again or remove it"
        ) from error


def _size(path: Path) -> tuple[int, int, int]:
    """(F, H, W) by the header."""
    header = _header(path, pixels=False)
    with _sound(path):
        return int(header.get("NumberOfFrames", 1) or 1), int(header.Rows), int(header.Columns)


def frames_in(path: Path) -> int:
    """How many frames a file has, by its header.

    Raises:
        UserError: as `read_dicom`.
    """
    return _size(path)[0]


def mask_frames(path: Path) -> list[Raster]:
    """The frames of a mask: those of a DICOM file, or the one of an image.

    Raises:
        UserError: unreadable, or a DICOM file in colour.
    """
    content = read_file(path)
    if content[128:132] != b"DICM":
        return [decode_raster(content, path)]
    values = read_dicom(path).values
    if values.ndim != 3:
        raise UserError(f"{path} is in colour, and a mask in DICOM has one value per pixel; save it in grey")
    return [raster_of(frame, path) for frame in values]


def _stacked(path: Path) -> Raster:
    """All frames of a mask, one below the other: for the look at what its values mean."""
    frames = mask_frames(path)
    if len(frames) == 1:
        return frames[0]
    return raster_of(np.concatenate([frame.values for frame in frames]), path)


def _of_frame(header: Any, frame: int) -> Any:
    """What an enhanced file says of one frame, in place of what it says of all."""
    groups = [*(header.get("SharedFunctionalGroupsSequence") or [])[:1]]
    groups += (header.get("PerFrameFunctionalGroupsSequence") or [])[frame : frame + 1]
    parts = ("PixelValueTransformationSequence", "FrameVOILUTSequence")
    items = [item for group in groups for part in parts for item in group.get(part) or []]
    if not items:
        return header
    pydicom = needed("pydicom", "dicom", "this file")
    merged = pydicom.Dataset()
    keywords = (
        "PhotometricInterpretation",
        "RescaleSlope",
        "RescaleIntercept",
        "WindowCenter",
        "WindowWidth",
    )
    for source in (header, *items):
        for keyword in (*keywords, "VOILUTFunction"):
            if keyword in source:
                setattr(merged, keyword, source.get(keyword))
    return merged


def _rescaled(values: NDArray[Any], header: Any) -> NDArray[np.float64]:
    """Stored values in the units that the file gives, HU in CT."""
    pixels = needed("pydicom.pixels", "dicom", "this file")
    return np.asarray(pixels.apply_modality_lut(values, header)).astype(np.float64)


def _own_window(header: Any) -> tuple[float, float] | None:
    """The first window of a file, as the values that become black and white; None where it has none or one
    that is not a line.

    Source: DICOM PS3.3 C.11.2.1.2.1 (LINEAR) and C.11.2.1.3.2 (LINEAR_EXACT).
    """
    centre, width = header.get("WindowCenter"), header.get("WindowWidth")
    form = header.get("VOILUTFunction") or "LINEAR"
    if centre in (None, "") or width in (None, "") or form not in ("LINEAR", "LINEAR_EXACT"):
        return None
    first = [float(v[0]) if isinstance(v, Sequence) else float(v) for v in (centre, width)]
    shift, span = (0.5, first[1] - 1) if form == "LINEAR" else (0.0, first[1])
    span = max(span, 1e-6)
    return first[0] - shift - span / 2, first[0] - shift + span / 2


@lru_cache(maxsize=64)
def _ends(path: Path, changed: int, decoding: Decoding) -> tuple[float, float]:
    """The window of all frames of a file."""
    file = _read(path, changed)
    with _sound(path):
        frames = [_rescaled(v, _of_frame(file.header, i)) for i, v in enumerate(file.values)]
    return decoding.ends(np.stack(frames), path)
