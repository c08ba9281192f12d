"""CVAT's "Segmentation mask 1.1": maps in colours, and labelmap.txt that says which colour is which label."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from everseg.data.decoding import Bands, Decoding, Window
from everseg.data.domains.prompts import PromptKind, PromptRule, StoredClicks
from everseg.data.listing import Meant
from everseg.data.names import is_litter, sample_names
from everseg.data.raster import read_raster, unpacked
from everseg.data.samples import PartlyReadable, Samples, take_evenly, take_part
from everseg.errors import UserError, unknown
from everseg.text import lines_of, read_text

BACKGROUND = "background"
_LINE = re.compile(r"(.+?):(\d+),(\d+),(\d+):.*")


@dataclass(frozen=True)
class CvatObject:
    """An image and the pixels of a map that have one of some colours."""

    image: Path
    name: str
    path: Path
    colours: tuple[int, ...]
    stored: StoredClicks | None = None

    def mask(self) -> NDArray[np.bool_]:
        mask = np.isin(read_raster(self.path).colours(), self.colours)
        if not mask.any():
            raise UserError(f"{self.path} has changed: its object is gone; run the same command again")
        return np.asarray(mask)

    def truth(self) -> list[Any]:
        return [self.path, list(self.colours)]


class CvatReader(Samples):
    """Samples of an export from CVAT: `SegmentationClass`, `SegmentationObject`, `labelmap.txt`.

    images: the folder of the images; `path/JPEGImages` where None. subset: a list in
    `ImageSets/Segmentation`, without ".txt"; all maps where None. instances: "each" object is a sample, or
    all of an image "merged" in one. categories: use only these labels. Images without such objects are passed
    over. To count the objects every map is read once, when the reader is made.
    part: [start, stop] of the sorted images; limit: at most so many samples, evenly spaced.

    Raises:
        UserError: not CVAT's layout, missing images, a label or colour that labelmap.txt does not have.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        images: Path | None = None,
        subset: str | None = None,
        instances: Literal["each", "merged"] = "each",
        categories: tuple[str, ...] | None = None,
        prompts: Literal["clicks", "box", "clicks+box"] = "clicks",
        clicks: int = 3,
        seed: int = 0,
        part: tuple[int, int] | None = None,
        limit: int | None = None,
        bands: Bands = None,
        window: Window = None,
    ) -> None:
        data, problems = CvatData.of(Path(path), images, subset)
        wanted = data.colours.wanted(categories)
        objects = data.path / "SegmentationObject"
        if instances == "each" and not objects.is_dir():
            raise UserError(f"{objects} is not a folder; export it from CVAT or set instances: merged")
        found: list[list[CvatObject]] = []
        for image, file, name in data.named:
            each = (
                objects / file.relative_to(data.path / "SegmentationClass") if instances == "each" else None
            )
            try:
                colours = data.colours.objects(file, each, wanted)
            except UserError as error:
                problems.append(str(error))
                continue
            if each is not None:
                found.append([CvatObject(image, f"{name}#{n}", each, (c,)) for n, c in enumerate(colours, 1)])
            else:
                found.append([CvatObject(image, name, file, tuple(colours))] if colours else [])
        entries = [entry for one in take_part([f for f in found if f], part) for entry in one]
        kind: PromptKind = prompts
        prompted, decoding = PromptRule(kind, clicks, seed), Decoding(bands, window)
        maps = len({entry.path for entry in entries})
        said = f"colours of labelmap.txt, {len(entries)} samples in {maps} of {len(data.pairs)} files"
        super().__init__(take_evenly(entries, limit), prompted, said, decoding=decoding)
        if problems:
            raise PartlyReadable(problems, self[:])
        if not entries:
            raise UserError(f"{path} has no object to learn from; check `categories` and `subset`")


@dataclass(frozen=True)
class CvatData:
    """An export. pairs: (image, class map), sorted by the images' names."""

    path: Path
    colours: Colours
    pairs: tuple[tuple[Path, Path], ...]

    @property
    def named(self) -> list[tuple[Path, Path, str]]:
        """The pairs, with what their samples are called."""
        names = sample_names([image for image, _ in self.pairs])
        return [(image, file, name) for (image, file), name in zip(self.pairs, names, strict=True)]

    @classmethod
    def of(cls, path: Path, images: Path | None, subset: str | None) -> tuple[CvatData, list[str]]:
        """Find the maps and their images; a sentence for each that lacks its partner.

        Raises:
            UserError: not CVAT's layout, or no such subset.
        """
        maps, folder = path / "SegmentationClass", images or path / "JPEGImages"
        if not maps.is_dir() or not (path / "labelmap.txt").is_file():
            raise UserError(
                f"{path} is no export from CVAT; Segmentation mask 1.1 has SegmentationClass and labelmap.txt"
            )
        if not folder.is_dir():
            raise UserError(f"{folder} is not a folder; export with images, or give their folder as images:")
        colours = Colours.of(path / "labelmap.txt")
        files = {
            f.relative_to(maps).with_suffix("").as_posix(): f
            for f in sorted(maps.rglob("*.png"))
            if not is_litter(f.name)
        }
        problems: list[str] = []
        stems = list(files)
        if subset is not None:
            lists = path / "ImageSets" / "Segmentation"
            if not (lists / f"{subset}.txt").is_file():
                raise unknown(f"subset in {lists}:", subset, [f.stem for f in lists.glob("*.txt")])
            rows = lines_of(_text(lists / f"{subset}.txt"))
            stems = list(dict.fromkeys(row.strip().replace("\\", "/") for row in rows if row.strip()))
        images_by = {
            f.relative_to(folder).with_suffix("").as_posix(): f
            for f in sorted(folder.rglob("*.*"))
            if not is_litter(f.name)
        }
        of_map, of_image = Meant(files), Meant(images_by)
        pairs: list[tuple[Path, Path]] = []
        for stem in stems:
            file, image = of_map.find(stem), of_image.find(stem)
            if file is None:
                problems.append(f"{stem} of subset {subset} has no map {maps / stem}.png; add it")
            elif image is None:
                problems.append(f"{files[file]} has no image in {folder}; add it or remove the map")
            else:
                pairs.append((images_by[image], files[file]))
        return cls(path, colours, tuple(sorted(pairs))), problems


@dataclass(frozen=True)
class Colours:
    """What labelmap.txt says. labels: the colour of each label but the background, as one number (see
    `raster.packed`), in the file's order. ground: the colours of the background."""

    path: Path
    labels: dict[str, int]
    ground: frozenset[int]

    @classmethod
    def of(cls, path: Path) -> Colours:
        """Read lines such as `cat:128,0,0::`. Black is background where it is no label's.

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
                raise UserError(f"{path}, line {number}: {row!r} is not as in cat:128,0,0::; correct it")
            name, red, green, blue = match[1].strip(), *(int(v) for v in match.groups()[1:])
            colour = red | green << 8 | blue << 16
            if name in labels or colour in labels.values():
                raise UserError(f"{path}, line {number}: {row!r} has a label or colour of an earlier line")
            labels[name] = colour
        ground = {labels.pop(BACKGROUND, 0)} | ({0} - set(labels.values()))
        if not labels:
            raise UserError(f"{path} names no label but the background; export the labels from CVAT")
        return cls(path, labels, frozenset(ground))

    def wanted(self, categories: tuple[str, ...] | None) -> list[int]:
        """Colours of labels; of all where None.

        Raises:
            UserError: there is no such label.
        """
        for name in categories or ():
            if name not in self.labels:
                raise unknown(f"label in {self.path}:", name, self.labels)
        return [self.labels[name] for name in categories or self.labels]

    def numbers(self, path: Path, categories: tuple[str, ...] | None = None) -> NDArray[np.uint8]:
        """(H, W): the place of each pixel's label among `categories` or all labels, from 1; others are 0.

        Raises:
            UserError: a colour that labelmap.txt does not have.
        """
        colours = self._checked(path)
        labels = np.zeros(colours.shape, np.uint8)
        for number, colour in enumerate(self.wanted(categories), 1):
            labels[colours == colour] = number
        return labels

    def objects(self, path: Path, objects: Path | None, wanted: list[int]) -> list[int]:
        """Colours that make up the objects of wanted labels: in the map of objects if that is given, else in
        the class map itself.

        Raises:
            UserError: a colour that labelmap.txt does not have, or maps of two sizes.
        """
        classes = self._checked(path)
        if objects is None:
            return [c for c in wanted if (classes == c).any()]
        numbers = read_raster(objects).colours()
        if numbers.shape != classes.shape:
            raise UserError(f"{objects} and {path} differ in size; export them again")
        inside = np.unique(numbers[np.isin(classes, wanted)])
        if inside.tolist() == [0]:
            raise UserError(f"{objects} has no object where {path} has labels; export them again")
        return [int(c) for c in inside if c != 0]

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
        raise UserError(f"cannot read {path} as text; restore it") from error
