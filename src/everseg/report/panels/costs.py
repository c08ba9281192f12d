"""What the run costs: bytes kept besides the base, by kind; seconds and peak memory of each stage."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from everseg.report.cells import DASH, Bar, Cell
from everseg.report.data import ReportData
from everseg.results import Summary, bytes_text


def context(data: ReportData) -> dict[str, Any] | None:
    kept, stages = storage(data.summary), stage_costs(data.results.stages, data.summary)
    archived = bytes_text(data.summary["archived_bytes"]) if "archived_bytes" in data.summary else ""
    earlier = bytes_text(data.summary["history_bytes"]) if "history_bytes" in data.summary else ""
    told = {"kept": kept, "archived": archived, "earlier": earlier, "stages": stages}
    return told if kept or stages else None


def storage(summary: Summary) -> list[tuple[str, list[Cell | Bar]]]:
    """A row for each kind of what is kept, the largest first, and one for all."""
    kinds = summary.get("stored_bytes", {})
    total = sum(kinds.values())
    rows: list[tuple[str, list[Cell | Bar]]] = [
        (kind, [Bar(bytes_text(count), count / total if total else 0.0), Cell(f"{count:,}")])
        for kind, count in sorted(kinds.items(), key=lambda item: (-item[1], item[0]))
    ]
    return [*rows, ("all", [Bar(bytes_text(total), 0.0), Cell(f"{total:,}")])] if rows else []


def stage_costs(stages: Sequence[str], summary: Summary) -> list[tuple[str, list[Cell | Bar]]]:
    """A row for each stage: its time and its peak memory."""
    seconds, memory = summary.get("stage_seconds", []), summary.get("peak_memory_bytes", [])
    if not seconds and not memory:
        return []
    return [
        (stage, [_bar(seconds, i, lambda s: f"{s:.1f} s"), _bar(memory, i, bytes_text)])
        for i, stage in enumerate(stages)
    ]


def _bar(values: Sequence[float], place: int, shown: Callable[[float], str]) -> Cell | Bar:
    if place >= len(values):
        return Cell(DASH)
    return Bar(shown(values[place]), values[place] / (max(values) or 1))
