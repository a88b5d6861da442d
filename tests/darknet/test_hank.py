"""`darknet.hank`: options that hank refuses where the other forks use a default (notes on hank's cfg reader)."""

from __future__ import annotations

from pathlib import Path

import pytest

from bnorm.darknet import cfg, hank
from bnorm.darknet.dialects import DIALECTS
from bnorm.darknet.network import build
from bnorm.errors import CfgError


def check(source: str) -> None:
    for section in cfg.sections(cfg.parse(Path("net.cfg"), source.encode()), DIALECTS["hank"]):
        hank.check(section)


def check_net(options: str) -> None:
    """Check a [net] whose options begin at line 2."""
    check(f"[net]\n{options}\n[avgpool]\n")


def check_layer(options: str, name: str = "convolutional") -> None:
    """Check a layer whose options begin at line 4."""
    check(f"[net]\nwidth=8\n[{name}]\n{options}\n")


# --- keys -------------------------------------------------------------------------------------------------------------


def test_a_key_that_is_given_twice_is_refused():
    with pytest.raises(CfgError, match="filters is given twice") as caught:
        check_layer("filters=2\nsize=1\nfilters=2")
    assert caught.value.line == 6


def test_a_key_that_is_given_without_value_before_is_not_given_twice():
    check_layer("filters\nfilters=2")


def test_a_line_after_a_semicolon_is_a_separate_key():
    with pytest.raises(CfgError, match=";filters is unknown, which hank refuses"):
        check_layer(";filters=8")


@pytest.mark.parametrize("key", ["colour", "numload", "dontsave", "output"])
def test_a_key_that_hank_never_asks_for_is_refused(key):
    with pytest.raises(CfgError, match=f"{key} is unknown, which hank refuses") as caught:
        check_layer(f"filters=2\n{key}=1")
    assert caught.value.line == 5


@pytest.mark.parametrize("key", ["max_crop", "min_crop", "max_ratio", "min_ratio", "center", "unsupervised"])
def test_a_key_of_net_that_hank_dropped_is_refused(key):
    with pytest.raises(CfgError, match=f"{key} is unknown"):
        check_net(f"{key}=1")


def test_show_details_is_refused():
    with pytest.raises(CfgError, match="show_details is unknown"):
        check_layer("show_details=1", "yolo")


CONDITIONAL = [
    ("steps=1", "policy=steps"),
    ("scales=1", "policy=sgdr"),
    ("seq_scales=1", "policy=steps"),
    ("step=1", "policy=step"),
    ("step=1", "policy=sigmoid"),
    ("scale=1", "policy=step"),
    ("gamma=1", "policy=exp"),
    ("gamma=1", "policy=sigmoid"),
    ("B1=1", "adam=1"),
    ("B2=1", "adam=1"),
    ("eps=1", "adam=2"),
]


@pytest.mark.parametrize(("option", "condition"), CONDITIONAL)
def test_a_conditional_key_is_accepted_under_its_condition(option, condition):
    check_net(f"{option}\n{condition}")


@pytest.mark.parametrize("option", sorted({option for option, _ in CONDITIONAL}))
@pytest.mark.parametrize("other", ["batch=1", "policy=constant", "policy=poly", "adam=0"])
def test_a_conditional_key_is_refused_without_its_condition(option, other):
    with pytest.raises(CfgError, match="is not used with this") as caught:
        check_net(f"{other}\n{option}")
    assert caught.value.line == 3


def test_a_step_is_refused_with_policy_steps():
    with pytest.raises(CfgError, match="step is not used with this policy"):
        check_net("policy=steps\nsteps=1\nscales=1\nstep=1")


# --- values -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["1e-4", "+5", "0x10", "inf", "leaky", "1 ; note"])
@pytest.mark.parametrize("key", ["learning_rate", "momentum", "width"])
def test_a_value_that_is_not_a_plain_decimal_is_refused_for_any_number(key, value):
    with pytest.raises(CfgError, match="plain decimal") as caught:
        check_net(f"batch=1\n{key}={value}")
    assert caught.value.line == 3


@pytest.mark.parametrize("option", ["learning_rate=.001", "decay=0.0005", "hue=-.1", "width=416", "batch=1.2.3"])
def test_a_plain_decimal_is_accepted(option):
    check_net(option)


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("convolutional", "activation=leeky"),
        ("convolutional", "activation=Leaky"),
        ("cost", "type=sse2"),
        ("yolo", "iou_loss=siou"),
        ("yolo", "nms_kind=soft"),
    ],
)
def test_an_unknown_name_is_refused_with_its_line(name, option):
    with pytest.raises(CfgError) as caught:
        check_layer(option, name)
    assert caught.value.line == 4


def test_an_unknown_policy_is_refused_with_its_line():
    with pytest.raises(CfgError) as caught:
        check_net("policy=stepped")
    assert caught.value.line == 2


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("convolutional", "activation=mish"),
        ("convolutional", "activation=leaky # why"),
        ("cost", "type=sse"),
        ("yolo", "iou_loss=ciou"),
        ("yolo", "nms_kind=greedynms"),
        ("yolo", "mask = 0, 1, 2"),
        ("yolo", "anchors = 10,13,  16,30"),
        ("route", "layers = -1, 8"),
        ("region", "tree=data/9k.tree"),
    ],
)
def test_a_known_name_and_any_list_are_accepted(name, option):
    check_layer(option, name)


def test_the_first_of_two_faults_in_a_section_is_named():
    with pytest.raises(CfgError) as caught:
        check_layer("filters=1e1\nfilters=2")
    assert caught.value.line == 4


# --- where it applies -------------------------------------------------------------------------------------------------

LOOSE = "[net]\nwidth=8\nheight=8\nchannels=3\nlearning_rate=1e-4\nB1=1\n[convolutional]\nsize=1\nsize=1\ncolour=red\n"


@pytest.mark.parametrize("dialect", ["pjreddie", "alexeyab"])
def test_the_other_forks_accept_all_of_these(dialect):
    assert build(cfg.parse(Path("net.cfg"), LOOSE.encode()), DIALECTS[dialect])


def test_a_network_of_hank_is_checked():
    with pytest.raises(CfgError, match="plain decimal"):
        build(cfg.parse(Path("net.cfg"), LOOSE.encode()), DIALECTS["hank"])
