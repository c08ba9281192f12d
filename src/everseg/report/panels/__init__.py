"""The panels of a report: one module and one template each, both of the panel's name.

A module's `context` makes of a run's data what the template shows, or None where there is nothing to show.

matrix    each domain's score after each stage: key numbers, result matrix, curves
further   plasticity, generalisation, prompt insensitivity and negative flips, of each domain
routing   which module each domain's images were sent to
later     how the run continues with later images of domains that it knew
masks     test images with clicks, true masks and predicted ones
means     old, new and all classes after each step: key numbers, means, curves, each class
maps      test images with true and predicted class maps
training  losses, and scores on validation images, after each epoch
costs     bytes kept; seconds and memory of each stage
merges    how well each merge in closed form could be solved
settings  the run's configuration
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from everseg.report.data import ReportData
from everseg.report.panels import (
    costs,
    further,
    later,
    maps,
    masks,
    matrix,
    means,
    merges,
    routing,
    settings,
    training,
)

Context = Mapping[str, Any]

PANELS: dict[str, Callable[[ReportData], Context | None]] = {
    "matrix": matrix.context,
    "further": further.context,
    "routing": routing.context,
    "later": later.context,
    "masks": masks.context,
    "means": means.context,
    "maps": maps.context,
    "training": training.context,
    "costs": costs.context,
    "merges": merges.context,
    "settings": settings.context,
}
