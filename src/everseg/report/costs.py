"""The part of the page about costs: bytes kept, seconds and memory of each stage."""

from __future__ import annotations

from everseg.report.html import DASH, bar, number, section, table
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
    beside = ""
    if "archived_bytes" in summary:
        beside = (
            f"Beside it lies what each domain brought, {bytes_text(summary['archived_bytes'])} in all, for "
            "merging elsewhere and for forgetting; nothing else needs it."
        )
    return section(
        "What is kept",
        table("Kept between stages, by kind, without the base model.", ["", "size", "bytes"], rows, "bars"),
        beside,
    )


def merges(summary: Summary) -> str:
    """How well each merge in closed form could be solved."""
    found = summary.get("merges", {})
    if not found:
        return ""
    rows = [
        (
            stage,
            [
                f"<td>{m['condition']:.0e}</td>",
                f"<td>{number(m['objective'])}</td>",
                f"<td>{m['worse_than_mean']:.0f}</td>",
            ],
        )
        for stage, m in found.items()
    ]
    return section(
        "The merges",
        table(
            "After each domain: the largest condition number of the layers solved, their objective as a "
            "share of that of averaging, and in how many layers averaging would have been better.",
            ["", "condition", "objective", "layers worse"],
            rows,
        ),
        "The objective is how far the merged layers' answers are from each domain's own, on its own "
        "inputs; the closed form makes it least. Above 1, or with layers for which averaging is better, do "
        "not trust a merge.",
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
