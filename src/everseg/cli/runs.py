"""The verbs of a run: learn, evaluate, predict, report, compare, and the demo."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any

import typer

from everseg.cli.demo import demo as run_demo
from everseg.cli.shared import (
    AsJson,
    BaseHere,
    RunFolder,
    ScoreSettings,
    StreamFile,
    Workers,
    app,
    open_stream,
    out_console,
    own_stream,
)
from everseg.config import everywhere, override
from everseg.distributed import world
from everseg.errors import UserError
from everseg.methods import METHODS, configure
from everseg.models.precision import Precision
from everseg.models.promptable.load import from_anywhere
from everseg.progress import remark
from everseg.report.collect import collect
from everseg.report.page import write_report
from everseg.results import (
    average,
    compare_table,
    forgetting,
    forward_transfer,
    number,
    table,
    unseen_average,
)
from everseg.runs.folder import Evaluate, Run, RunConfig, load
from everseg.runs.learn import run_stages
from everseg.runs.predict import predict_files, prompts_of
from everseg.runs.predict_classes import predict_class_files
from everseg.runs.problems import check_fits, problem_of
from everseg.runs.rows import rows_of


@app.command()
def learn(
    stream: StreamFile,
    out: Annotated[Path, typer.Option(help="run folder; the same command again goes on with it")],
    method: Annotated[str, typer.Option(help=f"{', '.join(METHODS)}, or package.module:Class")] = "samcl",
    base: Annotated[
        str,
        typer.Option(
            help="a checkpoint, a folder, or a hub id; default: tiny (embedded), for classes mobilenet"
        ),
    ] = "",
    preset: Annotated[
        str, typer.Option(help="paper, or reference: the published code's quirks; some methods have more")
    ] = "paper",
    seed: Annotated[int, typer.Option(help="of every random choice")] = 0,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="change a setting, as tune.fit.epochs=5"),
    ] = None,
    evaluate: Annotated[
        Evaluate, typer.Option(help="after each stage score the 'next' domain too, or 'all'")
    ] = "next",
    baseline: Annotated[bool, typer.Option(help="also score the untouched base")] = True,
    precision: Annotated[
        Precision,
        typer.Option(help="the base computes in; auto: bf16 on a GPU that has it, else fp32"),
    ] = "auto",
    archive: Annotated[
        bool, typer.Option(help="keep what each domain brings, to merge it elsewhere or forget it")
    ] = True,
    first_step: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN", help="classes: take over the first step that this run learned, and nothing else"
        ),
    ] = None,
    until: Annotated[str | None, typer.Option(metavar="STAGE", help="stop after this stage")] = None,
    scoring: ScoreSettings = None,
    workers: Workers = 0,
    as_json: AsJson = False,
) -> None:
    """Learn the stages of STREAM that the run has not learned yet, and score after each."""
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
    opened = open_stream(stream, out)
    for current in run_stages(opened, config, out, first=first_step, until=until):
        if world().main and not as_json:
            out_console.print(table(current.results, "iou"))
    if not world().main:
        return
    if current is None:
        current = load(out)
        remark(f"{out}: nothing new in {stream}; {len(current.learned)} stages are learned")
    if as_json:
        print(json.dumps(_figures(current)))
    else:
        _print_summary(current)


@app.command()
def evaluate(
    run: RunFolder,
    stream: Annotated[Path | None, typer.Option(help="another stream file; default: the run's own")] = None,
    oracle: Annotated[
        bool, typer.Option(help="tell the learner each domain (methods with modules only)")
    ] = False,
    base: BaseHere = None,
    scoring: ScoreSettings = None,
    workers: Workers = 0,
    as_json: AsJson = False,
) -> None:
    """Score a run as it stands on every test image of a stream."""
    current = load(run, base)
    how = override(everywhere(current.config.score, "workers", workers), scoring or [])
    opened = open_stream(stream, run) if stream is not None else own_stream(current)
    check_fits(opened, current.config.method)
    results = rows_of(current).now(current, opened, how, oracle=oracle)
    if not world().main:
        return
    if as_json:
        means = {c: results.cells[(0, c)] for c in results.columns if (0, c) in results.cells}
        print(json.dumps(means))
        return
    for metric in results.lower_is_better:
        out_console.print(table(results, metric))


@app.command()
def predict(
    run: RunFolder,
    images: Annotated[list[Path], typer.Argument(help="image files; all get the same prompts, if any")],
    out: Annotated[Path, typer.Option(help="folder for masks, overlays and JSON")],
    point: Annotated[
        list[str] | None, typer.Option(metavar="X,Y", help="a click on the object, in pixels")
    ] = None,
    negative: Annotated[list[str] | None, typer.Option(metavar="X,Y", help="a click off the object")] = None,
    box: Annotated[
        list[str] | None, typer.Option(metavar="X0,Y0,X1,Y1", help="a box; several: several objects")
    ] = None,
    stage: Annotated[
        str | None, typer.Option(help="use this stage's module instead of letting the method choose")
    ] = None,
    base: BaseHere = None,
    as_json: AsJson = False,
) -> None:
    """Segment images with clicks or boxes, or, in a run of classes, without: a mask or a class map, an
    overlay and a JSON file for each."""
    for path in images:
        if not path.is_file():
            raise UserError(f"{path} does not exist")
    current = load(run, base)
    if len(current.classes) > 1:
        if point or negative or box or stage:
            raise UserError(f"{run} gives every pixel a class; leave clicks, boxes and --stage out")
        _predict_classes(current, images, out, as_json)
        return
    prompts = prompts_of(point or [], negative or [], box or [])
    written = predict_files(current, images, prompts, out, stage)
    if as_json:
        print(json.dumps([w.record for w in written]))
        return
    for w in written:
        module = w.record["module"]
        chosen = "" if module is None else f" with module {module} ({w.record['probability']:.2f})"
        for mask, path in zip(w.record["masks"], w.masks, strict=True):
            print(f"{w.image}: {mask['pixels']} pixels{chosen} -> {path}")


def _predict_classes(current: Run, images: list[Path], out: Path, as_json: bool) -> None:
    written = predict_class_files(current, images, out)
    if as_json:
        print(json.dumps([w.record for w in written]))
        return
    for w in written:
        seen = [f"{c['name']} {c['pixels']}" for c in w.record["classes"][1:] if c["pixels"]]
        print(f"{w.image}: {', '.join(seen) or 'background alone'} -> {w.classes}")


@app.command()
def report(
    run: RunFolder,
    out: Annotated[Path | None, typer.Option(help="HTML file; default: report.html in the run")] = None,
    examples: Annotated[int, typer.Option(min=0, max=20, help="test images shown for each domain")] = 3,
    base: BaseHere = None,
) -> None:
    """Write one self-contained HTML page: result matrix, forgetting, routing, storage, examples."""
    current = load(run, base)
    # A run that was imported may have no stream, and then no examples.
    opened = own_stream(current) if examples and current.record.get("stream") else None
    path = write_report(collect(current, opened, max(1, examples)), out or run / "report.html")
    print(path)


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(help="run folders")],
    metric: Annotated[str, typer.Option(help="iou, f1 or mae")] = "iou",
    as_json: AsJson = False,
) -> None:
    """Put runs side by side."""
    loaded = [load(r) for r in runs]
    if as_json:
        print(json.dumps({str(r.folder): _figures(r) for r in loaded}))
        return
    if metric not in loaded[0].results.lower_is_better:
        raise UserError(f"--metric {metric!r}: choose one of {', '.join(loaded[0].results.lower_is_better)}")
    out_console.print(compare_table([(r.folder.name, r.results, r.summary()) for r in loaded], metric))


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="folder for data, runs and reports")] = Path("runs/demo"),
    seed: Annotated[int, typer.Option(help="of every random choice")] = 0,
) -> None:
    """Learn a made-up stream with and without forgetting; nothing is downloaded."""
    shown = []
    for done in run_demo(out, seed):
        out_console.print(table(done.results, "iou"))
        shown.append((done.method, done.results, done.summary))
    out_console.print(compare_table(shown))
    print(f"report: {out / 'samcl' / 'report.html'}\npicture: {out / 'story.png'}")


def _figures(current: Run) -> dict[str, Any]:
    """A run in numbers, for JSON."""
    scores = {}
    for metric in current.results.lower_is_better:
        matrix = current.results.matrix(metric)
        numbers = {
            "AA": average(matrix),
            "FM": forgetting(matrix),
            "FT": forward_transfer(matrix),
            "unseen": unseen_average(matrix),
        }
        scores[metric] = {k: None if math.isnan(v) else v for k, v in numbers.items()}
    summary = {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in current.summary().items()}
    means = {k: None if math.isnan(v) else v for k, v in rows_of(current).means(current).items()}
    further = {"means": means} if means else {}
    return {"learned": current.learned, "scores": scores, **further, **summary}


def _print_summary(current: Run) -> None:
    out_console.print(compare_table([(current.folder.name, current.results, current.summary())]))
    if "oracle" in current.summary():
        print(f"told every domain (oracle): AA {current.summary()['oracle']['iou']:.3f}")
    means = rows_of(current).means(current)
    if means:
        said = [f"{name.replace('_', ' ')} {number(value)}" for name, value in means.items()]
        print(f"mean IoU of classes: {', '.join(said)}")
