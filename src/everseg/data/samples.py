"""A lazy sequence of samples: entries say where image and mask are, and nothing is decoded before it is
asked for.
"""

from __future__ import annotations

import copy
import hashlib
import json
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
from everseg.errors import UserError
from everseg.files import sha256_file
from everseg.types import PromptSample

T = TypeVar("T")


class Entry(Protocol):
    """Where one sample is. Entries are small and picklable: workers get all of them."""

    @property
    def name(self) -> str:
        """The image's file name; with `#n` for one object of several. Unique within a split."""

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

    decoding: how the values of image files become 8-bit RGB.
    """

    rule: PromptRule

    def __init__(self, entries: Sequence[Entry], rule: PromptRule, *, decoding: Decoding = PLAIN) -> None:
        self.entries = tuple(entries)
        self.rule = rule
        self.decoding = decoding

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
        digest = hashlib.sha256(json.dumps([self.decoding.name, self.rule.describe()]).encode())
        for index, entry in enumerate(self.entries):
            stored = self.stored_clicks(index)
            clicks = [stored.points, stored.labels] if stored else None
            truth = [content(part) if isinstance(part, Path) else part for part in entry.truth()]
            line = [entry.name, content(entry.image), truth, clicks]
            digest.update(json.dumps(line, sort_keys=True).encode() + b"\n")
        return digest.hexdigest()

    def file(self, index: int) -> str:
        return str(self.entries[index].image)

    def stored_clicks(self, index: int) -> StoredClicks | None:
        return self.entries[index].stored if "stored" in self.rule.kind else None


class PartlyReadable(UserError):
    """Some files of a split cannot be used; `problems` are whole sentences, `rest` is what remains without
    them.

    Learning stops here; `check` goes on with the rest to report everything in one go.
    """

    def __init__(self, problems: Sequence[str], rest: Sequence[Any]) -> None:
        more = f" (and {len(problems) - 1} more: `everseg data check` lists all)" if len(problems) > 1 else ""
        super().__init__(problems[0] + more)
        self.problems = tuple(problems)
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


@lru_cache(maxsize=1_000_000)
def _hashed(path: Path, size: int, changed: int) -> str:
    return sha256_file(path)


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
