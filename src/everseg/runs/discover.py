"""Discover the domain of each image of a stream file, and write it to the stream's table."""

from __future__ import annotations

import copy
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from everseg.data import Stream
from everseg.data.pile import PENDING, Row, images_of, in_order, read_table, table_of, write_table
from everseg.data.samples import take_evenly
from everseg.data.stream import open_batches
from everseg.data.streamfile import PileSpec, read_stream_file
from everseg.distributed import wait, world
from everseg.domains.cache import CacheConfig, FeatureCache
from everseg.domains.discover import discover, most_plausible
from everseg.domains.plausible import FEWEST, Gaussian
from everseg.domains.prepare import PREDICT_BATCH, encode_ahead
from everseg.errors import UserError
from everseg.files import load_state, save_state, sha256_tensors
from everseg.methods import build
from everseg.models.promptable.protocol import Promptable
from everseg.progress import bar, remark
from everseg.runs.begun import continued
from everseg.runs.folder import base_of, is_run, learned_stages, new_run
from everseg.runs.natural import begun_with, check_begun_with, with_natural
from everseg.runs.problem import refuse_classes
from everseg.runs.run import RunConfig
from everseg.text import plural
from everseg.types import State

KEPT = 300
"""Embeddings of a known domain that new images are compared with, at most."""
HELD_OUT = 5
"""One image in so many is tested on, where a batch has no test images of the domain."""


@runtime_checkable
class Caches(Protocol):
    """Settings of a method that keeps the trunk's features."""

    cache: CacheConfig


@dataclass(frozen=True)
class Discovered:
    """Result of a discovery.

    counts: number of images of each domain, and of `pending`: (before, new).
    """

    table: Path
    counts: Mapping[str, tuple[int, int]]

    def lines(self) -> list[str]:
        said = []
        for domain, (before, new) in self.counts.items():
            if domain == PENDING:
                continue
            opened = "new domain" if not before else f"{before} before"
            said.append(f"{domain}: {plural(new, 'image')} added ({opened})")
        waiting = sum(self.counts.get(PENDING, (0, 0)))
        return [*said, f"pending: {plural(waiting, 'image')}, too few of their kind"] if waiting else said


def pile_of(path: Path) -> PileSpec:
    """A stream file whose domains are discovered.

    Raises:
        UserError: it cannot be read, or names its stages itself.
    """
    spec = read_stream_file(path)
    if not isinstance(spec, PileSpec):
        raise UserError(
            f"{path} lists its own stages; write domains: discover and batches: to have them discovered"
        )
    return spec


def opened_with_domains(
    path: Path | str, config: RunConfig, out: Path, base: Any = None, natural: Path | str | None = None
) -> tuple[Stream, Any]:
    """A stream file for a run, and the base, which is loaded where domains had to be discovered first.

    natural: as in `everseg.learn`.

    Whatever does not fit the run in `out` is refused before the table changes. A run continues with the
    natural images that it was begun with.

    Raises:
        UserError: as `discover_domains`, `continued` and `Stream.from_yaml`.
    """
    path = Path(path)
    if isinstance(read_stream_file(path), PileSpec):
        refuse_classes(config.method, "only domains are discovered")
        base = copy.copy(with_natural(natural, config.method, base_of(config, base), out))
        if is_run(out):
            run, _ = continued(config, out, base)
        else:
            run = new_run(out, config, build(config.method, base, config.settings, config.seed), base)
        check_begun_with(natural, run)
        base.natural = begun_with(run)
        if world().main:
            base.encoded = {}
            cached = config.settings.cache if isinstance(config.settings, Caches) else CacheConfig()
            found = discover_domains(path, base, cached, base.natural if natural is not None else None)
            for line in () if found is None else found.lines():
                remark(line)
        wait()
    return Stream.from_yaml(path, learned_stages(out)), base


def discover_domains(
    path: Path, base: Promptable, cached: CacheConfig | None = None, natural: State | None = None
) -> Discovered | None:
    """Find the domains of images that the table of a stream file does not list yet, and of those that wait.

    What the table says about other images stays, even if edited by hand. None if there is nothing new.
    cached: where the images' features are kept for learning; nowhere by default.
    natural: statistics of the natural images by which distances are measured. None: those by which the table
        was begun, and at the beginning those of the base.

    Raises:
        UserError: it is not such a stream file, an image cannot be read, or the table belongs to another base
            or was begun with other natural images.
    """
    spec = pile_of(path)
    table = table_of(spec, path)
    rows = {row.key: row for row in read_table(table)}
    kept = table.with_name(f"{table.name}.safetensors")
    memory = _Memory(kept, base, cached or CacheConfig(where="off"), natural)
    new = _new_images(spec, path, rows, memory)
    if not new:
        return None
    turn = 1 + max((row.round for row in rows.values()), default=0)
    waiting = [row for row in rows.values() if row.domain == PENDING and row.key in memory.embeddings]
    asked = [*waiting, *(Row(*key, PENDING, key[1], turn, "") for key in new)]
    found = _found(list(rows.values()), asked, memory, turn)
    counts: dict[str, tuple[int, int]] = {}
    for domain in sorted({row.domain for row in (*rows.values(), *found)}, key=in_order):
        before = sum(row.domain == domain for row in rows.values() if row not in waiting)
        counts[domain] = (before, sum(row.domain == domain for row in found))
    rows |= {row.key: row for row in found}
    memory.write(rows)
    write_table(table, rows.values())
    return Discovered(table, counts)


def _new_images(
    spec: PileSpec, path: Path, rows: Mapping[tuple[str, str, str], Row], memory: _Memory
) -> list[tuple[str, str, str]]:
    """Images that are in no table yet, in the order of batches and readers; their embeddings are noted.

    A batch whose images are all listed may be gone.
    """
    opened = open_batches(spec, path)
    found: list[tuple[str, str, str]] = []
    known = {(batch, split) for batch, split, _ in rows}
    for batch in spec.batches:
        for split in ("train", "test"):
            if getattr(batch, split) is None:
                continue
            try:
                samples = opened(batch, split)
            except UserError:
                if (batch.name, split) in known:
                    continue
                raise
            places: dict[tuple[str, str, str], int] = {}
            for place, image in enumerate(images_of(samples)):
                places.setdefault((batch.name, split, image), place)
            lacking = {key: place for key, place in places.items() if key not in memory.embeddings}
            lacking = {k: p for k, p in lacking.items() if k not in rows or rows[k].domain == PENDING}
            memory.add(list(lacking), samples, list(lacking.values()))
            found += [key for key in places if key not in rows]
    return found


def _found(rows: Sequence[Row], asked: Sequence[Row], memory: _Memory, turn: int) -> list[Row]:
    """The rows that were asked about, with their domains."""
    known = memory.of_domains([row for row in rows if row.domain != PENDING])
    trained = [row for row in asked if row.split == "train"]
    natural = Gaussian.from_state(memory.natural) if memory.natural else None
    labels = discover(memory.of(trained), known, natural) if trained else []
    first = 1 + max(
        (int(m[1]) for row in rows if (m := re.fullmatch(r"domain-(\d+)", row.domain))), default=0
    )
    names = [f"domain-{first + x}" if isinstance(x, int) else x for x in labels]
    opened = [
        replace(row, domain=name, use="train", round=turn)
        for row, name in zip(trained, names, strict=True)
        if name is not None
    ]
    known = memory.of_domains([*(row for row in rows if row.domain != PENDING), *opened])
    p_of = dict(zip((r.key for r in asked), most_plausible(memory.of(asked), known), strict=True))
    domain_of = {row.key: row.domain for row in opened}
    domain_of |= {r.key: p_of[r.key][0] or PENDING for r in asked if r.split == "test"}
    found = [
        replace(row, domain=domain_of[row.key], use=row.split, round=turn, p=f"{p_of[row.key][1]:.3g}")
        if domain_of.get(row.key, PENDING) != PENDING
        else row
        for row in asked
    ]
    return list(_held_out(found, Counter(row.domain for row in rows if row.split == "train")))


def _held_out(rows: Sequence[Row], seen: Counter[str]) -> Iterator[Row]:
    """The rows, with images to test each domain on where none of them came for that.

    seen: how many images of each domain were there before; it is counted on.
    """
    tested = {row.domain for row in rows if row.split == "test"}
    for row in rows:
        if row.domain == PENDING or row.domain in tested:
            yield row
            continue
        seen[row.domain] += 1
        yield replace(row, use="test") if seen[row.domain] % HELD_OUT == 0 else row


class _Memory:
    """The embeddings of the images of a table, kept beside it, so that old images are not read again, and the
    statistics of natural images by which it was begun, so that later batches are measured alike.

    natural: as in `discover_domains`; {} where none are known.
    """

    def __init__(
        self, path: Path, base: Promptable, cached: CacheConfig, natural: State | None = None
    ) -> None:
        self.path, self.base, self.cache = path, base, FeatureCache(base, cached)
        self.natural: State = natural or base.natural or {}
        self.embeddings: dict[tuple[str, str, str], Tensor] = {}
        if not path.exists():
            return
        state = load_state(path)
        if state["base"] != base.fingerprint:
            raise UserError(
                f"{path} was made with another base; learn with that base, or name another file with "
                "table: in the stream file"
            )
        begun: State = state.get("natural", self.natural)  # Earlier versions did not keep them.
        if natural and (not begun or sha256_tensors(natural) != sha256_tensors(begun)):
            raise UserError(
                f"{path} was made {'with other' if begun else 'without'} natural images; leave out --natural "
                "to continue as before, or name another file with table: in the stream file"
            )
        self.natural = begun
        for key, row in zip(state["images"], state["embeddings"], strict=True):
            self.embeddings[key[0], key[1], key[2]] = row

    def add(
        self, keys: Sequence[tuple[str, str, str]], samples: Sequence[Any], places: Sequence[int]
    ) -> None:
        """Note the embeddings of some images."""
        with torch.inference_mode(), bar("domains", len(keys)) as advance:
            for start in range(0, len(keys), PREDICT_BATCH):
                part = slice(start, start + PREDICT_BATCH)
                queries = [samples[place].query() for place in places[part]]
                found = encode_ahead(self.cache, queries).cpu().half()
                for key, row in zip(keys[part], found, strict=True):
                    self.embeddings[key] = row.clone()
                    advance("")

    def of(self, rows: Sequence[Row]) -> Tensor:
        return torch.stack([self.embeddings[row.key] for row in rows]).float()

    def of_domains(self, rows: Sequence[Row]) -> dict[str, Tensor]:
        """Of each domain the embeddings of some images, where there are enough of them."""
        members: dict[str, list[Row]] = {}
        for row in rows:
            if row.key in self.embeddings:
                members.setdefault(row.domain, []).append(row)
        return {
            domain: self.of(take_evenly(own, KEPT)) for domain, own in members.items() if len(own) >= FEWEST
        }

    def write(self, rows: Mapping[tuple[str, str, str], Row]) -> None:
        """Keep what belongs to the rows of the table."""
        keys = [key for key in rows if key in self.embeddings]
        state = {
            "base": self.base.fingerprint,
            "natural": self.natural,
            "images": [list(key) for key in keys],
            "embeddings": torch.stack([self.embeddings[key] for key in keys]),
        }
        save_state(self.path, state)
