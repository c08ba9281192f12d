"""One run as one self-contained HTML file: no requests, no scripts, equal runs give equal bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from everseg.files import write_text
from everseg.report.data import ReportData
from everseg.report.panels import PANELS
from everseg.results import Summary

TEMPLATES = Environment(
    loader=PackageLoader("everseg.report"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


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
    shown = [panel(name, data) for name in data.panels]
    return TEMPLATES.get_template("page.html").render(
        name=data.name, stages=data.results.stages, facts=_facts(data.summary), panels=shown
    )


def panel(name: str, data: ReportData) -> str:
    """One panel as HTML, empty where it has nothing to show."""
    context = PANELS[name](data)
    return "" if context is None else TEMPLATES.get_template(f"{name}.html").render(context)


def _facts(summary: Summary) -> dict[str, Any]:
    facts: dict[str, Any] = {key: summary.get(key) for key in ("method", "base", "preset", "seed")}
    if "trainable_parameters" in summary:
        facts["trainable"] = f"{summary['trainable_parameters']:,} parameters"
    if "base_hash" in summary:
        facts["base hash"] = summary["base_hash"][:12]
    return {name: value for name, value in facts.items() if value is not None}
