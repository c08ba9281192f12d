"""A lazy sequence of samples: entries say where image and mask are, and nothing is decoded before it is
asked for.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
from collections.abc import Callable, Sequence
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
    """Where one sample is. Entries are small and picklable: workers get all of them."""

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

    said: what the values in the files of masks mean, in words. decoding: how the values of image files become
    8-bit RGB. resize_masks: resize masks of another size to the image's (nearest).
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
        self.entries = tuple(entries)
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
                f"is {mask.shape[1]}x{mask.shape[0]}; make it as large and turned as the image is shown"
            )
        prompts = self.rule.prompts(mask, entry.name, entry.stored)
        return PromptSample(image, prompts, torch.from_numpy(mask)[None], entry.name, key)

    def picture(self, entry: Any) -> tuple[Tensor, str]:
        """The image (3, H, W) of an entry, and its key."""
        file = read_file(entry.image)
        image = self.decoding.decode(file, entry.image)
        return image, f"{hashlib.sha256(file).hexdigest()}:{self.decoding.name}"

    def fingerprint(self) -> str:
        """Hash names, contents of images and masks, and prompts, but not where files lie."""
        resized = ["masks resized"] if self.resize_masks else []
        digest = hashlib.sha256(json.dumps([self.decoding.name, self.rule.describe(), *resized]).encode())
        for index, entry in enumerate(self.entries):
            stored = self.stored_clicks(index)
            clicks = [stored.points, stored.labels] if stored else None
            truth = [content(part) if isinstance(part, Path) else part for part in entry.truth()]
            line = [entry.name, content(entry.image), truth, clicks]
            digest.update(json.dumps(line, sort_keys=True).encode() + b"\n")
        return digest.hexdigest()

    def names(self) -> list[str]:
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
        UserError: one is upright and the other lies on its side, or the object vanishes.
    """
    if mask.shape == size:
        return mask
    (height, width), (own_height, own_width) = size, mask.shape
    if (height - width) * (own_height - own_width) < 0:
        raise UserError(
            f"{image} is {width}x{height} and its mask {own_width}x{own_height}: one lies on its side, which "
            "resize_masks does not change; turn it"
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

    Learning stops here; `check` goes on with the rest to report everything in one go.
    """

    def __init__(self, problems: Sequence[str], rest: Sequence[Any]) -> None:
        more = f" (and {len(problems) - 1} more: `everseg data check` lists all)" if len(problems) > 1 else ""
        super().__init__(problems[0] + more)
        self.problems = tuple(map(printable, problems))
        self.rest = rest


OnFault = Callable[[str, str, UserError], Sequence[Any]]
"""What to do with a split that cannot be opened: (stage, split, error) -> the samples to go on with, or
raise.
"""


def content(path: Path) -> list[Any]:
    """File name, size and content hash. A file is read once: the hash is kept for its path, size and time of
    change.
    """
    try:
        stat = path.stat()
        return [path.name, stat.st_size, _hashed(path, stat.st_size, stat.st_mtime_ns)]
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; restore it") from error


_hashes: dict[bytes, bytes] = {}
"""Content hashes by a hash of a file's path, size and time of change: two hundred bytes per file."""


def _hashed(path: Path, size: int, changed: int) -> str:
    place = hashlib.blake2b(b"%d|%d|" % (size, changed) + os.fsencode(path), digest_size=16).digest()
    if place not in _hashes:
        _hashes[place] = bytes.fromhex(sha256_file(path))
    return _hashes[place].hex()


def take_part(items: Sequence[T], part: tuple[int, int] | None) -> Sequence[T]:
    """`items[start:stop]` of a sorted list, for splits that share a folder.

    Raises:
        UserError: start and stop are not 0 <= start < stop <= the number of items.
    """
    if part is None:
        return items
    start, stop = part
    if not 0 <= start < stop <= len(items):
        raise UserError(
            f"part: [{start}, {stop}] is not within the {len(items)} there are; choose 0 <= start < stop"
        )
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
