"""`checks.misfit.batch_normalize`: one of cfg and weights has been folded, the other has not."""

from __future__ import annotations

import pytest

import bnorm
from bnorm.checks.findings import KINDS
from bnorm.darknet.autodetect import read_model
from support.builders import BN, cfg_source, write_weights
from support.damage import TEXT, findings
from support.golden import sample


@pytest.fixture
def folded(tmp_path):
    """Fold this pair; return the paths of the folded pair."""

    def run(cfg, weights):
        out = tmp_path / "folded.cfg", tmp_path / "folded.weights"
        bnorm.fold(read_model(cfg, weights), out[1], out[0])
        return out

    return run


@pytest.mark.parametrize("name", ["digits", "detector", "batchnorm"])
def test_folded_weights_are_recognised_with_the_old_cfg(folded, name):
    """The section of a [batchnorm] is removed as well."""
    cfg, weights = sample(name)
    (found,) = findings(cfg, folded(cfg, weights)[1])
    assert (found.id, found.severity) == ("weights-folded", KINDS["weights-folded"].severity)
    assert found.cause


@pytest.mark.parametrize("name", ["digits", "detector", "binary", "conv_recurrent", "recurrent", "deconvolution"])
def test_the_old_weights_are_recognised_with_the_folded_cfg(folded, name):
    cfg, weights = sample(name)
    found, *_ = findings(folded(cfg, weights)[0], weights)
    assert (found.id, found.severity) == ("weights-unfolded", KINDS["weights-unfolded"].severity)
    assert "the cfg has been folded" in found.cause


def test_the_last_layer_seldom_normalises(tmp_path):
    cfg = tmp_path / "net.cfg"
    layers = "convolutional filters=4{0} | convolutional filters=4{0} | convolutional filters=2{1}"
    cfg.write_text(cfg_source("3x8x8", layers.format(f" {BN}", "")))
    weights = write_weights(cfg, tmp_path / "net.weights")
    cfg.write_text(cfg_source("3x8x8", layers.format("", "")))
    (found,) = findings(cfg, weights)
    assert (found.id, found.layer) == ("weights-unfolded", 0)
    assert "lines 5, 7" in found.message


def test_all_layers_may_normalise(tmp_path):
    cfg = tmp_path / "net.cfg"
    layers = "convolutional filters=4{0} | convolutional filters=2{0}"
    cfg.write_text(cfg_source("3x8x8", layers.format(f" {BN}")))
    weights = write_weights(cfg, tmp_path / "net.weights")
    cfg.write_text(cfg_source("3x8x8", layers.format("")))
    (found,) = findings(cfg, weights)
    assert (found.id, found.layer, "lines 5, 7" in found.message) == ("weights-unfolded", 0, True)


def test_three_of_many_lines_are_named(pair, folded):
    cfg, _ = folded(*pair)
    lines = [n for n, line in enumerate(cfg.read_text().splitlines(), 1) if "[conv" in line]
    (found,) = findings(cfg, pair[1])
    assert f"{lines[0]}, {lines[1]}, {lines[2]} and 2 others" in found.message


def test_a_line_that_was_lost_is_named(pair):
    cfg, weights = pair
    cfg.write_text(TEXT.replace("batch_normalize=1\n", "", 1))
    (found,) = findings(cfg, weights)
    line = TEXT.splitlines().index("[convolutional]") + 1
    assert (found.id, found.layer) == ("weights-unfolded", 0)
    assert f"line {line}" in found.message
    assert "lost" in found.cause
