"""`everseg learn` and `everseg evaluate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from everseg.cli.shared import (
    AsJson,
    BaseHere,
    Method,
    Preset,
    RunFolder,
    ScoreSettings,
    Seed,
    Settings,
    StreamFile,
    Workers,
    app,
    open_stream,
    own_stream,
    renamed,
    show,
)
from everseg.progress import remark
from everseg.types import Evaluate, Precision

if TYPE_CHECKING:
    from everseg.runs.run import Run


@app.command()
def learn(
    stream: StreamFile,
    out: Annotated[
        Path, typer.Option(metavar="RUN", help="Run folder; the same command again goes on with it.")
    ],
    method: Method = "samcl",
    base: Annotated[
        str,
        typer.Option(
            metavar="BASE",
            help="Checkpoint, folder, or hub id; default: tiny (embedded), for classes mobilenet.",
        ),
    ] = "",
    preset: Preset = "paper",
    seed: Seed = 0,
    settings: Settings = None,
    evaluate: Annotated[
        Evaluate, typer.Option(help="After each stage, also score the 'next' domain, or 'all'.")
    ] = "next",
    baseline: Annotated[bool, typer.Option(help="Also score the untouched base.")] = True,
    precision: Annotated[
        Precision, typer.Option(help="What the base computes in; auto: bf16 on a GPU that has it, else fp32.")
    ] = "auto",
    archive: Annotated[
        bool, typer.Option(help="Keep what each domain brings, to merge it elsewhere or to forget it.")
    ] = True,
    first_stage: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN", help="Classes: take over the first stage of this run, which learned no other."
        ),
    ] = None,
    first_step: Annotated[Path | None, typer.Option(hidden=True)] = None,
    until: Annotated[str | None, typer.Option(metavar="STAGE", help="Stop after this stage.")] = None,
    retest: Annotated[
        bool, typer.Option("--retest", help="Score the run anew where test data of learned stages changed.")
    ] = False,
    scoring: ScoreSettings = None,
    workers: Workers = 0,
    track: Annotated[
        list[str] | None,
        typer.Option(metavar="TRACKER", help="Also tell tensorboard, wandb or mlflow how far a stage is."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Learn the new stages of STREAM and score after each. The same command resumes."""
    from everseg.config import everywhere, override
    from everseg.distributed import world
    from everseg.methods import configure
    from everseg.models.names import from_anywhere
    from everseg.results import table
    from everseg.runs.folder import load
    from everseg.runs.learn import run_stages
    from everseg.runs.problem import problem_of
    from everseg.runs.run import RunConfig

    kind = problem_of(method).Score
    config = RunConfig(
        method,
        configure(method, preset, settings or []),
        from_anywhere(base) if base else "",
        preset,
        seed,
        override(kind.presets().get(preset, kind()), scoring or []),
        evaluate,
        baseline,
        precision,
        archive,
    )
    if workers:
        config = everywhere(config, "workers", workers)
    current = None
    first = renamed("--first-step", first_step, "--first-stage", first_stage)
    opened = open_stream(stream, out)
    for current in run_stages(
        opened, config, out, first=first, until=until, retest=retest, track=track or ()
    ):
        if world().main and not as_json:
            show(table(current.results, "iou"))
    if not world().main:
        return
    if current is None:
        current = load(out)
        remark(f"{out}: nothing new in {stream}; {len(current.learned)} stages are learned")
    if as_json:
        print(json.dumps(current.figures()))
    else:
        _print_summary(current)


@app.command()
def evaluate(
    run: RunFolder,
    stream: Annotated[
        Path | None, typer.Option(metavar="STREAM", help="Another stream file; default: the run's own.")
    ] = None,
    oracle: Annotated[
        bool, typer.Option(help="Let each image's own module predict (methods with modules only).")
    ] = False,
    base: BaseHere = None,
    scoring: ScoreSettings = None,
    workers: Workers = 0,
    as_json: AsJson = False,
) -> None:
    """Score a run as it stands on every test image of a stream."""
    from everseg.config import everywhere, override
    from everseg.distributed import world
    from everseg.results import table
    from everseg.runs.folder import load
    from everseg.runs.problem import check_fits

    current = load(run, base)
    how = override(everywhere(current.config.score, "workers", workers), scoring or [])
    opened = open_stream(stream, run) if stream is not None else own_stream(current)
    problem = check_fits(opened, current.config.method)
    problem.check_order(opened, current.record.learned)
    results = problem.now(current, opened, how, oracle=oracle)
    if not world().main:
        return
    if as_json:
        means = {c: results.cells[(0, c)] for c in results.columns if (0, c) in results.cells}
        print(json.dumps(means))
        return
    for metric in results.lower_is_better:
        show(table(results, metric))


def _print_summary(current: Run) -> None:
    from everseg.results import compare_table, number, worse_lines

    summary = current.summary()
    show(compare_table([(current.folder.name, current.results, summary)]))
    show(*worse_lines("", current.results, "iou"))
    if "oracle" in summary:
        print(f"with each image's own module (oracle): AA {summary['oracle']['iou']:.3f}")
    if means := current.means():
        said = [f"{name.replace('_', ' ')} {number(value)}" for name, value in means.items()]
        print(f"mean IoU of classes: {', '.join(said)}")
