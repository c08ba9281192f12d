"""Which module each domain's images were sent to after the last stage."""

from __future__ import annotations

import math
from typing import Any

from everseg.report.cells import Cell
from everseg.report.data import ReportData
from everseg.report.figures import colour
from everseg.results import routing


def context(data: ReportData) -> dict[str, Any] | None:
    routes = routing(data.results)
    if routes is None:
        return None
    rows, of = [], data.results.domain_of
    for k, domain in enumerate(routes.domains):
        total = int(routes.counts[k].sum())
        cells = [
            _cell(int(routes.counts[k, m]), total, own=of(module) == of(domain))
            for m, module in enumerate(routes.modules)
        ]
        share = routes.right[k]
        right = "unseen" if math.isnan(share) else f"{100 * share:.1f} %"
        rows.append((domain, [*cells, Cell(right, "mean")]))
    return {"modules": routes.modules, "rows_of_domains": rows}


def _cell(count: int, total: int, *, own: bool) -> Cell:
    if not count:
        return Cell("0", "none")
    return Cell(str(count), "learned" if own else "", *colour(count / total, (0.0, 1.0), False))
