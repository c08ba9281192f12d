"""Data sets of Hugging Face's `datasets`: from the hub, or as it saves them on a disk."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from everseg.data.decoding import Bands, Decoding, Window
from everseg.data.described import Described
from everseg.data.domains.prompts import PromptKind, PromptRule
from everseg.data.extras import needed
from everseg.data.images import read_file
from everseg.data.maskrule import MaskRule, Threshold, mask_rule
from everseg.data.masks import Meaning
from everseg.data.meaning import settled_rows
from everseg.data.numbers import labels_of, refuse_blurred
from everseg.data.raster import Raster, decode_raster, raster_of
from everseg.data.samples import PartlyReadable, take_evenly, take_part
from everseg.errors import UserError, first_line, unknown
from everseg.text import plural
from everseg.types import PromptSample


class HfRows:
    """Rows of a data set with an image and a mask or class map; decodes them when asked.

    Raises:
        UserError: `datasets` is missing, there is no such data set or split, or it lacks a column.
    """

    def __init__(
        self,
        path: str,
        config: str | None,
        split: str | None,
        image: str,
        mask: str,
        root: str,
        decoding: Decoding,
    ) -> None:
        datasets = needed("datasets", "hf", f"the data set {path}")
        shown = Path(root, path).resolve().name if path in ("", ".") else path
        self.what = shown if split is None else f"{shown} ({split})"
        self.image, self.mask, self.decoding = image, mask, decoding
        table = _table(datasets, path, config, split, Path(root))
        for option, column in (("image", image), ("mask", mask)):
            if column not in table.column_names:
                raise unknown(f"{option} (a column of {path}):", column, table.column_names)
            feature = table.features[column]
            if isinstance(feature, datasets.Image):
                table = table.cast_column(column, datasets.Image(decode=False))
            elif option == "image" and not _holds_files(feature):
                raise UserError(
                    f"the column {column!r} of {path} has no images; name the column of the images with "
                    "image:"
                )
        # One column at a time is read: the others may hold pictures, too.
        self.columns = {column: table.select_columns([column]) for column in (image, mask)}

    def __len__(self) -> int:
        return len(self.columns[self.image])

    def place(self, row: int) -> str:
        """A row, for messages."""
        return f"{self.what}, row {row}"

    def picture(self, row: int) -> Tensor:
        """(3, H, W) uint8."""
        return self.decoding.decode(self._bytes(row, self.image), Path(f"{self.place(row)}, {self.image}"))

    def mask_place(self, row: int) -> str:
        """A row's mask or class map, for messages."""
        return f"{self.place(row)}, {self.mask}"

    def raster(self, row: int) -> Raster:
        """The pixels of the mask or class map.

        Raises:
            UserError: unreadable.
        """
        given = self.columns[self.mask][row][self.mask]
        if given is not None and not isinstance(given, dict | bytes):
            return raster_of(np.asarray(given), self.mask_place(row))
        return decode_raster(self._bytes(row, self.mask), Path(self.mask_place(row)))

    def content(self, row: int) -> list[str]:
        """Hashes of what a row holds."""
        mask = self.columns[self.mask][row][self.mask]
        truth = self._bytes(row, self.mask) if isinstance(mask, dict | bytes) else json.dumps(mask).encode()
        return [hashlib.sha256(part).hexdigest() for part in (self._bytes(row, self.image), truth)]

    def _bytes(self, row: int, column: str) -> bytes:
        given = self.columns[column][row][column]
        if isinstance(given, bytes) and given:
            return given
        if not isinstance(given, dict) or not (given.get("bytes") or given.get("path")):
            raise UserError(f"{self.place(row)} has no {column}; remove the row")
        return given.get("bytes") or read_file(Path(given["path"]))


def _holds_files(feature: Any) -> bool:
    """Whether a column holds files of images though nothing says so: their bytes, alone or beside a path."""
    if isinstance(feature, dict):
        feature = feature.get("bytes")
    return getattr(feature, "dtype", None) in ("binary", "large_binary")


def _table(datasets: Any, path: str, config: str | None, split: str | None, root: Path) -> Any:
    """The data set, of which nothing is decoded."""
    folder = root / Path(path).expanduser()
    saved = [folder / name for name in ("dataset_dict.json", "dataset_info.json")]
    try:
        if any(f.is_file() for f in saved):
            found = datasets.load_from_disk(str(folder))
        else:
            found = datasets.load_dataset(str(folder) if folder.is_dir() else path, config, split=split)
        if not isinstance(found, datasets.DatasetDict):
            return found
        if split is None:
            raise UserError(
                f"the data set {path} has the splits {', '.join(found)}; choose one with split: ..."
            )
        if split not in found:
            raise unknown(f"split of {path}:", split, found)
        return found[split]
    except UserError:
        raise
    except Exception as error:  # Of the hub, of pyarrow, of the file system, of scripts.
        raise UserError(
            f"the data set {path} cannot be opened ({type(error).__name__}: {first_line(error)}); "
            "give a folder that datasets saved, or a name on the hub, and check split: and config:"
        ) from error


class HfReader(Described[PromptSample]):
    """Samples of a data set of Hugging Face's `datasets`.

    path: a folder that `save_to_disk` wrote, any other folder that `load_dataset` takes, or a name on the
        hub.
    split: of a data set that has splits.
    config: the configuration's name.
    image, mask: the columns.
    mask_threshold, mask_values, mask_colours, void: what the object is, where the masks leave it open; see
        `mask_rule`.
    instances: "merged" is one sample per row, "each" one for each value but 0, or for each of `mask_values`;
        for "each" every mask is read once, when the reader is made.
    skip_empty: leave out rows without an object, for which every mask is read, too.
    part: [start, stop] of the rows; limit: maximum number of samples, evenly spaced.

    Raises:
        PartlyReadable: masks that cannot be read, where every mask is; says all.
        UserError: `datasets` is missing, there is no such data set, split or column, masks that may mean more
            than one thing, or no object at all.
    """

    rule: PromptRule

    def __init__(
        self,
        path: str,
        *,
        split: str = "train",
        config: str | None = None,
        image: str = "image",
        mask: str = "mask",
        mask_threshold: Threshold | None = None,
        mask_values: tuple[int, ...] | None = None,
        mask_colours: tuple[str | tuple[int, int, int], ...] | None = None,
        void: tuple[int, ...] = (),
        instances: Literal["each", "merged"] = "merged",
        skip_empty: bool = False,
        prompts: Literal["clicks", "box", "clicks+box"] = "clicks",
        clicks: int = 3,
        seed: int = 0,
        part: tuple[int, int] | None = None,
        limit: int | None = None,
        bands: Bands = None,
        window: Window = None,
        stream_root: str = ".",
    ) -> None:
        kind: PromptKind = prompts
        self.rule = PromptRule(kind, clicks, seed)
        self.rows = HfRows(path, config, split, image, mask, stream_root, Decoding(bands, window))
        rule = mask_rule(mask_threshold, mask_values, mask_colours, void)
        rows = take_part(range(len(self.rows)), part)
        found: list[tuple[int, int | None]] = []
        problems: list[str] = []
        self.meaning: Meaning | None = None
        if instances == "each":
            if mask_threshold is not None or mask_colours is not None:
                raise UserError(
                    "mask_threshold and mask_colours cannot be combined with instances: each, which takes "
                    "every value as an object; select values with mask_values"
                )
            for row in rows:
                with _noting(problems):
                    found += [(row, n) for n in self._numbers(row, rule)]
        else:
            self.meaning = settled_rows(rows, self.rows.raster, self.rows.mask_place, rule)
            for row in rows:
                with _noting(problems):
                    if not skip_empty or self._object(row, None).any():
                        found.append((row, None))
        self.places = tuple(take_evenly(found, limit))
        if problems:
            raise PartlyReadable(problems, self[:])
        if not self.places:
            raise UserError(f"{self.rows.what} has no object to learn from; check mask: and mask_values")

    def _numbers(self, row: int, rule: MaskRule) -> list[int]:
        raster, path = self.rows.raster(row), Path(self.rows.mask_place(row))
        refuse_blurred(raster, path)
        numbers = np.unique(labels_of(raster, path)).tolist()
        return [n for n in numbers if n and n not in rule.void and (rule.values is None or n in rule.values)]

    def _object(self, row: int, number: int | None) -> NDArray[np.bool_]:
        raster, what = self.rows.raster(row), self.rows.mask_place(row)
        if number is not None:
            return labels_of(raster, Path(what)) == number
        assert self.meaning is not None, "rows are not split into numbers"
        return self.meaning.object_in(raster, what)

    def __len__(self) -> int:
        return len(self.places)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)} samples, prompts: {self.rule.kind})"

    @overload
    def __getitem__(self, index: int) -> PromptSample: ...
    @overload
    def __getitem__(self, index: slice) -> HfReader: ...
    def __getitem__(self, index: int | slice) -> PromptSample | HfReader:
        """Decode one sample, or take a slice without decoding.

        Raises:
            UserError: a picture is unreadable, the mask is empty, or the sizes of image and mask differ.
        """
        if isinstance(index, slice):
            part = copy.copy(self)
            part.places = self.places[index]
            return part
        row, number = self.places[index]
        image, mask, what = self.rows.picture(row), self._object(row, number), self.rows.place(row)
        if mask.shape != tuple(image.shape[1:]):
            sizes = [f"{w}x{h}" for h, w in (image.shape[1:], mask.shape)]
            raise UserError(
                f"{what} has an image of {sizes[0]} but a mask of {sizes[1]}; make them the same size"
            )
        if not mask.any():
            raise UserError(f"{what} has no object; set skip_empty: true or correct mask_values")
        name = self._name(index)
        return PromptSample(image, self.rule.prompts(mask, name, None), torch.from_numpy(mask)[None], name)

    def _name(self, index: int) -> str:
        row, number = self.places[index]
        return f"{row:06d}" if number is None else f"{row:06d}#{number}"

    def fingerprint(self) -> str:
        """Hash what the rows hold, the options and the prompts, but not the path of the data set."""
        meaning = "each number" if self.meaning is None else self.meaning.key
        facts = [self.rows.decoding.name, self.rule.describe(), meaning]
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
        for index, (row, _) in enumerate(self.places):
            digest.update(json.dumps([self._name(index), self.rows.content(row)]).encode() + b"\n")
        return digest.hexdigest()

    def names(self) -> list[str]:
        return [self._name(index) for index in range(len(self))]

    def file(self, index: int) -> str:
        return self.rows.place(self.places[index][0])

    def truth_file(self, index: int) -> str:
        return self.rows.mask_place(self.places[index][0])

    def image_name(self, index: int) -> str:
        return f"{self.places[index][0]:06d}"

    def masks(self) -> str:
        if self.meaning is not None:
            return str(self.meaning)
        return (
            f"numbers of objects, {plural(len(self), 'sample')} in "
            f"{len({row for row, _ in self.places})} rows"
        )


@contextmanager
def _noting(problems: list[str]) -> Iterator[None]:
    """Note what is wrong with a row, and continue."""
    try:
        yield
    except UserError as error:
        problems.append(str(error))
