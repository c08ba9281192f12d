"""One run as one self-contained HTML file: no requests, no scripts, equal runs give equal bytes."""

from __future__ import annotations

from pathlib import Path

import yaml

from everseg.files import write_text
from everseg.report.classexamples import class_gallery
from everseg.report.classscores import class_panel
from everseg.report.costs import merges, stages, storage
from everseg.report.data import ReportData
from everseg.report.examples import gallery
from everseg.report.html import section, text
from everseg.report.scores import domain_panel, panels, routing_table
from everseg.report.style import STYLE
from everseg.results import of_classes


def write_report(data: ReportData, out: Path) -> Path:
    """Write the report of a run to `out`, or to `report.html` in it if `out` is a folder; returns the file.

    Raises:
        UserError: the file cannot be written.
    """
    path = out / "report.html" if out.is_dir() else out
    write_text(path, page(data))
    return path


def page(data: ReportData) -> str:
    """The report as HTML."""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="generator" content="everseg">
<title>{text(data.name)} · everseg</title>
<style>{STYLE}</style>
</head>
<body>
<main>
{_header(data)}
{panels(data.results, data.summary, class_panel if of_classes(data.results) else domain_panel)}
{routing_table(data.results)}
{gallery(data)}
{class_gallery(data.class_examples, data.results.columns, data.results.stages)}
<div class="pair">
{storage(data.summary)}
{stages(data.results, data.summary)}
</div>
{merges(data.summary)}
{_configuration(data)}
</main>
</body>
</html>
"""


def _header(data: ReportData) -> str:
    summary = data.summary
    facts = {
        "method": summary.get("method"),
        "base": summary.get("base"),
        "preset": summary.get("preset"),
        "seed": summary.get("seed"),
        "trainable": f"{summary['trainable_parameters']:,} parameters"
        if "trainable_parameters" in summary
        else None,
        "base hash": summary["base_hash"][:12] if "base_hash" in summary else None,
    }
    items = "".join(
        f"<div><dt>{text(name)}</dt><dd>{text(value)}</dd></div>"
        for name, value in facts.items()
        if value is not None
    )
    stream = " → ".join(text(stage) for stage in data.results.stages)
    title = f'<h1>{text(data.name)}</h1>\n<p class="stream">{stream}</p>'
    return f'<header>\n{title}\n<dl class="facts">{items}</dl>\n</header>'


def _configuration(data: ReportData) -> str:
    if not data.config:
        return ""
    lines = yaml.safe_dump(dict(data.config), sort_keys=False, allow_unicode=True)
    return section(
        "Configuration",
        f"<details><summary>All settings as they were resolved</summary><pre>{text(lines)}</pre></details>",
    )
