"""`checks.cfg_rules`: findings for lines that another fork reads differently, or that crash the fork itself."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import pytest

from bnorm.checks.cfg_rules import cfg_findings, text_findings
from bnorm.checks.findings import KINDS, Finding
from bnorm.darknet import cfg
from bnorm.darknet.cfg import CfgText
from bnorm.darknet.dialects import DIALECTS
from bnorm.darknet.network import build
from bnorm.errors import CfgError
from support import damage
from support.builders import cfg_source
from support.damage import BAD_CFGS, TEXT

line_based = pytest.mark.parametrize("dialect", ["pjreddie", "alexeyab"])


def text_of(source: str) -> CfgText:
    return cfg.parse(Path("net.cfg"), source.encode())


def findings(source: str, dialect: str) -> tuple[Finding, ...]:
    """Return the findings from the text alone."""
    text = text_of(source)
    return text_findings(text, cfg.sections(text, DIALECTS[dialect]))


def odd(source: str, dialect: str) -> list[tuple[str, int | None]]:
    """Return the ids and lines of the findings from the text alone."""
    return [(finding.id, finding.line) for finding in findings(source, dialect)]


def crashes(source: str, dialect: str) -> list[Finding]:
    """Return the findings for crashes of the fork."""
    found = cfg_findings(build(text_of(source), DIALECTS[dialect]))
    return [finding for finding in found if finding.id == "cfg-crash"]


# --- damage to the sample ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", BAD_CFGS)
def test_a_problem_in_a_cfg_is_found_in_its_line(pair, kind):
    """Return the single finding, from a rule or from the reader of the cfg."""
    path, _ = pair
    data, line, word = BAD_CFGS[kind]
    path.write_bytes(data)
    (found,) = damage.findings(path, None, "alexeyab")
    assert (found.id, found.severity, found.line) == (kind, KINDS[kind].severity, line)
    assert [found.layer, found.part, found.channel] == [None] * 3
    assert word in found.message
    assert not found.message.startswith("line ")


def test_lines_that_end_in_cr_alone_are_found(pair):
    path, _ = pair
    path.write_text(TEXT.replace("\n", "\r"), newline="")
    (found,) = damage.findings(path)
    assert (found.id, found.severity, found.line) == ("cfg-cr", "error", 1)


@pytest.mark.parametrize(
    ("kind", "dialect"), [("cfg-cr", "pjreddie"), ("cfg-duplicate-key", "hank"), ("cfg-unknown-key", "hank")]
)
def test_a_refusal_by_a_dialect_is_an_error(pair, kind, dialect):
    path, _ = pair
    path.write_bytes(BAD_CFGS[kind].data)
    (found,) = damage.findings(path, None, dialect)
    assert (found.id, found.severity) == (kind, "error")


# --- lines and options ------------------------------------------------------------------------------------------------


@line_based
def test_a_plain_cfg_has_no_findings(dialect):
    assert odd("[net]\nwidth=8\n[convolutional]\nfilters=2\n", dialect) == []


@line_based
def test_an_oddity_is_found_in_its_line(dialect):
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
    assert odd(dedent(source), dialect) == [
        ("cfg-inline-comment", 4),
        ("cfg-no-value", 5),
        ("cfg-no-value", 6),
        ("cfg-unknown-key", 7),
        ("cfg-duplicate-key", 8),
    ]


def test_a_finding_names_its_section_and_its_key():
    options = "activation=linear#why\nsize\nstride=\ncolour=red\nfilters=8\nfilters=9\n"
    found = findings(f"[net]\nwidth=8\n[conv]\n{options}", "alexeyab")
    keys = ["activation", "size", "stride", "colour", "filters"]
    assert len(found) == len(keys)
    assert all(f"[conv] {key}" in finding.message for finding, key in zip(found, keys, strict=True))


@pytest.mark.parametrize(
    ("option", "pjreddie", "alexeyab"),
    [
        ("[convolutional]\nfilters=8 # eight, or so", "note", "note"),
        ("[convolutional]\nfilters=21#(classes+5)*3", "note", "note"),
        ("[route]\nlayers=-1 # one, or two", "warning", "warning"),
        ("[convolutional]\nactivation=relu # why", "warning", "warning"),
        ("[route]\nlayers=-1 # the one before", "note", "note"),
        ("[yolo]\nmask=0,1 # small, and large", "warning", "note"),
        ("[region]\nanchors=1,2 # wide, high", "warning", "warning"),
        ("[region]\nanchors=1.5,2e1 # wide", "note", "note"),
    ],
)
def test_a_comment_is_a_warning_only_where_the_fork_reads_it(option, pjreddie, alexeyab):
    """A number ends before it in any fork; a list continues after the next comma, except for some keys in alexeyab."""
    for dialect, severity in (("pjreddie", pjreddie), ("alexeyab", alexeyab)):
        (found,) = findings(f"[net]\nwidth=8\n[conv]\n{option}\n", dialect)
        assert (found.id, found.line, found.severity) == ("cfg-inline-comment", 5, severity), dialect
    assert findings(f"[net]\nwidth=8\n[conv]\n{option}\n", "hank") == ()


@pytest.mark.parametrize(
    ("option", "read"),
    [
        ("saturation=1.5y", "1.5y as 1.5"),
        ("batch=64;", "64; as 64"),
        ("learning_rate=1e-3f", "1e-3f as 1e-3"),
        ("width=416x416", "416x416 as 416"),
        ("hue=.1%", ".1% as .1"),
        ("momentum=0,9", "0,9 as 0"),
        ("batch=64//8", "64//8 as 64"),
        ("policy=steps\nsteps=100,200k\nscales=.1,.1", "200k as 200"),
    ],
)
def test_text_after_a_number_is_a_note_with_the_value_that_darknet_reads(option, read):
    for dialect in ("pjreddie", "alexeyab"):
        (found,) = findings(f"[net]\n{option}\n[avgpool]\n", dialect)
        assert (found.id, found.line, found.severity) == ("cfg-number", 2 + ("steps" in option), "note")
        assert read in found.message


@pytest.mark.parametrize(
    "section",
    [
        "net]\nlearning_rate=1e-3\ndecay=+.5e+2\nmax_batches = 5 000\nmomentum=0.9\r",
        "yolo]\nmap=9k.map\nanchors=1,2, 3,4\nnum=2\nmask=0,1",
        "conv_lstm]\nlstm_activation=tanh\nactivation=leaky",
        "region]\ntree=9k.tree\nanchors=1,2",
        "shortcut]\nfrom=-3,-5\nweights_type=per_feature",
    ],
)
def test_a_number_and_a_text_that_begins_with_one_are_not_odd(section):
    net = "" if section.startswith("net") else "[net]\n"
    found = findings(f"{net}[{section}\n[avgpool]\n", "alexeyab")
    assert "cfg-number" not in [finding.id for finding in found]


def anchored(options: str, kind: str = "yolo", filters: int = 21) -> list[Finding]:
    source = f"[net]\nwidth=32\nheight=32\nchannels=3\n[convolutional]\nfilters={filters}\n[{kind}]\nclasses=2\n"
    text = text_of(source + options)
    network = build(text, DIALECTS["alexeyab"])
    return [found for found in cfg_findings(network) if found.id == "cfg-anchors"]


@pytest.mark.parametrize(
    ("options", "severity", "effect"),
    [
        ("num=9\nmask=6,7,8\nanchors=4,5, 8,9, 12,14\n", "warning", "3 of 3 boxes"),
        ("num=9\nmask=2,3,4\nanchors=4,5, 8,9, 12,14\n", "warning", "2 of 3 boxes"),
        ("num=3\nmask=0,1,2\nanchors=4,5, 8,9, 12\n", "warning", "1 of 3 boxes"),
        ("num=3\nmask=0,1,2\n", "warning", "3 of 3 boxes"),
        ("num=9\nmask=0,1,2\nanchors=4,5, 8,9, 12,14\n", "note", "mask uses none"),
    ],
)
def test_missing_anchors_are_reported_with_the_boxes_that_use_them(options, severity, effect):
    (found,) = anchored(options)
    assert (found.severity, found.line, effect in found.message) == (severity, 7, True)


def test_missing_anchors_of_a_layer_without_mask():
    (found,) = anchored("num=3\nanchors=1,2, 3,4\n", "region")
    assert "1 of 3 boxes" in found.message


@pytest.mark.parametrize("kind", ["yolo", "region"])
def test_as_many_anchors_as_boxes_are_not_odd(kind):
    mask = "mask=0,1,2\n" if kind == "yolo" else ""
    assert anchored(f"num=3\n{mask}anchors=4,5, 8,9, 12,14\n", kind) == []


@pytest.mark.parametrize(
    ("name", "unknown"), [("mish", ["pjreddie"]), ("laeky", ["pjreddie", "alexeyab"]), ("elu", [])]
)
def test_an_activation_that_becomes_relu_is_found(name, unknown):
    for dialect in ("pjreddie", "alexeyab"):
        found = odd(f"[net]\nwidth=8\n[conv]\nactivation={name}\n", dialect)
        assert found == ([("cfg-activation", 4)] if dialect in unknown else [])


def test_hank_has_inline_comments_and_no_findings_on_them():
    assert odd("[net]\nwidth=8\n[convolutional]\nfilters=8 # eight\n", "hank") == []


def test_lines_that_hank_skips_are_found():
    assert odd("[net]\nwidth=8\n[convolutional]\nfil ters=4\n", "hank") == [("cfg-no-value", 4)]


@pytest.mark.parametrize("dialect", ["alexeyab", "hank"])
def test_the_first_carriage_return_is_found(dialect):
    assert odd("[net]\nwidth=8\n[avgpool]\r\n\r\n", dialect) == [("cfg-cr", 3)]
    assert odd("[net]\nwidth=8\n[conv]\nsize\n[avgpool]\r\n", dialect) == [("cfg-cr", 5), ("cfg-no-value", 4)]


def test_keys_of_other_forks_are_found():
    source = "[net]\nwidth=8\n[convolutional]\nstride_x=2\nnumload=1\n"
    assert odd(source, "pjreddie") == [("cfg-unknown-key", 4)]
    assert odd(source, "alexeyab") == [("cfg-unknown-key", 5)]


@pytest.mark.parametrize(
    ("lines", "dialect", "number", "rejected"),
    [
        ("[conv]\r\n", "alexeyab", 3, True),
        ("  [conv]\r\n", "alexeyab", 3, True),
        ("[conv]\n# why\r\n", "pjreddie", 4, False),
        ("[conv]\nfilters=2\r\n", "pjreddie", 4, False),
    ],
)
def test_a_carriage_return_makes_a_file_unreadable_to_pjreddie_only_in_a_heading(lines, dialect, number, rejected):
    source = f"[net]\nwidth=8\n{lines}"
    (found,) = findings(source, dialect)
    assert (found.id, found.line, "cannot read" in found.message) == ("cfg-cr", number, rejected)
    if rejected:
        with pytest.raises(CfgError):
            cfg.sections(text_of(source), DIALECTS["pjreddie"])


def test_a_key_without_equals_sign_is_found():
    assert odd("[net]\nwidth=8\n[conv]\nsize\n", "alexeyab") == [("cfg-no-value", 4)]


# --- lists ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "read_as"),
    [
        ("layers = -1 -4", "-1-4"),
        ("layers = -1, 0 2", "02"),
        ("layers = -1,", "0"),
        ("layers = -1,,0", "0"),
        ("layers = -1, 0  # 1 2,", None),
        ("layers = -1", None),
        ("layers =\t-1 ,\t0", None),
        ("layers = - 1", None),
    ],
)
def test_a_list_that_is_not_read_the_way_it_looks_is_found(option, read_as):
    source = f"[net]\nwidth=8\n[conv]\n[route]\n{option}\n"
    lists = [finding for finding in findings(source, "alexeyab") if finding.id == "cfg-list"]
    assert [finding.line for finding in lists] == ([5] if read_as else [])
    assert all(finding.message.endswith(f" {read_as}") for finding in lists)
    assert "cfg-list" not in dict(odd(source, "hank"))


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
def test_an_extra_comma_is_found_where_a_list_is_read(source, readers):
    for dialect in ("pjreddie", "alexeyab"):
        if dialect == "pjreddie" and "scale_channels" in source:
            continue
        assert ("cfg-list" in dict(odd(source, dialect))) is (dialect in readers), dialect


def test_a_dropped_line_does_not_hide_a_later_line():
    assert odd("[net]\nwidth=8\n[conv]\nfilters=\nfilters=8\n", "alexeyab") == [("cfg-no-value", 4)]


def test_a_blank_in_a_value_that_is_not_a_list_has_no_effect():
    assert odd("[net]\nwidth=8\n[conv]\nfilters = 1 6\nanchors = 1 2\n", "alexeyab") == [("cfg-unknown-key", 5)]


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
    (cfg_source("3x8x8", "deconvolutional filters=4 size=2 dontload=1"), f"{AB} {HK}", {}),
    (cfg_source("3x8x8", "deconvolutional filters=4 size=2 dontloadscales=1"), f"{AB} {HK}", {PJ: 5}),
    (cfg_source("3x8x8", "implicit"), f"{PJ} {HK}", {AB: 1}),
    (cfg_source("3x8x8", "implicit atoms=9 | dropout dropblock=1"), f"{PJ} {HK}", {AB: 1}),
    (cfg_source("3x8x8", "implicit | route layers=0"), f"{PJ} {HK}", {AB: 1}),
    (cfg_source("3x9x1", "convolutional | rnn | convolutional padding=2 | route layers=0"), PJ, {AB: 1, HK: 1}),
    (cfg_source("3x9x1", "convolutional | rnn | convolutional padding=2 | route layers=2"), PJ, {AB: 1, HK: 1}),
    (
        cfg_source("3x9x1", "convolutional | rnn | convolutional padding=2 | route layers=2,0 | cost"),
        PJ,
        {AB: 1, HK: 1},
    ),
    (cfg_source("3x9x1", "convolutional padding=2 | route layers=0 | avgpool"), PJ, {}),
    (cfg_source("3x8x8", "cost"), "", {PJ: 1, AB: 1, HK: 1}),
    (cfg_source("3x8x8", "cost type=sse | cost"), "", {PJ: 1, AB: 1, HK: 1}),
    (cfg_source("3x8x8", "avgpool | cost"), "", {}),
    (cfg_source("6x32x32", "yolo classes=1 embedding_layer=1"), "", {AB: 5, HK: 5}),
    (cfg_source("6x32x32", "avgpool | upsample stride=32 | yolo classes=1 embedding_layer=-4"), "", {AB: 8, HK: 8}),
    (cfg_source("6x32x32", "maxpool stride=1 | yolo classes=1 embedding_layer=-1"), "", {}),
    (cfg_source("6x32x32", "yolo classes=1 embedding_layer=999999"), "", {}),
    (STEPS.format("steps", "steps=5,6\nscales=.1"), "", {PJ: 1, AB: 1}),
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
def test_a_crash_of_a_fork_is_found(source, refusing, lines):
    for dialect in DIALECTS.keys() - set(refusing.split()):
        found = crashes(source, dialect)
        assert [finding.line for finding in found] == ([lines[dialect]] if dialect in lines else []), dialect
        assert all(dialect in finding.message for finding in found)


MISREAD = [  # a [convolutional] on 3x9x9, and whose CPU path misreads its input
    ("size=1", ""),
    ("size=1 pad=1", ""),
    ("size=1 padding=1", f"{PJ} {AB} {HK}"),
    ("size=1 stride=2", PJ),
    ("size=1 stride_x=1 stride_y=2", f"{AB} {HK}"),
    ("size=1 stride_x=2 stride_y=1", ""),
    ("size=1 stride_x=1 stride_y=2 antialiasing=1", ""),
    ("size=3 stride=2", ""),
    ("size=3 stride_x=1 stride_y=2 pad=1", ""),
    ("size=3 pad=1 dilation=2", ""),
    ("size=3 dilation=2", f"{AB} {HK}"),
    ("size=3 padding=2 dilation=2", f"{AB} {HK}"),
    ("size=2 dilation=2 stride=9", ""),  # both make one window
    ("size=1 dilation=2", ""),  # the forks set it to 1
]


@pytest.mark.parametrize(("options", "misreading"), MISREAD)
def test_a_convolution_whose_input_a_fork_misreads_is_found(options, misreading):
    for dialect in DIALECTS:
        network = build(text_of(cfg_source("3x9x9", f"maxpool | convolutional filters=2 {options}")), DIALECTS[dialect])
        found = [finding for finding in cfg_findings(network) if finding.id == "cfg-miscomputed"]
        expected = [(6, "warning")] if dialect in misreading.split() else []
        assert [(finding.line, finding.severity) for finding in found] == expected, dialect


ASSERTED = [
    ("maxpool stride=1 | maxpool stride=2 | shortcut from=0", 10),
    ("maxpool stride=1 | maxpool stride=2 | scale_channels from=0", 10),
    ("maxpool stride=1 | convolutional | sam from=0", 9),
    ("softmax groups=5", 6),
    ("crnn", 5),
]


@pytest.mark.parametrize(("layers", "line"), ASSERTED)
def test_an_assertion_that_hank_leaves_out_is_a_finding(layers, line):
    text = text_of(cfg_source("3x8x8", layers))
    found = [finding for finding in cfg_findings(build(text, DIALECTS[HK])) if finding.id == "cfg-assertion"]
    assert [(finding.severity, finding.line) for finding in found] == [("warning", line)]
    with pytest.raises(CfgError) as caught:
        build(text, DIALECTS[AB])
    assert (caught.value.line, caught.value.what in found[0].message) == (line, True)


@pytest.mark.parametrize(
    ("layer", "dialects", "line"),
    [
        ("convolutional filters=4 groups=4", DIALECTS, 7),
        ("convolutional filters=4 size=0", DIALECTS, 7),
        ("rnn output=4 hidden=0", (AB, HK), 7),
        ("convolutional filters=4 groups=3", DIALECTS, None),
        ("connected", DIALECTS, None),
    ],
)
def test_a_layer_without_weights_is_a_finding(layer, dialects, line):
    for dialect in dialects:
        found = cfg_findings(build(text_of(cfg_source("3x8x8", layer)), DIALECTS[dialect]))
        assert [finding.line for finding in found if finding.id == "cfg-no-weights"] == [line] * bool(line), dialect


@pytest.mark.parametrize(
    ("anchors", "dialect", "count"),
    [("1,2,3,4,,", PJ, 6), ("1,2,3,4,5,,", HK, 5), ("1 2 3 4 5.5", HK, 5)],
)
def test_a_list_is_as_long_as_the_fork_counts_it(anchors, dialect, count):
    (found,) = crashes(BOXES.format(kind="yolo", filters=6, mask="mask=0", anchors=anchors), dialect)
    assert f"{count} numbers" in found.message
