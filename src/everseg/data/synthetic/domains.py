"""Synthetic domains: images made from a seed, for the demo and the tests, with nothing to download."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
import torch
import yaml
from PIL import Image

from everseg.data.described import Described
from everseg.data.domains.points import write_points
from everseg.data.domains.prompts import PromptKind, PromptRule
from everseg.data.synthetic.scenes import SCENES
from everseg.errors import UserError, unknown
from everseg.files import atomic_path, write_text
from everseg.seed import numpy_generator
from everseg.types import PromptSample

SMALLEST, LARGEST = 32, 8192
MOST = 1_000_000

VERSION = "scenes-1"
"""Names the painters' rules. A change to what any scene looks like must change it: fingerprints contain
it.
"""


class SyntheticDomain(Described[PromptSample]):
    """`count` images of one kind of scene (a name in `SCENES`), each painted when it is asked for.

    Sample i is a function of (seed, domain, split, i) alone: "train" and "test" share no image, and a longer
    split begins with the shorter one.

    size: side in pixels.

    Raises:
        UserError: an unknown domain, a count below 1 or a size below 32.
    """

    rule: PromptRule

    def __init__(
        self,
        domain: str,
        count: int,
        size: int = 256,
        seed: int = 0,
        split: str = "train",
        *,
        prompts: Literal["clicks", "box", "clicks+box"] = "clicks",
        clicks: int = 3,
    ) -> None:
        if domain not in SCENES:
            raise unknown("synthetic domain", domain, SCENES)
        if not (1 <= count <= MOST and SMALLEST <= size <= LARGEST):
            raise UserError(
                f"synthetic domain {domain!r} with count {count} and size {size}; "
                f"give a count from 1 to a million, a size from {SMALLEST} to {LARGEST}"
            )
        self.domain, self.size, self.seed, self.split = domain, size, seed, split
        kind: PromptKind = prompts
        self.rule = PromptRule(kind, clicks, seed)
        self.indices = range(count)

    def __len__(self) -> int:
        return len(self.indices)

    def __repr__(self) -> str:
        return f"SyntheticDomain({self.domain!r}, {len(self)} samples, split {self.split!r})"

    @overload
    def __getitem__(self, index: int) -> PromptSample: ...
    @overload
    def __getitem__(self, index: slice) -> SyntheticDomain: ...
    def __getitem__(self, index: int | slice) -> PromptSample | SyntheticDomain:
        if isinstance(index, slice):
            part = copy.copy(self)
            part.indices = self.indices[index]
            return part
        number = self.indices[index]
        scene, mask = SCENES[self.domain](
            numpy_generator(self.seed, "synthetic", self.domain, self.split, number), self.size
        )
        pixels = np.ascontiguousarray(scene.clip(0, 255).astype(np.uint8).transpose(2, 0, 1))
        name = f"{self.domain}-{self.split}-{number:05d}.png"
        prompts = self.rule.prompts(mask, name, None)
        key = f"{hashlib.sha256(pixels.tobytes()).hexdigest()}:{VERSION}:{self.size}"
        return PromptSample(torch.from_numpy(pixels), prompts, torch.from_numpy(mask)[None], name, key)

    def fingerprint(self) -> str:
        """Hash all that decides the samples; nothing is painted for it."""
        indices = [self.indices.start, self.indices.stop, self.indices.step]
        facts = [VERSION, self.domain, self.size, self.seed, self.split, indices, self.rule.describe()]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def write_synthetic(
    folder: str | Path,
    domain: str,
    count: int,
    size: int = 256,
    seed: int = 0,
    split: str = "train",
    clicks: int = 3,
) -> Path:
    """Write a synthetic split as `folder/images`, `folder/masks` (png) and `folder/masks/points.json`.

    Raises:
        UserError: as `SyntheticDomain`, or the folder already holds images.
    """
    folder = Path(folder)
    samples = SyntheticDomain(domain, count, size, seed, split)
    for part in ("images", "masks"):
        if (folder / part).is_dir() and any((folder / part).iterdir()):
            raise UserError(f"{folder / part} is not empty; choose a new folder or delete it first")
    for sample in samples:
        image = sample.image.permute(1, 2, 0).numpy()
        mask = sample.masks[0].numpy().astype(np.uint8) * 255
        for part, pixels in (("images", image), ("masks", mask)):
            with atomic_path(folder / part / sample.name) as temporary:
                Image.fromarray(pixels).save(temporary, format="PNG", compress_level=1)
    write_points(folder / "masks", seed, clicks)
    return folder


def write_synthetic_stream(
    folder: str | Path,
    domains: Sequence[str] = ("polyps", "lesions", "nuclei", "cracks"),
    train: int = 60,
    test: int = 20,
    seed: int = 0,
    size: int = 256,
    background: bool = True,
    unseen: Sequence[str] = (),
) -> Path:
    """Write synthetic domains and the stream file that lists them; returns `folder/stream.yaml`.

    background: also write "natural" images as the stream's background.
    unseen: domains of which only test images are written, which no stage learns.

    Raises:
        UserError: an unknown domain, one named twice, counts below 1, or the folder already holds images.
    """
    folder = Path(folder)
    kinds = [d for d in domains if d != "natural"]
    for domain in (every := [*kinds, *unseen]):
        if domain not in SCENES:
            raise unknown("synthetic domain", domain, SCENES)
        if every.count(domain) > 1:
            raise UserError(f"domain {domain!r} is named more than once; name each domain once")

    def entry(domain: str) -> dict[str, str]:
        for split, count in (("train", train), ("test", test)):
            write_synthetic(folder / domain / split, domain, count, size, seed, split)
        return {"name": domain, "train": f"{domain}/train", "test": f"{domain}/test"}

    stream: dict[str, Any] = {"name": "synthetic", "seed": seed, "stages": [entry(d) for d in kinds]}
    if background:
        stream["background"] = entry("natural")
    for domain in unseen:
        write_synthetic(folder / domain / "test", domain, test, size, seed, "test")
        stream.setdefault("unseen", []).append({"name": domain, "test": f"{domain}/test"})
    path = folder / "stream.yaml"
    write_text(path, yaml.safe_dump(stream, sort_keys=False))
    return path
