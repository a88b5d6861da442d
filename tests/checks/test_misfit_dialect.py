"""`checks.misfit.dialect`: a file whose size is that of another dialect's plan."""

from __future__ import annotations

from bnorm.checks.misfit.dialect import other_dialects
from bnorm.darknet.autodetect import read_model
from support.damage import findings, headed
from support.golden import LAYOUTS


def test_a_file_of_another_dialect_fits_that_one():
    """pjreddie stores no biases of [batchnorm]."""
    (found,) = findings(LAYOUTS / "batchnorm.cfg", LAYOUTS / "batchnorm.pjreddie.weights", "alexeyab")
    assert found.id == "weights-dialect"
    assert "--dialect pjreddie" in found.cause


def test_the_header_is_that_of_the_other_dialect(pair):
    """From version 1000 on, pjreddie reads a `seen` of 4 bytes; the others read 8."""
    cfg, weights = pair
    weights.write_bytes(headed(1000, 0, 0)[:-4])
    (candidate,) = other_dialects(read_model(cfg, weights, "alexeyab"))
    assert (candidate.finding.id, candidate.layout.arrays[0].offset) == ("weights-dialect", 16)
    assert candidate.layout.nbytes == weights.stat().st_size
