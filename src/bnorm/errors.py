"""What can go wrong, as four kinds that send the user to four different places.

    BnormError
    ├── CfgError       the .cfg file, with the line
    ├── WeightsError   the .weights file
    ├── TensorError    a tensor given to `run`
    └── OutputError    a file that was to be written

A message is one sentence: `<path>[:line]: <what is wrong>, expected <x>, got <y>`; a second line, where there is one,
names the likely cause. Anything that is not a `BnormError` or an `OSError` is a bug in bnorm and keeps its traceback.
"""

from __future__ import annotations

from pathlib import Path

from bnorm.text import printable


class BnormError(Exception):
    """Something is wrong with a file: `path`, `line` (or None), `what`, and the likely `cause` (or an empty text).

    `finding` is the id that `check` reports it by, a row of `findings.KINDS`; by default its class's.
    """

    finding = ""

    def __init__(
        self, path: Path | str, what: str, *, line: int | None = None, cause: str = "", finding: str = ""
    ) -> None:
        self.path = Path(path)
        self.what = what
        self.line = line
        self.cause = cause
        self.finding = finding or self.finding
        place = printable(str(path)) + (f":{line}" if line is not None else "")
        super().__init__(f"{place}: {what}" + (f"\n       {cause}" if cause else ""))


class CfgError(BnormError):
    """The cfg cannot be read as the dialect reads it."""

    finding = "cfg-refused"


class WeightsError(BnormError):
    """The weights file is not what the cfg plans, or its numbers cannot be used."""

    finding = "weights-foreign"


class TensorError(BnormError):
    """A tensor has the wrong shape, dtype or format."""


class OutputError(BnormError):
    """An output exists already, or would overwrite an input."""


class ProofError(BnormError):
    """The proof of a written model failed: a defect of bnorm."""
