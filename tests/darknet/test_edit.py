"""Which layers a cfg names by number."""

from __future__ import annotations

from bnorm.darknet.cfg import parse
from bnorm.darknet.dialects import DIALECTS
from bnorm.darknet.edit import readers
from bnorm.darknet.network import build
from support.builders import cfg_source


def named(layers: str, dialect: str) -> dict[int, set[int]]:
    return readers(build(parse("net.cfg", cfg_source("3x8x8", layers).encode()), DIALECTS[dialect]))


def test_numbers_are_absolute_or_counted_back():
    layers = "convolutional filters=2 | convolutional filters=2 | shortcut from=-2 | route layers=0,-2"
    assert named(layers, "alexeyab") == {0: {2, 3}, 1: {3}}


def test_a_number_that_the_dialect_does_not_read_may_be_one_for_another():
    assert named("convolutional | convolutional share_index=0", "pjreddie") == {0: {1}}


def test_what_no_dialect_can_read_as_a_number_names_nothing():
    assert named("convolutional | convolutional share_index=99999999999", "pjreddie") == {}
