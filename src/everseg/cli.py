"""The command line: one verb a function, thin; what a verb does lies below."""

from __future__ import annotations

import dataclasses
import errno
import json
import logging
import math
import multiprocessing
import signal
import sys
import warnings
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from transformers.utils.logging import disable_progress_bar

from everseg import __version__
from everseg.data import SCENES, Stream, check, contact_sheet, write_points, write_synthetic_stream
from everseg.demo import demo as run_demo
from everseg.distributed import world
from everseg.errors import UserError
from everseg.inference import predict_files, prompts_of
from everseg.methods import METHODS, configure
from everseg.models.bases import TINY
from everseg.progress import console as remarks
from everseg.report.collect import collect
from everseg.report.page import write_report
from everseg.results import (
    Results,
    average,
    compare_table,
    forgetting,
    forward_transfer,
    table,
    unseen_average,
)
from everseg.run import run_stages
from everseg.runfolder import Evaluate, Run, RunConfig, learned_stages, load
from everseg.scoring import ScoreConfig, score
from everseg.types import PredictsAs

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
data_app = typer.Typer(no_args_is_help=True, help="Look at, check and make the data of a stream.")
app.add_typer(data_app, name="data")
# Where there is no terminal to fit into, tables keep their columns whole.
out_console = Console(width=None if sys.stdout.isatty() else 160)

StreamFile = Annotated[Path, typer.Argument(metavar="STREAM", help="stream file (YAML)")]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="run folder")]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON instead of tables")]


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="print the version")] = False) -> None:
    """Keep one image segmenter up to date for ever: learn a stream of domains and forget nothing."""
    if version:
        print(__version__)
        raise typer.Exit


@app.command()
def learn(
    stream: StreamFile,
    out: Annotated[Path, typer.Option(help="run folder; the same command again goes on with it")],
    method: Annotated[str, typer.Option(help=f"{', '.join(METHODS)}, or package.module:Class")] = "samcl",
    base: Annotated[str, typer.Option(help="tiny (embedded), a folder, or a hub id")] = "tiny",
    preset: Annotated[str, typer.Option(help="paper, or reference: the published code's quirks")] = "paper",
    seed: Annotated[int, typer.Option(help="of every random choice")] = 0,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="change a setting, as tune.fit.epochs=5"),
    ] = None,
    evaluate: Annotated[
        Evaluate, typer.Option(help="after each stage score the 'next' domain too, or 'all'")
    ] = "next",
    baseline: Annotated[bool, typer.Option(help="also score the untouched base")] = True,
    as_json: AsJson = False,
) -> None:
    """Learn the stages of STREAM that the run has not learned yet, and score after each."""
    scores = ScoreConfig.presets()
    config = RunConfig(
        method,
        configure(method, preset, settings or []),
        # A run is read from anywhere later.
        base if base == TINY or not Path(base).is_dir() else str(Path(base).resolve()),
        preset,
        seed,
        scores.get(preset, ScoreConfig()),
        evaluate,
        baseline,
    )
    current = None
    for current in run_stages(_open_stream(stream, out), config, out):
        if world().main and not as_json:
            out_console.print(table(current.results, "iou"))
    if not world().main:
        return
    if current is None:
        current = load(out)
        remarks.print(f"{out}: nothing new in {stream}; {len(current.learned)} stages are learned")
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
    as_json: AsJson = False,
) -> None:
    """Score a run as it stands on every test image of a stream."""
    current = load(run)
    opened = _open_stream(stream, run) if stream is not None else _own_stream(current)
    learner = current.learner
    if oracle and not isinstance(learner, PredictsAs):
        raise UserError(
            f"method {current.config.method!r} keeps no module for each domain; leave --oracle out"
        )
    results = Results(current.results.lower_is_better)
    rows = []
    tested = [s for s in [*opened.stages, *opened.unseen] if len(s.test)]
    for stage in tested:
        predict = learner.predict
        if isinstance(learner, PredictsAs) and oracle:
            predict = partial(learner.predict_as, stage_name=stage.name)
        rows += score(predict, stage.test, stage.name, current.config.score)
    learned = [s.name for s in tested if s.name in current.results.learned_at]
    background = [s.name for s in tested if s.background and s.name in learned]
    results = results.with_stage("now", rows, learned=learned, background=background)
    if not world().main:
        return
    if as_json:
        means = {c: {m: results.cells[(0, c)][m] for m in results.lower_is_better} for c in results.columns}
        print(json.dumps(means))
        return
    for metric in results.lower_is_better:
        out_console.print(table(results, metric))


@app.command()
def predict(
    run: RunFolder,
    images: Annotated[list[Path], typer.Argument(help="image files; all get the same prompts")],
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
    as_json: AsJson = False,
) -> None:
    """Segment images with clicks or boxes: a mask, an overlay and a JSON file for each."""
    prompts = prompts_of(point or [], negative or [], box or [])
    for path in images:
        if not path.is_file():
            raise UserError(f"{path} does not exist")
    written = predict_files(load(run), images, prompts, out, stage)
    if as_json:
        print(json.dumps([w.record for w in written]))
        return
    for w in written:
        module = w.record["module"]
        chosen = "" if module is None else f" with module {module} ({w.record['probability']:.2f})"
        for mask, path in zip(w.record["masks"], w.masks, strict=True):
            print(f"{w.image}: {mask['pixels']} pixels{chosen} -> {path}")


@app.command()
def report(
    run: RunFolder,
    out: Annotated[Path | None, typer.Option(help="HTML file; default: report.html in the run")] = None,
    examples: Annotated[int, typer.Option(min=0, max=20, help="test images shown for each domain")] = 3,
) -> None:
    """Write one self-contained HTML page: result matrix, forgetting, routing, storage, examples."""
    current = load(run)
    opened = _own_stream(current) if examples else None
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


@data_app.command("check")
def data_check(
    stream: StreamFile,
    sheet: Annotated[Path | None, typer.Option(help="PNG with samples of every stage")] = None,
    as_json: AsJson = False,
) -> None:
    """Read every file of a stream and say what is wrong with each; exit code 1 if anything is."""
    found = check(stream)
    if as_json:
        print(json.dumps(dataclasses.asdict(found)))
    else:
        print(found)
    if sheet is not None:
        contact_sheet(stream, sheet)
        remarks.print(f"contact sheet: {sheet}")
    if not found.ok:
        raise typer.Exit(1)


@data_app.command("points")
def data_points(
    masks: Annotated[Path, typer.Argument(help="folder of masks")],
    seed: Annotated[int, typer.Option(help="of the clicks")] = 0,
    clicks: Annotated[int, typer.Option(min=1, help="on each mask")] = 3,
    mask_threshold: Annotated[
        str, typer.Option(help="a grey value above which is object, or '==255'")
    ] = "127",
    force: Annotated[bool, typer.Option(help="replace a points.json that is there")] = False,
) -> None:
    """Draw clicks on every mask and write points.json beside them, in SAMCL's form but with a seed."""
    threshold: Any = int(mask_threshold) if mask_threshold.isdigit() else mask_threshold
    print(write_points(masks, seed=seed, clicks=clicks, threshold=threshold, force=force))


@data_app.command("synthetic")
def data_synthetic(
    out: Annotated[Path, typer.Argument(help="folder to write")],
    domain: Annotated[
        list[str] | None, typer.Option(help=f"of {', '.join(SCENES)}; default: all but natural")
    ] = None,
    train: Annotated[int, typer.Option(min=1, help="training images a domain")] = 60,
    test: Annotated[int, typer.Option(min=1, help="test images a domain")] = 20,
    seed: Annotated[int, typer.Option(help="of every image")] = 0,
) -> None:
    """Write made-up domains as image folders with a stream file."""
    print(write_synthetic_stream(out, tuple(domain or SCENES), train=train, test=test, seed=seed))


def _open_stream(path: Path, run: Path) -> Stream:
    """A stream file, in which the data of stages that `run` has learned may be gone."""
    return Stream.from_yaml(path, learned_stages(run))


def _own_stream(current: Run) -> Stream:
    source = current.record.get("stream")
    if not source:
        raise UserError(f"{current.folder} was not made from a stream file; name one with --stream")
    return _open_stream(Path(source), current.folder)


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
    return {"learned": current.learned, "scores": scores, "oracle": current.record.get("oracle"), **summary}


def _print_summary(current: Run) -> None:
    out_console.print(compare_table([(current.folder.name, current.results, current.summary())]))
    oracle = current.record.get("oracle")
    if oracle:
        mean = sum(v["iou"] for v in oracle.values()) / len(oracle)
        print(f"told every domain (oracle): AA {mean:.3f}")


class Interrupted(BaseException):
    """Ctrl-C. Typer would turn a KeyboardInterrupt into "Aborted" and exit code 1."""


def _interrupt(signum: int, frame: object) -> None:
    if multiprocessing.parent_process() is None:  # A decoding worker is told by the process it works for.
        raise Interrupted


def main() -> None:
    """The console command: sentences for people, exit code 2 for what they can mend."""
    warnings.filterwarnings("ignore", module="torch.*")
    logging.getLogger("transformers").setLevel(logging.ERROR)
    if not remarks.is_terminal:  # As for our own bars.
        disable_progress_bar()
    signal.signal(signal.SIGINT, _interrupt)
    try:
        app()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except Interrupted:
        print("interrupted; the same command goes on where it was", file=sys.stderr)
        sys.exit(130)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            raise
        print(
            f"error: {error.filename or 'a file'}: {error.strerror}; nothing was lost, mend it and run again",
            file=sys.stderr,
        )
        sys.exit(2)
