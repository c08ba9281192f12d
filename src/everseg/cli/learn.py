"""`everseg learn` and `everseg evaluate`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from everseg.cli.shared import (
    AsJson,
    BaseHere,
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
    show_warning,
)
from everseg.errors import UserError
from everseg.methods import METHODS
from everseg.progress import remark
from everseg.text import plural
from everseg.types import Defaults, Evaluate, Precision, Undecided

if TYPE_CHECKING:
    from everseg.runs.gate import Gate, Sides
    from everseg.runs.gating import Gating
    from everseg.runs.run import Run


@app.command()
def learn(
    stream: StreamFile,
    out: Annotated[Path, typer.Option(metavar="RUN", help="Run folder; the same command resumes it.")],
    method: Annotated[
        str,
        typer.Option(
            metavar="METHOD",
            help=f"{', '.join(METHODS)}, or package.module:Class; default: samcl, for classes eir.",
        ),
    ] = "",
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
        Precision, typer.Option(help="Precision; auto: bf16 on a GPU that has it, else fp32.")
    ] = "auto",
    defaults: Annotated[
        Defaults,
        typer.Option(help="Classes: take defaults from the 'data' or the 'preset'."),
    ] = "data",
    archive: Annotated[
        bool | None,
        typer.Option(
            help="Keep each domain's contribution, to merge or forget it; default: as begun, else yes."
        ),
    ] = None,
    keep: Annotated[
        int | None,
        typer.Option(
            min=0, metavar="N", help="Earlier states to keep; default: as begun, else all without images."
        ),
    ] = None,
    first_stage: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="Classes: reuse the first stage of this run."),
    ] = None,
    first_step: Annotated[Path | None, typer.Option(hidden=True)] = None,
    until: Annotated[str | None, typer.Option(metavar="STAGE", help="Stop after this stage.")] = None,
    retest: Annotated[
        bool, typer.Option("--retest", help="Score again if test data of learned stages changed.")
    ] = False,
    natural: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Natural images, for samcl; tiny includes their statistics.",
        ),
    ] = None,
    scoring: ScoreSettings = None,
    workers: Workers = 0,
    track: Annotated[
        list[str] | None,
        typer.Option(metavar="TRACKER", help="Also log progress to tensorboard, wandb or mlflow."),
    ] = None,
    gate: Annotated[
        bool | None,
        typer.Option(help="Set aside a stage that makes the run worse; default: as before, else no."),
    ] = None,
    undecided: Annotated[
        Undecided | None,
        typer.Option(help="With --gate, if it cannot tell: 'aside' (default) or 'accept'."),
    ] = None,
    margin: Annotated[
        float | None, typer.Option(metavar="IOU", help="With --gate, as in 'everseg gate'; default: 0.01.")
    ] = None,
    flip: Annotated[
        float | None, typer.Option(metavar="IOU", help="With --gate, as in 'everseg gate'; default: 0.2.")
    ] = None,
    group: Annotated[
        str | None, typer.Option(metavar="REGEX", help="With --gate, as in 'everseg gate'.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Learn the new stages of STREAM and score after each. The same command resumes.

    With --gate, a stage that makes the run worse (exit code 1), or of which the gate cannot tell (exit code
    3), is set aside, and the run stays unchanged.
    """
    from everseg.config import everywhere, override
    from everseg.distributed import world
    from everseg.methods import configure
    from everseg.models.names import from_anywhere
    from everseg.results import table
    from everseg.runs.begun import check_folders, check_until, kept_options
    from everseg.runs.defaults import default_method, names_of, with_defaults
    from everseg.runs.discover import opened_with_domains
    from everseg.runs.folder import base_of, is_run, load
    from everseg.runs.learn import run_stages
    from everseg.runs.problem import problem_of
    from everseg.runs.run import RunConfig

    method = method or default_method(stream)
    kind = problem_of(method).Score
    config = RunConfig(
        method,
        configure(method, preset, settings or []),
        from_anywhere(base) if base else "",
        preset,
        seed,
        override(kind.presets().get(preset, kind()), scoring or [], "--score"),
        evaluate,
        baseline,
        precision,
        *kept_options(out, archive, keep),
    )
    if workers:
        config = everywhere(config, "workers", workers)
    gating = _gating(out, gate, undecided, {"margin": margin, "flip": flip, "group": group})
    current = None
    first = renamed("--first-step", first_step, "--first-stage", first_stage)
    check_folders(out, first)
    opened, loaded = opened_with_domains(stream, config, out, natural=natural)
    check_until(opened, config, until)
    loaded = base_of(config, loaded)
    if defaults == "data":
        config = with_defaults(config, opened, out, *(names_of(method, s) for s in (settings, scoring)))
    how: dict[str, Any] = {"first": first, "until": until, "retest": retest, "natural": natural}
    for current in run_stages(opened, config, out, loaded, **how, track=track or (), gating=gating):
        if world().main and not as_json:
            show(table(current.results, "iou"))
    rejected = gating.rejected if gating else []
    if world().main and (current is not None or is_run(out)):
        if current is None or rejected:
            current = load(out)
            if not rejected:
                remark(f"{out}: nothing new in {stream}; learned: {plural(len(current.learned), 'stage')}")
        if as_json:
            told = {"gate": gating.to_json()} if gating else {}
            print(json.dumps(current.figures() | told))
        else:
            _print_summary(current)
    if rejected:
        raise typer.Exit(1 if any(stage.verdict == "fail" for stage in rejected) else 3)


def _gating(
    out: Path, gate: bool | None, undecided: Undecided | None, settings: dict[str, Any]
) -> Gating | None:
    """How stages are let in; None for all of them, whatever they do."""
    from everseg.report.gate import flip_examples, write_gate_page
    from everseg.results.gate import GateConfig
    from everseg.runs.gating import Gating, gated_before

    given = {name: value for name, value in settings.items() if value is not None}
    if not gate:
        for name in [*given, *(["undecided"] if undecided else [])]:
            raise UserError(f"--{name} is an option of the gate; give --gate as well, or leave it out")
    before = None if gate is False else gated_before(out)
    if not gate and before is None:
        return None

    def page(sides: Sides, found: Gate, path: Path) -> None:
        write_gate_page(found, flip_examples(sides, found), path)

    return Gating(replace(before or GateConfig(), **given), undecided or "aside", page)


@app.command()
def evaluate(
    run: RunFolder,
    stream: Annotated[
        Path | None, typer.Option(metavar="STREAM", help="Another stream file; default: the run's own.")
    ] = None,
    oracle: Annotated[bool, typer.Option(help="Use each image's own module (methods with modules).")] = False,
    base: BaseHere = None,
    scoring: ScoreSettings = None,
    workers: Workers = 0,
    as_json: AsJson = False,
) -> None:
    """Score a run on every test image of a stream."""
    from everseg.config import everywhere, override
    from everseg.distributed import world
    from everseg.results import table
    from everseg.runs.folder import load
    from everseg.runs.problem import check_fits

    current = load(run, base)
    how = override(everywhere(current.config.score, "workers", workers), scoring or [], "--score")
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
    for alarm in current.alarms():
        show_warning(alarm)
