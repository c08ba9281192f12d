"""The gate's page: verdict, what to do, every comparison, harmed images, prompts, calibration."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from everseg.data import centre_crop
from everseg.data.described import described
from everseg.domains.gate import CLICKS, image_of, prompted
from everseg.files import write_text
from everseg.pictures.tile import tile
from everseg.report.cells import Picture, number, picture
from everseg.report.page import TEMPLATES
from everseg.report.panels.maps import coloured
from everseg.results.gate import Comparison, Flip
from everseg.results.health import Calibration
from everseg.runs.gate import Gate, Sides
from everseg.runs.verdict import KINDS, advice, headline, place, powers, remarks, units
from everseg.types import PLAIN, Query

SHOWN = 12
"""Harmed images with pictures."""

MARKS = {"fail": "✕", "pass": "✓", "cannot tell": "?", "worse": "✕", "not worse": "✓"}

WIDTH, MIDDLE = 170, 85
"""Of the drawing of an interval, in pixels."""


@dataclass(frozen=True, eq=False)
class FlipExample:
    """A harmed image and the pictures that show it."""

    flip: Flip
    pictures: Sequence[Picture]


def flip_examples(sides: Sides, gate: Gate, count: int = SHOWN) -> list[FlipExample]:
    """The images that fell furthest, predicted again by both sides."""
    draw = EXAMPLES[sides.problem.name]
    stages = {stage.name: stage for stage, _ in sides.tested}
    found: list[FlipExample] = []
    once = {(flip.column, flip.image): flip for flip in reversed(gate.flips)}  # With its worst prompt.
    for flip in sorted(once.values(), key=gate.flips.index)[:count]:
        # Classes are scored on the images of one stage, whatever the column is called.
        stage = stages.get(flip.column, next(iter(stages.values())))
        samples = _of(stage.test, flip.image)
        if samples:
            found.append(FlipExample(flip, draw(sides, samples, flip, gate.judgement.config.seed)))
    return found


def _of(test: Sequence[Any], image: str) -> list[Any]:
    """The samples of one image, each of which may be one of its objects."""
    names = described(test).names()
    if names is None:
        return [test[n] for n in range(len(test)) if image_of(test[n], n) == image]
    return [test[n] for n, name in enumerate(names) if (re.sub(r"#\d+$", "", name) or f"{n:05d}") == image]


def _masks(sides: Sides, samples: Sequence[Any], flip: Flip, seed: int) -> list[Picture]:
    prompts = [prompted(sample, flip.prompt, f"{flip.column}/{flip.image}", seed) for sample in samples]
    queries = [
        Query(sample.image, own, sample.key, lasting=False)
        for sample, own in zip(samples, prompts, strict=True)
    ]
    image = samples[0].image
    truth = torch.stack([sample.masks.any(0) for sample in samples]).any(0)
    old, new = (
        torch.stack([one.masks().any(0) for one in predict(queries)]).any(0)
        for predict in (sides.predict_old, sides.predict_new)
    )
    asked = tile(image, truth=truth)
    title = "truth and box"
    if flip.prompt == CLICKS:
        points, labels = (
            torch.cat([getattr(own, name).reshape(-1, *size) for own in prompts])
            for name, size in (("points", (2,)), ("labels", ()))
        )
        asked, title = tile(image, truth=truth, points=points, labels=labels), "truth and clicks"
    return [
        picture(tile(image), "image"),
        picture(asked, title),
        picture(tile(image, mask=old, truth=truth), "old run", f"IoU {flip.old:.3f}"),
        picture(tile(image, mask=new, truth=truth), "new run", f"IoU {flip.new:.3f}"),
    ]


def _maps(sides: Sides, samples: Sequence[Any], flip: Flip, seed: int) -> list[Picture]:
    sample, size = samples[0], sides.new.config.score.size
    if size != "original":
        sample = centre_crop(sample, size)
    (old,), (new,) = (predict([sample.query()]) for predict in (sides.predict_old, sides.predict_new))

    def drawn(labels: Tensor, title: str, score: str = "") -> Picture:
        return picture(coloured(sample.image, labels.cpu()), title, score)

    return [
        picture(tile(sample.image), "image"),
        drawn(sample.labels, "truth"),
        drawn(old, "old run", f"mIoU {flip.old:.3f}"),
        drawn(new, "new run", f"mIoU {flip.new:.3f}"),
    ]


EXAMPLES: dict[str, Callable[[Sides, Sequence[Any], Flip, int], list[Picture]]] = {
    "domains": _masks,
    "classes": _maps,
}


def write_gate_page(gate: Gate, examples: Sequence[FlipExample], out: Path) -> None:
    """Write the page: one file without requests and scripts.

    Raises:
        UserError: the file cannot be written.
    """
    write_text(out, page(gate, examples))


def page(gate: Gate, examples: Sequence[FlipExample] = ()) -> str:
    """The gate as HTML."""
    config = gate.judgement.config
    reach = _reach(gate.comparisons, config.margin)
    return TEMPLATES.get_template("gate.html").render(
        gate=gate,
        mark=MARKS[gate.verdict],
        headline=headline(gate),
        advice=advice(gate),
        remarks=remarks(gate),
        facts=_facts(gate),
        reach=reach,
        margin=config.margin,
        flip=config.flip,
        rise=config.rise,
        rows=[_row(c, reach, config.margin) for c in gate.comparisons],
        powers=powers(gate),
        harmed=len({(flip.column, flip.image) for flip in gate.flips}),
        examples=[{"name": e.flip.image, "about": _about(e.flip), "pictures": e.pictures} for e in examples],
        calibrations=[]
        if gate.health is None
        else [("old run", _bins(gate.health.old)), ("new run", _bins(gate.health.new))],
        number=number,
    )


def _about(flip: Flip) -> list[str]:
    return [part for part in (flip.column, flip.prompt, f"{flip.new - flip.old:+.3f} IoU") if part]


def _facts(gate: Gate) -> dict[str, str]:
    config = gate.judgement.config
    columns = {c.column: c.units for c in gate.comparisons if c.kind != "all" or len(gate.comparisons) == 1}
    facts = {
        "new run": gate.new,
        "old run": "plain, the untouched base" if gate.old == PLAIN else gate.old,
        "base": gate.base,
        "compared": f"{len(columns)} columns, {units(gate, sum(columns.values()))}",
        "margin": f"{config.margin:g} IoU",
        "tests": f"{gate.judgement.tests}, corrected by Holm",
    }
    if config.group:
        facts["unit"] = f"the group {config.group}"
    return facts


def _reach(comparisons: Sequence[Comparison], margin: float) -> float:
    """The largest difference that the drawings of the intervals show."""
    ends = [abs(end) for c in comparisons for end in (c.difference.low, c.difference.high) if end == end]
    return min(max([2 * margin, *ends]), max(0.3, 2 * margin))


def _row(c: Comparison, reach: float, margin: float) -> dict[str, Any]:
    d = c.difference
    spread = f"{d.low:+.3f} to {d.high:+.3f}" if c.changed and not math.isnan(d.low) else ""
    seen = c.changed and c.finding != "worse"
    return {
        "name": place(c),
        "kind": KINDS[c.kind],
        "finding": c.finding,
        "mark": MARKS[c.finding],
        "reason": c.reason,
        "units": c.units,
        "changed": c.changed,
        "means": f"{number(c.old)} → {number(c.new)}",
        "difference": f"{d.estimate:+.3f}",
        "spread": spread,
        "flips": f"{c.harmed} / {c.helped}" if c.kind != "class" else "",
        "p": f"corrected p {min(c.drop_p, c.flips_p):.2g}" if c.finding == "worse" else "",
        "seen": "" if not seen else "none" if math.isinf(c.detectable) else f"{c.detectable:.3f}",
        "words": f"{d.estimate:+.3f}, {spread}",
        "drawn": _drawn(c, reach, margin),
    }


def _drawn(c: Comparison, reach: float, margin: float) -> dict[str, float]:
    """Where the parts of an interval's drawing lie."""

    def x(value: float) -> float:
        return round(MIDDLE + (WIDTH / 2 - 6) * max(-1.0, min(1.0, value / reach)), 1)

    d = c.difference
    low, high = (d.estimate, d.estimate) if math.isnan(d.low) else (d.low, d.high)
    return {"at": x(d.estimate), "low": x(low), "high": x(high), "margin": x(-margin), "zero": x(0)}


def _bins(c: Calibration) -> dict[str, Any]:
    return {
        "objects": c.objects,
        "error": number(c.error),
        "broken": c.broken,
        "bins": [(count, number(said, 2), number(was, 2), round(75 * was, 1)) for count, said, was in c.bins],
    }
