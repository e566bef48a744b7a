"""The report of a results folder: one page in the browser, with everything in it."""

from nnreg.report.page import REPORT_FILE, report_after, write_report

__all__ = ["REPORT_FILE", "report_after", "write_report"]
