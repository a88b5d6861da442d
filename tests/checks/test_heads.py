"""`checks.heads`: detection layers whose classes or filters disagree are one finding, with the lines of all."""

from __future__ import annotations

import pytest

from bnorm.checks.check import check
from support.builders import write_weights
from support.damage import BAD_FILES

HEAD = """
[convolutional]
filters={filters}
size=1
activation=linear

[yolo]
mask=0,1
anchors=1,1, 2,2
num=2
classes={classes}
"""

BODY = "[net]\nwidth=8\nheight=8\nchannels=3\n\n[convolutional]\nfilters=4\nactivation=linear\n"

FITTING = {"classes": 7, "filters": 24}


def two_heads(first: dict[str, int], second: dict[str, int]) -> str:
    return BODY + HEAD.format(**first) + "\n[route]\nlayers=-3\n" + HEAD.format(**second)


@pytest.fixture
def pair(tmp_path):
    cfg = tmp_path / "net.cfg"
    cfg.write_text(two_heads(FITTING, FITTING))
    return cfg, write_weights(cfg, tmp_path / "net.weights")


def lines() -> list[int]:
    text = two_heads(FITTING, FITTING).splitlines()
    return [number for number, line in enumerate(text, 1) if line == "[yolo]"]


CHANGES = [
    {"classes": 3, "filters": 24},
    {"classes": 7, "filters": 30},
    {"classes": 3, "filters": 16},
]


@pytest.mark.parametrize("change", CHANGES, ids=["classes", "filters", "both"])
@pytest.mark.parametrize("number", [0, 1], ids=["first", "second"])
def test_weights_say_which_head_is_wrong_in_one_finding(pair, change, number):
    cfg, weights = pair
    heads = [FITTING, FITTING]
    heads[number] = change
    cfg.write_text(two_heads(*heads))
    (found,) = check(cfg, weights).findings
    assert (found.id, found.line) == ("weights-classes", lines()[number])
    assert all(f"line {line} " in found.message for line in lines())
    assert "fits if classes=7 and filters=24" in found.message


@pytest.mark.parametrize(
    ("change", "kind"), [*zip(CHANGES, ["cfg-filters", "cfg-filters", "cfg-heads"], strict=True)], ids=str
)
def test_without_weights_there_is_one_finding_with_both_lines(pair, change, kind):
    cfg, _ = pair
    cfg.write_text(two_heads(FITTING, change))
    (found,) = check(cfg).findings
    assert found.id == kind
    assert all(f"line {line} " in found.message for line in lines())


def test_weights_that_do_not_help_leave_the_finding_of_the_cfg(pair):
    cfg, weights = pair
    cfg.write_text(two_heads(FITTING, CHANGES[0]))
    weights.write_bytes(BAD_FILES["weights-html"].data)
    assert [found.id for found in check(cfg, weights).findings] == ["weights-html", "cfg-filters"]


def test_heads_that_agree_need_not_have_the_same_number_of_boxes(tmp_path):
    cfg = tmp_path / "net.cfg"
    other = HEAD.format(classes=7, filters=12).replace("mask=0,1", "mask=1")
    cfg.write_text(BODY + HEAD.format(**FITTING) + "\n[route]\nlayers=-3\n" + other)
    assert check(cfg).findings == ()
