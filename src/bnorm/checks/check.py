"""`bnorm check`: whether a pair fits and is sound, and if not, why. Every problem is a finding, never an error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from bnorm.batchnorm.arithmetic import default_epsilon
from bnorm.batchnorm.formulas import quiet
from bnorm.checks.cfg_rules import cfg_findings
from bnorm.checks.channel_rules import examine, scan
from bnorm.checks.findings import Finding, from_error, worst_first
from bnorm.checks.heads import disagreement, heads_of
from bnorm.checks.weights_file import file_findings, header_findings
from bnorm.darknet import cfg
from bnorm.darknet.autodetect import read_model
from bnorm.darknet.cfg import CfgText
from bnorm.darknet.dialects import Dialect, candidates
from bnorm.darknet.header import read_header
from bnorm.darknet.layout import Array
from bnorm.darknet.model import Model
from bnorm.darknet.network import Layer
from bnorm.darknet.weights import Weights, open_weights
from bnorm.errors import BnormError, CfgError, WeightsError
from bnorm.files import open_regular
from bnorm.statistics.channels import channels_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """The findings on a cfg and its weights, worst first; `model` is None where the cfg or the header is rejected."""

    cfg: Path
    weights: Path | None
    model: Model | None
    findings: tuple[Finding, ...]

    def count(self, severity: str) -> int:
        """Return how many findings have this severity."""
        return sum(finding.severity == severity for finding in self.findings)

    def __repr__(self) -> str:
        weights = f", weights={str(self.weights)!r}" if self.weights else ""
        return f"<Check: cfg={str(self.cfg)!r}{weights}, findings={len(self.findings)}>"


@quiet
def check(cfg_path: Path | str, weights_path: Path | str | None = None, dialect: str = "auto") -> Check:
    """Check a cfg, and a weights file against it. A file that fits is read once, in blocks.

    Only an `OSError` is raised, such as for a missing file: problems in a file are findings. ValueError for an
    unknown dialect.
    """
    forks = candidates(dialect)
    path, weights = Path(cfg_path), Path(weights_path) if weights_path is not None else None
    if weights:
        weights.stat()  # a missing file is reported before problems in the cfg
    try:
        model = read_model(path, weights, dialect)
    except (CfgError, WeightsError) as error:
        findings = tuple(_refused(error, path, weights, forks))
        return Check(cfg=path, weights=weights, model=None, findings=findings)
    about_weights = tuple(_weights(model)) if weights else ()
    about_cfg = cfg_findings(model.network)
    if any(finding.id == "weights-classes" for finding in about_weights):  # cfg-heads would only repeat it
        about_cfg = tuple(finding for finding in about_cfg if finding.id != "cfg-heads")
    return Check(cfg=path, weights=weights, model=model, findings=worst_first((*about_weights, *about_cfg)))


def _refused(error: BnormError, path: Path, weights: Path | None, forks: tuple[Dialect, ...]) -> Iterator[Finding]:
    """Yield the error as a finding, and the number of classes in the weights where classes and filters contradict.

    Heads that disagree give one finding: the weights tell which of the heads is right.
    """
    finding = from_error(error)
    if error.finding != "cfg-filters":
        yield finding
        return
    text = cfg.read(path)
    differences = _differences(text, forks)
    of_weights = tuple(_classes(text, weights, forks)) if weights else ()
    yield from of_weights
    if not differences:
        yield finding
    elif not any(found.id == "weights-classes" for found in of_weights):
        yield finding._replace(message=f"{finding.message}; {differences}")


def _differences(text: CfgText, forks: tuple[Dialect, ...]) -> str:
    """Return how the heads disagree, as the first fork reads them that can."""
    for fork in forks:
        with suppress(CfgError):
            return disagreement(heads_of(cfg.sections(text, fork)))
    return ""


def _classes(text: CfgText, weights: Path, forks: tuple[Dialect, ...]) -> Iterator[Finding]:
    """Yield the number of classes in the weights, or a problem in their header."""
    from bnorm.checks.misfit.classes import fitting_classes  # a valid cfg need not wait for this import

    try:
        with open_regular(weights, WeightsError) as file:
            for fork in forks:
                header = read_header(file, weights, fork)
                candidate = fitting_classes(text, fork, header, file.seek(0, 2))
                if candidate:
                    yield candidate.finding
                    return
    except WeightsError as other:
        yield from_error(other)


def _weights(model: Model) -> Iterator[Finding]:
    with open_weights(model, allow_misfit=True) as weights:
        misfit = file_findings(weights)
        if misfit:
            yield from misfit
            return
        yield from header_findings(model.header)
        for index, arrays in model.layout.by_layer().items():
            yield from _layer(weights, model.network.layers[index], arrays)


def _layer(weights: Weights, layer: Layer, arrays: tuple[Array, ...]) -> Iterator[Finding]:
    """Yield the findings in a layer: arrays of batch normalisation are read whole, all others in blocks."""
    epsilon = default_epsilon(weights.model.dialect.name)
    for part, channels in channels_of(weights, layer, epsilon, {}).items():
        yield from examine(weights.model, layer, part, channels)
    examined = {array.part for array in arrays if array.field == "rolling_variance"}
    for array in arrays:
        if array.field == "weights" or array.part not in examined:
            flat = array._replace(shape=(array.size,), stored=(array.size,), axes=None)
            yield from scan(layer, array, weights.blocks(flat))
