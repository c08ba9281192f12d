"""Pair images and masks by their names."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from everseg.data.affixes import common_affixes
from everseg.data.alike import alike, file_names, stem_of
from everseg.data.globs import ID, Glob
from everseg.data.names import composed, sample_name, some, writable
from everseg.data.pairs import Pair, Pairs
from everseg.errors import UserError

Patterns = str | tuple[str, ...]
"""A glob, or several of which each adds its files."""


@dataclass(eq=False)
class _File:
    """A file, and the texts by one of which it pairs, best first."""

    path: Path
    keys: tuple[str, ...]
    partners: list[_File] = field(default_factory=list)
    twin: bool = False
    """Another file has the same name; reported once."""


def pair_by_stem(images: Path, masks: Path, suffix: str = "") -> tuple[list[tuple[Path, Path]], list[str]]:
    """(image, mask) pairs sorted by name, and a sentence for each kind of thing that hinders pairing.

    Litter and points.json are passed over. Extensions do not matter: `a.JPG` pairs with `a.png`; neither does
    the Unicode form, nor case where only one file differs in nothing else. A mask may also be named after the
    image's whole name, as `a.jpg.png`.

    suffix: what masks' stems have beyond the images'.

    Raises:
        UserError: a folder is missing or holds nothing.
    """
    pairs, problems = _paired(images, masks, suffix)
    return [(images / image, masks / mask) for image, mask in pairs], problems


def _paired(images: Path, masks: Path, suffix: str) -> tuple[list[tuple[str, str]], list[str]]:
    """As `pair_by_stem`, by the names in the two folders."""
    problems: list[str] = []
    names = file_names(images, problems), file_names(masks, problems)
    pairs = alike(*names, suffix)
    if pairs is None:
        pairs = _by_rules(images, masks, suffix, names, problems)
    return sorted(pairs, key=lambda pair: stem_of(pair[0], str)), problems


def _by_rules(
    images: Path, masks: Path, suffix: str, names: tuple[list[str], list[str]], problems: list[str]
) -> list[tuple[str, str]]:
    files = [_File(images / n, (stem_of(n), composed(n))) for n in names[0]]
    truths = []
    for file in (masks / name for name in names[1]):
        stem = stem_of(file.name)
        truths.append(_File(file, (stem.removesuffix(suffix),) if stem.endswith(suffix) else ()))
    _match(files, truths)
    problems += [*_twins(images, files), *_twins(masks, truths)]
    problems += _lonely(images, masks, files, truths, suffix)
    return [(file.path.name, file.partners[0].path.name) for file in files if file.partners]


def _match(images: Sequence[_File], masks: Sequence[_File]) -> None:
    """Pair files with equal keys, where there is one on either side: as they are, then without regard to
    case."""
    folds: tuple[Callable[[str], str], ...] = (str, str.casefold)
    for fold in folds:
        for place in range(max((len(f.keys) for f in images), default=0)):
            free = [[f for f in files if not f.partners] for files in (images, masks)]
            by_key = [_by_key(free[0], place, fold), _by_key(free[1], 0, fold)]
            for key in by_key[0].keys() & by_key[1].keys():
                here, there = by_key[0][key], by_key[1][key]
                if len(here) == len(there) == 1:
                    here[0].partners, there[0].partners = [there[0]], [here[0]]
    # Duplicates are reported; the first one is still read.
    by_key = [_by_key([f for f in files if not f.partners]) for files in (images, masks)]
    for key in by_key[0].keys() & by_key[1].keys():
        here, there = by_key[0][key], by_key[1][key]
        here[0].partners, there[0].partners = [there[0]], [here[0]]


def _by_key(
    files: Iterable[_File], place: int = 0, fold: Callable[[str], str] = str
) -> dict[str, list[_File]]:
    groups: dict[str, list[_File]] = {}
    for file in files:
        if len(file.keys) > place:
            groups.setdefault(fold(file.keys[place]), []).append(file)
    return groups


def _twins(where: object, files: Sequence[_File]) -> list[str]:
    """Mark files that share a key and have no partner each, and say so."""
    forms: list[Path] = []
    formats: list[Path] = []
    for group in _by_key(files).values():
        if len(group) > 1 and not all(f.partners for f in group):
            same = len({composed(f.path.name) for f in group}) < len(group)
            (forms if same else formats).extend(f.path for f in group)
            for file in group:
                file.twin = True
    problems = []
    if forms:
        problems.append(
            f"{where} has {some(forms)} in two forms of Unicode that look alike, with an accent as a "
            "character of its own and as part of its letter; keep one of each"
        )
    if formats:
        problems.append(f"{where} has {some(formats)} with the same stem; keep one of each")
    return problems


def _lonely(
    images: Path, masks: Path, files: Sequence[_File], truths: Sequence[_File], suffix: str
) -> list[str]:
    """Sentences on images without a mask and masks without an image. Where nothing pairs, they say what
    would."""
    fix = f"add masks of the same name with {suffix!r} added" if suffix else "add masks of the same name"
    problems = []
    alone = _alone(files)
    hint = "" if any(f.partners for f in files) else _hint(images, masks, files, truths, images.parent)
    if alone:
        problems.append(
            f"{images} has {some(alone)} without a mask in {masks}; {hint or f'{fix} or remove the images'}"
        )
    if not hint and (alone := _alone(truths)):
        problems.append(
            f"{masks} has {some(alone)} without an image in {images}; add images, remove masks, or set "
            "mask_suffix if masks are named a_mask.png for a.jpg"
        )
    return problems


def _alone(files: Sequence[_File]) -> list[Path]:
    return [f.path for f in files if not f.partners and not f.twin]


def _unpadded(digits: re.Match[str]) -> str:
    return digits[0].lstrip("0") or "0"


def _hint(images: Path, masks: Path, files: Sequence[_File], truths: Sequence[_File], root: Path) -> str:
    """What to write into the stream file so that the files pair, or nothing.

    images, masks: their folders, below `root`.
    """
    found = common_affixes([f.path.stem for f in files], [f.path.stem for f in truths])
    example = f"{files[0].path.name} and {truths[0].path.name}"
    if found is None:
        padded = [{re.sub(r"\d+", _unpadded, f.path.stem) for f in some} for some in (files, truths)]
        if padded[0] & padded[1]:
            return (
                f"their numbers have different widths ({example}); rename either so that both have the same "
                "number of digits"
            )
        return ""
    usual = (images, masks) == (root / "images", root / "masks")
    if usual and found.image == ("", "") and not found.mask[0]:
        return f"set mask_suffix: {found.mask[1]}" if found.mask[1] else "leave mask_suffix out"
    patterns = []
    for folder, (before, after) in ((images, found.image), (masks, found.mask)):
        name = f"{before}{ID}{after}.*"
        start = folder.relative_to(root) if folder.is_relative_to(root) else folder
        patterns.append((start / name).as_posix())
    return f'set images: "{patterns[0]}" and masks: "{patterns[1]}" for {example}'


# ---------------------------------------------------------------- patterns


def pair_files(
    root: Path, images: Patterns | None, masks: Patterns | None, suffix: str = "", folder: str = "masks"
) -> tuple[Pairs, list[str]]:
    """The files of `root/images` and `root/FOLDER` paired by stem, or what patterns below `root` say.

    Where the pattern of the masks has `{id}`, an image has every mask of its id: what `{id}` stands for in
    the pattern of the images or, without one there, the stem or its beginning up to a separator. Otherwise
    images and masks pair by what the wildcards stand for.

    Raises:
        UserError: a folder is missing, or no file is like a pattern.
    """
    if images is None and masks is None:
        places = root / "images", root / folder
        names, problems = _paired(*places, suffix)
        pairs = Pairs(root)
        for image, mask in names:
            pairs.append_below(f"images/{image}", f"{folder}/{mask}", writable(image))
        return pairs, problems
    image_globs = _globs("images/*" if images is None else images)
    mask_globs = _globs(f"{folder}/*" if masks is None else masks)
    by_id = any(glob.has_id for glob in mask_globs)
    if by_id and not all(glob.has_id for glob in mask_globs):
        raise UserError(
            f"some of the patterns of masks: contain {ID} and some do not; use it in all or in none"
        )
    if by_id and suffix:
        raise UserError(
            f"mask_suffix is {suffix!r} and masks: contains {ID}; write the suffix after {ID} instead"
        )
    base = fixed_folder("images/*" if images is None else images)
    found, truths = _without_overlap(_found(root, image_globs), _found(root, mask_globs))
    for what, given, files in (("images", image_globs, found), ("masks", mask_globs, truths)):
        if not files:
            said = " and ".join(repr(glob.text) for glob in given)
            raise UserError(f"no file in {root} matches {said}; correct {what}: in the stream file")
    if by_id:
        problems = _match_ids(found, truths)
    else:
        for hit in truths:
            key = hit.keys[0]
            hit.keys = (key.removesuffix(suffix),) if key.endswith(suffix) else ()
        _match(found, truths)
        problems = [*_twins(root, found), *_twins(root, truths)]
    said = " and ".join(glob.text for glob in mask_globs)
    if not any(hit.partners for hit in found):
        folders = root / base, root / fixed_folder(tuple(glob.text for glob in mask_globs))
        if hint := _hint(*folders, found, truths, root):
            what = f"the images {some(_alone(found))} without a mask like {said}"
            return Pairs(root), [f"{root} has {what}; {hint}"]
    if alone := _alone(found):
        problems.append(
            f"{root} has the images {some(alone)} without a mask like {said}; add masks, remove the images, "
            f"or correct the patterns ({ID} marks the part that pairs)"
        )
    if alone := _alone(truths):
        problems.append(
            f"{root} has the masks {some(alone)} without an image; add images, remove the masks, or correct "
            f"the patterns ({ID} marks the part that pairs)"
        )
    pairs_of = [
        Pair(f.path, tuple(t.path for t in f.partners), sample_name(f.path, root / base))
        for f in found
        if f.partners
    ]
    return Pairs(root, sorted(pairs_of, key=lambda pair: pair.name)), problems


def one_each(pairs: Iterable[Pair], problems: list[str]) -> Iterator[tuple[Path, Path, str]]:
    """Image, its only mask and the sample's name; images with several masks become problems."""
    for pair in pairs:
        if len(pair.masks) > 1:
            problems.append(
                f"{pair.image} has {len(pair.masks)} maps ({some(pair.masks)}), and one numbers all of an "
                "image's pixels; correct masks:"
            )
        else:
            yield pair.image, pair.masks[0], pair.name


def fixed_folder(patterns: Patterns) -> PurePosixPath:
    """The common folder of all files of the patterns."""
    return _common([glob.fixed for glob in _globs(patterns)])


def _globs(patterns: Patterns) -> list[Glob]:
    texts = (patterns,) if isinstance(patterns, str) else patterns
    if not texts:
        raise UserError("a list of patterns is empty; write globs such as images/*.png")
    return [Glob(text) for text in texts]


def _common(folders: Sequence[PurePosixPath]) -> PurePosixPath:
    """The deepest common folder."""
    first, *others = folders
    while not all(other.is_relative_to(first) for other in others):
        if first == first.parent:
            raise UserError(
                f"{first} and {some(map(str, others))} have no folder in common; give one of them"
            )
        first = first.parent
    return first


class _Hit(_File):
    """A file that a pattern has found. id: what `{id}` stands for, if the pattern has it."""

    def __init__(self, path: Path, below: str, glob: Glob) -> None:
        found = glob.regex().fullmatch(below)
        assert found, "only files that match become hits"
        self.glob, self.below = glob, below
        self.id = found["id"] if glob.has_id else None
        key = self.id or "/".join(part.strip("/") for part in found.groups() if part) or path.stem
        super().__init__(path, (key, key + path.suffix))


def _found(root: Path, globs: Sequence[Glob]) -> list[_Hit]:
    hits: dict[Path, _Hit] = {}
    for glob in globs:
        regex = glob.regex()
        for path, below in glob.files(root):
            if regex.fullmatch(below):
                hits.setdefault(path, _Hit(path, below, glob))
    return list(hits.values())


def _without_overlap(images: list[_Hit], masks: list[_Hit]) -> tuple[list[_Hit], list[_Hit]]:
    """Where one file is like both patterns, as in a folder of `{id}.png` and `{id}_mask.png`, the pattern
    that says more about the name takes it."""
    of_mask = {os.path.normpath(hit.path): hit.glob.literal for hit in masks}
    of_image = {os.path.normpath(hit.path): hit.glob.literal for hit in images}
    more = {path: of_image[path] - of_mask[path] for path in of_mask.keys() & of_image.keys()}
    if equal := sorted(Path(path) for path, difference in more.items() if not difference):
        raise UserError(
            f"{some(equal)} match both images: and masks:; write patterns that tell them apart, such "
            'as images: "{id}.jpg" and masks: "{id}_mask.png"'
        )
    return (
        [hit for hit in images if more.get(os.path.normpath(hit.path), 1) > 0],
        [hit for hit in masks if more.get(os.path.normpath(hit.path), -1) < 0],
    )


def _match_ids(images: Sequence[_Hit], masks: Sequence[_Hit]) -> list[str]:
    """Give every image the masks of its id, and say which ids are not unique."""
    for names in _id_levels(images):
        by_id: dict[str, list[_Hit]] = {}
        for image, name in zip(images, names, strict=True):
            by_id.setdefault(name, []).append(image)
        owners = _owners(by_id, masks)
        if owners:
            break
    double: list[Path] = []
    for mask, name in owners.items():
        first, *others = by_id[name]
        first.partners.append(mask)
        mask.partners = [first]
        for twin in others:
            twin.twin = True
        double += [hit.path for hit in by_id[name] if others and hit.path not in double]
    if not double:
        return []
    return [f"{some(double)} have the same id and share masks; mark another part of their names by {ID}"]


def _id_levels(images: Sequence[_Hit]) -> Iterable[list[str]]:
    """The ids that images without `{id}` in their pattern may have: the path, the stem, the stem without its
    last part, and so on. The first level at which anything pairs counts for all."""
    yield [hit.id or composed(str(PurePosixPath(hit.below).with_suffix(""))) for hit in images]
    names = [hit.id or composed(hit.path.stem) for hit in images]
    before: list[str] = []
    while names != before:
        yield names
        before = names
        names = [hit.id or _LAST_PART.sub("", name) for hit, name in zip(images, names, strict=True)]


_LAST_PART = re.compile(r"(?<=.)[_\-. ][^_\-. ]*$")


def _owners(by_id: dict[str, list[_Hit]], masks: Sequence[_Hit]) -> dict[_Hit, str]:
    """The id of each mask that has one."""
    folded: dict[str, list[str]] = {}
    for name in by_id:
        folded.setdefault(name.casefold(), []).append(name)
    known = {name: name for name in by_id} | {
        low: names[0] for low, names in folded.items() if len(names) == 1 and low not in by_id
    }
    lengths = sorted({len(name) for name in by_id}, reverse=True)
    owners = {}
    for mask in masks:
        for candidate in mask.glob.ids(mask.below, lengths):
            if candidate in known or (candidate := candidate.casefold()) in known:
                owners[mask] = known[candidate]
                break
    return owners
