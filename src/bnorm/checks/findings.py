"""The kinds of findings: one table, each row with a stable id, a severity, and the likely cause.

error     the network cannot work with the files as they are
warning   the network may not compute what was meant, here or in another program
note      worth knowing; no action is needed
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from bnorm.errors import BnormError

SEVERITIES = ("error", "warning", "note")


class Kind(NamedTuple):
    """A row of the table. Anything that a dialect refuses outright is an error, regardless of `severity`."""

    id: str
    severity: str
    meaning: str
    cause: str


class Finding(NamedTuple):
    """Something that the user should know: where it is, what it is, and the likely cause in this case.

    A field is None where it does not apply: `line` of the cfg, index of the `layer`, name of the `part` of a layer that
    has several, `channel` of the layer or part. The message does not repeat them, except for kinds `ABOUT_THE_FILE`:
    those are about the file, and `layer` is where it stops fitting.
    """

    id: str
    severity: str
    layer: int | None
    channel: int | None
    message: str
    line: int | None = None
    part: str | None = None
    cause: str | None = None


_ERROR, _WARNING, _NOTE = SEVERITIES

_CFG = (
    Kind("cfg-bom", _ERROR, "begins with a UTF-8 byte order mark", "saved by a Windows editor"),
    Kind("cfg-not-text", _ERROR, "is not UTF-8 text", "another encoding, or another kind of file given as CFG"),
    Kind("cfg-html", _ERROR, "is a web page", "a download page was saved instead of the file"),
    Kind("cfg-lfs", _ERROR, "is a Git LFS pointer", "the repository was cloned without git-lfs"),
    Kind("cfg-cr", _WARNING, "lines end in CR LF or in CR alone", "a Windows or old Mac editor"),
    Kind("cfg-duplicate-key", _WARNING, "a key is given twice", "the first one counts; hank refuses it"),
    Kind("cfg-inline-comment", _WARNING, "# within a value", "only hank allows comments there; a note after a number"),
    Kind("cfg-number", _NOTE, "text after a number", "a typo; darknet stops there, other readers fail"),
    Kind("cfg-crash", _WARNING, "the fork's own program crashes on it", "a bug in that fork"),
    Kind("cfg-miscomputed", _WARNING, "the fork's CPU path misreads the input of a convolution", "a bug in that fork"),
    Kind("cfg-assertion", _WARNING, "an assertion fails that the fork's build leaves out", "layers of other sizes"),
    Kind("cfg-list", _WARNING, "a list that is not read the way it looks", "a missing comma, or one too many"),
    Kind("cfg-anchors", _WARNING, "fewer anchors than `num` and `mask` need", "the missing ones are 0.5, a default"),
    Kind("cfg-activation", _WARNING, "an activation that the dialect lacks", "a typo, or a name from another fork"),
    Kind(
        "cfg-no-weights", _WARNING, "a layer whose input does not matter", "more groups than channels, or a size of 0"
    ),
    Kind("cfg-no-value", _WARNING, "a key without a readable value", "the line is dropped, or hides a later one"),
    Kind("cfg-unknown-key", _NOTE, "a key that the dialect ignores", "a typo, or a key from another fork"),
    Kind("cfg-unknown-section", _ERROR, "a section that the dialect lacks", "a typo, or a cfg for another fork"),
    Kind("cfg-index", _ERROR, "a layer number out of range", "layers were added or removed above it"),
    Kind("cfg-filters", _ERROR, "`filters` does not match its [yolo]", "only one of classes and filters was changed"),
    Kind("cfg-heads", _WARNING, "detection layers with different classes", "only one of them was changed"),
    Kind("cfg-refused", _ERROR, "anything else that the fork rejects", "see the message"),
)

_WEIGHTS = (
    Kind("weights-empty", _ERROR, "has no bytes", "a failed download, or a full disk"),
    Kind("weights-text", _ERROR, "is text", "a saved error message, or the cfg given as WEIGHTS"),
    Kind("weights-html", _ERROR, "is a web page", "a download page was saved instead of the file"),
    Kind("weights-lfs", _ERROR, "is a Git LFS pointer", "the repository was cloned without git-lfs"),
    Kind("weights-archive", _ERROR, "is an archive", "it was not unpacked"),
    Kind("weights-foreign", _ERROR, "is another program's file", "a model of PyTorch, ONNX, Keras, ..."),
    Kind("weights-reencoded", _ERROR, "was re-encoded as UTF-8 text", "an editor or a tool opened it as text"),
    Kind("weights-zeros", _ERROR, "is all zeros from some byte on", "an interrupted download or copy"),
    Kind("weights-header-offset", _ERROR, "the header is 4 bytes off", "its version and its size disagree"),
    Kind("weights-classes", _ERROR, "fits another number of classes", "the cfg is for another data set"),
    Kind("weights-folded", _ERROR, "fits without batch normalisation", "trained without it, or folded"),
    Kind("weights-unfolded", _ERROR, "fits with batch normalisation", "its lines were lost, or the cfg was folded"),
    Kind("weights-channels", _ERROR, "fits another number of image channels", "the cfg was changed for other images"),
    Kind("weights-value", _ERROR, "fits another value in one layer", "the cfg was changed after training"),
    Kind("weights-layer", _ERROR, "fits with a layer more, or fewer", "a section was added to the cfg, or lost"),
    Kind("weights-dialect", _ERROR, "fits another dialect", "the wrong --dialect"),
    Kind("weights-partial", _ERROR, "ends between two layers", "a partial file, NAME.conv.N"),
    Kind("weights-cut", _ERROR, "ends too early", "an interrupted download or copy"),
    Kind("weights-left-over", _ERROR, "has extra bytes at the end", "layers missing in the cfg, or bytes added"),
    Kind("weights-other-cfg", _ERROR, "belongs to another cfg", "files of two different networks"),
    Kind("header-version", _WARNING, "a version that no fork writes", "another program, or a damaged header"),
    Kind("header-seen", _WARNING, "implausibly many images seen", "a damaged header"),
)

_VALUES = (
    Kind("nan", _ERROR, "values that are NaN", "training diverged, or the file is damaged"),
    Kind("infinite", _ERROR, "infinite values", "training diverged, or the file is damaged"),
    Kind("variance-negative", _ERROR, "a negative rolling variance", "arrays read at wrong offsets, or variance - ε"),
    Kind("variance-infinite", _ERROR, "an infinite rolling variance", "training diverged"),
    Kind("variance-zero", _WARNING, "a rolling variance of 0", "the channel's input never changed"),
    Kind("variance-tiny", _WARNING, "a rolling variance below ε = 1e-5", "the channel's input hardly changed"),
    Kind("epsilon-sensitive", _WARNING, "the choice of ε changes the gain by more than 1 %", "a small variance"),
    Kind("scale-diverged", _WARNING, "scales far larger than the layer's others", "training diverged"),
    Kind(
        "untrained", _WARNING, "scales as initialised, with statistics or biases", "never trained, or `darknet reset`"
    ),
    Kind("dead-channels", _NOTE, "output does not depend on the input", "training switched the channel off"),
    Kind(
        "near-dead-channels", _NOTE, "output hardly varies, or a relu cuts it", "training is switching the channel off"
    ),
    Kind("constant-channels", _NOTE, "dead channels with a non-zero constant output", "biases of the next layer"),
)

KINDS: dict[str, Kind] = {row.id: row for row in (*_CFG, *_WEIGHTS, *_VALUES)}

ABOUT_THE_FILE = frozenset(row.id for row in _WEIGHTS)


def make_finding(
    kind: str,
    message: str,
    *,
    line: int | None = None,
    layer: int | None = None,
    part: str | None = None,
    channel: int | None = None,
    cause: str | None = None,
    severity: str | None = None,
) -> Finding:
    """Return a finding of this kind; KeyError for an id that is not in the table.

    `severity` overrides that of the row, for a milder case of the same kind.
    """
    return Finding(
        id=kind,
        severity=severity or KINDS[kind].severity,
        layer=layer,
        channel=channel,
        message=message,
        line=line,
        part=part or None,
        cause=cause,
    )


def worst_first(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Return the findings by severity: errors, warnings, notes, each group in the given order."""
    return tuple(sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity)))


def from_error(error: BnormError) -> Finding:
    """Return a finding of severity error for an exception that stops every dialect in question."""
    return make_finding(error.finding, error.what, line=error.line, cause=error.cause or None, severity=_ERROR)
