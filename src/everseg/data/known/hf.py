"""Data sets of Hugging Face's `datasets`: saved to a disk, or downloaded as Parquet."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from everseg.data.decoding import PLAIN
from everseg.data.domains.hf import HfRows
from everseg.data.extras import needed
from everseg.data.known.classes import seem_classes
from everseg.data.known.site import Folder, Options, Place, Site
from everseg.data.layout import role, split_of
from everseg.data.maskrule import mask_rule
from everseg.data.meaning import Unsettled, settled_rows
from everseg.data.proposal import home_of
from everseg.data.samples import take_evenly
from everseg.errors import UserError
from everseg.files import read_json


def hf_places(site: Site) -> Iterator[Place]:
    """The splits of every such folder."""
    taken: list[Path] = []
    for folder in site.folders:
        if any(folder.path.is_relative_to(above) for above in taken):
            continue
        try:
            found = list(_saved(folder) or _parquet(folder))
            if not found:
                continue
            taken.append(folder.path)
            for split, features in found:
                yield _place(site, folder, split, features)
        except UserError as error:
            site.remarks.append(f"datasets: {'/'.join(folder.parts) or '.'} is not used: {error}")


def _saved(folder: Folder) -> list[tuple[str, Any]]:
    """(split, features) of a folder that `save_to_disk` wrote; "" where it has no splits."""
    names = {file.name for file in folder.files}
    if "dataset_dict.json" in names:
        tree = read_json(folder.path / "dataset_dict.json")
        splits = tree.get("splits") if isinstance(tree, dict) else None
        return [(str(s), _features(folder.path / str(s) / "dataset_info.json")) for s in splits or []]
    if {"dataset_info.json", "state.json"} <= names:
        return [("", _features(folder.path / "dataset_info.json"))]
    return []


def _features(file: Path) -> Any:
    tree = read_json(file)
    return tree.get("features") if isinstance(tree, dict) else None


def _parquet(folder: Folder) -> list[tuple[str, Any]]:
    """(split, features) of files such as data/train-00000-of-00001.parquet."""
    files = [*folder.ending(".parquet"), *sorted((folder.path / "data").glob("*.parquet"))]
    if not files:
        return []
    parquet = needed("pyarrow.parquet", "hf", files[0])
    found = {}
    for file in files:
        split = file.stem.split("-")[0]
        if split in found:
            continue
        try:
            schema = parquet.read_schema(file)
            kept = (schema.metadata or {}).get(b"huggingface")
            features = json.loads(kept)["info"]["features"] if kept else _undescribed(schema)
        except Exception as error:  # pyarrow raises errors of many types on damaged files.
            raise UserError(f"{file} is not a Parquet file or is damaged; download it again") from error
        found[split] = features
    return list(found.items())


def _undescribed(schema: Any) -> dict[str, Any]:
    """The columns of a table that nothing describes: bytes, alone or beside a path, are taken as images."""
    types = {name: str(kind) for name, kind in zip(schema.names, schema.types, strict=True)}
    files = {n for n, kind in types.items() if kind in ("binary", "large_binary") or "<bytes: " in kind}
    return {name: {"_type": "Image" if name in files else "Value"} for name in types}


def _place(site: Site, folder: Folder, split: str, features: Any) -> Place:
    given = "/".join(folder.parts) or "."
    image, mask, others = _columns(features, folder)
    options: Options = {"kind": "hf", "path": given}
    if split:
        options["split"] = split
    options |= {key: name for key, name in (("image", image), ("mask", mask)) if name != key}
    place = Place(
        home_of(folder.parts),
        split_of((split,)) or split_of(folder.parts),
        options,
        f"datasets: {given}{f', split {split}' if split else ''}",
        lambda: [f"{row:06d}" for row in range(len(rows))],  # A table does not say what belongs together.
        f", columns {image} and {mask}",
        [f"the columns {', '.join(others)} are not used"] if others else [],
        folder=folder.path,
    )
    rows = HfRows(given, None, split or "train", image, mask, str(site.root), PLAIN)
    looked = [rows.raster(row) for row in take_evenly(range(len(rows)), _LOOKED)]
    place.classes = seem_classes(
        (np.unique(raster.values).tolist() for raster in looked),
        any(raster.form == "colour" for raster in looked),
        False,
    )
    try:
        settled_rows(range(len(rows)), rows.raster, rows.mask_place, mask_rule())
    except Unsettled as error:
        place.doubts.append(str(error))
        place.unsettled = error.option
    if not all((raster.values != 0).any() for raster in looked):
        options["skip_empty"] = True
        place.comments["skip_empty"] = "rows without an object are left out"
    return place


_LOOKED = 24
"""Rows whose masks are looked at."""


def _columns(features: Any, folder: Folder) -> tuple[str, str, list[str]]:
    """The columns of images and of masks, and further columns of pictures."""
    kinds = {k: v for k, v in features.items() if isinstance(v, dict)} if isinstance(features, dict) else {}
    pictures = [name for name, kind in kinds.items() if kind.get("_type") == "Image"]
    arrays = [name for name, kind in kinds.items() if kind.get("_type") in ("Array2D",)]
    masks = [name for name in [*pictures, *arrays] if role(name) == "mask"]
    images = [name for name in pictures if name not in masks]
    masks = masks or images[1:]
    if not images or not masks:
        raise UserError(
            f"{folder.path} has the columns {', '.join(kinds) or 'of no known kind'}, and no two of them "
            "hold images and masks"
        )
    image = next((name for name in images if role(name) == "image"), images[0])
    return image, masks[0], [name for name in pictures if name not in (image, masks[0])]
