"""Images whose domains are discovered: the table that says which image went to which domain, and the stages
that it makes.

A stream file with `domains: discover` lists batches of images as they arrived. Discovering their domains
(`everseg.runs.discover`) writes a table beside it, a CSV file that a person can read and correct. With the
table the file is a stream like any other. docs/discover.md explains both.
"""

from __future__ import annotations

import csv
import hashlib
import io
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple, dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

from everseg.data.described import Described, described
from everseg.data.domains.prompts import StoredClicks
from everseg.data.held_out import Chosen
from everseg.data.samples import OnFault, Samples
from everseg.data.streamfile import BatchSpec, PileSpec, is_name
from everseg.errors import UserError, unknown
from everseg.files import path_from, write_bytes
from everseg.text import read_text

PENDING = "pending"
"""Instead of a domain: too few images are of this image's kind."""
USES = ("train", "test")
ENOUGH = 20
"""Images to train on that a stage of later images of a known domain has at least; fewer wait for more."""

Opened = Callable[[BatchSpec, str], Sequence[Any]]
"""The samples of a batch's split."""


@dataclass(frozen=True)
class Row:
    """An image of the table.

    split: split of the batch that the image is in.
    use: "train" or "test": what the image is used for.
    round: number of the discovery that found its domain, from 1.
    p: its p-value under the domain, as text.
    """

    batch: str
    split: str
    image: str
    domain: str
    use: str
    round: int
    p: str

    @property
    def key(self) -> tuple[str, str, str]:
        return self.batch, self.split, self.image


def table_of(spec: PileSpec, path: Path) -> Path:
    """Where the table of a stream file is."""
    if spec.table:
        return path_from(path.parent, spec.table, f"{path}: table")
    return path.with_name(f"{path.stem}.domains.csv")


def read_table(table: Path) -> list[Row]:
    """The rows of a table; none where there is no table yet.

    Raises:
        UserError: it cannot be read, or a row is wrong.
    """
    if not table.exists():
        return []
    try:
        lines = list(csv.reader(io.StringIO(read_text(table, names=True), newline=""), strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"cannot read {table}: {why}; restore it, or delete it to discover again") from error
    columns = [field.name for field in fields(Row)]
    if not lines or lines[0] != columns:
        raise UserError(f"{table} does not begin with {','.join(columns)}; restore its first line")
    rows: dict[tuple[str, str, str], Row] = {}
    for number, line in enumerate(lines[1:], 2):
        if not line:
            continue
        where = f"{table}, line {number}"
        if len(line) != len(columns):
            raise UserError(
                f"{where}: there are {len(line)} values, but {len(columns)} columns; correct the line"
            )
        batch, split, image, domain, use, turn, p = line
        if not is_name(domain):
            raise UserError(
                f"{where}: the domain {domain!r} cannot be a stage's name; use letters, digits, . _ -"
            )
        if use not in USES or split not in USES:
            raise UserError(f"{where}: split and use are {split!r} and {use!r}; set each to train or test")
        if not (turn.isascii() and turn.isdigit()):
            raise UserError(f"{where}: the round {turn!r} is not a number; restore it")
        row = Row(batch, split, image, domain, use, int(turn), p)
        if rows.setdefault(row.key, row) is not row:
            raise UserError(f"{where}: {image!r} of batch {batch!r} is listed twice; remove one line")
    return list(rows.values())


def write_table(table: Path, rows: Iterable[Row]) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(field.name for field in fields(Row))
    writer.writerows(astuple(row) for row in rows)
    write_bytes(table, text.getvalue().encode("utf-8", "surrogateescape"))


def in_order(domain: str) -> tuple[bool, list[tuple[int, str]]]:
    """What sorts domain-2 before domain-10, and those that wait behind all."""
    parts = re.split(r"(\d+)", domain)
    return domain == PENDING, [(int(part), "") if part.isdecimal() else (0, part) for part in parts]


def images_of(samples: Sequence[Any]) -> list[str]:
    """The image of each sample: what it is called within its split. Objects of one image share it."""
    names = described(samples).names()
    if names is None:
        names = [samples[i].name for i in range(len(samples))]
    return [re.sub(r"#\d+$", "", name) for name in names]


class PileStage(NamedTuple):
    """A stage that a table makes.

    later_of: as in `Stage`.
    """

    name: str
    train: Sequence[Any]
    test: Sequence[Any]
    later_of: str


def pile_stages(spec: PileSpec, path: Path, opened: Opened, on_fault: OnFault) -> list[PileStage]:
    """The stages of a table, in the order in which the domains were found.

    Domains that are given one name are one. A stage has the images that were there when its domain was
    found; what came later cannot change it. Unless `later: leave`, later images are stages of their own:
    those of a round, together with those of earlier rounds that were too few.

    Raises:
        UserError: the domains have not been discovered yet, or the table does not fit the batches.
    """
    table = table_of(spec, path)
    rows = read_table(table)
    if not rows:
        raise UserError(
            f"{path}: the domains are not discovered yet; run everseg data discover {path}, or learn it"
        )
    found = {row.domain for row in rows} - {PENDING}
    if not found:
        raise UserError(f"{path}: all {len(rows)} images are pending, too few of any kind; add more batches")
    for name in spec.names:
        if name not in found:
            raise unknown(f"domain in {path}: names:", name, found)
    first: dict[str, int] = {}
    place: dict[str, Any] = {}
    named = [replace(row, domain=spec.names.get(row.domain, row.domain)) for row in rows]
    for row, before in zip(named, rows, strict=True):
        if before.domain != PENDING:
            first[row.domain] = min(row.round, first.get(row.domain, row.round))
            place[row.domain] = min(in_order(before.domain), place.get(row.domain, in_order(before.domain)))
    members: dict[tuple[int, str], list[Row]] = {}
    for row in named:
        if row.domain != PENDING:
            members.setdefault((row.round, row.domain), []).append(row)
    batches = _Batches(spec, table, opened)
    stages: list[PileStage] = []
    waiting: dict[str, list[Row]] = {}
    for turn, domain in sorted(members, key=lambda member: (member[0], place[member[1]])):
        own, name, later_of = members[turn, domain], domain, ""
        if turn > first[domain]:
            own = waiting[domain] = [*waiting.get(domain, []), *own]
            uses = [row.use for row in own]
            if spec.later == "leave" or uses.count("train") < ENOUGH or not uses.count("test"):
                continue
            del waiting[domain]
            name, later_of = f"{domain}-{turn}", domain if spec.later == "choose" else ""
        train, test = (_samples(batches, own, use, name, on_fault) for use in USES)
        stages.append(PileStage(name, train, test, later_of))
    return stages


def _samples(
    batches: _Batches, rows: Sequence[Row], use: str, stage: str, on_fault: OnFault
) -> Sequence[Any]:
    try:
        return batches.chosen([row for row in rows if row.use == use])
    except UserError as error:
        return on_fault(stage, use, error)


class _Batches:
    """The batches of a stream file, each opened once."""

    def __init__(self, spec: PileSpec, table: Path, opened: Opened) -> None:
        self.spec, self.table, self.opened = spec, table, opened
        self.known: dict[tuple[str, str], tuple[Sequence[Any], dict[str, list[int]]]] = {}

    def chosen(self, rows: Sequence[Row]) -> Sequence[Any]:
        """The samples of some images, in the order of the batches and of their readers."""
        wanted: dict[tuple[str, str], list[str]] = {}
        for row in rows:
            wanted.setdefault((row.batch, row.split), []).append(row.image)
        parts: dict[str, Sequence[Any]] = {}
        for (batch, split), images in wanted.items():
            samples, places = self._open(batch, split)
            for image in images:
                if image not in places:
                    raise UserError(
                        f"{self.table} lists {image!r}, which batch {batch!r}, {split}, does not have; "
                        "restore the image or remove the line"
                    )
            chosen = sorted(place for image in images for place in places[image])
            parts[f"{batch}/{split}"] = (
                samples.chosen(chosen) if isinstance(samples, Samples) else Chosen(samples, chosen)
            )
        return next(iter(parts.values())) if len(parts) == 1 else Joined(parts)

    def _open(self, batch: str, split: str) -> tuple[Sequence[Any], dict[str, list[int]]]:
        if (batch, split) not in self.known:
            spec = next((b for b in self.spec.batches if b.name == batch), None)
            if spec is None or getattr(spec, split) is None:
                raise UserError(
                    f"{self.table} lists images of batch {batch!r}, {split}, which the stream file does not "
                    "have; restore it or remove the lines"
                )
            samples = self.opened(spec, split)
            places: dict[str, list[int]] = {}
            for place, image in enumerate(images_of(samples)):
                places.setdefault(image, []).append(place)
            self.known[batch, split] = samples, places
        return self.known[batch, split]


class Joined(Described[Any]):
    """Samples of several batches as one sequence; each is called by its batch and its name there."""

    def __init__(self, parts: dict[str, Sequence[Any]]) -> None:
        self.parts = {name: described(samples) for name, samples in parts.items()}
        self.places = [(name, i) for name, part in self.parts.items() for i in range(len(part))]
        rules = [part.rule for part in self.parts.values()]
        self.rule = rules[0] if rules and all(rule == rules[0] for rule in rules) else None

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return Chosen(self, range(len(self))[index])
        name, place = self.places[index]
        sample = self.parts[name][place]
        return replace(sample, name=f"{name}/{sample.name}")

    def fingerprint(self) -> str:
        told = [f"{name}|{part.fingerprint()}" for name, part in self.parts.items()]
        return hashlib.sha256("\n".join(told).encode(errors="surrogateescape")).hexdigest()

    def content(self, index: int) -> list[Any]:
        name, place = self.places[index]
        return self.parts[name].content(place)

    def file(self, index: int) -> str:
        name, place = self.places[index]
        return self.parts[name].file(place)

    def truth_file(self, index: int) -> str:
        name, place = self.places[index]
        return self.parts[name].truth_file(place)

    def image_name(self, index: int) -> str:
        name, place = self.places[index]
        return f"{name}/{self.parts[name].image_name(place)}"

    def stored_clicks(self, index: int) -> StoredClicks | None:
        name, place = self.places[index]
        return self.parts[name].stored_clicks(place)
