"""`everseg report` and `everseg compare`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from everseg.cli.shared import AsJson, BaseHere, RunFolder, app, own_stream, show, show_warning
from everseg.errors import UserError
from everseg.progress import remark

Good = Annotated[
    float, typer.Option(min=0, max=1, metavar="IOU", help="IoU from which an image counts as good.")
]


@app.command()
def report(
    run: RunFolder,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="HTML file; default: report.html in the run.")
    ] = None,
    examples: Annotated[
        int, typer.Option(min=0, max=20, metavar="N", help="Test images shown per domain.")
    ] = 3,
    good: Good = 0.5,
    base: BaseHere = None,
) -> None:
    """Write one HTML page: scores, forgetting, storage, examples."""
    from everseg.report.collect import collect
    from everseg.report.page import write_report
    from everseg.runs.folder import load

    current = load(run, base)
    # A run that was imported may have no stream, and then no examples.
    opened = own_stream(current) if examples and current.record.stream else None
    print(write_report(collect(current, opened, max(1, examples), good), out or run / "report.html"))


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN", help="Run folders.")],
    metric: Annotated[str, typer.Option(metavar="NAME", help="iou, f1 or mae.")] = "iou",
    good: Good = 0.5,
    as_json: AsJson = False,
) -> None:
    """Compare runs side by side, and with the untouched base."""
    from everseg.results import (
        compare_table,
        domains_table,
        further,
        further_lines,
        further_table,
        worse_lines,
    )
    from everseg.runs.alone import with_alone
    from everseg.runs.folder import load_scores

    loaded = [load_scores(folder) for folder in runs]
    summaries = {id(run): with_alone(run, loaded) for run in loaded}
    if as_json:
        print(json.dumps({str(run.folder): run.figures(summaries[id(run)], good) for run in loaded}))
        return
    for run in loaded:
        if metric not in run.results.lower_is_better:
            known = ", ".join(run.results.lower_is_better)
            raise UserError(f"{run.folder} has no metric {metric!r}; choose one of {known}")
    kinds = list(dict.fromkeys(run.problem.name for run in loaded))
    for kind in kinds:
        named = [(run.folder.name, run) for run in loaded if run.problem.name == kind]
        alone = len(named) == 1
        rows = [(name, run.results, summaries[id(run)]) for name, run in named]
        show(compare_table(rows, metric, what=f"runs of {kind}" if len(kinds) > 1 else ""))
        more = [
            (name, further(results, metric, summary, kinds=run.problem.further, good=good))
            for (name, results, summary), (_, run) in zip(rows, named, strict=True)
        ]
        show(further_table(more, metric))
        if kind == "domains":
            show(domains_table([(name, run.results) for name, run in named], metric))
        show(*further_lines(more, good))
        for name, run in named:
            show(*worse_lines("" if alone else name, run.results, metric))
            for alarm in run.alarms():
                show_warning(alarm if alone else f"{name}: {alarm}")
        scored = [(name, {*results.matrix(metric).columns}) for name, results, _ in rows]
        odd = [name for name, columns in scored if columns != scored[0][1]]
        if odd:
            remark(
                f"{scored[0][0]} and {', '.join(odd)} were scored on different {kind}, so their means "
                "cannot be compared"
            )
    if len(kinds) > 1:
        remark("runs of domains and of classes are scored differently; compare them within a table only")
