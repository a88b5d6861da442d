"""Does a pair fit, is it sound, and if not: why. Everything that is wrong is a finding, never an error."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bnorm.batchnorm.arithmetic import ARITHMETICS
from bnorm.checks.cfg_rules import remarked
from bnorm.checks.channel_rules import examine, scan
from bnorm.checks.findings import Finding, refused, worst_first
from bnorm.checks.misfit_causes import fitting_classes
from bnorm.checks.weights_file import header_findings, misfit
from bnorm.darknet import cfg
from bnorm.darknet.autodetect import read_model
from bnorm.darknet.dialects import DIALECTS
from bnorm.darknet.header import read_header
from bnorm.darknet.layout import Array
from bnorm.darknet.model import Model
from bnorm.darknet.network import Layer
from bnorm.darknet.weights import Weights, open_weights
from bnorm.errors import BnormError, CfgError, WeightsError
from bnorm.files import open_regular
from bnorm.statistics.channels import channels_of


class Check(NamedTuple):
    """What `bnorm check` found, the likeliest cause first; `model` is None where the cfg or the header is refused."""

    cfg: Path
    weights: Path | None
    model: Model | None
    findings: tuple[Finding, ...]

    def count(self, severity: str) -> int:
        """How many findings have this severity."""
        return sum(finding.severity == severity for finding in self.findings)


@np.errstate(all="ignore")  # a file may hold any number, signalling NaN too: no news to the user
def check(cfg_path: Path | str, weights_path: Path | str | None = None, dialect: str = "auto") -> Check:
    """Check a cfg, and a weights file against it. A file that fits is read once, in blocks.

    Only an `OSError`, such as for a missing file, is raised: what is wrong with a file is a finding.
    """
    path, weights = Path(cfg_path), Path(weights_path) if weights_path is not None else None
    if weights:
        weights.stat()  # that it is missing comes before what is wrong in the cfg
    try:
        model = read_model(path, weights, dialect)
    except (CfgError, WeightsError) as error:
        return Check(path, weights, None, (*_classes(error, path, weights, dialect), refused(error)))
    return Check(path, weights, model, worst_first((*(_weights(model) if weights else ()), *remarked(model))))


def _classes(error: BnormError, path: Path, weights: Path | None, dialect: str) -> Iterator[Finding]:
    """Where classes and filters contradict each other, the weights may tell which is right."""
    if error.finding != "cfg-filters" or weights is None:
        return
    try:
        with open_regular(weights, WeightsError) as file:
            for name in DIALECTS if dialect == "auto" else (dialect,):
                header = read_header(file, weights, DIALECTS[name])
                cause = fitting_classes(cfg.read(path), DIALECTS[name], header, file.seek(0, 2))
                if cause:
                    yield cause.finding
                    return
    except WeightsError as other:
        yield refused(other)


def _weights(model: Model) -> Iterator[Finding]:
    with open_weights(model) as weights:
        cause = misfit(weights)
        if cause:
            yield cause
            return
        yield from header_findings(model.header)
        for index, arrays in model.layout.by_layer().items():
            yield from _layer(weights, model.network.layers[index], arrays)


def _layer(weights: Weights, layer: Layer, arrays: tuple[Array, ...]) -> Iterator[Finding]:
    """The arrays of batch normalisation are kept; the others are looked at in blocks."""
    epsilon = ARITHMETICS[weights.model.dialect.name].forward
    for part, channels in channels_of(weights, layer, epsilon).items():
        yield from examine(layer, part, channels)
    examined = {array.part for array in arrays if array.field == "rolling_variance"}
    for array in arrays:
        if array.field == "weights" or array.part not in examined:
            flat = array._replace(shape=(array.size,), stored=(array.size,), axes=None)
            yield from scan(layer, array, weights.blocks(flat))
