"""CVAT's "Segmentation mask 1.1": maps in colours, and labelmap.txt that says which colour is which label."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Unpack

import numpy as np
from numpy.typing import NDArray

from everseg.data.domains.annotated import AnnotationReader, Annotations, Instances, Mark
from everseg.data.domains.options import SampleOptions
from everseg.data.domains.slices import refuse_gone
from everseg.data.listing import Meant
from everseg.data.names import is_litter, sample_names
from everseg.data.numbers import refuse_blurred
from everseg.data.raster import read_raster, unpacked
from everseg.errors import UserError, unknown
from everseg.text import lines_of, read_text

BACKGROUND = "background"
_LINE = re.compile(r"(.+?):(\d+),(\d+),(\d+):.*")


@dataclass(frozen=True)
class CvatImage:
    """An image and the map that its objects are drawn from. A part is a colour of it.

    file: the class map.
    """

    image: Path
    path: Path
    name: str
    marks: tuple[Mark, ...]
    file: Path
    colours: Colours

    def draw(self, parts: Sequence[int]) -> NDArray[np.bool_]:
        mask: NDArray[np.bool_] = np.isin(read_raster(self.path).colours(), parts)
        return refuse_gone(mask, self.path)

    def place(self, part: int) -> str:
        return str(self.path)

    def truth(self, parts: Sequence[int]) -> list[Any]:
        return [self.path, list(parts)]

    def labels(self, numbers: Mapping[str, int]) -> NDArray[np.uint8]:
        return self.colours.numbers(self.file, numbers)


class CvatReader(AnnotationReader):
    """Samples of an export from CVAT: `SegmentationClass`, `SegmentationObject`, `labelmap.txt`.

    images: the folder of the images; `path/JPEGImages` where None.
    subset: a list in `ImageSets/Segmentation`, without ".txt"; all maps where None. To count the objects
        every map is read once, when the reader is made. For other options see `AnnotationReader`.

    Raises:
        UserError: not CVAT's layout, missing images, a label or colour that labelmap.txt does not have.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        images: Path | None = None,
        subset: str | None = None,
        instances: Instances = "each",
        categories: tuple[str, ...] | None = None,
        **options: Unpack[SampleOptions],
    ) -> None:
        found = cvat(Path(path), images, subset)
        found.check(categories)
        objects = Path(path) / "SegmentationObject"
        if instances == "each" and not objects.is_dir():
            raise UserError(f"{objects} is not a folder; export it from CVAT or set instances: merged")
        having: list[CvatImage] = []
        problems = list(found.problems)
        for one in found.images:
            each = objects / one.file.relative_to(Path(path) / "SegmentationClass")
            try:
                marks = one.colours.objects(one.file, each if instances == "each" else None, categories)
            except UserError as error:
                problems.append(str(error))
                marks = ()
            having.append(replace(one, path=each if instances == "each" else one.file, marks=marks))
        super().__init__(replace(found, images=having, problems=problems), instances, None, **options)


def cvat(path: Path, images: Path | None, subset: str | None) -> Annotations[CvatImage]:
    """Find the class maps of an export and their images; see `CvatReader`. No map is read, so that the images
    have no marks yet.

    Raises:
        UserError: not CVAT's layout, or no such subset.
    """
    maps, folder = path / "SegmentationClass", images or path / "JPEGImages"
    if not maps.is_dir() or not (path / "labelmap.txt").is_file():
        raise UserError(
            f"{path} is not an export from CVAT; export it as Segmentation mask 1.1, which has "
            "SegmentationClass and labelmap.txt"
        )
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; export with images, or give their folder as images:")
    colours = Colours.of(path / "labelmap.txt")
    files, images_by = _by_stem(maps, "*.png"), _by_stem(folder, "*.*")
    problems: list[str] = []
    pairs: list[tuple[Path, Path]] = []
    of_map, of_image = Meant(files), Meant(images_by)
    for stem in files if subset is None else _listed(path / "ImageSets" / "Segmentation", subset):
        file, image = of_map.find(stem), of_image.find(stem)
        if file is None:
            problems.append(f"{stem} of subset {subset} has no map {maps / stem}.png; add it")
        elif image is None:
            problems.append(f"{files[file]} has no image in {folder}; add it or remove the map")
        else:
            pairs.append((images_by[image], files[file]))
    pairs.sort()
    names = sample_names([image for image, _ in pairs])
    annotated = [
        CvatImage(image, file, name, (), file, colours)
        for (image, file), name in zip(pairs, names, strict=True)
    ]
    return Annotations(
        path / "labelmap.txt", tuple(colours.labels), annotated, problems, said="colours of labelmap.txt"
    )


def _by_stem(folder: Path, pattern: str) -> dict[str, Path]:
    files = (file for file in sorted(folder.rglob(pattern)) if not is_litter(file.name))
    return {file.relative_to(folder).with_suffix("").as_posix(): file for file in files}


def _listed(lists: Path, subset: str) -> list[str]:
    if not (lists / f"{subset}.txt").is_file():
        raise unknown(f"subset in {lists}:", subset, [file.stem for file in lists.glob("*.txt")])
    rows = lines_of(_text(lists / f"{subset}.txt"))
    return list(dict.fromkeys(row.strip().replace("\\", "/") for row in rows if row.strip()))


@dataclass(frozen=True)
class Colours:
    """What labelmap.txt says.

    labels: the colour of each label but the background, as one number (see `raster.packed`), in the file's
        order.
    ground: the colours of the background.
    """

    path: Path
    labels: dict[str, int]
    ground: frozenset[int]

    @classmethod
    def of(cls, path: Path) -> Colours:
        """Read lines such as `cat:128,0,0::`. Black is background where it is not a label's.

        Raises:
            UserError: a line of another form, a label or colour twice, or no label.
        """
        rows = lines_of(_text(path))
        labels: dict[str, int] = {}
        for number, row in enumerate(rows, 1):
            if not row.strip() or row.lstrip().startswith("#"):
                continue
            match = _LINE.fullmatch(row.strip())
            if match is None or max(int(v) for v in match.groups()[1:]) > 255:
                raise UserError(
                    f"{path}, line {number}: {row!r} does not have the form cat:128,0,0::; correct it"
                )
            name, red, green, blue = match[1].strip(), *(int(v) for v in match.groups()[1:])
            colour = red | green << 8 | blue << 16
            if name in labels or colour in labels.values():
                raise UserError(
                    f"{path}, line {number}: {row!r} repeats a label or colour of an earlier line; correct "
                    "or remove it"
                )
            labels[name] = colour
        ground = {labels.pop(BACKGROUND, 0)} | ({0} - set(labels.values()))
        if not labels:
            raise UserError(f"{path} names no label except the background; export the labels from CVAT")
        return cls(path, labels, frozenset(ground))

    def numbers(self, path: Path, numbers: Mapping[str, int]) -> NDArray[np.uint8]:
        """(H, W): the number of each pixel's label; others are 0.

        Raises:
            UserError: a colour that labelmap.txt does not have.
        """
        colours = self._checked(path)
        labels = np.zeros(colours.shape, np.uint8)
        for label, number in numbers.items():
            labels[colours == self.labels[label]] = number
        return labels

    def objects(self, path: Path, objects: Path | None, categories: Sequence[str] | None) -> tuple[Mark, ...]:
        """The objects of wanted labels, by their colours: in the map of objects if that is given, else in the
        class map itself, where each label is one.

        Raises:
            UserError: a colour that labelmap.txt does not have, or maps of two sizes.
        """
        classes, wanted = self._checked(path), categories or list(self.labels)
        if objects is None:
            having = [label for label in wanted if (classes == self.labels[label]).any()]
            return tuple(Mark(n, label, (self.labels[label],)) for n, label in enumerate(having, 1))
        raster = read_raster(objects)
        refuse_blurred(raster, objects)
        numbers = raster.colours()
        if numbers.shape != classes.shape:
            raise UserError(f"{objects} and {path} differ in size; export them again")
        inside = np.unique(numbers[np.isin(classes, [self.labels[label] for label in wanted])]).tolist()
        if inside == [0]:
            raise UserError(f"{objects} has no object where {path} has labels; export both again")
        return tuple(Mark(n, "", (c,)) for n, c in enumerate((c for c in inside if c != 0), 1))

    def _checked(self, path: Path) -> NDArray[np.int32]:
        colours = read_raster(path).colours()
        strange = ~np.isin(colours, [*self.labels.values(), *self.ground])
        if strange.any():
            colour = int(colours[strange][0])
            share = (colours == colour).mean()
            raise UserError(
                f"{path} has the colour {','.join(map(str, unpacked(colour)))} in {share:.1%} of "
                f"its pixels, which {self.path} does not name; add a line for it"
            )
        return colours


def _text(path: Path) -> str:
    try:
        return read_text(path)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path} as text; restore it from a copy") from error
