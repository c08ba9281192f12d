"""Cityscapes: `leftImg8bit/SPLIT/CITY` and several kinds of maps in `gtFine/SPLIT/CITY`."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from everseg.data.known.site import Options, Place, Site
from everseg.data.layout import split_of
from everseg.data.pairing import pair_files
from everseg.data.proposal import home_of

_IMAGES = "leftImg8bit"
_KINDS = ("labelTrainIds", "labelIds")
_SPLITS = ("train", "train_extra", "val")
"""The maps of the images in `test` are withheld."""
_MAPS = ("gtFine", "gtCoarse")


def cityscapes_places(site: Site) -> Iterator[Place]:
    """The splits of every folder leftImg8bit that has maps beside it."""
    for folder in site.folders:
        if not folder.parts or folder.parts[-1] != _IMAGES:
            continue
        home = folder.path.parent
        maps = next((name for name in _MAPS if (home / name).is_dir()), "")
        for split in _SPLITS if maps else ():
            files = [f.name for f in (home / maps / split).glob("*/*.png")]
            kind = next((k for k in _KINDS if any(name.endswith(f"_{k}.png") for name in files)), "")
            if not kind:
                continue
            options: Options = {
                "path": "/".join(folder.parts[:-1]) or ".",
                "images": f"{_IMAGES}/{split}/*/{{id}}_{_IMAGES}.png",
                "masks": f"{maps}/{split}/*/{{id}}_{maps}_{kind}.png",
            }
            yield Place(
                home_of(folder.parts[:-1]),
                split_of((split,)),
                options,
                f"Cityscapes: {maps}/{split}, {kind}",
                partial(_names, site, options),
                doubts=[
                    "name the objects by mask_values: [24, 26], or learn a stream of classes (--classes)"
                ],
                classes=True,
                folder=home,
            )
        if maps:
            site.take([g for name in (_IMAGES, *_MAPS) for g in site.below((*folder.parts[:-1], name))])


def _names(site: Site, options: Options) -> list[str]:
    pairs, _ = pair_files(site.root / options["path"], options["images"], options["masks"])
    return [pair.name for pair in pairs]
