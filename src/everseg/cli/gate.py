"""`everseg gate`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from everseg.cli.shared import BaseHere, Seed, app, show
from everseg.errors import UserError, printable

if TYPE_CHECKING:
    from everseg.runs.gate import Gate

CODES = {"pass": 0, "fail": 1, "cannot tell": 3}
"""Exit codes; 2 is for what only the person at the keyboard can correct."""

LISTED = 8
"""Power statements and harmed images in the terminal; the files have all."""


@app.command()
def gate(
    new: Annotated[Path, typer.Argument(metavar="NEW", help="Run folder of the new run.")],
    against: Annotated[
        Path, typer.Option(metavar="OLD", help="Run folder of the old run; plain: the untouched base.")
    ],
    stream: Annotated[
        Path | None,
        typer.Option(metavar="STREAM", help="Stream file with further test images."),
    ] = None,
    margin: Annotated[float, typer.Option(metavar="IOU", help="Accepted drop of a mean IoU.")] = 0.01,
    flip: Annotated[
        float, typer.Option(metavar="IOU", help="Drop of one image's IoU that counts as harm.")
    ] = 0.2,
    group: Annotated[
        str,
        typer.Option(metavar="REGEX", help="Finds the patient in an image's name; each counts once."),
    ] = "",
    checked: Annotated[
        int, typer.Option(min=0, metavar="N", help="Images per domain for the check of prompts; 0: none.")
    ] = 24,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write all numbers as JSON.")
    ] = None,
    junit: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write JUnit XML, for a CI system.")
    ] = None,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write one HTML page with the harmed images.")
    ] = None,
    seed: Seed = 0,
    base: BaseHere = None,
) -> None:
    """Check whether a new run is worse than an old one anywhere.

    Exit codes: 0 pass; 1 fail, worse somewhere; 3 cannot tell, too few images; 2 the runs cannot be
    compared.
    """
    _check_files(json_file, junit, html)
    from everseg.distributed import world
    from everseg.files import write_json
    from everseg.results.gate import GateConfig
    from everseg.runs.gate import decide, open_sides

    config = GateConfig(margin=margin, flip=flip, group=group, seed=seed, checked=checked)
    sides = open_sides(new, against, stream=stream, base=base)
    found = decide(sides, config)
    if world().main:
        if json_file is not None:
            write_json(json_file, found.to_json())
        if junit is not None:
            from everseg.report.junit import write_junit

            write_junit(found, junit)
        if html is not None:
            from everseg.report.gate import flip_examples, write_gate_page

            write_gate_page(found, flip_examples(sides, found), html)
        _tell(found, html)
        sys.stdout.flush()
    raise typer.Exit(CODES[found.verdict])


def _check_files(*files: Path | None) -> None:
    """Refuse before anything is computed what could not be written after it.

    Raises:
        UserError: a file is a folder, or two have one name.
    """
    given = [path for path in files if path is not None]
    for path in given:
        if path.is_dir():
            raise UserError(f"{path} is a folder; name a file")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror}; name another folder") from error
    if len({path.absolute() for path in given}) < len(given):
        raise UserError("two of --json, --junit and --html name the same file; give each its own")


def _tell(gate: Gate, html: Path | None) -> None:
    """The verdict, the comparisons, what could have been seen and what to do."""
    from everseg.runs.verdict import advice, headline, powers, remarks

    show(_table(gate))
    _lines("harmed images", [_flip(gate, n) for n in range(len(gate.flips))])
    _lines("what these images could have shown", powers(gate))
    if gate.health is not None:
        _lines("warnings about prompts", [f"! {text}" for text in gate.health.warnings])
    for text in remarks(gate):
        print(f"note: {printable(text)}")
    print(f"{gate.verdict.upper()}: {printable(headline(gate))}")
    for text in advice(gate):
        print(f"  {printable(text)}")
    if html is not None:
        print(html)


def _lines(title: str, lines: list[str]) -> None:
    if not lines:
        return
    print(f"{title}:")
    for line in lines[:LISTED]:
        print(f"  {printable(line)}")
    if len(lines) > LISTED:
        print(f"  and {len(lines) - LISTED} more (--html or --json has all)")


def _flip(gate: Gate, n: int) -> str:
    flip = gate.flips[n]
    where = f"{flip.column}, {flip.prompt}" if flip.prompt else flip.column
    return f"{where}: {flip.image}, IoU {flip.old:.3f} -> {flip.new:.3f}"


def _table(gate: Gate):
    """A row for each comparison."""
    import math

    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    from everseg.runs.verdict import place

    styles = {"worse": "bold red", "cannot tell": "yellow", "not worse": ""}
    marks = {"worse": "x ", "cannot tell": "? ", "not worse": "  "}
    drawn = Table(title="IoU, new run against old run", title_justify="left", box=SIMPLE_HEAD)
    drawn.add_column("")
    for name in ("images", "old", "new", "new - old", "95 % interval", "harmed/helped"):
        drawn.add_column(name, justify="right")
    drawn.add_column("finding")
    for c in gate.comparisons:
        d = c.difference
        spread = "" if math.isnan(d.low) else f"{d.low:+.3f} to {d.high:+.3f}"
        cells = [
            place(c),
            str(c.units),
            f"{c.old:.3f}",
            f"{c.new:.3f}",
            f"{d.estimate:+.3f}",
            spread,
            "" if c.kind == "class" else f"{c.harmed}/{c.helped}",
            f"{marks[c.finding]}{c.finding}: {c.reason}",
        ]
        drawn.add_row(*(Text(printable(cell), style=styles[c.finding]) for cell in cells))
    return drawn
