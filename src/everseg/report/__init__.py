"""One run as a web page, and pictures of results for documents.

data.py       ReportData, MaskExample and MapExample: all that a report needs, wherever it comes from
collect.py    from a run and its stream to ReportData
choice.py     which test images to show, and predicting them again
page.py       write_report: the page, from templates/
panels/       one panel of the page per module and template
cells.py      what panels are made of: cells, cards, pictures, charts
figures.py    result matrix and curves as matplotlib figures
storyboard.py one wide picture that compares methods
"""

from everseg.report.choice import map_examples, pick
from everseg.report.data import MapExample, MaskExample, ReportData
from everseg.report.figures import plot_curves, plot_matrix
from everseg.report.page import write_report
from everseg.report.storyboard import story

__all__ = [
    "MapExample",
    "MaskExample",
    "ReportData",
    "map_examples",
    "pick",
    "plot_curves",
    "plot_matrix",
    "story",
    "write_report",
]
