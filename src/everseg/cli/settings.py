"""`everseg settings`: what can be set in a method, what it means, and where the defaults come from."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from everseg.cli.shared import AsJson, Preset, app, show
from everseg.config import Setting, describe
from everseg.methods import METHODS, configure, find


@app.command()
def settings(
    method: Annotated[
        str, typer.Argument(metavar="METHOD", help=f"{', '.join(METHODS)}, or package.module:Class.")
    ],
    preset: Preset = "paper",
    as_json: AsJson = False,
) -> None:
    """List the settings of a method, with their sources."""
    from everseg.runs.problem import problem_of

    problem = problem_of(method)
    score = problem.Score
    presets = find(method).Config.presets()
    given = describe(configure(method, preset)), describe(score.presets().get(preset, score()))
    proposed = problem.may_propose(configure(method)) if preset == "paper" else []
    if as_json:
        own, scored = ([s._asdict() for s in found if s.kind != "group"] for found in given)
        about = {"method": method, "preset": preset, "presets": list(presets)}
        print(json.dumps({**about, "settings": own, "score": scored, "proposed": proposed}))
        return
    print(f"{method}, preset {preset} (of {', '.join(presets)})")
    if proposed:
        print(
            "Unless they are given, 'everseg learn' chooses these by the images of a stream where they "
            f"suggest another value: {', '.join(proposed)}. 'everseg doctor --stream FILE --method {method}' "
            "shows what it would choose."
        )
    paper = describe(configure(method)), describe(score.presets()["paper"])
    for option, found, usual in zip(("--set", "--score"), given, paper, strict=True):
        print(f"\n{option} KEY=VALUE")
        show(_table(found, {s.name: s.value for s in usual}))


def _table(found: Iterable[Setting], paper: dict[str, Any]) -> Table:
    """Settings by group. A value that differs from the preset `paper` has that preset's value below it."""
    groups: dict[str, tuple[str, list[Setting]]] = {"": ("", [])}
    for setting in found:
        if setting.kind == "group":
            groups[setting.name] = setting.meaning, []
        else:
            groups[setting.name.rpartition(".")[0]][1].append(setting)
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("setting", no_wrap=True)
    table.add_column("value", max_width=24, overflow="fold")
    table.add_column("meaning", ratio=1)
    for group, (meaning, members) in groups.items():
        if group:
            table.add_section()
            table.add_row(Text(group, "bold"), "", Text(meaning, "bold"))
        for setting in members:
            table.add_row(setting.name, _value(setting, paper.get(setting.name)), _meaning(setting))
    return table


def _value(setting: Setting, paper: Any) -> Text:
    value = Text(_text(setting.value))
    return value if setting.value == paper else value.append(f"\n(paper: {_text(paper)})", "dim")


def _meaning(setting: Setting) -> Text:
    meaning = Text(setting.meaning)
    if "|" in setting.kind:
        meaning.append(f" One of: {setting.kind.replace(' | ', ', ')}.", "cyan")
    return meaning.append(f" [{setting.source}]", "dim") if setting.source else meaning


def _text(value: Any) -> str:
    """A value as `--set` takes it."""
    return value if isinstance(value, str) and value else json.dumps(value)
