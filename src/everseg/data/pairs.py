"""Images and the files that hold their masks."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

from everseg.data.columns import Paths, Texts


@dataclass(frozen=True)
class Pair:
    """An image and the files of its masks, at least one.

    name: name of the sample: the image's path within the split.
    """

    image: Path
    masks: tuple[Path, ...]
    name: str


class Pairs(Sequence[Pair]):
    """Pairs in columns, each made when it is asked for.

    root: the common folder of most files. images, names: of each pair. masks: of all pairs; `ends` has the
        end of each pair's part.
    """

    def __init__(self, root: Path, pairs: Iterable[Pair] = ()) -> None:
        self.root = root
        self.names, self.images, self.masks = Texts(), Paths(root), Paths(root)
        self.ends = array("Q")
        for pair in pairs:
            self.append(pair)

    def append(self, pair: Pair) -> None:
        self.names.append(pair.name)
        self.images.append(pair.image)
        for mask in pair.masks:
            self.masks.append(mask)
        self.ends.append(len(self.masks))

    def append_below(self, image: str, mask: str, name: str) -> None:
        """A pair of files whose paths below the root are given."""
        self.names.append(name)
        self.images.below.append(image)
        self.masks.below.append(mask)
        self.ends.append(len(self.masks))

    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, index: int) -> Pair: ...
    @overload
    def __getitem__(self, index: slice) -> Pairs: ...
    def __getitem__(self, index: int | slice) -> Pair | Pairs:
        places = range(len(self.ends))[index]
        if isinstance(places, range):
            return self.at(places)
        begin = self.ends[places - 1] if places else 0
        masks = tuple(self.masks[n] for n in range(begin, self.ends[places]))
        return Pair(self.images[places], masks, self.names[places])

    def at(self, places: Iterable[int]) -> Pairs:
        """The pairs at these places."""
        return Pairs(self.root, (self[place] for place in places))
