"""Cache of the frozen trunk's features, shared by epochs, selector and predictions."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from everseg.config import MACHINE, Checked, Count
from everseg.models.precision import resolved
from everseg.models.promptable.protocol import Features, Promptable
from everseg.types import Query


@dataclass(frozen=True)
class CacheConfig(Checked):
    """Where the features of the frozen trunk are kept."""

    where: Literal["memory", "disk", "off"] = field(default="memory", metadata=MACHINE)
    """Where features are kept; "off" computes them each time."""
    precision: Literal["fp16", "fp32"] = "fp16"
    """Precision that features are rounded to, whether they are kept or not, so that a run may continue with
    another `where` and end with the same bits."""
    budget: Count = field(default=4 * 2**30, metadata=MACHINE)
    """Bytes of features to keep at most; further ones are computed each time, because evicting would lose
    every entry just before an epoch comes back to it."""
    folder: str = field(default="", metadata=MACHINE)
    """Folder of "disk"; empty: ~/.cache/everseg/features."""


RECENT = 4
"""Images beside the data sets' whose features are kept in memory, for a further prompt on one of them."""


class FeatureCache:
    """`base.trunk` with a memory. Entries are keyed by image content, base weights, tap and precision.

    Of queries that are not `lasting` the last few images are kept, so that memory does not grow with them.
    A file that cannot be read back, say after a power cut, counts as absent and is written again.

    most_recent: how many images those few are.
    """

    def __init__(self, base: Promptable, config: CacheConfig) -> None:
        self.base = base
        self.config = config
        self.dtype = torch.float16 if config.precision == "fp16" else torch.float32
        self.entries: dict[str, Features] = {}
        self.recent: dict[str, Features] = {}
        self.most_recent = RECENT
        self._lock = threading.Lock()
        self.bytes = 0
        self.hits = 0
        self.misses = 0
        self.folder = Path(config.folder or Path.home() / ".cache" / "everseg" / "features")
        if config.where == "disk":
            self.folder.mkdir(parents=True, exist_ok=True)
            self.bytes = sum(f.stat().st_size for f in self.folder.glob("*.safetensors"))

    def features(self, queries: Sequence[Query]) -> Features:
        """The trunk's output for a batch, float32 on the base's device; one trunk pass for all that is not
        known."""
        found, new = self.find(queries)
        lasting = {query.key for query in queries if query.lasting}
        for key, entry in new.items():
            if key in lasting:
                self.put(key, entry)
            else:
                self._remember(key, entry)
        return self.stacked(found)

    def stacked(self, entries: Sequence[Features]) -> Features:
        """Features of some images as a batch, float32 on the base's device."""
        return {
            name: torch.stack([f[name].to(self.base.device, torch.float32) for f in entries])
            for name in entries[0]
        }

    def find(self, queries: Sequence[Query]) -> tuple[list[Features], dict[str, Features]]:
        """The features of each image, and by key those that were not known before, which are not kept yet;
        one trunk pass for these."""
        found = [self._get(q.key) for q in queries]
        missing = [i for i, f in enumerate(found) if f is None]
        self.hits += len(queries) - len(missing)
        self.misses += len(missing)
        if missing:
            # A message of several prompts on one image encodes it once.
            keys = list(dict.fromkeys(queries[i].key or f"#{i}" for i in missing))
            first = {queries[i].key or f"#{i}": i for i in reversed(missing)}
            with torch.no_grad():
                new = self.base.trunk(self.base.pixels([queries[first[k]].image for k in keys]))
            # Rounded now, whether kept or not: a feature has one value, found again or computed again.
            new = {n: v.to(self.dtype) for n, v in new.items()}
            rows = {key: {n: v[row] for n, v in new.items()} for row, key in enumerate(keys)}
            for i in missing:
                found[i] = rows[queries[i].key or f"#{i}"]
            return [f for f in found if f is not None], {k: e for k, e in rows.items() if k[0] != "#"}
        return [f for f in found if f is not None], {}

    def holds(self, key: str) -> bool:
        """Whether the features of this content are in memory, from where they never go."""
        return bool(key) and self._name(key) in self.entries

    def _name(self, key: str) -> str:
        base, tap = self.base, min(self.base.adapted)
        precision = resolved(base.precision, base.device)
        made_of = f"{base.fingerprint}|{tap}|{precision}|{self.dtype}|{key}"
        return hashlib.sha256(made_of.encode()).hexdigest()

    def _get(self, key: str) -> Features | None:
        if not key or self.config.where == "off":
            return None
        name = self._name(key)
        if (recent := self.recent.get(name)) is not None:
            return recent
        if self.config.where == "memory":
            return self.entries.get(name)
        path = self.folder / f"{name}.safetensors"
        try:
            return load_file(path)
        except (FileNotFoundError, SafetensorError, OSError):
            return None

    def _remember(self, key: str, entry: Features) -> None:
        if self.config.where != "off":
            kept = _copied(entry)
            with self._lock:  # Several threads may predict with one learner.
                self.recent[self._name(key)] = kept
                while len(self.recent) > self.most_recent:
                    del self.recent[next(iter(self.recent))]

    def put(self, key: str, entry: Features) -> None:
        """Keep features, while they fit the budget; those that are in memory already stay as they are."""
        name = self._name(key)
        if self.config.where == "off" or name in self.entries:
            return
        kept = _copied(entry)
        size = sum(v.numel() * v.element_size() for v in kept.values())
        if self.bytes + size > self.config.budget:
            return
        self.bytes += size
        if self.config.where == "memory":
            self.entries[name] = kept
            return
        temporary = self.folder / f".{name}.{os.getpid()}.partial"
        try:
            save_file(kept, temporary)
            temporary.replace(self.folder / f"{name}.safetensors")
        except (OSError, SafetensorError):  # A full disk costs speed, not the run.
            temporary.unlink(missing_ok=True)


def _copied(entry: Features) -> dict[str, Tensor]:
    """On the CPU. A copy, since a row of a batch would keep the whole batch alive."""
    whole = torch.contiguous_format
    return {n: v.detach().to("cpu", copy=True, memory_format=whole) for n, v in entry.items()}
