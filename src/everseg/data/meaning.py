"""Decide the meaning of the masks of a split from the files themselves, once for all of them.

Every header is looked at, and the pixels of some files of each kind (see `_sample`); the others are held to
the same meaning when they are read. Where the files disagree, or more than one value could be the object,
the person has to say; guessing would train on the wrong pixels.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from everseg.data.images import open_header
from everseg.data.kept import kept_in, key_of
from everseg.data.levels import Levels
from everseg.data.maskrule import MaskRule
from everseg.data.masks import BORDER, Meaning
from everseg.data.raster import (
    Colour,
    Form,
    Raster,
    in_steps,
    near_white,
    packed,
    palette_of,
    read_raster,
    unpacked,
)
from everseg.data.samples import take_evenly
from everseg.errors import UserError
from everseg.files import read_json, write_json
from everseg.types import VOID

T = TypeVar("T")

_RULES = "meaning-2"
"""Names the rules of this file: part of every key."""

ALL = 24
"""Up to this many masks, the pixels of all are read; of more, this many and one in forty, at most `MOST`."""

MOST = 48

EACH = 3
"""At least this many of every kind of file: mode and palette."""

_MANY = 16
"""More values than these are not numbers of something that somebody drew, but greys."""

_DARK = 48
"""Sum of the channels below which a colour counts as black, the background of palettes."""


class Unsettled(UserError):
    """Masks may mean more than one thing. option: what settles it, as a line of a stream file."""

    def __init__(self, sentence: str, option: str) -> None:
        super().__init__(sentence)
        self.option = option


@dataclass(frozen=True)
class _Look:
    """The pixels of one file: which values there are and what colours they show."""

    path: str
    form: Form
    levels: Levels
    colours: Mapping[int, Colour]
    lossy: bool = False


def read_mask(path: Path, rule: MaskRule) -> NDArray[np.bool_]:
    """(H, W) bool from a mask file that stands alone; see `settled` and `Meaning.mask`."""
    return settled([path], rule).mask(path)


def settled(files: Sequence[Path], rule: MaskRule, read: Callable[[Path], Raster] = read_raster) -> Meaning:
    """What the masks in `files` mean under `rule`. The answer is kept in the cache folder.

    read: decodes a file, where that takes more than an image decoder; a function of a module.

    - Two values, one of them 0 (black): the other is the object. Soft borders, as JPEG and smooth resizing
      leave them, are cut in the middle.
    - A palette of greys, such as black and white, counts as the greys it shows, whatever their indices.
    - A palette in colour whose index 0 is black: every index but 0 and 255 (void) is object.
    - Anything else has to be said by the person.

    Raises:
        Unsettled: the files disagree or more than one value could be the object; with the values, their
            shares, and the option that settles it.
    """
    if not rule.open or not files:
        palette = palette_of(files[0]) if files and rule.values is not None else {}
        return Meaning(rule, files=len(files), palette=palette)
    reading = "" if read is read_raster else f"|{read.__module__}.{read.__qualname__}"
    key = key_of(files, f"{_RULES}|{rule!r}{reading}")
    kept = kept_in("meaning") / f"{key}.json"
    if key and kept.is_file():
        with suppress(UserError, TypeError, KeyError, ValueError):  # A damaged file is rewritten.
            return _from_json(read_json(kept), rule)
    meaning = _found(files, _sample(files), read, rule)
    if key and meaning.files:
        with suppress(UserError):  # Where nothing can be written, the next start looks again.
            write_json(kept, _to_json(meaning))
    return meaning


def settled_rows(
    rows: Sequence[int], read: Callable[[int], Raster], name: Callable[[int], str], rule: MaskRule
) -> Meaning:
    """As `settled`, of masks that are in no files of their own, such as the rows of a table.

    name: names one in messages.
    """
    if not rule.open or not rows:
        return Meaning(rule, files=len(rows), unit="row")
    return replace(_found(rows, take_evenly(rows, _count(len(rows))), read, rule, name), unit="row")


def _found(
    masks: Sequence[T],
    some: Sequence[T],
    read: Callable[[T], Raster],
    rule: MaskRule,
    name: Callable[[T], str] = str,
) -> Meaning:
    """What all masks mean by a look at some of them, or at all if those have no object."""
    looks = _looks(some, read, name)
    if all(set(look.levels.pixels) <= {0} for look in looks):
        looks = _looks(masks, read, name)
    if not looks:  # Faults of single files are reported when they are read.
        return Meaning(rule, drawn=(0, VOID), object=(VOID,))
    return replace(_decided(looks, rule), files=len(masks))


def _to_json(meaning: Meaning) -> dict[str, Any]:
    tree = asdict(meaning)
    del tree["rule"]
    return tree


def _from_json(tree: dict[str, Any], rule: MaskRule) -> Meaning:
    tuples = {name: tuple(tree[name]) for name in ("drawn", "object")}
    palette = {int(index): tuple(colour) for index, colour in tree["palette"].items()}
    return Meaning(**{**tree, **tuples, "palette": palette, "rule": rule})


def _sample(files: Sequence[Path]) -> list[Path]:
    """The files whose pixels are looked at: evenly spaced ones, and some of every mode and palette."""
    if len(files) <= ALL:
        return list(files)
    kinds: dict[Any, list[Path]] = defaultdict(list)
    for path in files:
        same = kinds[_header(path)]
        if len(same) < EACH:
            same.append(path)
    count = _count(len(files))
    chosen = {files[i * len(files) // count] for i in range(count)}
    for same in list(kinds.values())[:MOST]:
        chosen.update(same)
    return sorted(chosen)


def _count(masks: int) -> int:
    """How many evenly spaced masks of a number of masks are read."""
    return masks if masks <= ALL else min(MOST, ALL + masks // 40)


def _header(path: Path) -> Any:
    """What a file says of itself before its pixels."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with open_header(path) as image:
                colours = image.getpalette("RGB") if image.mode in ("P", "PA") else None
                return image.format, image.mode, tuple(colours or ())
    except Exception:  # It will be a sentence when the file is read.
        return None


def _looks(masks: Sequence[T], read: Callable[[T], Raster], name: Callable[[T], str]) -> list[_Look]:
    """The pixels of those masks that can be read; the others are faults of their own when they are read."""
    looks = []
    for mask in masks:
        with suppress(UserError):
            raster = read(mask)
            levels = Levels.of(in_steps(raster))
            colours = {v: raster.colour(v) for v in levels.pixels}
            looks.append(_Look(name(mask), raster.form, levels, colours, raster.lossy))
    return looks


def _decided(looks: Sequence[_Look], rule: MaskRule) -> Meaning:
    forms = {look.form for look in looks}
    redrawn = False
    if "palette" in forms:
        of_palettes = [look for look in looks if look.form == "palette"]
        if not _only_greys(of_palettes):
            return _by_palette(looks, rule)
        redrawn = any(max(look.colours, key=lambda v: look.colours[v]) == 0 for look in of_palettes)
        looks = [_as_grey(look) if look.form == "palette" else look for look in looks]
    if "colour" in forms:
        return _by_colour(looks, rule)
    return replace(_by_grey(looks, rule), redrawn=redrawn)


def _only_greys(looks: Sequence[_Look]) -> bool:
    """Whether palettes show greys only, and more than one where there is more than one index."""
    shown = {colour for look in looks for colour in look.colours.values()}
    indices = {index for look in looks for index in look.colours}
    return all(len(set(colour)) == 1 for colour in shown) and (len(shown) > 1 or len(indices) == 1)


def _as_grey(look: _Look) -> _Look:
    def shown(counts: Mapping[int, int]) -> dict[int, int]:
        greys: dict[int, int] = {}
        for index, count in counts.items():
            grey = look.colours[index][0]
            greys[grey] = greys.get(grey, 0) + count
        return greys

    levels = Levels(*(shown(part) for part in (look.levels.pixels, look.levels.inside, look.levels.between)))
    return _Look(look.path, "grey", levels, {v: (v, v, v) for v in levels.pixels})


def _by_grey(looks: Sequence[_Look], rule: MaskRule) -> Meaning:
    levels = Levels.together(look.levels for look in looks)
    drawn = levels.drawn
    bright = [v for v in drawn if near_white(v)]
    if len(levels.pixels) > _MANY and bright:  # A JPEG that was saved again as PNG.
        white = max(bright, key=lambda v: levels.pixels[v])
        drawn = tuple(v for v in drawn if v == white or v not in bright)
    soft = len(levels.pixels) > len(drawn) or any(look.lossy for look in looks)
    meaning = Meaning(rule, "grey", drawn, soft=soft)
    left = [v for v in drawn if v not in rule.void]
    dark = left[0] == 0 or (left[0] < 16 and left[-1] > 239) if left else False
    match left:
        case [0] | []:
            return meaning
        case [value] if value > 0:
            return replace(meaning, object=(value,))
        case [_, value] if dark:
            return replace(meaning, object=(value,), drawn=drawn)
    raise _ambiguous(looks, meaning, levels, left, "mask_values")


def _by_palette(looks: Sequence[_Look], rule: MaskRule) -> Meaning:
    strange = next((look for look in looks if look.form != "palette"), None)
    if strange is not None:
        other = next(look for look in looks if look.form == "palette")
        raise Unsettled(
            f"{other.path} is a mask with a palette in colour and {strange.path} is one without; save all "
            "masks of a split in one form, or set mask_colours",
            _all_colours(looks),
        )
    palette: dict[int, Colour] = {}
    of_colour: dict[Colour, int] = {}
    first: dict[int, str] = {}
    for look in looks:
        for index, colour in look.colours.items():
            if palette.setdefault(index, colour) != colour:
                raise Unsettled(
                    f"masks disagree on what their values mean: palette index {index} is "
                    f"{palette[index]} in {first[index]} and {colour} in {look.path}; save all masks with "
                    "one palette, or set mask_colours to the colours of the object",
                    _all_colours(looks),
                )
            of_colour.setdefault(colour, index)
            first.setdefault(index, look.path)
    levels = Levels.together(look.levels for look in looks)
    used = tuple(sorted(palette))
    meaning = Meaning(rule, "palette", used, palette=palette)
    ground = palette.get(0)
    if len(of_colour) > 1 and (sum(ground) >= _DARK if ground else any(sum(c) < _DARK for c in of_colour)):
        raise _ambiguous(looks, meaning, levels, used, "mask_values")
    # Programs repeat a colour under several indices; all that look like the background are background.
    rest = [v for v in used if v not in (0, *rule.void) and (palette[v] != ground or len(of_colour) == 1)]
    void = [VOID] if VOID in rest and (len(rest) > 1 or palette[VOID] == BORDER) else []
    redrawn = len(rest) < len([v for v in used if v not in (0, *rule.void)])
    return replace(meaning, object=tuple(v for v in rest if v not in void), redrawn=redrawn)


def _by_colour(looks: Sequence[_Look], rule: MaskRule) -> Meaning:
    levels = Levels.together(_as_colour(look) for look in looks)
    drawn = levels.drawn if len(levels.pixels) > 8 else tuple(sorted(levels.pixels))
    meaning = Meaning(rule, "colour", drawn, soft=len(levels.pixels) > len(drawn))
    # The colours of some classes are as dark as (32, 0, 0), in VOC's palette and in those of simulators. What
    # JPEG leaves on black is darker.
    black = [v for v in drawn if sum(unpacked(v)) < (_DARK // 2 if meaning.soft else 1)]
    if not black and sum(unpacked(drawn[0])) < _DARK:
        black = [drawn[0]]
    left = [v for v in drawn if v not in black]
    if len(left) > 1 or (left and not black and len(looks) > 1):
        raise _ambiguous(looks, meaning, levels, left, "mask_colours")
    return replace(meaning, object=tuple(left))


def _as_colour(look: _Look) -> Levels:
    if look.form == "colour":
        return look.levels

    def coloured(counts: Mapping[int, int]) -> dict[int, int]:
        return {
            int(packed(np.clip(look.colours[v], 0, 255).astype(np.uint8))): count
            for v, count in counts.items()
        }

    return Levels(*(coloured(part) for part in (look.levels.pixels, look.levels.inside, look.levels.between)))


def _ambiguous(
    looks: Sequence[_Look], meaning: Meaning, levels: Levels, could_be: Sequence[int], option: str
) -> Unsettled:
    """What was found, how much of each, in how many files, and what settles it."""
    black = {0} if meaning.form != "palette" else set()
    having = {v: [look for look in looks if v in _values(look, meaning.form)] for v in meaning.drawn}
    found = []
    for value in meaning.drawn[:8]:
        files = having[value]
        where = "" if len(files) == len(looks) else f", in {len(files)} of {len(looks)} files"
        found.append(f"{_shown(value, meaning)} ({levels.share(value):.1%} of the pixels{where})")
    more = f" and {len(meaning.drawn) - 8} more" if len(meaning.drawn) > 8 else ""
    candidates = [v for v in could_be if v not in black][:6]
    way = ", ".join(str(list(unpacked(v)) if meaning.form == "colour" else v) for v in candidates)
    what = {"grey": "values", "palette": "palette indices", "colour": "colours"}[meaning.form]
    rare = min(meaning.drawn, key=lambda v: len(having[v]))
    example = having[rare][0].path if having[rare] else looks[0].path
    blurred = meaning.soft and meaning.form == "grey"
    soft = ", or set mask_threshold: 127 if only borders are grey" if meaning.soft else ""
    return Unsettled(
        f"masks such as {example} hold the {what} {', '.join(found)}{more}, and more than one could be the "
        f"object; list those that are, as in {option}: [{way}]{soft}",
        # Of a lossy file exact greys would be holes.
        "mask_threshold: 127" if blurred and any(look.lossy for look in looks) else f"{option}: [{way}]",
    )


def _all_colours(looks: Sequence[_Look]) -> str:
    """The option that names every colour but black as the object."""
    colours = sorted({colour for look in looks for colour in look.colours.values() if any(colour)})
    return f"mask_colours: [{', '.join(str(list(colour)) for colour in colours[:6])}]"


def _values(look: _Look, form: Form) -> set[int]:
    return set(_as_colour(look).pixels) if form == "colour" else set(look.levels.pixels)


def _shown(value: int, meaning: Meaning) -> str:
    if meaning.form == "palette":
        return f"{value} {meaning.palette[value]}"
    return meaning.shown(value)
