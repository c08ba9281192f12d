"""Pictures of the test images that a new run is better or worse on than the old one."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from everseg.data import Stream
from everseg.data.described import described
from everseg.domains.gate import CLICKS, image_of, prompted, share_features
from everseg.pictures.encode import write_png
from everseg.pictures.tile import tile
from everseg.runs.run import Run
from everseg.types import PromptSample, Query

SHOWN = 6
"""Images that got better, and as many that got worse."""

LEAST = 0.01
"""A change of an image's IoU that is worth a picture."""


@dataclass(frozen=True)
class Change:
    """One image whose score changed.

    old, new: its IoU.
    pictures: files, by what they show.
    """

    column: str
    prompt: str
    image: str
    old: float
    new: float
    pictures: Mapping[str, str]


def most_changed(
    images: Sequence[Mapping[str, Any]], first: Collection[str] = ()
) -> list[tuple[str, str, str, float, float]]:
    """The images that rose and those that fell furthest, each with its prompt: (column, prompt, image, old,
    new), by their change.

    images: the part of the gate's JSON of this name.
    first: domains whose images go before others.
    """
    found: dict[tuple[str, str], tuple[str, str, str, float, float]] = {}
    for part in images:
        for image, old, new in zip(part["image"], part["old"], part["new"], strict=True):
            if old is None or new is None or abs(new - old) < LEAST:
                continue
            key = (part["column"], image)
            known = found.get(key)
            if known is None or abs(new - old) > abs(known[4] - known[3]):
                found[key] = (part["column"], part["prompt"], image, old, new)
    ordered = sorted(found.values(), key=lambda one: (one[0] not in first, -abs(one[4] - one[3])))
    better = [one for one in ordered if one[4] > one[3]][:SHOWN]
    worse = [one for one in ordered if one[4] < one[3]][:SHOWN]
    return better + worse


def draw_changes(
    old: Run, new: Run, streams: Sequence[Stream], gate: Mapping[str, Any], out: Path
) -> list[Change]:
    """Draw the most changed images into `out`: image with prompts, old masks, new masks.

    streams: with the test images; of two that name a stage, the first counts.

    Raises:
        UserError: an image cannot be read, or a picture cannot be written.
    """
    share_features(new.learner, old.learner)
    stages = {s.name: s for stream in reversed(streams) for s in (*stream.stages, *stream.unseen)}
    first = {name for name in new.learned if name not in old.learned}
    changes = []
    for number, (column, prompt, image, before, after) in enumerate(most_changed(gate["images"], first)):
        samples = _samples(stages[column].test, image) if column in stages else []
        if not samples:
            continue
        asked = [prompted(s, prompt, f"{column}/{image}", gate["settings"]["seed"]) for s in samples]
        queries = [Query(s.image, own, s.key, lasting=False) for s, own in zip(samples, asked, strict=True)]
        truth = torch.stack([s.masks.any(0) for s in samples]).any(0)
        marks: dict[str, Any] = {}
        if prompt == CLICKS:
            given = [own for own in asked if own.points is not None and own.labels is not None]
            marks["points"] = torch.cat(
                [own.points.reshape(-1, 2) for own in given if own.points is not None]
            )
            marks["labels"] = torch.cat([own.labels.reshape(-1) for own in given if own.labels is not None])
        drawn = {"image": tile(samples[0].image, truth=truth, **marks)}
        for side, run in (("old", old), ("new", new)):
            masks = torch.stack([one.masks().any(0) for one in run.learner.predict(queries)]).any(0)
            drawn[side] = tile(samples[0].image, mask=masks, truth=truth)
        files = {}
        for what, picture in drawn.items():
            files[what] = f"{number:02d}-{what}.png"
            write_png(out / files[what], picture)
        changes.append(Change(column, prompt, image, before, after, files))
    return changes


def _samples(test: Sequence[Any], image: str) -> list[PromptSample]:
    """The samples of one image, each of which may be one of its objects."""
    names = described(test).names()
    places = range(len(test)) if names is None else [n for n, s in enumerate(names) if s.startswith(image)]
    found = ((n, test[n]) for n in places)
    return [sample for n, sample in found if image_of(sample, n) == image]
