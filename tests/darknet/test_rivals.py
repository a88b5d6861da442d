"""`darknet.rivals`: the dialects that would have given a different answer, which the `note:` names."""

from __future__ import annotations

import struct

import pytest

from bnorm.darknet.autodetect import read_model
from support.builders import TINY, cfg_source, write_weights
from support.golden import LAYOUTS, sample


def rivals(model) -> dict[str, tuple[str, int | None]]:
    return {rival.dialect: (rival.differs, rival.layer) for rival in model.rivals}


@pytest.fixture
def of(tmp_path):
    """Return the rivals of a cfg with weights that fit it."""

    def read(net: str, layers: str, dialect: str = "alexeyab"):
        cfg = tmp_path / "net.cfg"
        cfg.write_text(cfg_source(net, layers))
        return rivals(read_model(cfg, write_weights(cfg, tmp_path / "net.weights", dialect)))

    return read


def test_no_rival_if_every_dialect_gives_the_same_answer(of, tiny):
    assert of("3x8x8", "convolutional filters=2 batch_normalize=1 activation=leaky | maxpool size=2 stride=2") == {}
    assert rivals(read_model(tiny[0])) == {}
    assert rivals(read_model(*sample("digits"))) == {}


def test_a_different_version_alone_is_not_a_different_answer(tiny):
    """pjreddie writes 0.2.0, and reads 0.2.5 in the same way as the other forks."""
    cfg, weights = tiny
    for version in ((0, 2, 5), (0, 2, 0), (0, 1, 0)):
        head = struct.pack("<3iQ", *version, 0) if version != (0, 1, 0) else struct.pack("<4i", *version, 0)
        weights.write_bytes(head + weights.read_bytes()[-536:])
        model = read_model(cfg, weights)
        assert (model.fits, rivals(model)) == (True, {})


def test_a_dialect_that_refuses_the_cfg_is_a_rival(of):
    assert of("3x32x32", "convolutional filters=2 colour=red activation=leaky") == {"hank": ("refused", None)}


def test_a_dialect_that_the_file_does_not_fit_is_a_rival():
    model = read_model(LAYOUTS / "rnn.cfg", LAYOUTS / "rnn.pjreddie.weights")
    assert rivals(model) == {"alexeyab": ("size", None), "hank": ("size", None)}


@pytest.mark.parametrize("name", ["gru", "lstm"])
def test_gates_in_another_order_are_reported_with_their_layer(name):
    model = read_model(LAYOUTS / f"{name}.cfg", LAYOUTS / f"{name}.alexeyab.weights")
    assert rivals(model)["pjreddie"] == ("order", 0)


def test_an_activation_that_one_dialect_lacks_is_another_answer(of):
    found = of("3x8x8", "convolutional filters=2 activation=leaky | convolutional filters=2 activation=mish")
    assert found == {"pjreddie": ("activation", 1)}


def test_another_shape_is_another_answer(of):
    found = of("3x8x8", "convolutional filters=2 activation=leaky | maxpool size=2 stride_x=2 stride_y=1 | avgpool")
    assert found["pjreddie"] == ("shape", 1)


def test_another_header_is_another_answer(tmp_path):
    """A minor version from 1000 on: pjreddie reads 4 bytes of images, the others 8."""
    cfg, weights = tmp_path / "net.cfg", tmp_path / "net.weights"
    cfg.write_text(cfg_source("3", "connected output=2"))
    weights.write_bytes(struct.pack("<3iQ", 0, 2000, 0, 7) + bytes(4 * 8) + b"\0\0")
    found = rivals(read_model(cfg, weights))
    assert found["pjreddie"] == ("header", None)


@pytest.mark.parametrize("dialect", ["pjreddie", "alexeyab", "hank"])
def test_a_given_dialect_has_no_rivals(tmp_path, dialect):
    cfg = tmp_path / "net.cfg"
    cfg.write_text(TINY)
    assert read_model(cfg, None, dialect).rivals == ()
