"""`everseg merge`, `everseg forget` and `everseg reweigh`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from everseg.cli.shared import (
    AsJson,
    BaseHere,
    OldScore,
    Rescore,
    RunFolder,
    app,
    open_stream,
    renamed,
    required,
    show,
)
from everseg.errors import UserError
from everseg.merge import RULES
from everseg.progress import remark
from everseg.text import plural
from everseg.types import Weighting

if TYPE_CHECKING:
    from everseg.data import Stream

Contribution = Annotated[
    Path | None,
    typer.Option("--from", metavar="FILE", help="The domain's contribution, if the run has not kept it."),
]
StreamOption = Annotated[
    Path | None, typer.Option(metavar="STREAM", help="Another stream file; default: the run's own.")
]
OldDomain = Annotated[str | None, typer.Option("--domain", hidden=True)]


@app.command()
def merge(
    sources: Annotated[
        list[Path], typer.Argument(metavar="RUN", help="Run folders, or files of single contributions.")
    ],
    out: Annotated[Path, typer.Option(metavar="RUN", help="Run folder to write.")],
    rule: Annotated[
        str | None, typer.Option(metavar="RULE", help=f"{', '.join(RULES)}; default: regmean.")
    ] = None,
    method: Annotated[str | None, typer.Option(hidden=True)] = None,
    weighting: Annotated[
        Weighting, typer.Option(help="Every domain counts the same, or by its images or objects.")
    ] = "equal",
    weight: Annotated[
        list[str] | None, typer.Option(metavar="NAME=FACTOR", help="Let a domain count more or less.")
    ] = None,
    stream: Annotated[
        Path | None, typer.Option(metavar="STREAM", help="Stream file; scores the merge after each domain.")
    ] = None,
    base: Annotated[
        str | None, typer.Option(metavar="BASE", help="Base model; default: that of the first run.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help='Such as "merger.options={keep: 0.3}" or merge.ridge=1e-6.'
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Merge separately trained runs into one. No image is needed."""
    from everseg.data import Stream
    from everseg.models.names import from_anywhere
    from everseg.results import compare_table, table
    from everseg.runs.merge import merge_runs
    from everseg.runs.problem import only_domains

    chosen = renamed("--method", method, "--rule", rule) or "regmean"
    run = merge_runs(
        sources,
        out,
        chosen,
        base=None if base is None else from_anywhere(base),
        weighting=weighting,
        weights=dict(map(_weight, weight or [])),
        settings=settings or [],
        stream=None if stream is None else only_domains(Stream.from_yaml(stream), "only domains merge"),
    )
    merged = {stage.name: dict(stage.figures) for stage in run.record.learned}
    if as_json:
        print(json.dumps({"merged": merged, "rule": chosen, "stored_bytes": run.summary()["stored_bytes"]}))
        return
    if stream is not None:
        show(table(run.results, "iou"))
        show(compare_table([(out.name, run.results, run.summary())]))
    told = "".join(_told(figures) for figures in [list(merged.values())[-1]])
    print(f"{plural(len(merged), 'domain')} ({', '.join(merged)}) merged by {chosen}{told}\n{out}")


def _told(figures: dict[str, float]) -> str:
    """What RegMean has to say of its last merge."""
    if "merge_objective" not in figures:
        return ""
    worse = int(figures["merge_worse_than_mean"])
    warning = f"; in {plural(worse, 'layer')} the plain mean would have been better" if worse else ""
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
    stage: Annotated[str | None, typer.Option(metavar="STAGE", help="The stage to forget.")] = None,
    domain: OldDomain = None,
    contribution: Contribution = None,
    rescore: Rescore = None,
    score: OldScore = None,
    stream: StreamOption = None,
    base: BaseHere = None,
    as_json: AsJson = False,
) -> None:
    """Remove one learned stage, with a certificate. The others stay as they are."""
    from everseg.results import table
    from everseg.runs.folder import load
    from everseg.runs.forget import forget as forget_stage

    name, opened = _asked(run, stage, domain, stream, rescore, score)
    certificate = forget_stage(run, name, stream=opened, contribution=contribution, base=base)
    if as_json:
        print(json.dumps(certificate.to_json()))
        return
    if opened is not None:
        show(table(load(run, base).results, "iou"))
    word = "exactly" if certificate.exact else "approximately"
    print(f"{name} is forgotten {word}: {certificate.statement}")
    for each in certificate.removed:
        print(f"removed: {each}")
    for each in certificate.kept:
        print(f"kept: {each}")
    print(run / "forgotten" / f"{name}.json")


@app.command()
def reweigh(
    run: RunFolder,
    weight: Annotated[
        float, typer.Option(metavar="FACTOR", help="Its new weight; others keep theirs, mostly 1.")
    ],
    stage: Annotated[
        str | None, typer.Option(metavar="STAGE", help="The stage whose weight to change.")
    ] = None,
    domain: OldDomain = None,
    contribution: Contribution = None,
    rescore: Rescore = None,
    score: OldScore = None,
    stream: StreamOption = None,
    base: BaseHere = None,
    as_json: AsJson = False,
) -> None:
    """Change the weight of a stage in a merged adapter. Nothing is trained."""
    from everseg.results import table
    from everseg.runs.forget import reweigh as reweigh_stage

    name, opened = _asked(run, stage, domain, stream, rescore, score)
    changed = reweigh_stage(run, name, weight, stream=opened, contribution=contribution, base=base)
    if as_json:
        print(json.dumps({"domain": name, "weight": weight, "run": str(run)}))
        return
    if opened is not None:
        show(table(changed.results, "iou"))
    print(f"{name} counts {weight:g} in {run}")


def _asked(
    run: Path,
    stage: str | None,
    domain: str | None,
    stream: Path | None,
    rescore: bool | None,
    score: bool | None,
) -> tuple[str, Stream | None]:
    """The stage, and what to score on: the named stream, else the run's own, else nothing, with a remark."""
    from everseg.runs.folder import read_record

    name = required("--stage", renamed("--domain", domain, "--stage", stage))
    if renamed("--score/--no-score", score, "--rescore/--no-rescore", rescore) is False:
        return name, None
    own = read_record(run).stream
    source = stream or (Path(own) if own else None)
    if source is None or not source.is_file():
        remark(f"the merge was not scored again: the stream of {run} is not known; name it with --stream")
        return name, None
    return name, open_stream(source, run)
