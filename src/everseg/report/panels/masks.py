"""Test images: clicks, the true mask, the untouched base's and the run's, side by side."""

from __future__ import annotations

from typing import Any

from everseg.pictures.tile import tile
from everseg.report.cells import number, picture
from everseg.report.data import MaskExample, ReportData
from everseg.results import Results


def context(data: ReportData) -> dict[str, Any] | None:
    """A strip of four pictures for each example, by domain in the order of the stream, the worst first."""
    columns = data.results.columns
    groups = []
    for domain in [*columns, *sorted({example.domain for example in data.masks} - set(columns))]:
        members = [example for example in data.masks if example.domain == domain]
        members.sort(key=lambda example: (example.iou_adapted, example.name))
        if members:
            groups.append((domain, [_strip(example, data.results) for example in members]))
    return {"groups": groups} if groups else None


def _strip(example: MaskExample, results: Results) -> dict[str, Any]:
    gain = example.iou_adapted - example.iou_plain
    module = f"module: {example.route}" if example.route else ""
    return {
        "name": example.name,
        "about": [part for part in (_rank(example, results), module) if part],
        "pictures": [
            picture(tile(example.image, points=example.points, labels=example.labels), "image and clicks"),
            picture(tile(example.image, truth=example.truth), "truth"),
            picture(
                tile(example.image, mask=example.plain, truth=example.truth),
                "untouched base",
                f"IoU {number(example.iou_plain)}",
            ),
            picture(
                tile(example.image, mask=example.adapted, truth=example.truth),
                "this run",
                f"IoU {number(example.iou_adapted)} ({gain:+.3f})",
            ),
        ],
    }


def _rank(example: MaskExample, results: Results) -> str:
    """The rank of the image among its domain's test images, so that the choice can be checked."""
    if "iou" not in results.lower_is_better:
        return ""
    scores = [
        (score.values["iou"], score.image)
        for score in results.scores.get(len(results.stages) - 1, ())
        if score.column == example.domain
    ]
    names = [name for _, name in sorted(scores)]
    if example.name not in names:
        return ""
    place = names.index(example.name) + 1
    if place in (1, len(names)):
        return f"{'worst' if place == 1 else 'best'} of {len(names)} by IoU"
    return f"IoU rank {place} of {len(names)}, 1 is the worst"
