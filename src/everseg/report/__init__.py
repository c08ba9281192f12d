"""One run as a web page, and pictures of results for documents.

data.py       ReportData and Example: all that a report needs, wherever it comes from
choice.py     which test images to show
page.py       write_report: the page
scores.py costs.py examples.py    its parts
figures.py    result matrix and curves as matplotlib figures
pictures.py   an image with masks and clicks drawn on it
storyboard.py one wide picture that compares methods
"""

from everseg.report.choice import pick
from everseg.report.data import Example, ReportData
from everseg.report.figures import plot_curves, plot_matrix
from everseg.report.page import write_report
from everseg.report.storyboard import story

__all__ = ["Example", "ReportData", "pick", "plot_curves", "plot_matrix", "story", "write_report"]
