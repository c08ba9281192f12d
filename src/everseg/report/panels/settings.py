"""The run's configuration as it was resolved."""

from __future__ import annotations

from typing import Any

import yaml

from everseg.report.data import ReportData


def context(data: ReportData) -> dict[str, Any] | None:
    if not data.config:
        return None
    return {"settings": yaml.safe_dump(dict(data.config), sort_keys=False, allow_unicode=True)}
