"""What a run scored, and what the scores say about forgetting: see docs/metrics.md for every definition.

beside.py      each domain's last score beside the untouched base's
classes.py     means of old, new and all classes
matrix.py      ResultMatrix of one metric, and the averages taken over it
store.py       Results: matrices and per-image scores that grow with the stream, and their JSON
bootstrap.py   bootstrap intervals and the paired test between two runs
routes.py      which module each domain's images were sent to
summary.py     what a run knows besides scores: bytes, parameters, seconds
tables.py      tables for the terminal
"""

from everseg.results.beside import Beside, base_averages, beside_base, is_worse
from everseg.results.bootstrap import Difference, Interval, headline, intervals, paired_difference
from everseg.results.classes import (
    ClassMeans,
    average_over_steps,
    class_means,
    retested_classes,
    with_class_row,
)
from everseg.results.matrix import (
    ResultMatrix,
    average,
    backward_transfer,
    forgetting,
    forward_transfer,
    unseen_average,
)
from everseg.results.routes import Routing, routing
from everseg.results.store import BASE, ImageScore, Results
from everseg.results.summary import Summary, bytes_text, stored_bytes
from everseg.results.tables import as_text, compare_table, domains_table, number, table, worse_lines

__all__ = [
    "BASE",
    "Beside",
    "ClassMeans",
    "Difference",
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
    "class_means",
    "compare_table",
    "domains_table",
    "forgetting",
    "forward_transfer",
    "headline",
    "intervals",
    "is_worse",
    "number",
    "paired_difference",
    "retested_classes",
    "routing",
    "stored_bytes",
    "table",
    "unseen_average",
    "with_class_row",
    "worse_lines",
]
