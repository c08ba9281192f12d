"""Group the image files of a folder, and look at a few of each group."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from everseg.data.affixes import Affix, common_affixes
from everseg.data.images import open_image, read_file
from everseg.data.names import composed, is_folder, is_litter, is_pipe
from everseg.data.samples import take_evenly
from everseg.data.tiff import beyond_pillow, read_tiff
from everseg.errors import UserError

SUFFIXES = frozenset(".bmp .gif .jp2 .jpeg .jpg .pbm .pgm .png .ppm .tif .tiff .webp".split())
"""Extensions, in lower case, of the files that count as images."""

EACH, ANY = "\0{id}", "\0*"
"""In a path's parts: what differs from image to image, and any name. No file is named so."""

DEEPEST = 8
"""Levels of folders to look into."""

FEW = 20
"""JSON files in a folder: more than these are one for each image."""

SAMPLED = 8
"""Files of a group to decode."""

_MASK_WORDS = frozenset(
    "mask masks label labels gt groundtruth truth annotation annotations annot seg segs segmentation "
    "segmentations segmented manual figure target targets matte mattes trimap trimaps instance instances ho "
    "groundtruths ground labelmap outline silhouette".split()
)
_IMAGE_WORDS = frozenset(
    "image images img imgs rgb gray grey data input inputs jpegimages original originals photo photos "
    "picture pictures frame frames scan scans color colour src".split()
)


WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")


def words(text: str) -> list[str]:
    """The words of a name in lower case: GroundTruth, 1st_manual and `img-2` have ground, truth; st, manual;
    img."""
    return [word[0].lower() for word in WORD.finditer(text)]


SPLITS = {
    "train": ("train", "training", "tr"),
    "test": ("test", "testing", "ts"),
    "val": ("val", "valid", "validation", "dev"),
}
"""Words in names of folders that say which split they hold."""


def split_of(folder: Sequence[str]) -> str:
    """The split that a path's parts name, the last of them first; or nothing."""
    for part in reversed(folder):
        said = set(words(part))
        for split, names in SPLITS.items():
            if said & set(names):
                return split
    return ""


def role(text: str) -> str:
    """What a name says about its files: "mask", "image" or nothing."""
    said = {*words(text), text.lower()}
    return "mask" if said & _MASK_WORDS else "image" if said & _IMAGE_WORDS else ""


@dataclass(frozen=True)
class Look:
    """Contents of one file.

    values: numbers in it, if it seems to be a mask or a map with few numbers; empty for a photograph.
    share: share of pixels that are not 0 (or dark).
    parts: whether nearly every number is one connected part.
    """

    size: tuple[int, int]
    values: tuple[int, ...]
    colour: bool
    share: float
    parts: bool
    pixels: NDArray[np.bool_] = field(repr=False, compare=False)


def look(path: Path) -> Look | None:
    """What a file holds; None if it cannot be read."""
    try:
        content = read_file(path)
        if beyond_pillow(content):
            bands, _ = read_tiff(content, path, chosen=False)
            return Look(bands.shape[:0:-1], (), True, 1.0, False, np.ones(bands.shape[1:], bool))
        image = open_image(content, path)
    except UserError:
        return None
    grid = np.asarray(image if image.mode != "La" else image.convert("LA"))
    colour = False
    if grid.ndim == 3:
        channels = grid[..., : 1 if image.mode in ("LA", "PA") else 3].astype(np.int64)
        colour = bool((channels != channels[..., :1]).any())
        grid = channels @ (256 ** np.arange(channels.shape[2])) if colour else channels[..., 0]
    if grid.dtype == bool:
        grid = grid.astype(np.uint8)
    values = np.unique(grid)
    flat = float((grid[:, 1:] == grid[:, :-1]).mean()) if grid.shape[1] > 1 else 1.0
    dark, bright = float((grid <= 24).mean()), float((grid >= 231).mean())
    lossy = path.suffix.lower() in (".jpg", ".jpeg")
    found: tuple[int, ...] = ()
    grey = not colour and image.mode not in ("P", "PA") and min(dark, bright) > 0 and len(values) > 2
    mostly_white = bright >= 0.9 * (grid > 0).mean()
    if grey and (lossy or len(values) > 16 or mostly_white) and dark + bright >= 0.85:
        found = (0, 255)  # two values with the traces of lossy compression or smooth resizing between them
        grid = np.where(grid > 127, 255, 0)
    elif len(values) <= 2 or (flat >= 0.8 and len(values) <= 256 and not lossy):
        found = tuple(int(v) for v in values)
    objects = [v for v in found if v][:20]
    parts = [ndimage.label(grid == v, np.ones((3, 3)))[1] == 1 for v in objects]
    inside = np.asarray(grid != 0)
    return Look(
        (grid.shape[1], grid.shape[0]),
        found,
        colour,
        float(inside.mean()),
        sum(parts) >= 0.8 * len(parts),
        inside,
    )


@dataclass(eq=False)
class Group:
    """Image files of one folder and one form of name, or of folders that hold one image each.

    folder: parts of the path below the root, in which `EACH` stands for a folder for each image.
    affix: what stands before and after the id in the stems.
    name: of the files, where all have one name.
    """

    folder: tuple[str, ...]
    files: list[Path]
    affix: Affix = ("", "")
    name: str = ""

    @cached_property
    def ids(self) -> dict[str, Path]:
        """The first file of each id."""
        found: dict[str, Path] = {}
        for file in self.files:
            found.setdefault(self._id(file), file)
        return found

    def _id(self, file: Path) -> str:
        if EACH in self.folder:
            up = len(self.folder) - self.folder.index(EACH)
            return composed(file.parts[-1 - up])
        before, after = self.affix
        stem = composed(file.stem)
        return stem[len(before) : stem.find(after, len(before) + 1) if after else len(stem)]

    @cached_property
    def role(self) -> str:
        """What the names say that the files are; what is nearest to the file counts."""
        own = [self.name or "".join(self.affix)] if self.name or any(self.affix) else []
        for text in [*own, *reversed(self.folder)]:
            if said := role(text):
                return said
        return ""

    @cached_property
    def looks(self) -> list[Look]:
        """What a few of the files hold, spread evenly over them."""
        return [seen for file in take_evenly(self.files, SAMPLED) if (seen := look(file))]

    @property
    def labels(self) -> bool:
        """Whether the files seem to be masks or maps."""
        return bool(self.looks) and sum(bool(seen.values) for seen in self.looks) * 2 > len(self.looks)

    @property
    def field_of_view(self) -> bool:
        """Whether the masks are nearly the same for all images, as those that mark the camera's field."""
        seen = self.looks
        if len(seen) < 2 or len({s.size for s in seen}) > 1 or seen[0].share < 0.3:
            return False
        if any(len(s.values) > 2 for s in seen):  # Maps of classes may cover everything.
            return False
        first = seen[0].pixels
        return all((s.pixels & first).sum() >= 0.95 * (s.pixels | first).sum() for s in seen[1:])

    def __str__(self) -> str:
        name = self.name or f"{self.affix[0]}*{self.affix[1]}{self.extension}"
        return "/".join([*self.folder, name]).replace("\0", "")

    @property
    def extension(self) -> str:
        endings = {file.suffix for file in self.files}
        return endings.pop() if len(endings) == 1 else ".*"


def scan(root: Path) -> tuple[list[Group], list[Path]]:
    """Groups of images below a folder, and its JSON files, both sorted.

    Raises:
        UserError: it is not a folder.
    """
    if not root.is_dir():
        raise UserError(f"{root} is not a folder; give the folder that holds the images and masks")
    groups: list[Group] = []
    jsons: list[Path] = []
    _scan(root, (), groups, jsons, set())
    return [part for group in groups for part in _parted(group)], sorted(jsons)


def _scan(
    folder: Path, parts: tuple[str, ...], groups: list[Group], jsons: list[Path], seen: set[str]
) -> None:
    real = os.path.realpath(folder)
    if len(parts) > DEEPEST or real in seen:
        return
    seen.add(real)
    folders, files = listing(folder)
    own = [file for file in files if file.suffix.lower() == ".json"]
    jsons += own if len(own) <= FEW else []
    images = [file for file in files if file.suffix.lower() in SUFFIXES]
    if images:
        groups.append(Group(parts, images))
    if of_images := list(_folder_per_image(folders, parts)):
        groups += of_images
        return
    for below in folders:
        _scan(below, (*parts, below.name), groups, jsons, seen)


def listing(folder: Path) -> tuple[list[Path], list[Path]]:
    """Folders and files of a folder, without litter and pipes; nothing of one that may not be read."""
    try:
        with os.scandir(folder) as entries:
            listed = sorted(
                (e.name, is_folder(e)) for e in entries if not is_litter(e.name) and not is_pipe(e)
            )
    except OSError:
        return [], []
    return (
        [folder / name for name, is_folder in listed if is_folder],
        [folder / name for name, is_folder in listed if not is_folder],
    )


def _folder_per_image(folders: Sequence[Path], parts: tuple[str, ...]) -> Iterator[Group]:
    """Groups of a layout in which every image has a folder: ID/images/x.png and ID/masks/*.png, or
    ID/image.png and ID/mask.png."""
    if len(folders) < 2 or any(split_of((folder.name,)) for folder in folders):
        return
    listings = [listing(folder) for folder in folders]
    below = [{f.name: _images(f) for f in inner} for inner, _ in listings]
    shared = set.intersection(*(set(b) for b in below))
    if any(all(len(b[name]) == 1 for b in below) for name in shared):
        for name in sorted(set().union(*below)):
            files = [file for b in below for file in b.get(name, [])]
            if files:
                yield Group((*parts, EACH, name), files)
        return
    images = [[f for f in files if f.suffix.lower() in SUFFIXES] for _, files in listings]
    names = {tuple(f.name for f in own) for own in images}
    same = len(names) == 1 and not any(inner for inner, _ in listings)
    if same and any(role(Path(n).stem) == "mask" for n in next(iter(names))) and len(images[0]) > 1:
        for place, first in enumerate(images[0]):
            yield Group((*parts, EACH), [own[place] for own in images], name=first.name)


def _images(folder: Path) -> list[Path]:
    return [f for f in listing(folder)[1] if f.suffix.lower() in SUFFIXES]


def _parted(group: Group) -> list[Group]:
    """The groups of a folder that holds images and masks side by side, distinguished by their names."""
    if EACH in group.folder or group.role == "mask":
        return [group]
    rest, parts = group.files, []
    while len(rest) > 1:
        stems = [composed(file.stem) for file in rest]
        found = common_affixes(stems, stems)
        if found is None:
            break
        files = dict(zip(stems, rest, strict=True))
        of = {stem: image for stem in stems if (image := _image_of(stem, found.mask, found.image)) in files}
        part = Group(group.folder, [files[stem] for stem in of], found.mask)
        if not part.labels:
            break
        parts.append(part)
        taken = set(part.files)
        if found.image != ("", ""):
            parts.append(Group(group.folder, [files[stem] for stem in sorted(set(of.values()))], found.image))
            taken |= set(parts[-1].files)
        rest = [file for file in rest if file not in taken]
    return [*(_by_extension(Group(group.folder, rest)) if rest else []), *parts]


def _image_of(stem: str, mask: Affix, image: Affix) -> str:
    """The stem of the image that a mask belongs to if it has the affix, alone or with a number behind it as
    in `im0_mask_1`; or nothing."""
    before, after = mask
    end = stem.find(after, len(before) + 1) if after else len(stem)
    if not stem.startswith(before) or end < 0 or stem[end + len(after) :][:1].isalnum():
        return ""
    return f"{image[0]}{stem[len(before) : end]}{image[1]}"


def _by_extension(group: Group) -> list[Group]:
    """A folder of im0.jpg and im0.png is two groups if one of them holds masks."""
    endings: dict[str, list[Path]] = {}
    for file in group.files:
        endings.setdefault(file.suffix, []).append(file)
    if len(endings) != 2:
        return [group]
    first, second = (Group(group.folder, files) for files in endings.values())
    shared = len(first.ids.keys() & second.ids.keys())
    if shared * 2 < min(len(first.files), len(second.files)) or first.labels == second.labels:
        return [group]
    return [first, second]
