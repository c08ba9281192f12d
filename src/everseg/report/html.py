"""Pieces of HTML. Whatever is not made here is escaped."""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Sequence

DASH = "–"  # noqa: RUF001 - an en dash is what stands for "not measured"


def text(value: object) -> str:
    """Anything as text that is safe between tags and in attributes."""
    return html.escape(str(value), quote=True)


def number(value: float, digits: int = 3) -> str:
    """A score, or a dash where it was not measured."""
    return DASH if math.isnan(value) else f"{value:.{digits}f}"


def section(title: str, body: str, lead: str = "") -> str:
    """A titled part of the page; nothing when it has no body."""
    if not body:
        return ""
    intro = f'<p class="lead">{text(lead)}</p>\n' if lead else ""
    return f"<section>\n<h2>{text(title)}</h2>\n{intro}{body}\n</section>\n"


def table(
    caption: str, head: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]], kind: str = ""
) -> str:
    """A table with a caption, a header row of plain text, and rows of (plain name, cells as HTML `<td>`)."""
    columns = "".join(f'<th scope="col">{text(name)}</th>' for name in head)
    body = "\n".join(f'<tr><th scope="row">{text(name)}</th>{"".join(cells)}</tr>' for name, cells in rows)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{text(caption)}">'
        f'<table class="{kind}"><caption><span>{text(caption)}</span></caption>\n'
        f"<thead><tr>{columns}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>"
    )


def bar(share: float, shown: str) -> str:
    """A table cell with a number and a bar of `share` (0..1) of the cell's width behind it."""
    width = 100 * min(max(share, 0.0), 1.0)
    fill = f'<span class="fill" style="width:{width:.1f}%"></span>'
    return f'<td class="bar">{fill}<span>{text(shown)}</span></td>'


def swatch(colour: tuple[int, int, int]) -> str:
    """A patch of a colour, for legends."""
    return f'<i class="swatch" style="background:rgb{colour}"></i>'


def picture(content: bytes, alt: str) -> str:
    """A JPEG inside the page."""
    data = base64.b64encode(content).decode()
    return f'<img src="data:image/jpeg;base64,{data}" alt="{text(alt)}">'
