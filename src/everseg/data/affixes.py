"""Find the affixes of image and mask names, such as `_training` and `_manual1`."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

Affix = tuple[str, str]
"""What stands before and after the part that pairs."""

_RUNS = re.compile(r"\d+|[^\W\d_]+|[\W_]")
"""A name's pieces: numbers, words, and what stands between them."""

LOOK = 2000
"""Names to look at, the first of each list: a folder's names are alike."""


@dataclass(frozen=True)
class Affixes:
    """Affixes of a list of images and a list of masks.

    image, mask: text before and after the ID.
    ids: number of IDs that are in both lists.
    """

    image: Affix
    mask: Affix
    ids: int


def common_affixes(images: Sequence[str], masks: Sequence[str]) -> Affixes | None:
    """The shortest affixes that leave most of the images' stems and of the masks' stems equal.

    None where less than half of the shorter list would pair. Both lists may be the same one, of a folder that
    holds images and masks; then the affixes differ.
    """
    together = images is masks
    left, right = _stripped(images), _stripped(masks)
    best: tuple[tuple[int, bool, int, Affix, Affix], Affixes] | None = None
    for (image, here), (mask, there) in product(left.items(), right.items()):
        if together and not _tells_apart("".join(image), "".join(mask)):
            continue
        shared = here.keys() & there.keys()
        if not shared:
            continue
        # Separators belong to the affixes, not to the ids.
        clean = not any(text[0] in "_-. " or text[-1] in "_-. " for text in shared)
        length = sum(map(len, (*image, *mask)))
        rank = (len(shared), clean, -length, image, mask)
        if best is None or rank > best[0]:
            best = rank, Affixes(image, mask, len(shared))
    least = 1 if together else min(len(next(iter(left.values()))), len(next(iter(right.values())))) / 2
    return best[1] if best and best[1].ids >= max(1, least) else None


def _tells_apart(image: str, mask: str) -> bool:
    """Whether affixes may tell images from masks in one folder: masks have one more, or both have a word.
    Numbers tell one image from another."""
    return image != mask and len(image) <= len(mask) and (not image or not re.search(r"\d", image + mask))


def _stripped(stems: Sequence[str]) -> dict[Affix, dict[str, str]]:
    """For each affix that many of the stems have, what is left of those; without affix first."""
    looked_at = stems[:LOOK]
    before: Counter[str] = Counter()
    after: Counter[str] = Counter()
    for stem in looked_at:
        cuts = [match.start() for match in _RUNS.finditer(stem)][1:]
        before.update(stem[:cut] for cut in cuts)
        after.update(stem[cut:] for cut in cuts)
    least = min(len(looked_at), max(2, len(looked_at) / 5))
    prefixes, suffixes = (_frequent(counts, least, top) for counts, top in ((before, 4), (after, 8)))
    found: dict[Affix, dict[str, str]] = {}
    for prefix, suffix in product(["", *prefixes], ["", *suffixes]):
        rest = {
            stem[len(prefix) : len(stem) - len(suffix)].casefold(): stem
            for stem in looked_at
            if len(stem) > len(prefix) + len(suffix) and stem.startswith(prefix) and stem.endswith(suffix)
        }
        if rest or not (prefix or suffix):
            found[prefix, suffix] = rest
    return found


def _frequent(counts: Counter[str], least: float, top: int) -> list[str]:
    ranked = sorted((-count, len(text), text) for text, count in counts.items() if count >= least)
    return [text for _, _, text in ranked[:top]]
