"""Find groups of files that are images with their masks, and the splits of one data set."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from everseg.data.affixes import Affix, Affixes, common_affixes
from everseg.data.layout import ANY, EACH, SPLITS, WORD, Group, split_of, words
from everseg.data.names import POINTS, composed, some

_GENERIC = frozenset(
    "image images img imgs data dataset datasets input inputs jpegimages original originals".split()
)
DOMAIN_WORDS = frozenset(
    "site hospital center centre clinic domain scanner vendor client device task stage dataset".split()
)
"""Words in numbered folders that are stages, not patients."""

HELD_OUT = 0.2
"""Share of the images that are tested on where no folder says."""


@dataclass(eq=False)
class DataSet:
    """Images and their masks in one place.

    split: "train", "test", "val", or "".
    home: name of the data set, from the folders.
    several: whether some images have several masks.
    """

    images: Group
    masks: Group
    affixes: Affixes | None
    several: bool
    split: str = ""
    home: tuple[str, ...] = ()


def data_sets(groups: Sequence[Group]) -> tuple[list[DataSet], list[str]]:
    """The groups that pair, and a sentence on each group that was left out."""
    remarks: list[str] = []
    used: set[Group] = set()
    found: list[DataSet] = []
    views: list[DataSet] = []
    passed_over: set[tuple[tuple[str, ...], tuple[str, ...]]] = set()
    for images in groups:
        if images.role == "mask" or not images.looks:
            continue
        candidates = [
            pair for masks in groups if masks is not images and (pair := _paired(images, masks)) is not None
        ]
        if not candidates:
            continue
        best = max(candidates, key=_fitness)
        _place(best)
        used |= {images, best.masks}
        for other in candidates:
            if other is not best and _near(other) == _near(best):
                used.add(other.masks)
                passed_over.add((best.home, other.masks.folder[-1:]))
                what = "the field of view" if other.masks.field_of_view else "other masks of the same images"
                remarks.append(f"{other.masks} is not used: it seems to hold {what}")
        (views if best.masks.field_of_view else found).append(best)
    # Where the masks of one split were taken from another folder, what was left there is left here, too.
    odd = [pair for pair in found if (pair.home, pair.masks.folder[-1:]) in passed_over]
    if len(odd) < len(found):
        views += odd
        found = [pair for pair in found if pair not in odd]
    for pair in views:
        if found:
            remarks.append(f"{pair.masks} is not used: it seems to hold the field of view of {pair.images}")
        else:
            remarks.append(
                f"the masks {pair.masks} are nearly the same for all images; see whether they are right"
            )
    found = found or views
    found = _merged(_one_per_masks(found, remarks))
    for group in groups:
        if group not in used and len(group.files) > 1:
            what = "masks without images" if group.role == "mask" else "images without masks"
            remarks.append(f"{group} is not used: it seems to hold {what}")
    return found, list(dict.fromkeys(remarks))


def _paired(images: Group, masks: Group) -> DataSet | None:
    """The two as a data set, if most of the images have masks."""
    splits = {split for group in (images, masks) if (split := split_of(group.folder))}
    told = images.role == "image" or masks.role == "mask"
    if masks.role == "image" or len(splits) > 1 or not masks.looks:
        return None
    if not masks.labels and (masks.role != "mask" or any(seen.colour for seen in masks.looks)):
        return None
    if images.labels and not told:
        return None
    if EACH in images.folder or EACH in masks.folder:
        same = images.folder[: images.folder.index(EACH)] if EACH in images.folder else None
        if same is None or EACH not in masks.folder or masks.folder[: masks.folder.index(EACH)] != same:
            return None
        both = len(images.ids.keys() & masks.ids.keys())
        if both * 2 < len(images.ids):
            return None
        return DataSet(images, masks, None, len(masks.files) > len(masks.ids))
    found = common_affixes(list(images.ids), list(masks.ids))
    if found is None:
        return None
    inside = _ids(images.ids, found.image)
    matched = len(inside & _ids(masks.ids, found.mask))
    several = len(masks.files) > len(masks.ids)
    if matched < 0.8 * len(masks.ids):
        begin = sum(any(stem[:end] in inside for end in range(1, len(stem) + 1)) for stem in masks.ids)
        several = begin >= 0.95 * len(masks.ids) and begin > len(inside)
    return DataSet(images, masks, replace(found, ids=matched), several)


def _ids(stems: Iterable[str], affix: Affix) -> set[str]:
    before, after = affix
    return {
        stem[len(before) : len(stem) - len(after)]
        for stem in stems
        if stem.startswith(before) and stem.endswith(after)
    }


def _near(pair: DataSet) -> int:
    """How many folders images and masks have in common."""
    return shared(pair.images.folder, pair.masks.folder)


def shared(one: Sequence[str], other: Sequence[str]) -> int:
    """How many parts two paths have in common at their beginnings."""
    both = enumerate(zip(one, other, strict=False))
    return next((i for i, (here, there) in both if here != there), min(len(one), len(other)))


def _fitness(pair: DataSet) -> tuple[object, ...]:
    """What makes one group of masks likelier than another for the same images."""
    ids = len(pair.images.ids)
    covered = pair.affixes.ids if pair.affixes else len(pair.images.ids.keys() & pair.masks.ids.keys())
    return (
        round(min(1.0, covered / ids), 1),
        _near(pair),
        not pair.masks.field_of_view,
        pair.masks.role == "mask",
        pair.masks.labels,
        (pair.masks.files[0].parent / POINTS).is_file(),
        # Of annotators _1stHO and _2ndHO, or of 1st_manual and 2nd_manual, the first.
        [-ord(c) for c in str(pair.masks)],
    )


def _one_per_masks(found: list[DataSet], remarks: list[str]) -> list[DataSet]:
    """Where several groups of images have the same masks, as rgb/ and gray/, the coloured one is kept."""
    kept: dict[Group, DataSet] = {}
    for pair in found:
        rival = kept.get(pair.masks)
        if rival is None:
            kept[pair.masks] = pair
            continue
        better, worse = sorted((rival, pair), key=_colour, reverse=True)
        kept[pair.masks] = better
        remarks.append(f"{worse.images} is not used: {better.images} has the same masks")
    return list(kept.values())


def _colour(pair: DataSet) -> tuple[int, bool, int]:
    return _near(pair), any(seen.colour for seen in pair.images.looks), len(pair.images.files)


def _place(pair: DataSet) -> None:
    """Note the split and the home of a data set by the folders of its images."""
    pair.split = split_of(pair.images.folder)
    pair.home = home_of(pair.images.folder)


def home_of(folder: Sequence[str]) -> tuple[str, ...]:
    """What the parts of a path say about which data set this is, without the words for splits and images."""
    names = {name for split in SPLITS.values() for name in split} | _GENERIC
    home = []
    for part in folder:
        rest = WORD.sub(lambda word: "" if word[0].lower() in names else word[0], part)
        rest = re.sub(r"([\W_])[\W_]+", r"\1", rest).strip("_-. ")
        if part != ANY and EACH not in part and rest:
            home.append(rest)
    return tuple(home)


def _merged(found: Sequence[DataSet]) -> list[DataSet]:
    """One data set where numbered folders, as of patients, hold their images and masks alike; or numbered
    folders of any names that the files in them repeat, as TCGA_CS_4941/TCGA_CS_4941_1.tif."""
    alike: dict[object, list[DataSet]] = {}
    for pair in found:
        own = pair.images.folder[-1] if pair.images.folder else ""
        named = any(c.isdigit() for c in own) and all(f.stem.startswith(own) for f in pair.images.files)
        parts_of = [[("#" if named and p == own else p) for p in g.folder] for g in (pair.images, pair.masks)]
        forms = [re.sub(r"\d+", "#", "/".join(parts)) for parts in parts_of]
        affixes = None if pair.affixes is None else (pair.affixes.image, pair.affixes.mask)
        key = (*forms, affixes, pair.images.affix, pair.masks.affix, pair.split)
        alike.setdefault(key if "#" in forms[0] and not pair.several else pair, []).append(pair)
    merged = []
    for pairs in alike.values():
        first = pairs[0]
        folders = [p.images.folder for p in pairs]
        places = [i for i in range(len(folders[0])) if len({folder[i] for folder in folders}) > 1]
        # IMD001/IMD001_lesion repeats the name of the folder above it.
        own = folders[0][places[0]] if places else ""
        repeated = all(folder[places[0]] in folder[i] for folder in folders for i in places[1:])
        together = len(pairs) >= 3 and bool(places) and repeated
        if together and not set(words(own)) & DOMAIN_WORDS:
            for side in ("images", "masks"):
                parts = [getattr(p, side) for p in pairs]
                folder = tuple(ANY if part == own else part.replace(own, EACH) for part in parts[0].folder)
                files = sorted(file for part in parts for file in part.files)
                setattr(first, side, Group(folder, files, parts[0].affix))
            _place(first)
            pairs = [first]
        merged += pairs
    return merged


# ---------------------------------------------------------------- held-out images

_SIDES = re.compile(r"(.*\d)[_-]?(?:L|R|left|right|OD|OS)", re.IGNORECASE)
_WORD = re.compile(
    r"patient|pat\d|pat_|subj|sub-?\d|case|video|vol|series|study|seq|slide|^ps?\d+$", re.IGNORECASE
)
_YEAR = re.compile(r"(?:19|20)\d\d")


def groups_in(names: Sequence[str]) -> tuple[list[str], str]:
    """Which of the images belong to one patient, video or the like, by their names, and an example; every
    name is its own group unless something suggests otherwise."""
    stems = [composed(name.rpartition(".")[0] or name) for name in names]
    sides = [_SIDES.fullmatch(stem) for stem in stems]
    if all(sides):
        found = [match[1] for match in sides if match]
        if 1 < len(set(found)) < len(found):
            return found, f"{some(_members(found, stems))} are one patient's"
    cuts = [[m.start() for m in re.finditer(r"[_\-. /]+", stem)] for stem in stems]
    for place in range(min(map(len, cuts), default=0)):
        found = [stem[: cut[place]] for stem, cut in zip(stems, cuts, strict=True)]
        count = len(set(found))
        if not all(any(c.isdigit() for c in group) for group in found) or count == len(found):
            continue
        named = all(_WORD.search(group) for group in found)
        # Two categories or six years are not patients.
        sizes = Counter(found)
        apart = (
            count >= 3 and max(sizes.values()) <= 0.4 * len(found) and not all(map(_YEAR.fullmatch, sizes))
        )
        if (named or apart) and len(found) >= 1.5 * count:
            return found, f"{some(_members(found, stems))} belong together"
    return stems, ""


def _members(groups: Sequence[str], stems: Sequence[str]) -> list[str]:
    largest = max(sorted(set(groups)), key=groups.count)
    return [stem for group, stem in zip(groups, stems, strict=True) if group == largest]


def boundary(groups: Sequence[str]) -> int | None:
    """Where to cut a sorted list so that about a fifth is behind, and no group on both sides; None if there
    is no such place."""
    count = len(groups)
    last = {group: i for i, group in enumerate(groups)}
    cuts = []
    reach = -1
    for i, group in enumerate(groups[:-1]):
        reach = max(reach, last[group])
        if reach == i:
            cuts.append(i + 1)
    return min(cuts, key=lambda cut: abs(cut - (1 - HELD_OUT) * count)) if cuts else None


def common_folder(pair: DataSet) -> tuple[str, ...]:
    """The deepest common folder of images and masks."""
    parts = pair.images.folder[: _near(pair)]
    return next((parts[:i] for i, part in enumerate(parts) if part in (EACH, ANY)), parts)
