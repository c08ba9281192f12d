"""The part of the page with pictures: image, truth, untouched base and the run, side by side."""

from __future__ import annotations

from everseg.pictures.encode import jpeg
from everseg.pictures.tile import tile
from everseg.report.data import Example, ReportData
from everseg.report.html import number, picture, section, text
from everseg.results import Results


def gallery(data: ReportData) -> str:
    """A strip of four pictures for each example, by domain in the order of the stream, the worst first."""
    known = data.results.columns
    domains = [*known, *sorted({example.domain for example in data.examples} - set(known))]
    parts = []
    for domain in domains:
        members = sorted(
            (example for example in data.examples if example.domain == domain),
            key=lambda e: (e.iou_adapted, e.name),
        )
        if members:
            strips = "\n".join(_strip(example, data.results) for example in members)
            parts.append(f"<h3>{text(domain)}</h3>\n{strips}")
    return section(
        "Examples",
        "\n".join(parts),
        "Green discs with a plus are clicks on the object, red squares with a minus are clicks off it. "
        "Blue is the predicted mask, the orange outline is the truth.",
    )


def _strip(example: Example, results: Results) -> str:
    gain = example.iou_adapted - example.iou_plain
    tiles = [
        (tile(example.image, points=example.points, labels=example.labels), "image and clicks", ""),
        (tile(example.image, truth=example.truth), "truth", ""),
        (
            tile(example.image, mask=example.plain, truth=example.truth),
            "untouched base",
            f"IoU {number(example.iou_plain)}",
        ),
        (
            tile(example.image, mask=example.adapted, truth=example.truth),
            "this run",
            f"IoU {number(example.iou_adapted)} ({gain:+.3f})",
        ),
    ]
    pictures = "".join(
        f"<figure>{picture(jpeg(drawn), f'{example.name}: {title} {score}'.strip())}"
        f"<figcaption>{text(title)}<b>{text(score)}</b></figcaption></figure>"
        for drawn, title, score in tiles
    )
    told = [f"{example.name}", _rank(example, results), f"module: {example.route}" if example.route else ""]
    line = " · ".join(text(part) for part in told if part)
    return f'<div class="strip"><p class="name">{line}</p><div class="tiles">{pictures}</div></div>'


def _rank(example: Example, results: Results) -> str:
    """Where the image stands among its domain's test images, so that nobody need trust our choice."""
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
