"""The page of `bnorm inspect` for weights without a cfg."""

from __future__ import annotations

from collections.abc import Iterator

from bnorm.cli.documents import header_only_document
from bnorm.cli.page import Line, Page, Records
from bnorm.cli.sentences import written_by
from bnorm.darknet.pairing import cfg_names
from bnorm.reports.header import HeaderReport
from bnorm.text import plural

RECORD = ("weights", "version", "written_by", "seen", "header_bytes", "actual_bytes", "floats", "rest_bytes")


def header_page(report: HeaderReport) -> Page:
    """Return the facts from the file alone, and a hint that a cfg gives more."""
    header = report.header
    row = (
        str(report.weights),
        header.version,
        " ".join(header.writers),
        header.seen,
        header.nbytes,
        report.nbytes,
        report.floats,
        report.rest,
    )
    return Page(
        document=lambda: header_only_document(report),
        records=Records(RECORD, [row]),
        summary=list(_summary(report)),
        findings=report.findings,
    )


def _summary(report: HeaderReport) -> Iterator[Line]:
    header = report.header
    rest = f", and {plural(report.rest, 'byte')} more" if report.rest else ""
    yield Line("weights", str(report.weights), wrap=False)
    yield Line("", f"header {header.version}, {written_by(header)}")
    yield Line("", f"{header.seen:,} images seen")
    yield Line("", f"{report.nbytes:,} bytes = {header.nbytes} + 4 × {report.floats:,} floats{rest}")
    names = " or ".join(cfg_names(report.weights))
    yield Line("cfg", f"none given, and no {names} beside the weights or in ../cfg; layers and arrays need it")
