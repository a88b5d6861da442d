"""`checks.findings`: the table of kinds, and findings made from it."""

from __future__ import annotations

import pytest

from bnorm.checks.findings import ABOUT_THE_FILE, KINDS, SEVERITIES, from_error, make_finding, worst_first
from bnorm.errors import CfgError, WeightsError
from support.damage import BAD_CFGS, BAD_FILES, BAD_VALUES

ELSEWHERE = {  # kinds that take more than one change of a sample
    *("weights-folded", "weights-unfolded", "weights-dialect", "weights-classes"),  # tests/checks/test_misfit_*.py
    *("weights-channels", "weights-value", "weights-layer"),
    "cfg-heads",  # tests/checks/test_heads.py
    "cfg-assertion",  # tests/checks/test_cfg_rules.py
    "constant-channels",  # tests/checks/test_channel_rules.py
}


def test_every_kind_has_a_test():
    assert {*BAD_CFGS, *BAD_FILES, *BAD_VALUES, *ELSEWHERE} == set(KINDS)


def test_every_row_is_complete():
    for name, kind in KINDS.items():
        assert (kind.id, kind.severity in SEVERITIES) == (name, True)
        assert kind.meaning
        assert kind.cause


def test_kinds_about_the_file_are_those_of_weights_and_header():
    assert {name for name in KINDS if name.partition("-")[0] in ("weights", "header")} == ABOUT_THE_FILE


def test_a_finding_has_the_severity_of_its_kind_and_nothing_that_was_not_given():
    finding = make_finding("variance-zero", "what")
    assert (finding.severity, finding.message) == ("warning", "what")
    assert [finding.line, finding.layer, finding.part, finding.channel, finding.cause] == [None] * 5


def test_a_milder_case_of_a_kind_has_a_severity_of_its_own():
    assert make_finding("cfg-inline-comment", "what", severity="note").severity == "note"


def test_the_part_of_a_layer_without_parts_is_none():
    assert make_finding("nan", "what", layer=3, part="").part is None
    assert make_finding("nan", "what", layer=3, part="wf").part == "wf"


def test_an_id_that_is_not_in_the_table_is_refused():
    with pytest.raises(KeyError):
        make_finding("cfg-unheard-of", "what")


@pytest.mark.parametrize("kind", ["cfg-cr", "cfg-refused"])
def test_an_error_is_a_finding_of_severity_error(kind):
    finding = from_error(CfgError("net.cfg", "what", line=7, cause="why", finding=kind))
    assert (finding.id, finding.severity, finding.line) == (kind, "error", 7)
    assert (finding.message, finding.cause) == ("what", "why")


def test_an_error_without_line_and_cause_has_none():
    finding = from_error(WeightsError("net.weights", "what"))
    assert (finding.id, finding.line, finding.cause) == ("weights-foreign", None, None)


def test_findings_are_sorted_by_severity_and_stay_in_order():
    kinds = ["nan", "cfg-cr", "dead-channels", "infinite", "cfg-crash"]
    found = worst_first(make_finding(kind, "what") for kind in kinds)
    assert [finding.id for finding in found] == ["nan", "infinite", "cfg-cr", "cfg-crash", "dead-channels"]
