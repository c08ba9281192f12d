"""How often the gate catches a regression that was planted, and how often it raises a false alarm.

    python benchmarks/gate.py [--scores benchmarks/gate_scores.json] [--draws 100] [--sizes 38 150 600]
        [--planted none margin domain box tail] [--json FILE]

The scores are those of real images under two trainings of one quality: what `everseg gate --json` writes for
two runs that differ in their seed. Each draw takes images of each column with replacement, with the noise
between the two trainings in a random direction, so that neither is better, and then plants a regression:

    none       nothing: every failure is a false alarm
    margin     every score of every column falls by the margin, which is accepted: failures are false alarms
    domain     one domain loses 2 points with every kind of prompt, each domain in turn
    box        box prompts lose 5 points on every column, clicks nothing
    tail       5 % of all images keep at most three tenths of their IoU, the others nothing changes

Prints for each and for several numbers of images per column: how often the verdict was fail, in how many
draws the power statement said of a harmed column that this much can be seen, how often those were caught
(wanted: 95 %), and how often the verdict was pass. The exit code is 1 where false alarms are more than 5 % or
fewer than 95 % are caught, allowing for the number of draws (one-sided binomial, 1 %).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rows import write_rows
from scipy import stats

from everseg.results.gate import EVERYTHING, GateConfig, Judgement, judge
from everseg.results.paired import Pairs
from everseg.seed import numpy_generator

SCORES = Path(__file__).parent / "gate_scores.json"
PLANTED = ("none", "margin", "domain", "box", "tail")
DOMAIN, BOX, TAIL = 0.02, 0.05, 0.05
CONFIG = GateConfig(samples=1000)


@dataclass(frozen=True)
class Cell:
    """One kind of regression with one number of images, over all draws."""

    planted: str
    images: int
    draws: int
    failed: int
    seen: int
    caught: int
    passed: int

    @property
    def good(self) -> bool:
        """Whether it is as wanted, as far as so many draws can tell."""
        if self.planted in ("none", "margin"):
            return float(stats.binom.sf(self.failed - 1, self.draws, 0.05)) > 0.01
        return self.seen == 0 or float(stats.binom.cdf(self.caught, self.seen, 0.95)) > 0.01


def read_scores(path: Path) -> dict[str, dict[str, Any]]:
    """Of each column: by kind of prompt, scores of both trainings, the images in one order."""
    columns: dict[str, dict[str, Any]] = {}
    for one in json.loads(path.read_text(encoding="utf-8"))["images"]:
        columns.setdefault(one["column"], {})[one["prompt"]] = np.array([one["old"], one["new"]])
    return columns


def draw(columns: dict[str, dict[str, Any]], planted: str, images: int, number: int) -> list[Pairs]:
    """Old and new scores of one draw, by its number."""
    rng = numpy_generator(number, "planted", planted, images)
    found = []
    for place, (column, by_prompt) in enumerate(columns.items()):
        picked = rng.integers(len(next(iter(by_prompt.values()))[0]), size=images)
        direction = rng.choice([-1.0, 1.0], size=images)
        badly = rng.random(images) < TAIL
        kept = rng.uniform(0, 0.3, images)
        for prompt, sides in by_prompt.items():
            old, other = sides[:, picked]
            # About the middle of the two trainings, so that no noise is cut off at 0 or 1.
            middle, noise = (old + other) / 2, direction * (other - old) / 2
            old, new = middle - noise, middle + noise
            if planted == "margin":
                new = new - CONFIG.margin
            elif planted == "domain" and place == number % len(columns):
                new = new - DOMAIN
            elif planted == "box" and prompt == "box":
                new = new - BOX
            elif planted == "tail":
                new = np.where(badly, kept * old, new)
            units = tuple(f"{n}" for n in range(images))
            found.append(Pairs(column, "learned", prompt, units, old, new))
    return found


def can_be_seen(judgement: Judgement, planted: str, column: str, measured: Sequence[Pairs]) -> bool:
    """Whether the power statement says of a harmed column that this regression can be seen.

    An image whose IoU was low cannot fall far: of the tail only the share counts that falls by `flip`.
    """
    harmed = {"domain": lambda c: c.column == column, "box": lambda c: c.prompt == "box"}
    drop = {"domain": DOMAIN, "box": BOX}
    if planted == "tail":
        able = {
            (p.column, p.prompt): ((1 - CONFIG.flip / p.old.clip(min=0.01)) / 0.3).clip(0, 1)
            for p in measured
        }
        for prompt in dict.fromkeys(p.prompt for p in measured):
            able[EVERYTHING, prompt] = np.concatenate(
                [v for (_, given), v in able.items() if given == prompt]
            )
        return any(
            c.detectable_share <= TAIL * able[c.column, c.prompt].mean() for c in judgement.comparisons
        )
    return planted in drop and any(
        c.detectable <= drop[planted] for c in judgement.comparisons if harmed[planted](c)
    )


def tried(columns: dict[str, dict[str, Any]], planted: str, images: int, draws: int) -> Cell:
    """All draws of one cell."""
    failed = seen = caught = passed = 0
    for n in range(draws):
        measured = draw(columns, planted, images, n)
        judgement = judge(measured, CONFIG)
        fails = judgement.verdict == "fail"
        able = can_be_seen(judgement, planted, list(columns)[n % len(columns)], measured)
        failed, passed = failed + fails, passed + (judgement.verdict == "pass")
        seen, caught = seen + able, caught + (able and fails)
    return Cell(planted, images, draws, failed, seen, caught, passed)


def main(given: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scores", type=Path, default=SCORES)
    parser.add_argument("--draws", type=int, default=100)
    parser.add_argument("--sizes", type=int, nargs="+", default=[38, 150, 600])
    parser.add_argument("--planted", nargs="+", choices=PLANTED, default=PLANTED)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(given)
    columns = read_scores(options.scores)
    print(f"{len(columns)} columns, {options.draws} draws; margin {CONFIG.margin}")
    print(
        "| planted | images per column | fail | can be seen | of these caught | pass |\n"
        "|---|---|---|---|---|---|"
    )
    cells = []
    for planted in options.planted:
        for images in options.sizes:
            cell = tried(columns, planted, images, options.draws)
            cells.append(cell)
            share = f"{cell.caught}/{cell.seen}" if cell.seen else "-"
            mark = "" if cell.good else "  NO"
            print(
                f"| {planted} | {images} | {cell.failed} | {cell.seen} | {share} | {cell.passed} |{mark}",
                flush=True,
            )
    if options.json:
        rows = [{**asdict(cell), "good": cell.good} for cell in cells]
        about = "Regressions planted in scores of 620 painted test images under two trainings of one quality."
        write_rows(options.json, about, [0], rows)
    return 0 if all(cell.good for cell in cells) else 1


if __name__ == "__main__":
    raise SystemExit(main())
