"""Progress bars on a terminal, silence elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from everseg.distributed import world

console = Console(stderr=True)
"""Where progress and remarks go; results go to standard output."""


@contextmanager
def bar(description: str, total: int) -> Iterator[Callable[[str], None]]:
    """A bar of `total` steps. Yields a function that advances it by one and shows a short remark ("loss
    0.31")."""
    if not (console.is_terminal and world().main):
        yield lambda remark: None
        return
    columns = [
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[remark]}"),
    ]
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(description, total=total, remark="")
        yield lambda remark: progress.update(task, advance=1, remark=remark)


def remark(text: str) -> None:
    """Say something beside the results, as one line however long it is."""
    console.print(text, soft_wrap=True, markup=False)
