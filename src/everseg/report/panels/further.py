"""Plasticity, generalisation, prompt insensitivity and negative flips: the means, and each domain's."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from everseg.report.cells import Cell, number
from everseg.report.data import ReportData
from everseg.results import Interval, further
from everseg.results.further import MEANINGS, PER_METRIC, Further
from everseg.results.labels import label


def context(data: ReportData) -> dict[str, Any] | None:
    metrics = data.results.lower_is_better
    if not data.results.stages:
        return None
    metric = "iou" if "iou" in metrics else next(iter(metrics))
    found = further(data.results, metric, data.summary, kinds=data.further, good=data.good)
    return {
        "metric": label(metric),
        "good": f"{data.good:g}",
        "names": [kind.replace("_", " ") for kind in found.figures],
        "rows_of_domains": _rows(found) if found.domains else [],
        "meanings": [(kind.replace("_", " "), MEANINGS[kind]) for kind in found.figures],
        "missing": [(kind.replace("_", " "), why) for kind, why in found.missing.items()],
    }


def _rows(found: Further) -> list[tuple[str, list[Cell]]]:
    """The means, and a row for each domain that has any figure."""
    means = [
        Cell(_mean(kind, value, found.base.get(kind, math.nan)), "mean")
        for kind, value in found.figures.items()
    ]
    each = [
        (domain, [Cell(_shown(kind, values)) for kind in found.figures])
        for domain, values in found.domains.items()
    ]
    return [("mean", means), *each]


def _mean(kind: str, value: Interval, base: float) -> str:
    ends = "" if math.isnan(value.low) else f" [{value.low:.3f}, {value.high:.3f}]"
    return f"{_signed(kind, value.estimate)}{ends}{_base(base)}"


def _shown(kind: str, values: Mapping[str, float]) -> str:
    return _signed(kind, values.get(kind, math.nan)) + _base(values.get(f"base_{kind}", math.nan))


def _signed(kind: str, value: float) -> str:
    return f"{value:+.3f}" if kind in PER_METRIC and not math.isnan(value) else number(value)


def _base(value: float) -> str:
    return "" if math.isnan(value) else f" (base {number(value)})"
