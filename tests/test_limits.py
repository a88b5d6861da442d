"""What a file under 10 MB may cost, whatever it claims: counts, sizes and refusals, never a time."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from bnorm import cfg as cfgs
from bnorm import network
from bnorm.model import read_model
from conftest import cfg_source, write_weights

BN = "batch_normalize=1"
PARAMETERS = ("scales", "biases", "rolling_mean", "rolling_variance")


def write_pair(folder: Path, net: str, layers: str, fill: float | None = None) -> tuple[Path, Path]:
    """A cfg and weights that fit it: random ones, or one number throughout."""
    cfg, weights = folder / "net.cfg", folder / "net.weights"
    cfg.write_text(cfg_source(net, layers))
    if fill is None:
        return cfg, write_weights(cfg, weights)
    count = (read_model(cfg, None, "alexeyab").layout.nbytes - 20) // 4
    weights.write_bytes(struct.pack("<3iQ", 0, 2, 5, 0) + np.full(count, fill, "<f4").tobytes())
    return cfg, weights


# --- cfgs -------------------------------------------------------------------------------------------------------------


def test_a_cfg_of_more_bytes_than_any_network_has_is_refused(invoke, tmp_path):
    """A [route] of two million numbers took six seconds."""
    cfg = tmp_path / "net.cfg"
    cfg.write_text(cfg_source("4", "connected | route layers=" + ",".join(["0"] * (cfgs.MOST_BYTES // 2))))
    error = invoke("inspect", cfg, exit_code=1).stderr
    assert error.startswith(f"error: {cfg}: more than 524288 bytes, expected a cfg of some kilobytes\n")


def test_a_cfg_of_more_sections_or_lines_than_any_network_has_is_refused(invoke, tmp_path):
    cfg = tmp_path / "net.cfg"
    cfg.write_text(cfg_source("3x8x8", "dropout") + "[dropout]\n" * cfgs.MOST_SECTIONS)
    error = invoke("inspect", cfg, exit_code=1).stderr
    assert error == f"error: {cfg}:2004: more than 2000 sections, expected some hundred\n"
    cfg.write_text(cfg_source("3x8x8", "dropout") + "a=1\n" * cfgs.MOST_LINES)
    error = invoke("inspect", cfg, exit_code=1).stderr
    assert error == f"error: {cfg}:50001: more than 50000 lines, expected some hundred\n"


def test_a_network_of_more_matrices_than_any_has_is_refused(invoke, tmp_path):
    """Each [lstm] makes eight: 5000 of them were 40,000 tables, and 1.7 GB of JSON."""
    cfg = tmp_path / "net.cfg"
    lstm = " | lstm output=1"
    cfg.write_text(cfg_source("3", "lstm output=1" + lstm * (network.MOST_PARTS // 8 - 1)))
    assert len(read_model(cfg).network.layers) == 250
    cfg.write_text(cfg_source("3", "lstm output=1" + lstm * (network.MOST_PARTS // 8)))
    error = invoke("inspect", cfg, exit_code=1).stderr
    assert error.endswith(": [lstm] makes more than 2000 convolutions and matrices, expected some hundred\n")
