"""Types of run.json and of the lines of events.jsonl.

A line of events.jsonl is an `Event`; where it has "event": "progress" it is a `Progress`, and where it has
"event": "curve" a `Training`. Only `runs.folder` reads and writes the files. A key of run.json whose value is
empty is left out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import Field, TypeAdapter, ValidationError

from everseg.config import plain
from everseg.data.classes.legend import BACKGROUND_NAME as BACKGROUND
from everseg.errors import UserError
from everseg.types.abilities import Later

FORMAT, RECORD = 1, "run.json"
T = TypeVar("T")
Figures = Mapping[str, int | float]


@dataclass(frozen=True)
class BaseMark:
    """The base model of a run.

    fingerprint: sha256 of its weights.
    """

    name: str
    fingerprint: str


@dataclass(frozen=True)
class FileMark:
    """A file that a run took over, and the sha256 of its content."""

    file: str
    sha256: str


@dataclass(frozen=True)
class Digests:
    """sha256 of the two files that run.json names."""

    state: str
    results: str


@dataclass(frozen=True)
class Learned:
    """One stage that was learned.

    fingerprint: fingerprint of its data; "" if it is unknown.
    train, test: fingerprints of its training and test data; "" in runs of versions that knew only both
        together.
    images: number of images that it was trained on.
    figures: figures that the method reported, without times.
    classes: classes of the stage.
    contribution: sha256 of the archived contribution.
    imported: file of the module that was imported.
    later: for later images of a known domain, how the method continues with its module.
    """

    name: str
    fingerprint: str
    background: bool
    images: int
    figures: Figures
    classes: tuple[str, ...] = ()
    contribution: str = ""
    imported: FileMark | None = None
    train: str = ""
    test: str = ""
    later: Later | None = None

    def merge_figures(self) -> dict[str, float]:
        """What the figures say of the merge after the stage."""
        return {k.removeprefix("merge_"): v for k, v in self.figures.items() if k.startswith("merge_")}


def without_times(figures: Mapping[str, float]) -> tuple[dict[str, float], dict[str, float]]:
    """What a method reported, apart from times, and the times of parts: equal runs have equal records.

    The time of the whole is measured around the method, so its own "seconds" is left out.
    """
    times = {key: value for key, value in figures.items() if key.endswith("_seconds")}
    kept = {key: value for key, value in figures.items() if key not in times and key != "seconds"}
    return kept, times


@dataclass(frozen=True)
class First:
    """The run whose first stage was reused, and the sha256 of its state."""

    method: str
    seed: int
    sha256: str


@dataclass(frozen=True)
class MergedFrom:
    """The runs and contributions that were merged, and by which rule."""

    sources: Annotated[tuple[str, ...], Field(alias="from")]
    rule: str


@dataclass(frozen=True)
class ImportedFrom:
    """The published code whose modules were taken over, and its selector's file."""

    source: Annotated[str, Field(alias="from")]
    selector: FileMark


@dataclass(frozen=True)
class Certificate:
    """Certificate of a forgotten domain.

    exact: whether the learner equals one that never learned the domain.
    statement: a sentence that says so, or why it does not.
    contribution, data: sha256 of the domain's contribution and of its data.
    remaining: sha256 of what is left of each other domain.
    state_before, state_after: sha256 of the learner's state.
    removed: other parts of the run that were deleted with it.
    kept: parts of the run that it still influenced.
    """

    forgotten: str
    method: str
    exact: bool
    statement: str
    base: BaseMark
    contribution: str
    data: str
    remaining: Mapping[str, str]
    state_before: str
    state_after: str = ""
    removed: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain values for the certificate's file and for run.json."""
        optional = ("state_after", "removed", "kept")
        return {k: v for k, v in plain(self).items() if v or k not in optional}


@dataclass(frozen=True)
class Record:
    """run.json: what was learned, from what, with which settings, and the files that hold it.

    config: `RunConfig` in plain values.
    stream: path of the stream file; "" where the stream did not come from a file.
    first_classes: columns that count as old classes.
    first: where the first stage was taken from.
    oracle: scores of each domain with its own module.
    forgotten: certificates.
    state, results, sha256: set by each write.
    after: number of the state that this one followed, where it is not the one before.
    """

    config: Mapping[str, Any]
    base: BaseMark
    learned: tuple[Learned, ...] = ()
    stream: str | None = None
    first_classes: tuple[str, ...] = ()
    first: First | None = None
    oracle: Mapping[str, Mapping[str, float]] | None = None
    forgotten: tuple[Certificate, ...] = ()
    merged: MergedFrom | None = None
    imported: ImportedFrom | None = None
    state: Annotated[str, Field(pattern=r"^(state-\d+\.safetensors)?$")] = ""
    results: Annotated[str, Field(pattern=r"^(results-\d+\.json)?$")] = ""
    sha256: Digests | None = None
    after: int | None = None

    @property
    def names(self) -> list[str]:
        """Names of the learned stages, in order."""
        return [stage.name for stage in self.learned]

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the channels learned, the background first; only the background in a run of domains."""
        return (BACKGROUND, *(name for stage in self.learned for name in stage.classes))

    def with_learned(self, stage: Learned) -> Record:
        """This record with one stage more."""
        return replace(self, learned=(*self.learned, stage))

    def with_changed(self, name: str, **changes: Any) -> Record:
        """This record with fields of one learned stage changed."""
        learned = (replace(stage, **changes) if stage.name == name else stage for stage in self.learned)
        return replace(self, learned=tuple(learned))

    @property
    def number(self) -> int:
        """What the state and the results are numbered; 0 before the first write."""
        return int(Path(self.state).stem.rpartition("-")[2]) if self.state else 0

    @property
    def parent(self) -> int:
        """The number of the state that this one followed; 0 for the first."""
        return max(0, self.number - 1) if self.after is None else self.after

    def to_json(self) -> dict[str, Any]:
        """Plain values for run.json."""
        values = {key: value for key, value in plain(self).items() if value not in (None, [], "")}
        values |= {"format": FORMAT, "config": dict(self.config)}
        values["learned"] = [self._stage(stage) for stage in self.learned]
        if self.stream is not None:
            values["stream"] = self.stream
        if self.forgotten:
            values["forgotten"] = [certificate.to_json() for certificate in self.forgotten]
        for key, name in (("merged", "sources"), ("imported", "source")):
            if key in values:
                values[key]["from"] = values[key].pop(name)
        return values

    def _stage(self, stage: Learned) -> dict[str, Any]:
        values = plain(stage)
        optional = ("classes", "contribution", "train", "test", "later")
        left_out = [key for key in optional if not values[key]]
        left_out += [] if self.imported else ["imported"]
        return {key: value for key, value in values.items() if key not in left_out}


@dataclass(frozen=True)
class Event:
    """One line of events.jsonl: a stage that was learned, or a later change of the run.

    seconds, scoring_seconds: time for learning and for scoring.
    figures: figures that the method reported, including times.
    """

    stage: str
    seconds: float
    scoring_seconds: float = 0.0
    peak_memory_bytes: int = 0
    figures: Figures = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain values for one line."""
        own = {key: value for key, value in plain(self).items() if key != "figures"}
        return {**self.figures, **own}

    @classmethod
    def from_json(cls, values: Any, where: str) -> Event:
        """What `to_json` gave.

        Raises:
            UserError: something else.
        """
        if not isinstance(values, dict):
            raise UserError(
                f"{where} is damaged (it is not a JSON object); restore it from a copy or delete the line"
            )
        own = ("stage", "seconds", "scoring_seconds", "peak_memory_bytes")
        nested = {key: value for key, value in values.items() if key in own}
        return parse(cls, {**nested, "figures": {k: v for k, v in values.items() if k not in own}}, where)


HIDDEN = {0xDC80 + byte: 0x10DC80 + byte for byte in range(128)}
"""Bytes of paths that are not UTF-8, as Python keeps them, and private characters that stand for them,
because pydantic reads no JSON that holds the former."""


def _renamed(value: Any, characters: Mapping[int, int]) -> Any:
    """Plain values or dataclasses with characters of their texts replaced."""
    if isinstance(value, str):
        return value.translate(characters)
    if isinstance(value, dict):
        return {key: _renamed(v, characters) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_renamed(v, characters) for v in value)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: _renamed(getattr(value, f.name), characters) for f in fields(value)})
    return value


@dataclass(frozen=True)
class Progress:
    """A line of events.jsonl: the progress of a training at one moment; see `everseg.progress`.

    loss: None if it is not a number.
    val: newest score on the validation images.
    """

    stage: str
    fit: str
    step: int
    steps: int
    epoch: int
    epochs: int
    loss: float | None
    images_per_second: float
    seconds: float
    seconds_left: float
    val: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values for one line."""
        return {"event": "progress", **plain(self)}


@dataclass(frozen=True)
class Training:
    """A line of events.jsonl: the course of a finished training.

    epochs: epochs that were logged, from 1; a subset if there were many.
    losses: mean loss of each.
    val: scores on the validation images.
    best: epoch that was kept; 0 without validation images.
    """

    stage: str
    fit: str
    epochs: tuple[int, ...]
    losses: tuple[float, ...]
    val: tuple[float, ...] = ()
    best: int = 0

    def to_json(self) -> dict[str, Any]:
        """Plain values for one line."""
        return {"event": "curve", **plain(self)}


Line = Event | Progress | Training


def read_line(values: Any, where: str) -> Line:
    """What `to_json` of a line gave.

    Raises:
        UserError: something else.
    """
    kinds: dict[str, type[Progress] | type[Training]] = {"progress": Progress, "curve": Training}
    if not (isinstance(values, dict) and "event" in values):
        return Event.from_json(values, where)
    kind = values["event"]
    if not isinstance(kind, str) or kind not in kinds:
        raise UserError(f"{where} is damaged (no event is called {kind!r}); delete the line")
    return parse(kinds[kind], {k: v for k, v in values.items() if k != "event"}, where)


def parse(kind: type[T], values: Any, where: str) -> T:
    """A dataclass of this module from plain JSON values.

    Raises:
        UserError: a key is missing or a value is of another type.
    """
    try:
        # As JSON, because only there is a list a tuple. Strictly: "5" is not a number.
        text = json.dumps(_renamed(values, HIDDEN))
        return _renamed(TypeAdapter(kind).validate_json(text, strict=True), {v: k for k, v in HIDDEN.items()})
    except ValidationError as error:
        first = error.errors()[0]
        # Of a union, the last part names the type that was tried last.
        parts = [str(part) for part in first["loc"] if part not in ("int", "float")]
        place = ".".join(parts) or "as a whole"
        raise UserError(
            f"{where} is damaged ({place}: {first['msg'].lower()}); restore it from a copy"
        ) from error


def read_values(values: Any, where: str) -> Record:
    """The record in the plain values of a run.json.

    Raises:
        UserError: it is of another version, or damaged.
    """
    if not isinstance(values, dict):
        raise UserError(f"{where} is damaged (it is not a JSON object); restore it from a copy")
    version = values.get("format")
    if version is None:
        raise UserError(f"{where} is damaged (it names no format); restore it from a copy")
    if version != FORMAT:
        raise UserError(
            f"{where} has format {version!r}, but this version of everseg reads {FORMAT}; use the "
            "version that wrote it"
        )
    record = parse(Record, values, where)
    if not (record.state and record.results and record.sha256):
        raise UserError(f"{where} is damaged (it names no state or results); restore it from a copy")
    for key, kind in (("method", str), ("settings", dict)):
        if not isinstance(record.config.get(key), kind):
            what = f"config.{key} is missing or not a {kind.__name__}"
            raise UserError(f"{where} is damaged ({what}); restore it from a copy")
    return record
