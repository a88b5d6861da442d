"""The exceptions of bnorm, one class for each place where the user has to look.

    BnormError
    ├── CfgError       the .cfg file, with the line
    ├── WeightsError   the .weights file
    ├── TensorError    a tensor or an archive of arrays
    ├── OutputError    a file that cannot or must not be written
    ├── ClusterError   a scheduler or its workers
    └── ProofError     a defect of bnorm itself, detected before it wrote anything

The message is `<path>[:line]: <what is wrong>, expected <x>, got <y>`, followed by a second line if the likely cause is
known. An invalid argument raises ValueError. Any other exception, except an `OSError`, is a bug in bnorm.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bnorm.text import printable

if TYPE_CHECKING:
    from pathlib import Path


class BnormError(Exception):
    """A file cannot be used. All facts are attributes; `str(error)` is the message.

    `path` is the file, `line` a line number or None, `what` the problem, `cause` its likely cause or "". `finding` is
    the id under which `check` reports the error, a row of `findings.KINDS`; by default that of the class.
    """

    finding = ""

    def __init__(
        self, path: Path | str, what: str, *, line: int | None = None, cause: str = "", finding: str = ""
    ) -> None:
        from pathlib import Path  # imported late: it takes a tenth of the time of `bnorm --help`

        super().__init__(path, what)  # the arguments for unpickling; the other attributes are restored from the state
        self.path = Path(path)
        self.what = what
        self.line = line
        self.cause = cause
        self.finding = finding or self.finding

    def __str__(self) -> str:
        """Return one line, or two with a cause."""
        line = "" if self.line is None else f":{self.line}"
        cause = self.cause and f"\n       {self.cause}"
        return f"{printable(str(self.args[0]))}{line}: {self.what}{cause}"


class CfgError(BnormError):
    """The dialect rejects the cfg."""

    finding = "cfg-refused"


class WeightsError(BnormError):
    """The weights file does not match the cfg, or its values cannot be used."""

    finding = "weights-foreign"


class TensorError(BnormError):
    """A tensor has the wrong shape, dtype or format."""


class OutputError(BnormError):
    """An output exists already, would overwrite an input, or cannot be written."""


class ClusterError(BnormError):
    """A scheduler does not answer, or its workers cannot do the work. `path` is the scheduler's address or file."""


class ProofError(BnormError):
    """The result failed its own check, so nothing was written; please report it."""
