"""Scores of a run and what they say about forgetting; docs/metrics.md has every definition.

alarms.py      classes that ended badly, and what to try
beside.py      each domain's last score beside the untouched base's
flips.py       images that were good and are bad now
further.py     plasticity, forward generalisation, prompt insensitivity and negative flips of a run
classes.py     means of old, new and all classes
labels.py      what a reader needs to know about each score
matrix.py      ResultMatrix of one metric, and the averages taken over it
metrics.py     IoU, F1 and MAE of one mask
store.py       Results: matrices and per-image scores that grow with the stream, and their JSON
bootstrap.py   bootstrap intervals and the paired test between two runs
paired.py      intervals and tests of differences between two runs
gate.py        whether a run is worse than another: verdict and findings
health.py      checks of prompts and predicted IoU
routes.py      which module each domain's images were sent to
summary.py     what a run knows besides scores: bytes, parameters, seconds
tables.py      tables for the terminal
"""

from everseg.results.alarms import Alarm, class_alarms, setting_names
from everseg.results.beside import Beside, base_averages, beside_base, is_worse
from everseg.results.bootstrap import Difference, Interval, headline, intervals, paired_difference
from everseg.results.classes import (
    ClassMeans,
    average_over_steps,
    class_means,
    common_classes,
    retested_classes,
    with_class_row,
)
from everseg.results.flips import Flips, negative_flips
from everseg.results.further import Further, further
from everseg.results.matrix import (
    ResultMatrix,
    average,
    backward_transfer,
    forgetting,
    forward_transfer,
    generalisation,
    plasticity,
    unseen_average,
)
from everseg.results.routes import Routing, routing
from everseg.results.store import BASE, ImageScore, Results
from everseg.results.summary import Summary, bytes_text, stored_bytes
from everseg.results.tables import (
    as_text,
    compare_table,
    domains_table,
    further_lines,
    further_table,
    number,
    table,
    worse_lines,
)

__all__ = [
    "BASE",
    "Alarm",
    "Beside",
    "ClassMeans",
    "Difference",
    "Flips",
    "Further",
    "ImageScore",
    "Interval",
    "ResultMatrix",
    "Results",
    "Routing",
    "Summary",
    "as_text",
    "average",
    "average_over_steps",
    "backward_transfer",
    "base_averages",
    "beside_base",
    "bytes_text",
    "class_alarms",
    "class_means",
    "common_classes",
    "compare_table",
    "domains_table",
    "forgetting",
    "forward_transfer",
    "further",
    "further_lines",
    "further_table",
    "generalisation",
    "headline",
    "intervals",
    "is_worse",
    "negative_flips",
    "number",
    "paired_difference",
    "plasticity",
    "retested_classes",
    "routing",
    "setting_names",
    "stored_bytes",
    "table",
    "unseen_average",
    "with_class_row",
    "worse_lines",
]
