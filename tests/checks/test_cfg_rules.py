"""What is odd in a cfg and yet is read: what another fork reads otherwise, and what the fork itself crashes on."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import pytest

from bnorm.checks.cfg_rules import remarks as all_remarks
from bnorm.checks.cfg_rules import text_remarks
from bnorm.darknet import cfg
from bnorm.darknet.cfg import CfgText as Text
from bnorm.darknet.dialects import DIALECTS
from bnorm.darknet.network import build
from support.builders import cfg_source

line_based = pytest.mark.parametrize("dialect", ["pjreddie", "alexeyab"])


def text_of(source: str) -> Text:
    return cfg.parse(Path("net.cfg"), source.encode())


def remarks(source: str, dialect: str) -> list[tuple[str, int]]:
    """Ids and lines of what the text alone says."""
    text = text_of(source)
    return [(remark.id, remark.line) for remark in text_remarks(text, cfg.sections(text, DIALECTS[dialect]))]


def crashes(source: str, dialect: str) -> list[tuple[int, str]]:
    """Lines and messages of what the fork crashes on."""
    found = all_remarks(build(text_of(source), DIALECTS[dialect]))
    return [(remark.line, remark.message) for remark in found if remark.id == "cfg-crash"]


@line_based
def test_a_plain_cfg_has_no_remarks(dialect):
    assert remarks("[net]\nwidth=8\n[convolutional]\nfilters=2\n", dialect) == []


@line_based
def test_what_is_odd_is_remarked_with_its_line(dialect):
    source = """\
        [net]
        width=8
        [convolutional]
        activation=leaky # soft
        size
        stride=
        colour=red
        activation=linear
        """
    assert remarks(dedent(source), dialect) == [
        ("cfg-inline-comment", 4),
        ("cfg-no-value", 5),
        ("cfg-no-value", 6),
        ("cfg-unknown-key", 7),
        ("cfg-duplicate-key", 8),
    ]


def test_a_remark_names_its_section_and_its_key():
    options = "activation=linear#why\nsize\nstride=\ncolour=red\nfilters=8\nfilters=9\n"
    text = text_of(f"[net]\nwidth=8\n[conv]\n{options}")
    found = text_remarks(text, cfg.sections(text, DIALECTS["alexeyab"]))
    keys = ["activation", "size", "stride", "colour", "filters"]
    assert [remark.message.partition(":")[0] for remark in found] == [f"[conv] {key}" for key in keys]


@pytest.mark.parametrize(
    ("option", "pjreddie", "alexeyab"),
    [
        ("[convolutional]\nfilters=8 # eight, or so", False, False),
        ("[route]\nlayers=-1 # one, or two", True, True),
        ("[convolutional]\nfilters=8 # eight", False, False),
        ("[convolutional]\nactivation=relu # why", True, True),
        ("[route]\nlayers=-1 # the one before", False, False),
        ("[yolo]\nmask=0,1 # small, and large", True, False),
        ("[region]\nanchors=1,2 # wide, high", True, True),
        ("[region]\nanchors=1.5,2e1 # wide", False, False),
    ],
)
def test_a_comment_behind_a_number_is_remarked_where_it_is_read(option, pjreddie, alexeyab):
    """A number ends at it in any fork; a list goes on behind the next comma, but for some of alexeyab's."""
    for dialect, expected in (("pjreddie", pjreddie), ("alexeyab", alexeyab), ("hank", False)):
        found = remarks(f"[net]\nwidth=8\n[conv]\n{option}\n", dialect)
        assert found == ([("cfg-inline-comment", 5)] if expected else []), dialect


@pytest.mark.parametrize(
    ("name", "unknown"), [("mish", ["pjreddie"]), ("laeky", ["pjreddie", "alexeyab"]), ("elu", [])]
)
def test_an_activation_that_becomes_relu_is_remarked(name, unknown):
    for dialect in ("pjreddie", "alexeyab"):
        found = remarks(f"[net]\nwidth=8\n[conv]\nactivation={name}\n", dialect)
        assert found == ([("cfg-activation", 4)] if dialect in unknown else [])


def test_hank_has_inline_comments_and_no_remarks_on_them():
    assert remarks("[net]\nwidth=8\n[convolutional]\nfilters=8 # eight\n", "hank") == []


def test_hank_s_skipped_lines_are_remarked():
    text = text_of("[net]\nwidth=8\n[convolutional]\nfil ters=4\n")
    (found,) = text_remarks(text, cfg.sections(text, DIALECTS["hank"]))
    assert found == ("cfg-no-value", 4, "[convolutional] fil ters: cannot be read, hank drops the line")


@pytest.mark.parametrize("dialect", ["alexeyab", "hank"])
def test_the_first_carriage_return_is_remarked(dialect):
    assert remarks("[net]\nwidth=8\n[avgpool]\r\n\r\n", dialect) == [("cfg-cr", 3)]
    assert remarks("[net]\nwidth=8\n[conv]\nsize\n[avgpool]\r\n", dialect) == [("cfg-cr", 5), ("cfg-no-value", 4)]


def test_keys_of_other_forks_are_remarked():
    source = "[net]\nwidth=8\n[convolutional]\nstride_x=2\nnumload=1\n"
    assert remarks(source, "pjreddie") == [("cfg-unknown-key", 4)]
    assert remarks(source, "alexeyab") == [("cfg-unknown-key", 5)]


@pytest.mark.parametrize(
    ("lines", "dialect", "number", "does"),
    [
        ("[conv]\r\n", "alexeyab", 3, "cannot read this file"),
        ("  [conv]\r\n", "alexeyab", 3, "cannot read this file"),
        ("[conv]\n# why\r\n", "pjreddie", 4, "keeps the CR in the values"),
        ("[conv]\nfilters=2\r\n", "pjreddie", 4, "keeps the CR in the values"),
    ],
)
def test_a_carriage_return_keeps_pjreddie_from_the_file_behind_a_heading_alone(lines, dialect, number, does):
    text = text_of(f"[net]\nwidth=8\n{lines}")
    (found,) = text_remarks(text, cfg.sections(text, DIALECTS[dialect]))
    assert found == ("cfg-cr", number, f"CR line ends: pjreddie's darknet {does}")


def test_a_key_without_equals_sign_is_its_default():
    text = text_of("[net]\nwidth=8\n[conv]\nsize\n")
    (found,) = text_remarks(text, cfg.sections(text, DIALECTS["alexeyab"]))
    assert found == ("cfg-no-value", 4, "[conv] size: no value, the default is used")


# --- lists ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("layers = -1 -4", "[route] layers: a comma is missing, alexeyab reads -1 -4 as -1-4"),
        ("layers = -1, 0 2", "[route] layers: a comma is missing, alexeyab reads 0 2 as 02"),
        ("layers = -1,", "[route] layers: a comma too many, alexeyab reads a 0 behind it"),
        ("layers = -1,,0", "[route] layers: a comma too many, alexeyab reads a 0 behind it"),
        ("layers = -1, 0  # 1 2,", ""),
        ("layers = -1", ""),
        ("layers =\t-1 ,\t0", ""),
        ("layers = - 1", ""),
    ],
)
def test_a_list_that_looks_otherwise_than_it_is_read_is_remarked(option, message):
    text = text_of(f"[net]\nwidth=8\n[conv]\n[route]\n{option}\n")
    for dialect in ("alexeyab", "hank"):
        found = text_remarks(text, cfg.sections(text, DIALECTS[dialect]))
        lists = [(remark.line, remark.message) for remark in found if remark.id == "cfg-list"]
        assert lists == ([(5, message)] if message and dialect == "alexeyab" else [])


@pytest.mark.parametrize(
    ("source", "readers"),
    [
        ("[net]\nwidth=8\n[conv]\n[conv]\n[shortcut]\nfrom=-2,\n", ["alexeyab"]),
        ("[net]\nwidth=8\n[conv]\n[conv]\n[scale_channels]\nfrom=0,\n", []),
        ("[net]\nwidth=8\npolicy=poly\nsteps=5,6,\n[conv]\n", []),
        ("[net]\nwidth=8\npolicy=steps\nsteps=5,6,\n[conv]\n", ["pjreddie", "alexeyab"]),
        ("[net]\nwidth=8\npolicy=sgdr\nsteps=5,6,\n[conv]\n", ["alexeyab"]),
    ],
)
def test_a_comma_too_many_counts_where_a_list_is_read(source, readers):
    for dialect in ("pjreddie", "alexeyab"):
        if dialect == "pjreddie" and "scale_channels" in source:
            continue
        assert ("cfg-list" in dict(remarks(source, dialect))) is (dialect in readers), dialect


def test_a_dropped_line_hides_no_later_one():
    assert remarks("[net]\nwidth=8\n[conv]\nfilters=\nfilters=8\n", "alexeyab") == [("cfg-no-value", 4)]


def test_a_blank_in_what_is_no_list_means_nothing():
    assert remarks("[net]\nwidth=8\n[conv]\nfilters = 1 6\nanchors = 1 2\n", "alexeyab") == [("cfg-unknown-key", 5)]


# --- crashes ----------------------------------------------------------------------------------------------------------

NET = "[net]\nwidth=32\nheight=32\nchannels=3\n"
SHARED = f"{NET}[convolutional]\nfilters=3\n{{}}\n[convolutional]\nfilters=3\nshare_index=0\n{{}}\n"
BOXES = f"{NET}[convolutional]\nfilters={{filters}}\n[{{kind}}]\nclasses=1\n{{mask}}\nnum=2\nanchors={{anchors}}\n"
STEPS = f"{NET}policy={{}}\n{{}}\n[maxpool]\n"
PJ, AB, HK = "pjreddie", "alexeyab", "hank"
CRASHES = [  # the cfg, who does not read it at all, and where whose program crashes
    (cfg_source("12", "connected output=4 | softmax"), "", {AB: 1, HK: 1}),
    (cfg_source("3x8x8", "connected output=4 | softmax"), "", {AB: 1, HK: 1}),
    (cfg_source("3x8x8", "avgpool | connected output=4"), "", {}),
    (cfg_source("3x8x1", "avgpool"), "", {AB: 1, HK: 1}),
    (cfg_source("3x1x8", "avgpool"), "", {AB: 1, HK: 1}),
    (cfg_source("3x2x2", "avgpool"), "", {}),
    (cfg_source("20", "connected output=98 | detection classes=0"), HK, {}),
    (cfg_source("6x32x32", "yolo mask=0 classes=1 anchors=1,2,3"), "", {PJ: 5, HK: 5}),
    (cfg_source("3x8x8", "dropout | connected"), "", {AB: 1, HK: 1}),
    (cfg_source("3x8x8", "dropout dropblock=1 | connected"), "", {}),
    (cfg_source("20", "connected output=8 | detection side=2 classes=0 coords=1"), HK, {}),
    (cfg_source("20", "connected output=2 | detection side=1 classes=0 coords=1"), HK, {AB: 1}),
    (cfg_source("3x8x8", "deconvolutional filters=4 size=2"), f"{AB} {HK}", {PJ: 5}),
    (STEPS.format("steps", "steps=5,6\nscales=.1"), "", {PJ: 1, AB: 1}),
    (STEPS.format("steps", "steps=5,6"), "", {PJ: 1, AB: 1}),
    (STEPS.format("steps", "scales=.1"), "", {PJ: 1, AB: 1}),
    (STEPS.format("steps", "steps=5,6\nscales=.1,.1"), "", {}),
    (STEPS.format("steps", "steps=5,6\nscales=.1,.1\nseq_scales=1"), "", {AB: 1}),
    (STEPS.format("steps", "steps=5 # 6, 7\nscales=.1"), "", {PJ: 1}),
    (STEPS.format("steps", "steps=99999999999\nscales=.1"), "", {}),
    (STEPS.format("sgdr", "steps=5,6\nscales=.1"), "", {AB: 1}),
    (STEPS.format("sgdr", "steps=5,6"), "", {}),
    (STEPS.format("poly", ""), "", {}),
    (SHARED.format("", "batch_normalize=1"), "", {AB: 8, HK: 8}),
    (SHARED.format("batch_normalize=1", "batch_normalize=1"), "", {}),
    (SHARED.format("batch_normalize=1", ""), "", {}),
    (BOXES.format(kind="yolo", filters=6, mask="mask=0", anchors="1,2,3,4"), "", {}),
    (BOXES.format(kind="yolo", filters=6, mask="mask=0", anchors="1,2,3,4,5"), "", {PJ: 7, HK: 7}),
    (BOXES.format(kind="Gaussian_yolo", filters=10, mask="mask=0", anchors="1,2,3,4,5"), PJ, {AB: 7, HK: 7}),
    (BOXES.format(kind="region", filters=12, mask="", anchors="1,2,3,4,5"), "", {PJ: 7}),
]


@pytest.mark.parametrize(("source", "refusing", "lines"), CRASHES)
def test_what_a_fork_crashes_on_is_remarked(source, refusing, lines):
    for dialect in DIALECTS.keys() - set(refusing.split()):
        found = crashes(source, dialect)
        assert [line for line, _ in found] == ([lines[dialect]] if dialect in lines else []), dialect
        assert all(dialect in message for _, message in found)


def test_a_list_is_as_long_as_the_fork_counts_it():
    def numbers(option: str, dialect: str) -> str:
        ((_, message),) = crashes(BOXES.format(kind="yolo", filters=6, mask="mask=0", anchors=option), dialect)
        return message.split()[1]

    assert numbers("1,2,3,4,,", PJ) == "6"
    assert numbers("1,2,3,4,5,,", HK) == "5"
    assert numbers("1 2 3 4 5.5", HK) == "5"
