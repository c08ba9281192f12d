"""A lazy sequence of samples: entries say where image and mask are, and nothing is decoded before it is
asked for.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, TypeVar, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from everseg.data.decoding import PLAIN, Decoding
from everseg.data.described import Described
from everseg.data.domains.prompts import PromptRule, StoredClicks
from everseg.data.images import read_file
from everseg.errors import UserError, printable
from everseg.files import sha256_file
from everseg.types import PromptSample

T = TypeVar("T")


class Entry(Protocol):
    """Where one sample is. Entries are small and picklable: workers get all of them. A sequence of them may
    make each when it is asked for."""

    @property
    def name(self) -> str:
        """The image's path within the split, mostly its file name; with `#n` for one object of several.
        Unique within a split.
        """

    @property
    def image(self) -> Path: ...

    @property
    def stored(self) -> StoredClicks | None: ...

    def mask(self) -> NDArray[np.bool_]:
        """(H, W), with at least one pixel set. Raises UserError, naming the file."""

    def truth(self) -> list[Any]:
        """Paths of the files and plain values of the options that decide what the mask is: for
        fingerprints.
        """


class Samples(Described[PromptSample]):
    """Entries and a rule for prompts, as a sequence that decodes `self[i]` when asked.

    Every sample has one mask (N = 1). `key` is the image's content hash and the name of the decoding.

    said: what the values in the files of masks mean, in words.
    decoding: how the values of image files become 8-bit RGB.
    resize_masks: resize masks of another size to the image's (nearest).
    """

    rule: PromptRule

    def __init__(
        self,
        entries: Sequence[Entry],
        rule: PromptRule,
        said: str = "",
        *,
        decoding: Decoding = PLAIN,
        resize_masks: bool = False,
    ) -> None:
        self.entries: Sequence[Entry] = tuple(entries) if isinstance(entries, list) else entries
        self.rule = rule
        self.said = said
        self.decoding = decoding
        self.resize_masks = resize_masks

    def __len__(self) -> int:
        return len(self.entries)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)} samples, prompts: {self.rule.kind})"

    @overload
    def __getitem__(self, index: int) -> PromptSample: ...
    @overload
    def __getitem__(self, index: slice) -> Samples: ...
    def __getitem__(self, index: int | slice) -> PromptSample | Samples:
        """Decode one sample, or take a slice without decoding.

        Raises:
            UserError: a file is unreadable, the mask is empty, or the sizes of image and mask differ.
        """
        if isinstance(index, slice):
            part = copy.copy(self)
            part.entries = self.entries[index]
            return part
        entry = self.entries[index]
        image, key = self.picture(entry)
        mask = entry.mask()
        if self.resize_masks:
            mask = _resized(mask, (image.shape[1], image.shape[2]), entry.image)
        if mask.shape != tuple(image.shape[1:]):
            raise UserError(
                f"{entry.image} is {image.shape[2]}x{image.shape[1]} (after EXIF orientation) but its mask "
                f"is {mask.shape[1]}x{mask.shape[0]}; give it the size and orientation in which the image "
                "is shown"
            )
        prompts = self.rule.prompts(mask, entry.name, entry.stored)
        return PromptSample(image, prompts, torch.from_numpy(mask)[None], entry.name, key)

    def chosen(self, places: Sequence[int]) -> Samples:
        """Some of the samples, in this order, as if the others were not there."""
        part = copy.copy(self)
        part.entries = tuple(self.entries[place] for place in places)
        return part

    def picture(self, entry: Any) -> tuple[Tensor, str]:
        """The image (3, H, W) of an entry, and its key."""
        file = read_file(entry.image)
        image = self.decoding.decode(file, entry.image)
        return image, f"{hashlib.sha256(file).hexdigest()}:{self.decoding.name}"

    def fingerprint(self) -> str:
        """Hash names, contents of images and masks, and prompts, but not paths. While no file
        changes, none is read again."""
        state = self._digest(_state)
        if state not in _fingerprints:
            _fingerprints[state] = self._digest(_content)
        return _fingerprints[state]

    def _digest(self, of_file: Callable[[Path], list[Any]]) -> str:
        """Hash all samples, with plain values for their files."""
        resized = ["masks resized"] if self.resize_masks else []
        digest = hashlib.sha256(json.dumps([self.decoding.name, self.rule.describe(), *resized]).encode())
        for index, entry in enumerate(self.entries):
            stored = self.stored_clicks(index)
            clicks = [stored.points, stored.labels] if stored else None
            truth = [of_file(part) if isinstance(part, Path) else part for part in entry.truth()]
            line = [entry.name, of_file(entry.image), truth, clicks]
            digest.update(json.dumps(line, sort_keys=True).encode() + b"\n")
        return digest.hexdigest()

    def names(self) -> Sequence[str]:
        return [entry.name for entry in self.entries]

    def file(self, index: int) -> str:
        return str(self.entries[index].image)

    def truth_file(self, index: int) -> str:
        """The file of one sample's mask, or its image's where the mask is in no file of its own."""
        entry = self.entries[index]
        return str(next((part for part in entry.truth() if isinstance(part, Path)), entry.image))

    def masks(self) -> str:
        return self.said

    def image_name(self, index: int) -> str:
        return self.entries[index].image.name

    def stored_clicks(self, index: int) -> StoredClicks | None:
        return self.entries[index].stored if "stored" in self.rule.kind else None


def _resized(mask: NDArray[np.bool_], size: tuple[int, int], image: Path) -> NDArray[np.bool_]:
    """A mask in the size (H, W) of its image, by the nearest pixel.

    Raises:
        UserError: one is upright and the other is turned by 90 degrees, or the object vanishes.
    """
    if mask.shape == size:
        return mask
    (height, width), (own_height, own_width) = size, mask.shape
    if (height - width) * (own_height - own_width) < 0:
        raise UserError(
            f"{image} is {width}x{height} and its mask {own_width}x{own_height}: one is rotated by 90 "
            "degrees, which resize_masks does not change; rotate it"
        )
    rows = (np.arange(height) + 0.5) * own_height / height
    columns = (np.arange(width) + 0.5) * own_width / width
    resized = mask[rows.astype(int)][:, columns.astype(int)]
    if not resized.any():
        raise UserError(
            f"the object of {image} vanishes when its mask is resized from {own_width}x{own_height} to "
            f"{width}x{height}; save the mask in the size of the image"
        )
    return resized


class PartlyReadable(UserError):
    """Some files of a split cannot be used; `problems` are whole sentences, `rest` is what remains without
    them.

    Learning stops here; `check` continues with the rest to report everything in one go.
    """

    def __init__(self, problems: Sequence[str], rest: Sequence[Any]) -> None:
        more = f" (and {len(problems) - 1} more: `everseg data check` lists all)" if len(problems) > 1 else ""
        super().__init__(problems[0] + more)
        self.problems = tuple(map(printable, problems))
        self.rest = rest


OnFault = Callable[[str, str, UserError], Sequence[Any]]
"""What to do with a split that cannot be opened: (stage, split, error) -> the samples to continue with, or
raise.
"""


def content(path: Path) -> list[Any]:
    """File name, size and content hash. A file is read once: the hash is kept for its path, size and time of
    change.
    """
    _, size, changed = _state(path)
    return [path.name, size, _hashed(path, size, changed)]


def _content(path: Path) -> list[Any]:
    """As `content`, for files that are asked for once: only the last hashes are kept."""
    _, size, changed = _state(path)
    return [path.name, size, _last_hashed(path, size, changed)]


def _state(path: Path) -> list[Any]:
    """What changes when a file does: path, size and time of change."""
    try:
        stat = path.stat()
    except OSError as error:
        raise _unreadable(path, error) from error
    return [str(path), stat.st_size, stat.st_mtime_ns]


def _unreadable(path: Path, error: OSError) -> UserError:
    return UserError(f"cannot read {path}: {error.strerror}; restore it")


_hashes: dict[bytes, bytes] = {}
"""Content hashes by a hash of a file's path, size and time of change: two hundred bytes per file."""

_fingerprints: dict[str, str] = {}
"""Fingerprints of samples by a hash of their names, prompts, and the states of their files."""


def _hashed(path: Path, size: int, changed: int) -> str:
    place = hashlib.blake2b(b"%d|%d|" % (size, changed) + os.fsencode(path), digest_size=16).digest()
    if place not in _hashes:
        _hashes[place] = bytes.fromhex(_hash(path))
    return _hashes[place].hex()


@lru_cache(maxsize=1024)
def _last_hashed(path: Path, size: int, changed: int) -> str:
    return _hash(path)


def _hash(path: Path) -> str:
    try:
        return sha256_file(path)
    except OSError as error:
        raise _unreadable(path, error) from error


def take_part(items: Sequence[T], part: tuple[int, int] | None, problems: Sequence[str] = ()) -> Sequence[T]:
    """`items[start:stop]` of a sorted list, for splits that share a folder.

    problems: a sentence for each file that cannot be used, and is not among the items therefore.

    Raises:
        UserError: start and stop are not 0 <= start < stop <= the number of items; where there are problems,
            it is a `PartlyReadable` that says them first, and nothing else if the part fits as soon as they
            are fixed.
    """
    if part is None:
        return items
    start, stop = part
    if not 0 <= start < stop <= len(items):
        wrong = f"part: [{start}, {stop}] is not within the {len(items)} there are; choose 0 <= start < stop"
        if not problems:
            raise UserError(wrong)
        if 0 <= start < stop:
            if stop <= len(items) + len(problems):
                raise PartlyReadable(problems, [])
            wrong = f"part: [{start}, {stop}] is not within the {len(items)} that can be read; "
            wrong += "correct the files first"
        raise PartlyReadable([*problems, wrong], [])
    return items[start:stop]


def take_evenly(items: Sequence[T], limit: int | None) -> Sequence[T]:
    """At most `limit` items, evenly spaced over the sorted list and in its order: no seed, no clumps.

    Raises:
        UserError: a limit below 1.
    """
    if limit is None or (0 < limit and limit >= len(items)):
        return items
    if limit < 1:
        raise UserError(f"limit is {limit}; leave it out to use everything, or give a number from 1")
    return [items[i * len(items) // limit] for i in range(limit)]
