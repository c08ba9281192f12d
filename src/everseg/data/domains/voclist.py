"""Read the lists of PASCAL VOC's layout, in the forms in which they are distributed.

A line names an image, as in

    2007_000032                                                        VOC's own; names may hold spaces
    2007_000032.jpg                                                    with its ending
    2007_000032 -1                                                     ImageSets/Main: with a label
    /JPEGImages/2007_000032.jpg /SegmentationClassAug/2007_000032.png  DeepLab: image and class map

Images may be .jpg, .jpeg, .png and so on, in small letters or capitals.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from everseg.data.domains.faults import Faults
from everseg.data.listing import Listing, Stems
from everseg.data.samples import take_evenly, take_part
from everseg.errors import UserError, brief, unknown
from everseg.text import is_file_name, lines_of, read_text

_LABEL = re.compile(r"(.*\S)\s+[+-]?[01]")
_ENDING = re.compile(r"(.+)\.(jpe?g|png|bmp|gif|webp|tiff?)", re.IGNORECASE)


@dataclass(frozen=True)
class VocList:
    """A list that was read.

    pairs: (image, class map), sorted by name.
    problems: one sentence per kind of fault.
    notes: sentences on how the list was read.
    """

    pairs: list[tuple[Path, Path]]
    problems: list[str]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Line:
    """What a line names.

    images, maps: the files that it may mean.
    labelled: it has a label, too.
    """

    name: str
    image: str
    images: list[Path]
    map: str
    maps: list[Path]
    labelled: bool = False


def read_voc_list(
    path: Path, split: str, part: tuple[int, int] | None, limit: int | None, skip: str | None = None
) -> VocList:
    """The list `ImageSets/Segmentation/SPLIT.txt` of the folder `path`.

    skip: leave out names like this one ("2007_*"), before `part` and `limit` count.

    Raises:
        UserError: not VOC's layout, no such list, or nothing that `skip` would leave out.
    """
    lists = path / "ImageSets" / "Segmentation"
    folders = [path / name for name in ("SegmentationClassAug", "SegmentationClass")]
    maps = next((f for f in folders if f.is_dir()), None)
    if maps is None or not lists.is_dir():
        raise UserError(
            f"{path} does not have VOC's layout; give a folder with JPEGImages, SegmentationClass and "
            "ImageSets/Segmentation"
        )
    file = lists / f"{split}.txt"
    if not (is_file_name(str(file)) and file.is_file()):
        raise unknown(f"split in {lists}:", brief(split), [f.stem for f in lists.glob("*.txt")])
    try:
        text = read_text(file, names=True)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the list {file} ({error}); save it as UTF-8 text") from error
    layout = _Layout(path, maps)
    named: dict[tuple[str, ...], _Line] = {}
    for stripped in sorted({line.strip() for line in lines_of(text)} - {""}):
        line = layout.read(stripped)
        named.setdefault((line.name, *map(str, line.images)), line)
    lines = [named[key] for key in sorted(named)]
    if skip is not None:
        kept = [line for line in lines if not fnmatchcase(line.name, skip)]
        if len(kept) == len(lines):
            raise UserError(f"skip is {skip!r}, which matches no name in {file}; correct it or leave it out")
        lines = kept
    lines = list(take_evenly(take_part(lines, part), limit))
    faults = Faults(file)
    pairs = list(_pairs(lines, faults))
    return VocList(pairs, faults.sentences(), tuple(_notes(lines, file)))


class _Layout:
    """The folder `path` in VOC's layout: which files a line of a list names."""

    def __init__(self, path: Path, maps: Path) -> None:
        self.path, self.pictures, self.maps = path, path / "JPEGImages", maps
        self._images, self._maps = Stems(self.pictures, ".jpg"), Stems(maps, ".png")
        self._files = Listing(path)

    def read(self, text: str) -> _Line:
        """The files that a line means: the reading that finds an image, or else the likeliest."""
        if self._images.find(text):
            return self._stem(text)
        labelled = _LABEL.fullmatch(text)
        if labelled and (self._images.find(labelled[1]) or not re.search(r"\s", labelled[1])):
            return self._stem(labelled[1], labelled=True)
        gaps = [*re.finditer(r"\s+", text)]
        halves = [(text[: gap.start()], text[gap.end() :]) for gap in gaps]
        for image, map_ in halves:
            found, other = self._file(image, self._images), self._file(map_, self._maps)
            both = _ENDING.fullmatch(image) and _ENDING.fullmatch(map_)
            if (found and other) or (both and len(halves) == 1):
                return _Line(Path(image.replace("\\", "/")).stem, image, found, map_, other)
        if found := self._file(text, self._images):
            stem = found[0].stem
            return _Line(stem, text, found, str(self.maps / f"{stem}.png"), self._maps.find(stem))
        return self._stem(halves[0][0] if halves else text)

    def _stem(self, stem: str, labelled: bool = False) -> _Line:
        image, map_ = self.pictures / f"{brief(stem)}.jpg", self.maps / f"{brief(stem)}.png"
        return _Line(stem, str(image), self._images.find(stem), str(map_), self._maps.find(stem), labelled)

    def _file(self, text: str, stems: Stems) -> list[Path]:
        """The file of a path below the layout's folder, which lists often begin with a slash, or of a bare
        name with its ending.
        """
        if "/" not in text and "\\" not in text:
            ending = _ENDING.fullmatch(text)
            return stems.find(ending[1]) if ending else []
        found = self._files.find(text.lstrip("/\\")) or self._files.find(text)
        return [found] if found else []


def _pairs(lines: list[_Line], faults: Faults) -> Iterator[tuple[Path, Path]]:
    """The pairs of which both files are there, and faults for the others."""
    seen: set[str] = set()
    for line in lines:
        for noun, text, found in (("image", line.image, line.images), ("class map", line.map, line.maps)):
            if not found:
                todo = "add it or take it off the list"
                faults.add(noun, text, "is listed but missing", todo)
            elif len(found) > 1:
                several = ", ".join(file.name for file in found)
                faults.add(noun, line.name, "is in several files", "keep one of them", several)
        if len(line.images) == len(line.maps) == 1:
            (image,), (map_,) = line.images, line.maps
            if image.name in seen:
                faults.add("name", image.name, "is that of two images", "give them names of their own")
                continue
            seen.add(image.name)
            yield image, map_


def _notes(lines: list[_Line], file: Path) -> Iterator[str]:
    labelled = sum(line.labelled for line in lines)
    if labelled:
        yield (
            f"{file} has labels (1 or -1) beside {labelled} names, as ImageSets/Main has, and all of these "
            "images are used; take lines off the list whose images should not be"
        )
