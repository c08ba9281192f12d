"""What panels are made of, as data: cells of tables, cards, pictures and charts. The templates draw them."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from PIL import Image

from everseg.pictures.encode import jpeg
from everseg.report.figures import colour, plot_curves, svg
from everseg.results import Interval, ResultMatrix, Results, Summary, bytes_text, stored_bytes
from everseg.results.labels import METRICS, label

DASH = "–"  # noqa: RUF001 - an en dash is what stands for "not measured"


def number(value: float, digits: int = 3) -> str:
    """A score, or a dash where it was not measured."""
    return DASH if math.isnan(value) else f"{value:.{digits}f}"


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    kind: its class in the style sheet.
    ground, ink: CSS colours, "" for the page's own.
    """

    shown: str
    kind: str = ""
    ground: str = ""
    ink: str = ""


def heat_cell(
    value: float,
    ends: tuple[float, float],
    lower_is_better: bool,
    *,
    learned: int,
    stage: int,
    below: bool = False,
) -> Cell:
    """A score after some stage, in its colour between the two ends.

    learned: the stage that taught it.
    below: it is worse than the untouched base's, and says so.
    """
    if math.isnan(value):
        return Cell(DASH, "none")
    kind = "learned" if stage == learned else "unseen" if stage < learned else "seen"
    if below:
        return Cell(f"! {number(value)}", f"{kind} below", *colour(value, ends, lower_is_better))
    return Cell(number(value), kind, *colour(value, ends, lower_is_better))


@dataclass(frozen=True)
class Bar:
    """A cell of a table with a bar behind it, of a share (0..1) of the cell's width."""

    shown: str
    share: float


@dataclass(frozen=True)
class Card:
    """A key number and what it means.

    ends: of its confidence interval, or "".
    """

    name: str
    extra: str
    value: str
    meaning: str
    ends: str = ""


def score_card(name: str, extra: str, score: Interval | float, meaning: str) -> Card | None:
    """A card of a score; None where it was not measured."""
    found = Interval(score, math.nan, math.nan) if isinstance(score, float) else score
    if math.isnan(found.estimate):
        return None
    ends = "" if math.isnan(found.low) else f"{found.low:.3f} to {found.high:.3f}"
    return Card(name, extra, number(found.estimate), meaning, ends)


def stored_card(summary: Summary, meaning: str) -> Card | None:
    """A card of what a run keeps; None where it was not recorded."""
    stored = stored_bytes(summary)
    return None if stored is None else Card("Stored", "", bytes_text(stored), meaning)


def known(cards: Iterable[Card | None]) -> list[Card]:
    """The cards without those of what was not measured."""
    return [card for card in cards if card is not None]


@dataclass(frozen=True)
class Picture:
    """A picture inside the page.

    source: a data URI.
    score: of what it shows, or "".
    """

    source: str
    title: str
    score: str = ""


def picture(drawn: Image.Image, title: str, score: str = "") -> Picture:
    """A picture as a JPEG inside the page."""
    return Picture(f"data:image/jpeg;base64,{base64.b64encode(jpeg(drawn)).decode()}", title, score)


@dataclass(frozen=True)
class Swatch:
    """An entry of a legend.

    colour: of CSS.
    extra: what is said beside its name.
    """

    colour: str
    name: str
    extra: str = ""


def css(colour: Sequence[int]) -> str:
    """Red, green and blue as CSS has them."""
    red, green, blue = colour
    return f"rgb({red}, {green}, {blue})"


@dataclass(frozen=True)
class Chart:
    """An SVG element, and in words what it shows."""

    svg: str
    words: str


def curves(results: Results, metric: str, name: str) -> Chart:
    """Each column's score after each stage.

    name: keeps several charts of one page apart.
    """
    return Chart(svg(plot_curves(results, metric), name), curves_in_words(results.matrix(metric)))


def curves_in_words(matrix: ResultMatrix) -> str:
    """What the curves show, for those who cannot see them."""
    told = []
    for j in matrix.tasks():
        then, now = matrix.values[matrix.learned_at[j], j], matrix.last[j]
        told.append(f"{matrix.columns[j]} {number(then)} when learned, {number(now)} at the end")
    return "Scores over the stages: " + "; ".join(told)


def meaning(metric: str, lower_is_better: bool) -> str:
    """What a metric measures and which way is good."""
    better = "Lower is better." if lower_is_better else "Higher is better."
    said = METRICS[metric].meaning if metric in METRICS else ""
    return f"{label(metric)}: {said}. {better}" if said else better
