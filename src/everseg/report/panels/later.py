"""How the run continues with later images of domains that it knew."""

from __future__ import annotations

from typing import Any, get_args

from everseg.report.cells import Cell, number
from everseg.report.data import ReportData
from everseg.types import Going


def context(data: ReportData) -> dict[str, Any] | None:
    rows = [
        (
            stage,
            [
                Cell(found["of"]),
                *(
                    Cell(number(found["scores"][choice]), "learned" if choice == found["chosen"] else "")
                    for choice in get_args(Going)
                ),
                Cell(found["chosen"]),
                Cell(str(found["images"])),
                Cell(f"{100 * found['moved']:.1f} %"),
            ],
        )
        for stage, found in data.summary.get("later", {}).items()
    ]
    return {"later": rows} if rows else None
