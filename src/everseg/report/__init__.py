"""One run as a web page, and pictures of results for documents.

data.py       ReportData and Example: all that a report needs, wherever it comes from
choice.py     which test images to show
page.py       write_report: the page
scores.py costs.py examples.py    its parts
classscores.py classexamples.py   its parts where columns are classes; palette.py: a colour for each class
figures.py    result matrix and curves as matplotlib figures
pictures.py   an image with masks and clicks drawn on it
storyboard.py one wide picture that compares methods
"""

from everseg.report.choice import pick
from everseg.report.classexamples import class_examples
from everseg.report.data import ClassExample, Example, ReportData
from everseg.report.figures import plot_curves, plot_matrix
from everseg.report.page import write_report
from everseg.report.storyboard import story

__all__ = [
    "ClassExample",
    "Example",
    "ReportData",
    "class_examples",
    "pick",
    "plot_curves",
    "plot_matrix",
    "story",
    "write_report",
]
