"""The text of messages and errors."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from bnorm import errors
from bnorm.errors import BnormError, CfgError
from bnorm.text import plural, short, size

KINDS = [CfgError, errors.WeightsError, errors.TensorError, errors.OutputError, errors.ProofError]


@pytest.mark.parametrize(("count", "text"), [(0, "0 layers"), (1, "1 layer"), (2, "2 layers"), (2048, "2,048 layers")])
def test_a_count_has_the_form_of_its_noun(count, text):
    assert plural(count, "layer") == text


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [
        (1, "1 byte"),
        (3, "3 bytes"),
        (4, "1 float (4 bytes)"),
        (4000, "1,000 floats (4,000 bytes)"),
        (4001, "4,001 bytes"),
    ],
)
def test_a_size_is_in_floats_if_it_is_a_whole_number_of_them(nbytes, text):
    assert size(nbytes) == text


@pytest.mark.parametrize(("text", "shown"), [("a" * 40, "a" * 40), ("a" * 41, "a" * 37 + "..."), ("a\nb", "a\\nb")])
def test_a_piece_of_a_file_is_short_and_on_one_line(text, shown):
    assert short(text) == shown


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_keeps_its_facts_when_it_passes_between_processes(kind):
    error = kind("a/net.cfg", "is wrong", line=3, cause="a typo", finding="cfg-odd")
    for each in (error, pickle.loads(pickle.dumps(error))):
        assert isinstance(each, BnormError)
        assert (each.path, each.what, each.line) == (Path("a/net.cfg"), "is wrong", 3)
        assert (each.cause, each.finding) == ("a typo", "cfg-odd")
        assert str(each) == "a/net.cfg:3: is wrong\n       a typo"


def test_an_error_is_one_line_without_a_cause_and_has_its_kind_s_finding():
    error = CfgError(Path("net\n.cfg"), "is wrong")
    assert (str(error), error.line, error.finding) == ("net\\n.cfg: is wrong", None, "cfg-refused")
