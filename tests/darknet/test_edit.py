"""Editing a cfg: values, dropped lines, removed layers and the numbers that refer to layers."""

from __future__ import annotations

from pathlib import Path

import pytest

from bnorm.darknet import cfg
from bnorm.darknet.cfg import CfgText, parse
from bnorm.darknet.dialects import DIALECTS
from bnorm.darknet.edit import (
    LayerNumber,
    Value,
    agree,
    apply,
    dropped,
    readers,
    references,
    with_values,
    without,
    without_layers,
)
from bnorm.darknet.network import Network, build
from support.builders import cfg_source


def network(layers: str, dialect: str = "alexeyab") -> Network:
    return build(parse(Path("net.cfg"), cfg_source("3x8x8", layers).encode()), DIALECTS[dialect])


def text_of(source: str) -> CfgText:
    return parse(Path("net.cfg"), source.encode())


# --- lines ------------------------------------------------------------------------------------------------------------


def test_a_later_edit_overrides_an_earlier_one():
    assert apply(text_of("a\nb\nc\n"), {1: "A\n", 2: "B\n"}, dropped([2])).lines == ("A\n", "c\n")


def test_no_edit_keeps_every_byte():
    source = "[net]\r\n \n# caf\N{LATIN SMALL LETTER E WITH ACUTE}\nwidth=8"
    assert apply(text_of(source)).encode() == source.encode()


def values(source: str, *changes: tuple[int, str, int]) -> str:
    """Set values in sections, by the number of the section, the key and the value."""
    text = text_of(source)
    sections = cfg.sections(text, DIALECTS["alexeyab"])
    edit = with_values(text, [Value(sections[number], key, value) for number, key, value in changes])
    return apply(text, edit).encode().decode()


def test_a_value_replaces_the_line_that_counts():
    source = "[net]\nwidth=8\n[convolutional]\nfilters=2\nfilters=3\n"
    assert values(source, (1, "filters", 7)) == "[net]\nwidth=8\n[convolutional]\nfilters=7\nfilters=3\n"


def test_a_value_that_a_section_lacks_comes_after_its_heading():
    source = "[net]\nwidth=8\n[convolutional]\r\nsize=1\n[avgpool]"
    edited = values(source, (1, "filters", 7), (1, "batch_normalize", 1))
    assert edited == "[net]\nwidth=8\n[convolutional]\nfilters=7\nbatch_normalize=1\nsize=1\n[avgpool]"


def test_a_value_after_a_last_line_without_line_end_starts_a_new_line():
    edited = values("[net]\nwidth=8\n[convolutional]", (1, "filters", 7))
    assert edited == "[net]\nwidth=8\n[convolutional]\nfilters=7\n"


# --- numbers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "owner", "target", "moved"),
    [
        (0, 5, 0, 0),
        (3, 5, 3, 2),  # layer 2 is removed, 1 replaces it
        (2, 5, 2, 1),
        (-1, 5, 4, -1),
        (-2, 5, 3, -2),
        (-3, 5, 2, -3),
        (-4, 5, 1, -3),
        (-9, 5, -4, -9),
        (99, 5, 99, 99),
    ],
)
def test_a_number_means_the_same_layer_after_one_has_been_removed(written, owner, target, moved):
    number = LayerNumber(written=written, owner=owner)
    assert (number.target, number.moved({0: 0, 1: 1, 2: 1, 3: 2, 4: 3, 5: 4})) == (target, moved)


def test_numbers_are_absolute_or_counted_back():
    layers = "convolutional filters=2 | convolutional filters=2 | shortcut from=-2 | route layers=0,-2"
    assert readers(network(layers)) == {0: {2, 3}, 1: {3}}


def test_a_number_that_the_dialect_does_not_read_may_be_one_for_another():
    assert readers(network("convolutional | convolutional share_index=0", "pjreddie")) == {0: {1}}


def test_a_value_that_no_dialect_reads_as_a_number_refers_to_no_layer():
    assert readers(network("convolutional | convolutional share_index=99999999999", "pjreddie")) == {}


def test_a_reference_has_its_option_and_its_layer():
    (reference,) = references(network("convolutional | maxpool | route layers=-1,0"))
    assert (reference.layer, reference.option.key, reference.targets()) == (2, "layers", [1, 0])


# --- removed layers ---------------------------------------------------------------------------------------------------

LAYERS = "convolutional filters=2 | batchnorm | maxpool | route layers=-1,0"


def test_a_removed_layer_takes_its_section_and_moves_the_numbers():
    old = network(LAYERS)
    new = build(apply(old.text, without_layers(old, {1: 0})), old.dialect)
    assert [layer.type for layer in new.layers] == ["convolutional", "maxpool", "route"]
    assert new.layers[2].reads == (1, 0)
    assert agree(old, new, {1: 0})


def test_layers_that_read_something_else_do_not_agree():
    old = network(LAYERS)
    assert not agree(old, network("convolutional filters=2 | maxpool | route layers=0,1"), {1: 0})
    assert not agree(old, network("convolutional filters=2 | maxpool | route layers=1"), {1: 0})


def test_only_numbers_that_move_are_rewritten_and_their_blanks_stay():
    source = cfg_source("3x8x8", "convolutional filters=2 | batchnorm | maxpool | route layers=-1 | route layers=0,2")
    text = text_of(source.replace("layers=-1", "layers = -1 ").replace("layers=0,2", "layers =\t0, 2 "))
    old = build(text, DIALECTS["alexeyab"])
    lines = without(old, {1: 0}, ()).decode().splitlines()
    assert [line for line in lines if line.startswith("layers")] == ["layers = -1 ", "layers =\t0, 1 "]


def test_lines_can_be_dropped_with_the_layers():
    old = network("convolutional filters=2 batch_normalize=1 | batchnorm | maxpool")
    (line,) = (option.line for option in old.layers[0].section.options if option.key == "batch_normalize")
    new = without(old, {1: 0}, [line])
    assert [name in new for name in (b"batch_normalize", b"[batchnorm]", b"[maxpool]")] == [False, False, True]
