"""`everseg history`, `everseg restore` and `everseg bisect`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from everseg.cli.shared import AsJson, BaseHere, RunFolder, app, open_stream, show
from everseg.errors import printable

if TYPE_CHECKING:
    from everseg.runs.bisect import Bisection
    from everseg.runs.history import Listed


@app.command()
def history(run: RunFolder, as_json: AsJson = False) -> None:
    """List the states of a run, with settings and scores."""
    from everseg.runs.history import history as list_states
    from everseg.runs.history import rejected

    listed, aside = list_states(run), rejected(run)
    if as_json:
        told = {"states": [asdict(each) for each in listed], "rejected": [asdict(each) for each in aside]}
        print(json.dumps(told, default=str))
        return
    _show(run, listed)
    for each in aside:
        print(f"rejected: {each.stage} ({each.verdict}), kept in {each.folder}")
        for why in each.why:
            print(f"  {printable(why)}")


@app.command()
def restore(
    run: RunFolder,
    to: Annotated[int, typer.Option(metavar="N", help="Number of the state, as 'everseg history' lists it.")],
    as_json: AsJson = False,
) -> None:
    """Go back to an earlier state of a run. The state that it leaves can be restored."""
    from everseg.runs.history import restore as restore_state

    record = restore_state(run, to)
    if as_json:
        print(json.dumps({"run": str(run), "state": record.number, "learned": record.names}))
        return
    print(f"{run} is in state {record.number} and has learned {', '.join(record.names) or 'nothing'}")


@app.command()
def bisect(
    run: RunFolder,
    domain: Annotated[str, typer.Option(metavar="NAME", help="A learned or an unseen domain, or a class.")],
    metric: Annotated[str, typer.Option(metavar="NAME", help="iou, f1 or mae.")] = "iou",
    stream: Annotated[
        Path | None, typer.Option(metavar="STREAM", help="Another stream file; default: the run's own.")
    ] = None,
    base: BaseHere = None,
    as_json: AsJson = False,
) -> None:
    """Find the stage that harmed a domain."""
    from everseg.runs.bisect import bisect as find_stage

    opened = None if stream is None else open_stream(stream, run)
    found = find_stage(run, domain, metric=metric, stream=opened, base=base)
    if as_json:
        print(json.dumps(_without_nan(asdict(found))))
        return
    _show_steps(run, found)


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(each) for each in value]
    return None if isinstance(value, float) and value != value else value


def _show_steps(run: Path, found: Bisection) -> None:
    from rich.table import Table
    from rich.text import Text

    from everseg.results import number

    drawn = Table(title=f"{run}: {found.metric} of {found.domain}", title_justify="left")
    for name in ("state", "stage", "before", "after", "change", "95 % interval", "p", "images"):
        drawn.add_column(name, justify="left" if name == "stage" else "right")
    for step in found.steps:
        d = step.difference
        cells = [
            "" if step.state is None else str(step.state),
            step.stage,
            number(step.old),
            number(step.new),
            f"{d.estimate:+.3f}",
            "" if d.low != d.low else f"{d.low:+.3f} to {d.high:+.3f}",
            number(step.p_value, 4),
            str(step.images) if step.images else "",
        ]
        drawn.add_row(*map(Text, cells), style="bold red" if step is found.culprit else "")
    show(drawn)
    if found.culprit is None:
        print(f"no stage made {found.domain} significantly worse")
        return
    step = found.culprit
    sure = "" if step.p_value != step.p_value else f" (p = {step.p_value:.2g} over {step.images} images)"
    told = f"{step.stage} harmed {found.domain}: {found.metric} {step.old:.3f} -> {step.new:.3f}{sure}"
    print("\n  ".join([told, *found.advice]))


def _show(run: Path, listed: list[Listed]) -> None:
    from rich.table import Table
    from rich.text import Text

    from everseg.results import bytes_text, number

    metric = next((name for each in listed for name in each.scores), "")
    drawn = Table(title=f"{run}: {metric}", title_justify="left")
    for name in ("state", "stage", "learned", "AA", "unseen", "sha256", ""):
        drawn.add_column(name, justify="right" if name in ("state", "learned", "AA", "unseen") else "left")
    for each in listed:
        scores = each.scores.get(metric, {})
        means = [number(scores.get(name, float("nan"))) for name in ("AA", "unseen")]
        told = each.status if each.status == "current" or not each.gone else each.gone
        if each.status == "left":
            told = f"left; {each.gone}" if each.gone else "left"
        if each.gate:
            told = f"{told}; gate: {each.gate}" if told != "earlier" else f"gate: {each.gate}"
        cells = [
            "" if each.number is None else str(each.number),
            each.what,
            str(len(each.learned)) if each.learned else "",
            *means,
            each.sha256[:12],
            "" if told == "earlier" else told,
        ]
        drawn.add_row(*map(Text, cells))
    current = next(each for each in listed if each.status == "current")
    config = current.config
    show(drawn)
    changed = "".join(f", {setting}" for setting in _changed(config))
    print(f"method {config['method']}, preset {config['preset']}, seed {config['seed']}{changed}")
    kept = sum(path.stat().st_size for path in (run / "history").rglob("*") if path.is_file())
    print(f"earlier states take {bytes_text(kept)} on the disk")


def _changed(config: Mapping[str, Any]) -> list[str]:
    """Settings that differ from the preset's, as `--set` takes them."""
    from everseg.config import plain
    from everseg.methods import configure

    def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
        leaves: dict[str, Any] = {}
        for key, value in values.items():
            leaves |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
        return leaves

    preset = flat(plain(configure(config["method"], config["preset"])))
    return [f"{k}={v}" for k, v in flat(config["settings"]).items() if k in preset and v != preset[k]]
