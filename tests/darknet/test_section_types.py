"""The table of section types, and the tables beside it that have a row per type."""

from __future__ import annotations

import pytest

from bnorm.darknet.dialects import DIALECTS
from bnorm.darknet.parts import PARTS
from bnorm.darknet.section_types import SECTIONS, TYPES
from bnorm.darknet.shape_rules import DETECTORS, RULES
from bnorm.darknet.vocabulary import KEYS


def test_every_type_except_net_has_an_output_shape():
    assert set(RULES) == set(TYPES) - {"net"}


def test_only_known_types_have_parts():
    assert set(PARTS) < set(TYPES)


def test_every_layer_that_detects_boxes_is_a_head():
    assert all(TYPES[name].is_head for name in DETECTORS)


@pytest.mark.parametrize("fork", DIALECTS)
def test_a_fork_has_keys_for_each_of_its_types(fork):
    assert set(SECTIONS[fork].values()) <= set(KEYS[fork])


@pytest.mark.parametrize("fork", DIALECTS)
def test_a_spelling_belongs_to_only_one_type(fork):
    rows = [row for row in TYPES.values() if fork in row.forks]
    assert len(SECTIONS[fork]) == sum(1 + bool(row.short) for row in rows)


@pytest.mark.parametrize("row", [row for row in TYPES.values() if row.numbers_in], ids=lambda row: row.name)
def test_the_option_that_holds_layer_numbers_is_a_key_of_the_type(row):
    assert any(row.numbers_in in KEYS[fork][row.name] for fork in row.forks)


def test_only_layers_with_numbers_read_layers_by_number():
    assert all(row.numbers_in for row in TYPES.values() if row.reads_numbered)
    assert all(row.reads_numbered for row in TYPES.values() if row.reads_several)
