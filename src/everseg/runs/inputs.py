"""List the images to predict on, and name their results: from files, folders and patterns.

Nothing here loads torch, unless there are volumes or DICOM files, so that a wrong path is refused at once.
"""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from everseg.data.imagefiles import frames_of, is_volume
from everseg.data.names import is_litter
from everseg.errors import UserError

if TYPE_CHECKING:
    from everseg.data.domains.nifti import Axis

SUFFIXES = frozenset(
    ".avif .bmp .dcm .gif .j2k .jfif .jp2 .jpe .jpeg .jpg .jpx .pbm .pgm .png .pnm .ppm .sgi .tga .tif .tiff"
    " .webp".split()
)
"""What a folder is searched for. A file that is named itself is read whatever it is called."""


@dataclass(frozen=True)
class Source:
    """One image to predict on.

    path: path of the image file.
    name: name of its results, a relative path without a suffix, such as "x" or "a/x".
    frame: index of the frame of a DICOM file or of the slice of a volume, from 0; None if the file is one
        image.
    """

    path: Path
    name: str
    frame: int | None = None

    @property
    def place(self) -> str:
        """The file, and which part of it: "x.nii.gz@12"."""
        return str(self.path) if self.frame is None else f"{self.path}@{self.frame}"


def find_images(given: Sequence[Path], out: Path, axis: Axis = "axial") -> list[Source]:
    """Every image that the arguments name, once, in their order; images of a folder sorted by path. Frames of
    a DICOM file and slices of a volume along `axis` are images of their own, called `x@0`, `x@1`, ...

    An image of a folder, or of a pattern such as `scans/**/*.png`, is called by its path below the folder,
    or below the part of the pattern that has no wildcard. Any other is called by its stem. Images that would
    share a name are called by their paths below the folder that holds all images, and by their suffixes too
    where that is not enough.

    Raises:
        UserError: a path does not exist, a folder or a pattern holds no image, or the results would be
            written among the images.
    """
    files: dict[Path, Source] = {}
    for path in given:
        for source in _expand(path, out):
            files.setdefault(Path(os.path.abspath(source.path)), source)
    top = _common_folder(files)
    found, long = list[Source](), list[str]()
    for path, source in files.items():
        name, count = _without_suffix(path.relative_to(top)), frames_of(path, axis)
        if count is None:
            found.append(source)
            long.append(name)
            continue
        found += [Source(source.path, f"{source.name}@{n}", n) for n in range(count)]
        long += [f"{name}@{n}" for n in range(count)]
    return _apart(found, long)


def _expand(path: Path, out: Path) -> Iterator[Source]:
    if os.path.isdir(path):
        if os.path.realpath(path) == os.path.realpath(out):
            raise UserError(f"--out is {path}, which is searched for images; choose another --out")
        inside = [file for file in _walk(path, os.path.realpath(out)) if _is_image(file)]
        if not inside:
            raise UserError(f"{path} holds no images; give a folder with images or image files")
        yield from (Source(file, _without_suffix(file.relative_to(path))) for file in inside)
    elif os.path.isfile(path):
        yield Source(path, stem(path.name))
    elif glob.has_magic(str(path)):
        fixed = _fixed_part(path)
        skipped = os.path.realpath(out)
        names = sorted(glob.glob(str(path), recursive=True))
        files = [Path(n) for n in names if os.path.isfile(n)]
        files = [f for f in files if not _lies_in(f, skipped) and not is_litter(f.name)]
        if not files:
            raise UserError(f"no file matches {path}; check the pattern, or give a folder")
        yield from (Source(file, _without_suffix(file.relative_to(fixed))) for file in files)
    elif os.path.exists(path):
        raise UserError(
            f"{path} is neither a file nor a folder; give image files, folders or quoted patterns"
        )
    else:
        raise UserError(f"{path} does not exist; give image files, folders or quoted patterns")


def _walk(folder: Path, out: str) -> Iterator[Path]:
    """The files below a folder, sorted, without hidden ones, litter, the results in `out`, and loops of
    links."""
    seen: set[str] = set()
    for here, folders, files in os.walk(folder, followlinks=True):
        place = os.path.realpath(here)
        if place in seen or place == out:
            folders[:] = []
            continue
        seen.add(place)
        folders[:] = sorted(name for name in folders if not is_litter(name))
        yield from (Path(here) / name for name in sorted(files) if not is_litter(name))


def _lies_in(file: Path, folder: str) -> bool:
    return Path(os.path.realpath(file)).is_relative_to(folder)


def _fixed_part(pattern: Path) -> Path:
    fixed = []
    for part in pattern.parts[:-1]:
        if glob.has_magic(part):
            break
        fixed.append(part)
    return Path(*fixed)


def _without_suffix(path: Path) -> str:
    return PurePosixPath(*path.parts[:-1], stem(path.name)).as_posix()


def _is_image(file: Path) -> bool:
    return file.suffix.lower() in SUFFIXES or is_volume(file)


def stem(name: str) -> str:
    """A file's name without its suffix, of which `.nii.gz` is one; `x.nii.gz@3` is `x@3`."""
    of_file, at, frame = name.rpartition("@")
    if not (at and frame.isdecimal()):
        of_file, at, frame = name, "", ""
    if of_file.lower().endswith(".nii.gz"):
        return f"{of_file[: -len('.nii.gz')]}{at}{frame}"
    return f"{Path(of_file).stem}{at}{frame}"


def _common_folder(paths: Iterable[Path]) -> Path:
    return Path(os.path.commonpath([path.parent for path in paths]))


def _apart(sources: list[Source], long: list[str]) -> list[Source]:
    """Sources of which no two share a name."""
    shared = _shared(source.name for source in sources)
    sources = [
        replace(source, name=name) if source.name in shared else source
        for source, name in zip(sources, long, strict=True)
    ]
    # A long name may be another's short one.
    shared = _shared(source.name for source in sources)
    return [
        replace(source, name=f"{name}{source.path.suffix}") if source.name in shared else source
        for source, name in zip(sources, long, strict=True)
    ]


def _shared(names: Iterable[str]) -> set[str]:
    return {name for name, count in Counter(names).items() if count > 1}
