"""`everseg demo`: the main job in four minutes on a laptop."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from everseg.cli.shared import Seed, app, show

if TYPE_CHECKING:
    from everseg.report.data import MaskExample
    from everseg.results import Results, Summary

DOMAINS = ("polyps", "lesions", "nuclei", "cracks")
METHODS = ("sequential", "samcl")
UNSEEN = ("camouflage",)
"""A domain that no stage learns: it shows what happens to images of an unknown domain."""
SETTINGS = ("tune.fit.steps=60",)
TITLES = {"sequential": "sequential fine-tuning", "samcl": "SAMCL"}


@dataclass(frozen=True)
class Shown:
    """One method's run in the demo."""

    method: str
    folder: Path
    results: Results
    summary: Summary


def run_demo(out: Path, seed: int = 0, domains: Sequence[str] = DOMAINS) -> Iterator[Shown]:
    """Write a synthetic stream of `domains` under `out`, learn it with each method, and end with a report and
    a picture.

    Yields each method's run when it is finished. Called again, it resumes where it stopped.
    """
    from everseg.data import Stream, write_synthetic_stream
    from everseg.methods import configure
    from everseg.models.promptable.load import load_base
    from everseg.report.collect import collect
    from everseg.report.page import write_report
    from everseg.report.storyboard import story
    from everseg.runs.learn import run
    from everseg.runs.run import RunConfig

    source = out / "data" / "stream.yaml"
    if not source.exists():
        shutil.rmtree(out / "data", ignore_errors=True)  # An interrupted demo left half of it.
        write_synthetic_stream(out / "data", domains, train=48, test=16, seed=seed, unseen=UNSEEN)
    stream = Stream.from_yaml(source)
    base = load_base("tiny")
    shown: dict[str, Results] = {}
    for method in METHODS:
        config = RunConfig(method, configure(method, assignments=SETTINGS), seed=seed)
        current = run(stream, config, out / method, base)
        shown[method] = current.results
        data = collect(current, stream)
        write_report(data, current.folder / "report.html")
        if method == "samcl":
            largest = {e.domain: e for e in sorted(data.masks, key=_gain)}
            best = sorted(largest.values(), key=_gain)[-2:]
            story(out / "story.png", {TITLES[m]: r for m, r in shown.items()}, best)
        yield Shown(method, current.folder, current.results, current.summary())


def _gain(example: MaskExample) -> float:
    return example.iou_adapted - example.iou_plain


@app.command()
def demo(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for data, runs and reports.")] = Path(
        "runs/demo"
    ),
    seed: Seed = 0,
) -> None:
    """Learn a synthetic stream with and without forgetting. Nothing is downloaded."""
    from everseg.results import compare_table, table

    shown = []
    for done in run_demo(out, seed):
        show(table(done.results, "iou"))
        shown.append((done.method, done.results, done.summary))
    show(compare_table(shown))
    print(f"report: {out / 'samcl' / 'report.html'}\npicture: {out / 'story.png'}")
