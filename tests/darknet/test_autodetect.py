"""`darknet.autodetect`: reading a model, and the choice of its dialect if none is given."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from bnorm.checks.check import check
from bnorm.darknet.autodetect import read_model
from bnorm.darknet.dialects import candidates
from bnorm.darknet.model import Model
from bnorm.errors import CfgError, WeightsError
from support.builders import cfg_source, write_weights
from support.golden import LAYOUTS, Golden


def guessed(folder: Path, net: str, layers: str) -> Model:
    """The model of a cfg alone."""
    cfg = folder / "net.cfg"
    cfg.write_text(cfg_source(net, layers))
    return read_model(cfg)


def written(name: str, dialect: str) -> Model:
    """The model of a golden network that this fork wrote."""
    cfg = LAYOUTS / f"{name}.cfg"
    return read_model(cfg, LAYOUTS / f"{name}.{dialect}.weights")


# --- a given dialect --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", ["pjreddie", "alexeyab", "hank"])
def test_a_given_dialect_is_used_and_needs_no_reason(tiny, dialect):
    model = read_model(*tiny, dialect)
    assert (model.dialect.name, model.reason) == (dialect, "")


def test_a_given_dialect_is_used_even_where_it_fails(tmp_path):
    cfg = tmp_path / "net.cfg"
    cfg.write_text(cfg_source("3x8x8", "deconvolutional"))
    with pytest.raises(CfgError, match="unknown to alexeyab"):
        read_model(cfg, dialect="alexeyab")


def test_a_model_without_weights_neither_fits_nor_misfits(tiny):
    model = read_model(tiny[0])
    assert (model.fits, model.nbytes, model.layout.nbytes) == (None, None, 556)


def test_a_model_knows_whether_its_file_has_the_planned_size(tiny):
    cfg, weights = tiny
    assert read_model(cfg, weights).fits is True
    weights.write_bytes(weights.read_bytes() + b"\0")
    assert read_model(cfg, weights).fits is False


# --- dialect auto -----------------------------------------------------------------------------------------------------


def test_a_golden_pair_is_read_as_the_fork_that_wrote_it(layout_case: Golden):
    """Nothing distinguishes hank's files from alexeyab's: both are read the same way."""
    model = read_model(layout_case.cfg, layout_case.weights)
    expected = "alexeyab" if layout_case.dialect == "hank" else layout_case.dialect
    assert (model.dialect.name, model.fits) == (expected, True)


@pytest.mark.parametrize(
    ("layer", "dialect"),
    [
        ("deconvolutional", "pjreddie"),
        ("l2norm", "pjreddie"),
        ("conv_lstm output=2", "alexeyab"),
        ("implicit", "alexeyab"),
        ("reorg3d stride=2", "alexeyab"),
    ],
)
def test_a_section_that_one_fork_knows_decides(tmp_path, layer, dialect):
    model = guessed(tmp_path, "4x8x8", layer)
    assert model.dialect.name == dialect
    assert "refuses line 5 of the cfg" in model.reason


@pytest.mark.parametrize(("name", "dialect"), [("rnn", "pjreddie"), ("batchnorm", "pjreddie"), ("rnn_ab", "alexeyab")])
def test_the_size_of_the_file_decides(name, dialect):
    model = written(name, dialect)
    assert model.dialect.name == dialect
    assert "the file's size does not fit" in model.reason


def test_the_size_decides_before_the_version(tmp_path):
    """pjreddie's file with the version that alexeyab writes: only pjreddie's plan has its size."""
    weights = tmp_path / "rnn.weights"
    weights.write_bytes(struct.pack("<3i", 0, 2, 5) + (LAYOUTS / "rnn.pjreddie.weights").read_bytes()[12:])
    assert read_model(LAYOUTS / "rnn.cfg", weights).dialect.name == "pjreddie"


def test_a_header_that_only_one_fork_reads_as_16_bytes_decides(tmp_path):
    cfg, weights = tmp_path / "net.cfg", tmp_path / "net.weights"
    cfg.write_text(cfg_source("3", "connected output=2"))
    weights.write_bytes(struct.pack("<4i", 0, 2000, 0, 7) + bytes(4 * 8))
    model = read_model(cfg, weights)
    assert (model.dialect.name, model.header.nbytes, model.fits) == ("pjreddie", 16, True)


@pytest.mark.parametrize(
    ("layer", "dialect"),
    [
        ("crnn output_filters=2 hidden_filters=2 pad=1", "pjreddie"),
        ("convolutional numload=1", "pjreddie"),
        ("rnn output=2 hidden=3", "alexeyab"),
        ("convolutional stride_x=2 colour=red", "alexeyab"),
    ],
)
def test_the_keys_of_the_cfg_decide(tmp_path, layer, dialect):
    model = guessed(tmp_path, "4x8x8", layer)
    assert model.dialect.name == dialect
    assert "keys" in model.reason


@pytest.mark.parametrize("name", ["gru", "lstm"])
@pytest.mark.parametrize("dialect", ["pjreddie", "alexeyab"])
def test_the_version_decides_between_two_orders_of_the_same_size(name, dialect):
    model = written(name, dialect)
    assert model.dialect.name == dialect
    assert "different header version" in model.reason


def test_if_nothing_decides_the_dialect_is_alexeyab(tmp_path):
    model = guessed(tmp_path, "3x8x8", "convolutional filters=2 batch_normalize=1")
    assert (model.dialect.name, "nothing in the files" in model.reason) == ("alexeyab", True)


def test_a_file_that_no_plan_fits_is_read_by_the_other_clues(tmp_path):
    weights = tmp_path / "gru.weights"
    weights.write_bytes((LAYOUTS / "gru.pjreddie.weights").read_bytes() + b"\0")
    model = read_model(LAYOUTS / "gru.cfg", weights)
    assert (model.dialect.name, model.fits) == ("pjreddie", False)


def test_the_reason_is_one_line(layout_case: Golden):
    assert len(read_model(layout_case.cfg, layout_case.weights).reason.splitlines()) == 1


def test_if_every_dialect_fails_the_error_of_the_one_that_came_furthest_is_raised(tmp_path):
    """Only pjreddie has [deconvolutional]: the other two forks stop there, at line 5."""
    with pytest.raises(CfgError, match="layers=9 points ahead") as caught:
        guessed(tmp_path, "3x8x8", "deconvolutional | dropout | route layers=9")
    assert caught.value.line == 8


def test_if_all_dialects_fail_at_the_same_line_the_error_of_the_default_is_raised(tmp_path):
    with pytest.raises(CfgError, match="unknown to alexeyab"):
        guessed(tmp_path, "3x8x8", "convolutionnal")


def test_a_file_that_is_not_weights_is_refused_without_a_dialect_as_well(tiny):
    cfg, weights = tiny
    weights.write_text("404: Not Found")
    with pytest.raises(WeightsError, match="is text"):
        read_model(cfg, weights)


@pytest.mark.parametrize(("key", "written_in"), [("mosaic=0", "pjreddie"), ("center=0", "alexeyab")])
def test_a_key_that_the_writer_ignores_does_not_turn_the_gates_around(tmp_path, key, written_in):
    """lstm files of both forks have the same size: only the version tells the order of the gates."""
    cfg = tmp_path / "lstm.cfg"
    cfg.write_text((LAYOUTS / "lstm.cfg").read_text().replace("[net]", f"[net]\n{key}"))
    assert read_model(cfg, LAYOUTS / f"lstm.{written_in}.weights").dialect.name == written_in


@pytest.mark.parametrize("option", ["share_index=77", "stride_x=99999999999999999999999"])
def test_an_error_is_not_hidden_by_a_dialect_that_ignores_the_key(tmp_path, option):
    cfg = tmp_path / "net.cfg"
    cfg.write_text(cfg_source("3x8x8", f"convolutional filters=2 {option}"))
    with pytest.raises(CfgError, match=option.split("=")[0]):
        read_model(cfg)


@pytest.mark.parametrize(
    ("layers", "line"),
    [
        ("convolutional filters=2 | convolutional filters=2 stride_x=2 stride_y=2 | shortcut from=0", 12),
        ("crnn output=4 hidden=3", 5),  # pad=1 is forgotten
    ],
)
def test_an_error_is_not_hidden_by_a_dialect_that_recognises_less_of_the_cfg(tmp_path, layers, line):
    with pytest.raises(CfgError) as caught:
        guessed(tmp_path, "3x8x8", layers)
    assert caught.value.line == line


def test_if_every_dialect_fails_the_error_of_the_one_that_recognises_most_is_raised(tmp_path):
    """Not the fork that happens to stop at a later line: pjreddie at the last heading, hank at the key after it."""
    with pytest.raises(CfgError, match="from=-9 points before"):
        guessed(tmp_path, "3x8x8", "convolutional stride_x=1 | shortcut from=-9 | convolutional size=1 size=1")
    with pytest.raises(CfgError, match="from=-9 points before"):
        guessed(tmp_path, "3x8x8", "shortcut from=-9 | Gaussian_yolo mask=0 classes=1 uc_normalizer=1")


@pytest.mark.parametrize("name", ["gru", "lstm"])
def test_gates_are_not_read_in_another_fork_s_order_if_their_own_fork_cannot_read_the_cfg(tmp_path, name):
    """pjreddie does not accept CR; read as alexeyab's, the file would fit, but with the wrong gates."""
    cfg = tmp_path / "net.cfg"
    cfg.write_bytes((LAYOUTS / f"{name}.cfg").read_bytes().replace(b"\n", b"\r\n"))
    with pytest.raises(CfgError, match="its line ends in CR"):
        read_model(cfg, LAYOUTS / f"{name}.pjreddie.weights")
    assert read_model(cfg, LAYOUTS / f"{name}.alexeyab.weights").dialect.name == "alexeyab"


def test_a_fork_that_lacks_a_section_has_not_written_the_file(tmp_path):
    """The version does not matter: pjreddie has no [local_avgpool]."""
    cfg = tmp_path / "net.cfg"
    cfg.write_text(cfg_source("3x8x8", "local_avgpool stride=2 | lstm output=2"))
    weights = write_weights(cfg, tmp_path / "net.weights")
    weights.write_bytes(struct.pack("<3i", 0, 2, 0) + weights.read_bytes()[12:])
    model = read_model(cfg, weights)
    assert (model.dialect.name, model.fits) == ("alexeyab", True)


def test_a_fork_that_cannot_read_a_heading_recognises_nothing_below_it(tmp_path):
    """Only pjreddie has the key `center`, and pjreddie does not accept CR."""
    cfg = tmp_path / "net.cfg"
    cfg.write_bytes(b"[net]\r\nwidth=8\r\nheight=8\r\nchannels=3\r\ncenter=1\r\n[maxpool]\r\n")
    assert read_model(cfg).dialect.name == "alexeyab"


def test_without_gates_the_keys_decide_before_the_version(tmp_path):
    cfg, weights = tmp_path / "net.cfg", tmp_path / "net.weights"
    cfg.write_text(cfg_source("3x8x8", "convolutional filters=2 stride_x=2 stride_y=2 activation=mish"))
    weights.write_bytes(struct.pack("<3iQ", 0, 2, 0, 0) + bytes(4 * 8))
    assert read_model(cfg, weights).dialect.name == "alexeyab"


def test_the_version_decides_where_nothing_else_does(tmp_path):
    cfg, weights = tmp_path / "net.cfg", tmp_path / "net.weights"
    cfg.write_text(cfg_source("3x8x8", "convolutional filters=2"))
    weights.write_bytes(struct.pack("<3iQ", 0, 2, 0, 0) + bytes(4 * 8))
    assert read_model(cfg, weights).dialect.name == "pjreddie"


def test_the_reason_says_why_another_dialect_refuses_the_cfg(tmp_path):
    reason = guessed(tmp_path, "4x8x8", "deconvolutional").reason
    assert "alexeyab refuses line 5 of the cfg ([deconvolutional] is unknown to alexeyab" in reason


def test_the_reason_names_the_forks_ruled_out_by_each_clue_and_those_that_fit_equally_well(tmp_path):
    def reason(layers: str) -> str:
        return guessed(tmp_path, "3x8x8", layers).reason

    assert reason("convolutional").startswith("nothing")
    assert reason("convolutional stride_x=2") == "pjreddie would ignore more of the cfg's keys; hank fits equally well"
    cfg, weights = tmp_path / "net.cfg", tmp_path / "net.weights"
    cfg.write_text(cfg_source("3x8x8", "convolutional filters=2"))
    weights.write_bytes(struct.pack("<3iQ", 0, 2, 0, 0) + bytes(4 * 8))
    assert read_model(cfg, weights).reason == "alexeyab and hank would write a different header version"


def test_paths_may_be_texts(tiny):
    assert read_model(str(tiny[0]), str(tiny[1])).fits


@pytest.mark.parametrize("name", ["yolo", "", "AlexeyAB"])
def test_an_unknown_dialect_is_refused_before_a_file_is_opened(tmp_path, name):
    with pytest.raises(ValueError, match="expected one of auto, alexeyab, hank, pjreddie"):
        read_model(tmp_path / "missing.cfg", tmp_path / "missing.weights", name)
    with pytest.raises(ValueError, match="expected one of auto, alexeyab, hank, pjreddie"):
        check(tmp_path / "missing.cfg", tmp_path / "missing.weights", name)


def test_the_candidates_of_auto_are_all_dialects_in_order_of_preference():
    assert [dialect.name for dialect in candidates("auto")] == ["alexeyab", "hank", "pjreddie"]
    assert [dialect.name for dialect in candidates("hank")] == ["hank"]


def test_an_assertion_that_hank_leaves_out_counts_unless_its_weights_fit(tmp_path):
    cfg, weights = tmp_path / "net.cfg", tmp_path / "net.weights"
    cfg.write_text(
        cfg_source("3x8x8", "convolutional filters=2 | convolutional filters=2 stride_x=2 stride_y=2 | shortcut from=0")
    )
    with pytest.raises(CfgError) as caught:
        read_model(cfg)
    assert caught.value.line == 12
    assert read_model(cfg, None, "hank").dialect.name == "hank"
    write_weights(cfg, weights, "hank")
    assert read_model(cfg, weights).fits
    weights.write_bytes(weights.read_bytes() + bytes(4))
    with pytest.raises(CfgError):
        read_model(cfg, weights)
