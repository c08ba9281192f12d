"""The verbs of what domains brought: merge them, let one count more or less, forget one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from everseg.cli.shared import AsJson, BaseHere, RunFolder, app, open_stream, out_console
from everseg.data import Stream
from everseg.domains.merging.contribution import Weighting
from everseg.errors import UserError
from everseg.merge import RULES
from everseg.models.promptable.load import from_anywhere
from everseg.progress import remark
from everseg.results import compare_table, table
from everseg.runs.folder import load, stream_of
from everseg.runs.forget import forget as forget_stage
from everseg.runs.forget import reweigh as reweigh_stage
from everseg.runs.merge import merge_runs
from everseg.runs.problems import only_domains

Scored = Annotated[
    bool, typer.Option("--score/--no-score", help="score the run anew where its data are at hand")
]
Contribution = Annotated[
    Path | None,
    typer.Option("--from", metavar="FILE", help="what the domain brought, where the run has not kept it"),
]
StreamOption = Annotated[
    Path | None, typer.Option(metavar="STREAM", help="another stream file; default: the run's own")
]


@app.command()
def merge(
    sources: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="run folders, or files of single contributions")
    ],
    out: Annotated[Path, typer.Option(help="run folder to write")],
    method: Annotated[str, typer.Option(help=f"rule of merging: {', '.join(RULES)}")] = "regmean",
    weighting: Annotated[
        Weighting, typer.Option(help="every domain counts the same, or by its images or objects")
    ] = "equal",
    weight: Annotated[
        list[str] | None, typer.Option(metavar="NAME=FACTOR", help="let a domain count more or less")
    ] = None,
    stream: Annotated[
        Path | None, typer.Option(metavar="STREAM", help="stream file; score after each domain merged")
    ] = None,
    base: Annotated[str | None, typer.Option(help="default: that of the first run")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help='as "merger.options={keep: 0.3}" or merge.ridge=1e-6'
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Merge the domains of runs that were trained apart into one run. No image is needed."""
    run = merge_runs(
        sources,
        out,
        method,
        base=None if base is None else from_anywhere(base),
        weighting=weighting,
        weights=dict(map(_weight, weight or [])),
        settings=settings or [],
        stream=None if stream is None else only_domains(Stream.from_yaml(stream), "only domains merge"),
    )
    merged = {e["name"]: e["figures"] for e in run.record["learned"]}
    if as_json:
        print(json.dumps({"merged": merged, "rule": method, "stored_bytes": run.summary()["stored_bytes"]}))
        return
    if stream is not None:
        out_console.print(table(run.results, "iou"))
        out_console.print(compare_table([(out.name, run.results, run.summary())]))
    told = "".join(_told(figures) for figures in [list(merged.values())[-1]])
    print(f"{len(merged)} domains ({', '.join(merged)}) merged by {method}{told}\n{out}")


def _told(figures: dict[str, float]) -> str:
    """What RegMean has to say of its last merge."""
    if "merge_objective" not in figures:
        return ""
    worse = int(figures["merge_worse_than_mean"])
    warning = f"; in {worse} layers the plain mean would have been better" if worse else ""
    return (
        f": objective {figures['merge_objective']:.3f} of the plain mean's, condition up to "
        f"{figures['merge_condition']:.0e}{warning}"
    )


def _weight(text: str) -> tuple[str, float]:
    name, _, factor = text.rpartition("=")
    try:
        value = float(factor)
    except ValueError:
        value = float("nan")
    if not name or not 0 < value < float("inf"):
        raise UserError(f"--weight {text!r}: write it as NAME=FACTOR with a factor above 0, as isic=0.5")
    return name, value


@app.command()
def forget(
    run: RunFolder,
    domain: Annotated[str, typer.Option(help="the stage to forget")],
    contribution: Contribution = None,
    score: Scored = True,
    stream: StreamOption = None,
    base: BaseHere = None,
    as_json: AsJson = False,
) -> None:
    """Forget one learned stage, leave the others as they are, and write a certificate of how exactly."""
    opened = _stream(run, stream, score)
    certificate = forget_stage(run, domain, stream=opened, contribution=contribution, base=base)
    if as_json:
        print(json.dumps(certificate))
        return
    if opened is not None:
        out_console.print(table(load(run, base).results, "iou"))
    word = "exactly" if certificate["exact"] else "approximately"
    print(f"{domain} is forgotten {word}: {certificate['statement']}")
    print(run / "forgotten" / f"{domain}.json")


@app.command()
def reweigh(
    run: RunFolder,
    domain: Annotated[str, typer.Option(help="the stage that is to count more or less")],
    weight: Annotated[float, typer.Option(help="what it counts; others count what they did, mostly 1")],
    contribution: Contribution = None,
    score: Scored = True,
    stream: StreamOption = None,
    base: BaseHere = None,
    as_json: AsJson = False,
) -> None:
    """Let one learned stage count more or less in a merged adapter. Nothing is trained."""
    opened = _stream(run, stream, score)
    changed = reweigh_stage(run, domain, weight, stream=opened, contribution=contribution, base=base)
    if as_json:
        print(json.dumps({"domain": domain, "weight": weight, "run": str(run)}))
        return
    if opened is not None:
        out_console.print(table(changed.results, "iou"))
    print(f"{domain} counts {weight:g} in {run}")


def _stream(run: Path, named: Path | None, wanted: bool) -> Stream | None:
    """What to score on: the named stream, else the run's own, else nothing, with a remark."""
    if not wanted:
        return None
    source = named or stream_of(run)
    if source is None or not source.is_file():
        remark(f"not scored anew: the stream of {run} is not at hand; name one with --stream")
        return None
    return open_stream(source, run)
