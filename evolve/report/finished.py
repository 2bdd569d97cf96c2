"""What a finished run leaves for its readers: the report's data, and the page made of it."""

from __future__ import annotations

from pathlib import Path

from evolve.report.data import ReportData
from evolve.report.page import write_report
from evolve.run_files import REPORT, REPORT_DATA
from memory.ledger import publish_json, read_record


def read_report(directory: Path) -> ReportData | None:
    """What a finished run reported; None while it has not ended. A page that is missing is made again."""
    path = directory / REPORT_DATA
    if not path.is_file():
        return None
    data = read_record(path, ReportData)
    if not (directory / REPORT).is_file():
        write_report(data, directory / REPORT)
    return data


def leave_report(directory: Path, data: ReportData) -> None:
    """Write the page, then the data; with the data the run counts as finished."""
    write_report(data, directory / REPORT)
    publish_json(directory / REPORT_DATA, data)
