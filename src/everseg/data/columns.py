"""Compact storage of many samples: columns of bytes and numbers instead of objects.

A split of 100,000 samples is listed in every process that decodes it. Paths, strings and dataclasses take
hundreds of bytes each; here a name takes its letters and eight bytes.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import overload

from everseg.data.domains.prompts import StoredClicks


class Texts(Sequence[str]):
    """Strings, one after the other in one piece of memory."""

    def __init__(self, texts: Iterable[str] = ()) -> None:
        self.letters, self.ends = bytearray(), array("Q")
        for text in texts:
            self.append(text)

    def append(self, text: str) -> None:
        self.letters += text.encode(errors="surrogatepass")
        self.ends.append(len(self.letters))

    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Texts: ...
    def __getitem__(self, index: int | slice) -> str | Texts:
        places = range(len(self.ends))[index]
        if isinstance(places, range):
            return Texts(self[place] for place in places)
        begin = self.ends[places - 1] if places else 0
        return self.letters[begin : self.ends[places]].decode(errors="surrogatepass")


class Paths(Sequence[Path]):
    """Files, each a path when it is asked for.

    root: their common folder; of files elsewhere the whole path is kept, which must be absolute.
    """

    def __init__(self, root: Path, paths: Iterable[Path] = ()) -> None:
        self.root, self.below = root, Texts()
        self._start = str(root / "x")[:-1]
        for path in paths:
            self.append(path)

    def append(self, path: Path) -> None:
        self.below.append(str(path).removeprefix(self._start))

    def __len__(self) -> int:
        return len(self.below)

    @overload
    def __getitem__(self, index: int) -> Path: ...
    @overload
    def __getitem__(self, index: slice) -> Paths: ...
    def __getitem__(self, index: int | slice) -> Path | Paths:
        if isinstance(index, slice):
            return Paths(self.root, (self[n] for n in range(len(self))[index]))
        return self.root / self.below[index]


class ClickColumn(Sequence[StoredClicks | None]):
    """Stored clicks of many samples: the numbers only."""

    def __init__(self, clicks: Iterable[StoredClicks | None] = ()) -> None:
        self.points, self.labels, self.ends = array("d"), array("b"), array("Q")
        for one in clicks:
            self.append(one)

    def append(self, clicks: StoredClicks | None) -> None:
        if clicks is not None:
            for point in clicks.points:
                self.points.extend(point)
            self.labels.extend(clicks.labels)
        self.ends.append(len(self.labels))

    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, index: int) -> StoredClicks | None: ...
    @overload
    def __getitem__(self, index: slice) -> ClickColumn: ...
    def __getitem__(self, index: int | slice) -> StoredClicks | ClickColumn | None:
        places = range(len(self.ends))[index]
        if isinstance(places, range):
            return ClickColumn(self[place] for place in places)
        begin, end = self.ends[places - 1] if places else 0, self.ends[places]
        if begin == end:
            return None
        points = self.points[2 * begin : 2 * end]
        return StoredClicks(tuple(zip(points[::2], points[1::2], strict=True)), tuple(self.labels[begin:end]))
