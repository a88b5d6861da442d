"""`checks.misfit.likeliest`: the choice among several candidates."""

from __future__ import annotations

from support.builders import cfg_source, patch, write_weights
from support.damage import findings


def test_the_plan_with_fewer_bad_variances_is_named_if_sizes_are_equal(tmp_path):
    """Two more classes take as many values as the first layer's batch normalisation."""
    cfg = tmp_path / "net.cfg"
    layers = "convolutional filters=2 | convolutional filters={} | yolo mask=0 anchors=8,8 classes={}"
    cfg.write_text(cfg_source("3x32x32", layers.format(14, 9)))
    weights = write_weights(cfg, tmp_path / "net.weights")
    cfg.write_text(cfg_source("3x32x32", layers.format(12, 7)))
    patch(weights, 20 + 4 * 6, -1.0, -1.0)  # where the variances would be
    assert [found.id for found in findings(cfg, weights)] == ["weights-classes"]
