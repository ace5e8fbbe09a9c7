"""The report: texts as token heat maps, their scores and distributions, in one HTML file."""

from nll.web._drawing import Drawing
from nll.web._page import report_html, write_report

__all__ = ["Drawing", "report_html", "write_report"]
