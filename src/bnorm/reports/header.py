"""The report on a weights file without its cfg: the header, and the number of floats after it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bnorm.checks.findings import Finding
from bnorm.checks.weights_file import header_findings
from bnorm.darknet.dialects import AUTO, DIALECTS, candidates
from bnorm.darknet.header import Header, read_header
from bnorm.darknet.layout import FLOAT
from bnorm.errors import WeightsError
from bnorm.files import open_regular


@dataclass(frozen=True, slots=True, kw_only=True)
class HeaderReport:
    """The header of a weights file, the size of the file, and the findings in the header."""

    weights: Path
    header: Header
    nbytes: int
    findings: tuple[Finding, ...]

    @property
    def floats(self) -> int:
        """Return the number of whole float32 values after the header."""
        return (self.nbytes - self.header.nbytes) // FLOAT

    @property
    def rest(self) -> int:
        """Return the number of bytes after the last whole value: 0 in a valid file."""
        return (self.nbytes - self.header.nbytes) % FLOAT


def inspect_header(path: Path | str, dialect: str = AUTO) -> HeaderReport:
    """Read the header as `dialect` does, by default as the fork that wrote it; `WeightsError` if there is none."""
    path = Path(path)
    fork = candidates(dialect)[0]
    with open_regular(path, WeightsError) as file:
        header = read_header(file, path, fork)
        if dialect == AUTO and header.writers:
            header = read_header(file, path, DIALECTS[header.writers[0]])
        nbytes = file.seek(0, 2)
    return HeaderReport(weights=path, header=header, nbytes=nbytes, findings=tuple(header_findings(header)))
