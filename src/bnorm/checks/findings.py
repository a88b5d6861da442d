"""What bnorm finds in a model: one table of all kinds, each with a stable id, a severity, and its likely cause.

error     the network cannot work as the files stand
warning   it may compute something else than was meant, here or in another program
note      worth knowing; nothing has to be done
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from bnorm.errors import BnormError

SEVERITIES = ("error", "warning", "note")


class Kind(NamedTuple):
    """A row of the table. What a dialect refuses outright is an error, whatever stands here."""

    id: str
    severity: str
    meaning: str
    cause: str


class Finding(NamedTuple):
    """Something that a person should know, with its place where it has one."""

    id: str
    severity: str
    layer: int | None
    channel: int | None
    message: str


_ERROR, _WARNING, _NOTE = SEVERITIES

KINDS: dict[str, Kind] = {
    row.id: row
    for row in (
        # the cfg
        Kind("cfg-bom", _ERROR, "begins with a UTF-8 byte order mark", "a Windows editor saved it so"),
        Kind("cfg-not-text", _ERROR, "is not UTF-8 text", "another encoding; or the weights were given as CFG"),
        Kind("cfg-cr", _WARNING, "its lines end in CR LF, or in CR alone", "a Windows or old Mac editor"),
        Kind("cfg-duplicate-key", _WARNING, "a key is given twice", "the first counts; hank refuses it"),
        Kind("cfg-inline-comment", _WARNING, "# within a value", "only hank knows comments there"),
        Kind("cfg-crash", _WARNING, "the fork's own program crashes on it", "a defect of that fork"),
        Kind("cfg-list", _WARNING, "a list that is read otherwise than it looks", "a comma is missing, or too many"),
        Kind("cfg-activation", _WARNING, "an activation that the dialect lacks", "a typing error, or another fork's"),
        Kind(
            "cfg-no-value",
            _WARNING,
            "a key without a value that can be read",
            "the line is dropped, or hides a later one",
        ),
        Kind("cfg-unknown-key", _NOTE, "a key that the dialect ignores", "a typing error, or another fork's key"),
        Kind(
            "cfg-unknown-section", _ERROR, "a section that the dialect lacks", "a typing error, or another fork's cfg"
        ),
        Kind("cfg-index", _ERROR, "a layer number out of range", "layers were added or removed above it"),
        Kind("cfg-filters", _ERROR, "`filters` does not match its [yolo]", "one of classes and filters was changed"),
        Kind("cfg-refused", _ERROR, "anything else that the fork fails on", "the message says what"),
        # the weights file
        Kind("weights-empty", _ERROR, "has no bytes", "a failed download, or a full disk"),
        Kind("weights-text", _ERROR, "is text", "a saved error message; or the cfg was given as WEIGHTS"),
        Kind("weights-html", _ERROR, "is a web page", "a download page was saved instead of the file"),
        Kind("weights-lfs", _ERROR, "is a Git LFS pointer", "the repository was cloned without git-lfs"),
        Kind("weights-archive", _ERROR, "is an archive", "it was not unpacked"),
        Kind("weights-foreign", _ERROR, "is another program's file", "a model of PyTorch, ONNX, Keras, ..."),
        Kind("weights-reencoded", _ERROR, "was re-encoded as UTF-8 text", "an editor or a tool opened it as text"),
        Kind("weights-zeros", _ERROR, "is all zeros from some byte on", "an interrupted download or copy"),
        Kind("weights-header-offset", _ERROR, "the header is 4 bytes off", "its version and its size disagree"),
        Kind("weights-classes", _ERROR, "fits another number of classes", "the cfg is for another data set"),
        Kind("weights-folded", _ERROR, "fits without batch normalisation", "it was folded, and the cfg was not"),
        Kind("weights-unfolded", _ERROR, "fits with batch normalisation", "the cfg was folded, and it was not"),
        Kind("weights-dialect", _ERROR, "fits another dialect", "the wrong --dialect"),
        Kind("weights-partial", _ERROR, "ends between two layers", "a partial file, NAME.conv.N"),
        Kind("weights-cut", _ERROR, "ends too early", "an interrupted download or copy"),
        Kind("weights-left-over", _ERROR, "bytes are left over", "layers are missing at the cfg's end"),
        Kind("weights-other-cfg", _ERROR, "belongs to another cfg", "files of two networks"),
        Kind("header-version", _WARNING, "a version that no fork writes", "another program, or a damaged header"),
        Kind("header-seen", _WARNING, "too many images seen to be true", "a damaged header"),
        # the numbers
        Kind("nan", _ERROR, "values that are not a number", "training diverged, or the file is damaged"),
        Kind("infinite", _ERROR, "infinite values", "training diverged, or the file is damaged"),
        Kind(
            "variance-negative", _ERROR, "a negative rolling variance", "arrays read at the wrong place, variance - ε"
        ),
        Kind("variance-infinite", _ERROR, "an infinite rolling variance", "training diverged"),
        Kind("variance-zero", _WARNING, "a rolling variance of 0", "the channel's input never changed"),
        Kind("variance-tiny", _WARNING, "a rolling variance under ε = 1e-5", "the channel's input hardly changed"),
        Kind("epsilon-sensitive", _WARNING, "ε moves the gain by over 1 %", "a small rolling variance"),
        Kind("scale-diverged", _WARNING, "scales far beyond the layer's others", "training diverged"),
        Kind("untrained", _WARNING, "scales and statistics as initialised", "never trained, or `darknet reset`"),
        Kind("dead-channels", _NOTE, "whatever comes in, the same goes out", "training gave the channel up"),
        Kind("near-dead-channels", _NOTE, "hardly vary, or stay below a relu's 0", "training is giving the channel up"),
        Kind("constant-channels", _NOTE, "dead channels that put out no 0", "they act as biases of the next layer"),
    )
}


def found(kind: str, message: str, *, layer: int | None = None, channel: int | None = None) -> Finding:
    """A finding of this kind, with its row's severity; KeyError for an id that is not in the table."""
    return Finding(kind, KINDS[kind].severity, layer, channel, message)


def worst_first(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Errors, then warnings, then notes, each in the order given."""
    return tuple(sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity)))


def refused(error: BnormError) -> Finding:
    """The finding that an error is: no dialect in question goes on behind it."""
    place = f"line {error.line}: " if error.line else ""
    cause = f"; {error.cause}" if error.cause else ""
    return Finding(KINDS[error.finding].id, _ERROR, None, None, f"{place}{error.what}{cause}")
