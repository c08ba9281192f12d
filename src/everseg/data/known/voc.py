"""VOC's folders: JPEGImages, SegmentationClass and lists."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from everseg.data.known.site import Options, Site, StageProposal
from everseg.data.raster import read_raster
from everseg.data.samples import take_evenly
from everseg.errors import UserError


def voc_stages(site: Site) -> Iterator[StageProposal]:
    """Folders with JPEGImages, SegmentationClass and lists."""
    for group in list(site.groups):
        if not group.folder or group.folder[-1] != "JPEGImages":
            continue
        home = site.root.joinpath(*group.folder[:-1])
        lists = {f.stem: f for f in sorted((home / "ImageSets" / "Segmentation").glob("*.txt"))}
        maps = [m for end in ("Aug", "") if (m := home / f"SegmentationClass{end}").is_dir()]
        train = next((name for name in ("train_aug", "train") if name in lists), None)
        test = next((name for name in ("val", "test") if name in lists), None)
        if not maps or train is None or test is None:
            continue
        path = "/".join(group.folder[:-1]) or "."
        splits: dict[str, Options] = {
            split: {"kind": "voc", "path": path, "split": name}
            for split, name in (("train", train), ("test", test))
        }
        site.take(site.below(group.folder[:-1]))
        yield StageProposal(
            group.folder[-2] if len(group.folder) > 1 else "",
            splits,
            [f"VOC: {path}, trained on the list {train} and tested on the list {test}"],
            ["of each image the largest part of a class is the object"],
            classes=_several(sorted(maps[0].glob("*.png"))),
            home=home,
        )


_VOID = 0xC0E0E0
"""The colour of VOC's borders, as one number (see `raster.packed`)."""


def _several(maps: Sequence[Path]) -> bool:
    """Whether class maps hold several classes, by a few of them."""
    found: set[int] = set()
    for file in take_evenly(maps, 8):
        try:
            found |= set(read_raster(file).colours().ravel().tolist())
        except UserError:
            continue
    return len(found - {0, _VOID}) > 1
