"""The part of the page about costs: bytes kept, seconds and memory of each stage."""

from __future__ import annotations

from everseg.report.html import DASH, bar, section, table
from everseg.results import Results, Summary, bytes_text


def storage(summary: Summary) -> str:
    """Bytes kept besides the base, by kind."""
    kinds = summary.get("stored_bytes", {})
    total = sum(kinds.values())
    if not kinds:
        return ""
    rows = [
        (kind, [bar(count / total if total else 0.0, bytes_text(count)), f"<td>{count:,}</td>"])
        for kind, count in sorted(kinds.items(), key=lambda item: (-item[1], item[0]))
    ]
    rows.append(("all", [bar(0.0, bytes_text(total)), f"<td>{total:,}</td>"]))
    return section(
        "What is kept",
        table("Kept between stages, by kind, without the base model.", ["", "size", "bytes"], rows, "bars"),
    )


def stages(results: Results, summary: Summary) -> str:
    """Seconds and peak memory of each stage."""
    seconds, memory = summary.get("stage_seconds", []), summary.get("peak_memory_bytes", [])
    if not seconds and not memory:
        return ""
    rows = []
    for i, stage in enumerate(results.stages):
        rows.append(
            (
                stage,
                [
                    bar(seconds[i] / (max(seconds) or 1), f"{seconds[i]:.1f} s")
                    if i < len(seconds)
                    else f"<td>{DASH}</td>",
                    bar(memory[i] / (max(memory) or 1), bytes_text(memory[i]))
                    if i < len(memory)
                    else f"<td>{DASH}</td>",
                ],
            )
        )
    return section(
        "What each stage cost",
        table(
            "Wall-clock time and peak memory of learning each stage.",
            ["", "time", "peak memory"],
            rows,
            "bars",
        ),
    )
