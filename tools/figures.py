"""Draw the figures of the documentation as SVG: `make figures`.

    python tools/figures.py            # write docs/images/*.svg
    python tools/figures.py --check    # exit code 1 if a file differs from what is drawn

Each figure is one function that draws on a `Drawing`. Coordinates are in pixels from the upper left corner.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "images"

INK, SOFT, LINE = "#1f2430", "#5b6270", "#9aa2b1"
FILLS = {
    "frozen": ("#e3edf7", "#3b76a8"),
    "trained": ("#fde6d2", "#c8641b"),
    "kept": ("#dff0e6", "#2c8a57"),
    "gone": ("#f1f1f3", "#9aa2b1"),
    "plain": ("#ffffff", "#5b6270"),
    "question": ("#fff7d6", "#a98600"),
}
"""Fill and border by meaning: blue is frozen, orange trains, green is kept between stages, grey is gone."""


class Drawing:
    """An SVG picture on a white card, so that it reads on light and dark pages."""

    def __init__(self, width: int, height: int, title: str) -> None:
        self.width, self.height, self.title = width, height, title
        self.parts: list[str] = []

    def box(
        self, x: float, y: float, w: float, h: float, text: str, kind: str = "plain", size: int = 14
    ) -> None:
        """A box with centred lines of text; the first line is bold where there are several."""
        fill, border = FILLS[kind]
        dash = ' stroke-dasharray="5 4"' if kind == "gone" else ""
        self.parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}" rx="7" fill="{fill}" '
            f'stroke="{border}" stroke-width="1.4"{dash}/>'
        )
        lines = text.split("\n")
        top = y + h / 2 - (len(lines) - 1) * (size + 3) / 2
        for i, line in enumerate(lines):
            bold = i == 0 and len(lines) > 1
            color = SOFT if kind == "gone" or (i and len(lines) > 1) else INK
            self.text(
                x + w / 2, top + i * (size + 3), line, size if i == 0 else size - 1, color, "middle", bold
            )

    def text(
        self,
        x: float,
        y: float,
        text: str,
        size: int = 13,
        color: str = SOFT,
        anchor: str = "start",
        bold: bool = False,
    ) -> None:
        """One line of text, vertically centred on y."""
        weight = ' font-weight="600"' if bold else ""
        self.parts.append(
            f'<text x="{x:g}" y="{y:g}" dy="0.35em" font-size="{size}" fill="{color}" '
            f'text-anchor="{anchor}"{weight}>{escape(text)}</text>'
        )

    def arrow(self, *points: tuple[float, float], label: str = "", color: str = SOFT) -> None:
        """A line through the points with a head at the last; the label stands above its first piece."""
        path = " ".join(f"{x:g},{y:g}" for x, y in points)
        self.parts.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="1.6"/>')
        (x0, y0), (x1, y1) = points[-2:]
        angle = math.degrees(math.atan2(y1 - y0, x1 - x0))
        place = f"translate({x1:g},{y1:g}) rotate({angle:g})"
        self.parts.append(f'<path d="M0,0 L-9,-4.5 L-9,4.5 Z" fill="{color}" transform="{place}"/>')
        if label:
            (a, b), (c, d) = points[:2]
            self.text((a + c) / 2, (b + d) / 2 - 10, label, 12, SOFT, "middle")

    def legend(self, y: float, kinds: Sequence[tuple[str, str]], x: float = 24) -> None:
        """What the colours mean, in one row."""
        for kind, words in kinds:
            fill, border = FILLS[kind]
            dash = ' stroke-dasharray="3 2"' if kind == "gone" else ""
            place = f'x="{x:g}" y="{y - 7:g}" width="14" height="14" rx="3"'
            self.parts.append(f'<rect {place} fill="{fill}" stroke="{border}"{dash}/>')
            self.text(x + 20, y, words, 12)
            x += 40 + 6.6 * len(words)

    def svg(self) -> str:
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" '
            f'width="{self.width}" height="{self.height}" role="img" aria-label="{escape(self.title)}" '
            f'font-family="system-ui, -apple-system, Segoe UI, Roboto, Helvetica, Arial, sans-serif">'
        )
        card = f'<rect width="{self.width}" height="{self.height}" rx="10" fill="#ffffff"/>'
        return "\n".join([head, f"<title>{escape(self.title)}</title>", card, *self.parts, "</svg>"]) + "\n"


# ---------------------------------------------------------------- the figures


def stream() -> Drawing:
    """What a run sees of a stream, and what it keeps."""
    d = Drawing(860, 300, "A stream of stages: each is learned from its own images, which are then gone.")
    names = ("stage 1: site A", "stage 2: site B", "stage 3: site C")
    for i, name in enumerate(names):
        x = 24 + 225 * i
        d.box(x, 24, 195, 54, f"{name}\ntraining images, used once", "gone")
        d.arrow((x + 97, 78), (x + 97, 112), color=LINE)
        d.box(x, 114, 195, 48, f"learn\non stage {i + 1} alone", "trained")
        d.arrow((x + 97, 162), (x + 97, 192))
        d.box(x, 194, 195, 52, f"score\non stages 1 to {i + 1}" if i else "score\non stage 1")
        if i < 2:
            d.arrow((x + 195, 138), (x + 225, 138))
    d.text(24 + 225 * 3 + 2, 138, "…", 22, INK)
    d.box(730, 176, 110, 88, "run folder\nmodel, scores,\nhistory", "kept", 13)
    d.arrow((669, 220), (728, 220))
    d.legend(276, [("gone", "not needed afterwards"), ("trained", "trains"), ("kept", "kept between stages")])
    return d


def samcl() -> Drawing:
    """SAMCL: learning a domain above, predicting an image of unknown domain below."""
    d = Drawing(860, 400, "SAMCL: one small module per domain on a frozen SAM; a selector picks the module.")
    d.text(24, 28, "Learn domain k", 15, INK, bold=True)
    d.box(24, 50, 110, 56, "images\nof domain k", "gone")
    d.arrow((134, 78), (166, 78))
    d.box(168, 50, 130, 56, "trunk\nfirst blocks", "frozen")
    d.arrow((298, 78), (346, 78))
    d.box(348, 50, 150, 56, "module k\nin the last blocks", "trained")
    d.arrow((498, 78), (540, 78))
    d.box(542, 50, 130, 56, "mask decoder", "frozen")
    d.arrow((672, 78), (704, 78))
    d.box(706, 50, 130, 56, "loss\nfocal, Dice, IoU", "plain")
    d.arrow((320, 78), (320, 140), (346, 140))
    d.box(348, 120, 190, 44, "buffer: 300 embeddings", "kept")
    d.arrow((538, 142), (570, 142))
    d.box(572, 120, 190, 44, "selector (MLP)", "trained")

    d.text(24, 204, "Predict an image of unknown domain", 15, INK, bold=True)
    d.box(24, 250, 110, 56, "image, clicks")
    d.arrow((134, 278), (166, 278))
    d.box(168, 250, 130, 56, "trunk\nruns once", "frozen")
    d.arrow((298, 278), (326, 278), (326, 238), (346, 238))
    d.box(348, 216, 150, 44, "p-value per domain", "kept")
    d.arrow((498, 238), (526, 238))
    d.box(528, 216, 110, 44, "selector", "kept")
    d.arrow((423, 260), (423, 326), (526, 326))
    d.text(431, 314, "all < 0.001", 12)
    d.box(528, 304, 170, 44, "untouched base", "frozen")
    for i, name in enumerate(("module 1", "module 2", "module T")):
        y = 196 + 34 * i
        d.box(672, y, 84, 28, name, "kept", 13)
        if i == 1:
            d.arrow((638, 238), (655, 238), (655, y + 14), (670, y + 14))
    d.arrow((756, 244), (780, 244))
    d.arrow((698, 326), (810, 326), (810, 268))
    d.box(782, 222, 56, 44, "mask")
    d.legend(
        376,
        [
            ("frozen", "frozen"),
            ("trained", "trains"),
            ("kept", "kept between stages"),
            ("gone", "gone afterwards"),
        ],
    )
    return d


def regcl() -> Drawing:
    """RegCL: sums over domains, solved into one adapter."""
    d = Drawing(860, 330, "RegCL: adapters of all domains are merged in closed form into one adapter.")
    for i, name in enumerate(("domain 1", "domain 2", "domain T")):
        y = 28 + 84 * i
        d.box(24, y, 110, 56, f"{name}\nimages", "gone")
        d.arrow((134, y + 28), (170, y + 28))
        d.box(172, y, 150, 56, f"adapter W{'₁₂ₜ'[i]}\non the frozen base", "trained")
        d.arrow((322, y + 28), (358, y + 28))
        d.box(360, y, 150, 56, f"moment G{'₁₂ₜ'[i]}\nof the layer's inputs", "plain")
        d.arrow((510, y + 28), (538, y + 28), (538, 140), (560, 140))
    d.box(562, 96, 130, 88, "two sums\nS = Σ Gₖ\nR = Σ Wₖ Gₖ", "kept")
    d.arrow((692, 140), (722, 140))
    d.box(724, 96, 112, 88, "one adapter\nW* = R S⁻¹", "kept")
    d.arrow((780, 184), (780, 226))
    d.box(690, 228, 146, 44, "every image", "plain")
    d.text(562, 210, "size does not grow", 12)
    d.text(562, 228, "with the domains", 12)
    d.legend(
        304,
        [("gone", "gone afterwards"), ("trained", "trains, then merged"), ("kept", "kept between stages")],
    )
    return d


def eir() -> Drawing:
    """EIR: two routes of replay in a later step."""
    d = Drawing(
        860, 360, "EIR: cut-out instances of old classes are replayed alone and pasted into new images."
    )
    d.text(24, 28, "A later step", 15, INK, bold=True)
    d.box(24, 56, 170, 60, "new images\nnew classes labelled", "gone")
    d.box(24, 236, 170, 60, "pool of instances\ncut-outs of old classes", "kept")
    d.box(248, 56, 190, 60, "old model\ncompletes the background", "frozen")
    d.arrow((194, 86), (246, 86))
    d.box(248, 146, 190, 60, "B: paste instances\nwhere nothing is", "plain")
    d.arrow((343, 116), (343, 144))
    d.arrow((194, 254), (220, 254), (220, 176), (246, 176))
    d.box(248, 236, 190, 60, "A: each instance alone\non its mean colour", "plain")
    d.arrow((194, 278), (246, 278))
    d.box(490, 146, 164, 90, "segmenter\n+ new classifier\none sigmoid per class", "trained")
    d.arrow((438, 176), (488, 176))
    d.arrow((438, 266), (464, 266), (464, 206), (488, 206))
    d.arrow((654, 191), (686, 191))
    d.box(688, 110, 148, 36, "BCE", "plain")
    d.box(688, 152, 148, 36, "+ distillation", "plain")
    d.box(688, 194, 148, 36, "+ auxiliary loss", "plain")
    d.arrow((438, 86), (762, 86), (762, 108))
    d.text(600, 74, "what the old model says", 12, SOFT, "middle")
    d.arrow((109, 116), (109, 234))
    d.text(119, 206, "after the step:", 11)
    d.text(119, 220, "cut out", 11)
    d.legend(
        334,
        [
            ("frozen", "frozen"),
            ("trained", "trains"),
            ("kept", "kept between steps"),
            ("gone", "gone afterwards"),
        ],
    )
    return d


def which_method() -> Drawing:
    """Which method for which need."""
    d = Drawing(
        860, 470, "Which method: domains or classes first, then what may be kept and how it will be used."
    )
    d.box(290, 20, 280, 52, "What is new in the next stage?", "question", 15)
    d.arrow((350, 72), (350, 92), (210, 92), (210, 114))
    d.text(170, 84, "another kind of images", 12)
    d.arrow((510, 72), (510, 92), (650, 92), (650, 114))
    d.text(560, 84, "new classes", 12)
    d.box(70, 116, 280, 52, "Must one set of weights serve all?", "question", 14)
    d.box(510, 116, 280, 52, "May anything of old images be kept?", "question", 14)

    left = [
        ("no", 24, "samcl\nbest accuracy,\nno forgetting", "kept"),
        ("yes", 224, "regcl\none merged adapter,\nsites can train apart", "kept"),
    ]
    for label, x, text, kind in left:
        middle = x + 90
        d.arrow((210, 168), (210, 190), (middle, 190), (middle, 212))
        d.text(middle + 8, 202, label, 12)
        d.box(x, 214, 180, 76, text, kind)
    right = [
        ("cut-outs", 452, "eir\nreplays objects"),
        ("images", 590, "dkd, ssul\nmemory=100"),
        ("nothing", 722, "dkd\nor mib"),
    ]
    for label, x, text in right:
        middle = x + 60
        d.arrow((650, 168), (650, 190), (middle, 190), (middle, 212))
        d.text(middle + 8, 202, label, 12)
        d.box(x, 214, 120, 76, text, "kept", 14)

    d.text(24, 326, "To compare with", 14, INK, bold=True)
    rows = [
        ("zero-shot", "the untouched base"),
        ("sequential", "what forgetting looks like"),
        ("joint", "all images at once"),
        ("independent", "the domain is given"),
        ("merged", "any other merging rule"),
    ]
    for i, (name, about) in enumerate(rows):
        d.text(24, 352 + 22 * i, name, 13, INK, bold=True)
        d.text(128, 352 + 22 * i, about, 13)
    rows = [
        ("fine-tuning", "what forgetting looks like"),
        ("joint-classes", "all images at once"),
        ("plop, rcil, star, ilt, lwf", "other published methods"),
        ("dft", "frozen features: the cheapest"),
    ]
    for i, (name, about) in enumerate(rows):
        d.text(446, 352 + 22 * i, name, 13, INK, bold=True)
        d.text(626, 352 + 22 * i, about, 13)
    return d


FIGURES: dict[str, Callable[[], Drawing]] = {
    "stream": stream,
    "samcl": samcl,
    "regcl": regcl,
    "eir": eir,
    "which-method": which_method,
}


def main() -> None:
    stale = []
    for name, draw in FIGURES.items():
        path, text = FOLDER / f"{name}.svg", draw().svg()
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            stale.append(name)
            if "--check" not in sys.argv:
                path.write_text(text, encoding="utf-8")
    for name in stale:
        print(f"{name}.svg {'differs; run make figures' if '--check' in sys.argv else 'drawn'}")
    sys.exit(bool(stale and "--check" in sys.argv))


if __name__ == "__main__":
    main()
