"""How well each merge in closed form could be solved."""

from __future__ import annotations

from typing import Any

from everseg.report.cells import Cell, number
from everseg.report.data import ReportData


def context(data: ReportData) -> dict[str, Any] | None:
    rows = [
        (
            stage,
            [
                Cell(f"{merge['condition']:.0e}"),
                Cell(number(merge["objective"])),
                Cell(f"{merge['worse_than_mean']:.0f}"),
            ],
        )
        for stage, merge in data.summary.get("merges", {}).items()
    ]
    return {"merges": rows} if rows else None
