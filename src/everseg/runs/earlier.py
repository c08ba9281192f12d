"""Earlier states of a run, from which it can be restored.

    history/003.json                    the third state's record, its results, and the hashes of its tensors
    history/<hash>.safetensors          tensors that the newest state does not hold
    history/domains/<hash>.safetensors  contributions that the newest state does not know
    history/gate-003.json               what the gate found when the third state was accepted

A tensor that did not change is kept once: in the newest state's own file, else in the history. Scores of
single images are kept likewise, row by row, as bytes. Whatever leaves the newest state is in the history
before run.json is replaced, and what the history no longer needs is deleted after it.

A state that held a domain which was forgotten since is deleted, and an earlier one loses what it knew of it.
A state that holds images (`types.REPLAYED`) is kept only where the run's `keep` asks for it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from everseg.config import plain
from everseg.errors import UserError
from everseg.files import (
    join_state,
    json_text,
    load_state,
    read_json,
    sha256_file,
    split_state,
    write_json,
)
from everseg.results import Results
from everseg.runs.packs import hash_of, pack, packed, sweep, unpack
from everseg.runs.record import RECORD, Digests, Record, parse, read_values
from everseg.runs.run import archived
from everseg.types import REPLAYED, State

PLACE, ASIDE = "history", "rejected"

FORGOTTEN = "deleted, because it held a domain that was forgotten"
IMAGES = "not kept, because it holds images for replay; learn with --keep N to keep such states"
BEYOND = "not kept, because --keep asks for fewer states"
REMOVED = "not kept, because it held instances that were removed from the pool"
LOST = "not kept, because files of the history were deleted"


@dataclass(frozen=True)
class Entry:
    """An earlier state.

    parent: number of the state that it followed; 0 for the first.
    record: its run.json; empty where it was deleted with a domain.
    results: its results, without scores of single images.
    rows: hashes of those, by row.
    tree, tensors: of its state, as `files.split_state` takes it apart, with hashes by name; the tree as JSON
        text, whose keys keep their order.
    gone: why it cannot be restored; "" where it can.
    """

    number: int
    parent: int
    record: Mapping[str, Any] = field(default_factory=dict)
    results: Mapping[str, Any] = field(default_factory=dict)
    rows: Mapping[str, str] = field(default_factory=dict)
    tree: str = ""
    tensors: Mapping[str, str] = field(default_factory=dict)
    gone: str = ""

    @property
    def hashes(self) -> set[str]:
        """Of all that must be kept for it."""
        return {*self.rows.values(), *self.tensors.values()}

    @property
    def learned(self) -> set[str]:
        """Names of the stages that it had learned."""
        return {stage["name"] for stage in self.record.get("learned", [])}

    def without(self, gone: str) -> Entry:
        """What is left to tell of it where it is not kept."""
        if gone == FORGOTTEN:
            return Entry(self.number, self.parent, gone=gone)
        return replace(self, rows={}, tree="", tensors={}, gone=gone)


@dataclass(frozen=True)
class Parts:
    """A state and its results, split as in an `Entry`.

    blobs: the tensors, by the hashes of their contents.
    """

    tree: str
    tensors: Mapping[str, str]
    results: Mapping[str, Any]
    rows: Mapping[str, str]
    blobs: Mapping[str, Tensor]

    @classmethod
    def of(cls, state: State, results: Mapping[str, Any]) -> Parts:
        """results: as `Results.to_json` gives them."""
        tensors: dict[str, Tensor] = {}
        tree = json.dumps(split_state(state, "", tensors))
        names = {name: hash_of(tensor) for name, tensor in tensors.items()}
        rows, blobs = _rows(results)
        blobs |= {names[name]: tensor for name, tensor in tensors.items()}
        return cls(tree, names, {k: v for k, v in results.items() if k != "scores"}, rows, blobs)

    @classmethod
    def read(cls, out: Path, record: Record) -> Parts:
        return cls.of(load_state(out / record.state), read_json(out / record.results))


def _rows(results: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, Tensor]]:
    """The hash of each row's scores of single images, and the scores as bytes by their hashes."""
    texts = {row: json.dumps(table, sort_keys=True).encode() for row, table in results["scores"].items()}
    tables = {row: torch.frombuffer(bytearray(text), dtype=torch.uint8) for row, text in texts.items()}
    rows = {row: hash_of(table) for row, table in tables.items()}
    return rows, {rows[row]: table for row, table in tables.items()}


# ---------------------------------------------------------------- reading


def entries(out: Path) -> dict[int, Entry]:
    """Earlier states by their numbers, in order.

    Raises:
        UserError: a file is damaged.
    """
    paths = sorted((out / PLACE).glob("[0-9]*.json"), key=lambda path: int(path.stem))
    found = [parse(Entry, read_json(path), str(path)) for path in paths]
    return {entry.number: entry for entry in found}


def next_number(out: Path, record: Record) -> int:
    """What the next state is numbered: no state has had the number before."""
    return 1 + max([record.number, *(int(path.stem) for path in (out / PLACE).glob("[0-9]*.json"))])


def record_of(out: Path, entry: Entry) -> Record:
    """The run.json of an earlier state that was not deleted."""
    return read_values(entry.record, str(_path(out, entry.number)))


def results_of(entry: Entry) -> Results:
    """The results of an earlier state, without scores of single images."""
    return Results.from_json({**entry.results, "scores": {}}, f"{PLACE}/{entry.number:03d}.json")


def unpacked(out: Path, newest: Record, entry: Entry) -> tuple[State, dict[str, Any]]:
    """What the files of an earlier state held: its state, and its results as JSON values.

    newest: the run's record, whose state may hold tensors of the earlier one.

    Raises:
        UserError: a part of it is gone.
    """
    blobs = _blobs(out, newest, entry.hashes)
    if entry.hashes - blobs.keys():
        raise UserError(
            f"state {entry.number} of {out} cannot be restored: files in {out / PLACE} are gone; restore "
            "them from a copy"
        )
    state = join_state(json.loads(entry.tree), {name: blobs[h] for name, h in entry.tensors.items()})
    return state, _joined(entry, blobs)


def _blobs(out: Path, newest: Record, wanted: set[str]) -> dict[str, Tensor]:
    """Tensors from the history and from the newest state, as far as they are there."""
    found = unpack(out / PLACE, wanted)
    return {**Parts.read(out, newest).blobs, **found} if wanted - found.keys() else found


def _joined(entry: Entry, blobs: Mapping[str, Tensor]) -> dict[str, Any]:
    """The results of an earlier state, with scores of single images."""
    tables = {row: json.loads(bytes(blobs[h].numpy())) for row, h in entry.rows.items()}
    return {**entry.results, "scores": tables}


def set_aside(out: Path) -> list[Path]:
    """The folders of stages that the gate did not let in."""
    return sorted(path.parent for path in (out / ASIDE).glob(f"[!.]*/{RECORD}"))


def gate_file(out: Path, number: int) -> Path:
    """What the gate found when a state was accepted."""
    return out / PLACE / f"gate-{number:03d}.json"


def _path(out: Path, number: int) -> Path:
    return out / PLACE / f"{number:03d}.json"


def _write(out: Path, entry: Entry) -> None:
    write_json(_path(out, entry.number), {k: v for k, v in plain(entry).items() if v not in ("", {})})


# ---------------------------------------------------------------- writing


def keep(
    out: Path, old: Record, new: Record, state: State, results: Mapping[str, Any], gone: str = ""
) -> None:
    """Put the state of `old`, the run.json that counts now, into the history, before `new` takes its place.

    state, results: those of `new`, the results as JSON values.
    gone: why the state of `old` is only listed and cannot be restored.
    """
    forgotten, before = {c.forgotten for c in new.forgotten}, entries(out)
    entry = Entry(old.number, old.parent, old.to_json(), _without_scores(read_json(out / old.results)))
    wanted = {h for e in before.values() if not e.learned & forgotten for h in e.hashes}
    if forgotten & entry.learned:
        gone = FORGOTTEN
    elif _limit(new) == 0:
        gone = BEYOND
    elif _limit(new) is None and not state.keys().isdisjoint(REPLAYED):
        gone = IMAGES
    if wanted or not gone:
        leaving = Parts.read(out, old)
        if not gone:
            entry = replace(entry, rows=leaving.rows, tree=leaving.tree, tensors=leaving.tensors)
        wanted |= entry.hashes if not gone else set()
        held = Parts.of(state, results).blobs.keys() | set().union(*packed(out / PLACE).values())
        if lost := {h: leaving.blobs[h] for h in wanted - held if h in leaving.blobs}:
            pack(out / PLACE, lost)
    _write(out, entry.without(gone) if gone else entry)


def settle(out: Path, record: Record) -> None:
    """Bring the history in line with run.json: delete what was forgotten and what is beyond the limit, and
    with it what no state needs any more. Interrupted, it can be repeated."""
    for rest in (out / ASIDE).glob(".*"):  # What was being written when the power went.
        shutil.rmtree(rest)
    for folder in set_aside(out):
        own = read_values(read_json(folder / RECORD), str(folder / RECORD))
        assert own.sha256 is not None and record.sha256 is not None
        accepted = own.sha256.state == record.sha256.state
        if accepted or _names(_since(record, own.to_json()), *folder.glob("*.json")):
            shutil.rmtree(folder)
    if not (out / PLACE).is_dir():
        return
    found = entries(out)
    for number, entry in found.items():
        if _names(_since(record, entry.record), gate_file(out, number)):
            gate_file(out, number).unlink()
        changed = _forgetting(out, record, entry)
        if changed is not entry:
            _write(out, changed)
            found[number] = changed
    kept = [n for n, entry in found.items() if not entry.gone and n != record.number]
    limit = _limit(record)
    for number in kept[: max(0, len(kept) - limit)] if limit is not None else []:
        found[number] = found[number].without(BEYOND)
        _write(out, found[number])
    sweep(out / PLACE, {h for entry in found.values() for h in entry.hashes})
    _settle_contributions(out, record, found)
    for rest in (out / PLACE).rglob(".*.partial"):
        rest.unlink()


def drop_images(out: Path, record: Record, gone: str) -> None:
    """Delete earlier states that hold images.

    gone: why.
    """
    for entry in entries(out).values():
        if any(name.split("/")[0] in REPLAYED for name in entry.tensors):
            _write(out, entry.without(gone))
    settle(out, record)


def traces(out: Path, domain: str) -> list[str]:
    """What earlier states and stages that were rejected have of a domain, in phrases."""
    found = entries(out).values()
    learned = [entry for entry in found if domain in entry.learned]
    scored = [e for e in found if e not in learned and domain in e.results.get("columns", [])]
    rejected = [folder for folder in set_aside(out) if _names({domain}, *folder.glob("*.json"))]
    told: dict[str, Sequence[object]] = {
        "the earlier states that held it": learned,
        "its scores in other earlier states": scored,
        "the rejected stages that were learned after it or compared on it": rejected,
    }
    return [f"{what} ({len(which)})" for what, which in told.items() if which]


def _limit(record: Record) -> int | None:
    """How many earlier states the run keeps; None for all that hold no images."""
    limit: int | None = record.config.get("keep")
    return limit


def _without_scores(results: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in results.items() if key != "scores"}


def _forgetting(out: Path, record: Record, entry: Entry) -> Entry:
    """An earlier state without the domains that were forgotten since: one that had learned them is deleted,
    and another loses their scores."""
    since = _since(record, entry.record)
    if since & entry.learned:
        return entry.without(FORGOTTEN)
    scored = since & {*entry.results.get("columns", []), *entry.record.get("oracle", {})}
    if not scored:
        return entry
    blobs = _blobs(out, record, set(entry.rows.values()))
    if {*entry.rows.values()} - blobs.keys():
        entry = entry.without(LOST)
    results = Results.from_json(_joined(entry, blobs), str(_path(out, entry.number)))
    for name in scored:
        results = results.without(name)
    values = results.to_json()
    rows, tables = _rows(values)
    if tables:
        pack(out / PLACE, tables)
    own = record_of(out, entry)
    assert own.sha256 is not None
    oracle = {name: scores for name, scores in (own.oracle or {}).items() if name not in scored}
    digest = hashlib.sha256(json_text(values).encode()).hexdigest()
    own = replace(own, oracle=oracle or None, sha256=Digests(own.sha256.state, digest))
    return replace(entry, record=own.to_json(), results=_without_scores(values), rows=rows)


def _since(now: Record, then: Mapping[str, Any]) -> set[str]:
    """The domains that were forgotten between two records, the earlier one in plain values."""
    return {c.forgotten for c in now.forgotten} - {c["forgotten"] for c in then.get("forgotten", [])}


def _names(domains: set[str], *paths: Path) -> bool:
    """Whether a JSON file names one of the domains."""
    texts = [path.read_text(encoding="utf-8") for path in paths if domains and path.is_file()]
    return any(json.dumps(domain) in text for domain in domains for text in texts)


def _settle_contributions(out: Path, record: Record, found: Mapping[int, Entry]) -> None:
    """Put aside contributions that only earlier states know; put back what the newest one knows."""
    spare = out / PLACE / "domains"
    needed: dict[str, set[str]] = {}
    for entry in found.values():
        for stage in entry.record.get("learned", []) if not entry.gone else []:
            if digest := stage.get("contribution"):
                needed.setdefault(stage["name"], set()).add(digest)
    own = {stage.name: stage.contribution for stage in record.learned if stage.contribution}
    for path in out.glob("domains/[!.]*.safetensors"):
        others = needed.get(path.stem, set()) - {own.get(path.stem)}
        if others and (digest := sha256_file(path)) in others:
            spare.mkdir(exist_ok=True)
            path.replace(spare / f"{digest}.safetensors")
    for name, digest in own.items():
        if (aside := spare / f"{digest}.safetensors").is_file():
            archived(out, name).parent.mkdir(exist_ok=True)
            aside.replace(archived(out, name))
    if spare.is_dir():
        known = set().union(*needed.values()) if needed else set()
        for path in spare.glob("[!.]*.safetensors"):
            if path.stem not in known:
                path.unlink()
        if not any(spare.iterdir()):
            shutil.rmtree(spare)
