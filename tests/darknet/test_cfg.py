"""The text of a cfg: lines are kept unchanged, sections and values are read as in each dialect."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from textwrap import dedent

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bnorm.checks.cfg_rules import text_findings
from bnorm.darknet import cfg
from bnorm.darknet.cfg import CfgText, Section
from bnorm.darknet.dialects import DIALECTS
from bnorm.darknet.edit import apply, dropped
from bnorm.darknet.network import build
from bnorm.darknet.section_types import SECTIONS
from bnorm.darknet.vocabulary import KEYS
from bnorm.errors import CfgError

LINE_BASED = ("pjreddie", "alexeyab")
EVERY = sorted(DIALECTS)
every_dialect = pytest.mark.parametrize("dialect", EVERY)
line_based = pytest.mark.parametrize("dialect", LINE_BASED)


def text_of(source: str | bytes) -> CfgText:
    return cfg.parse(Path("net.cfg"), source.encode() if isinstance(source, str) else source)


def sections(source: str | bytes, dialect: str) -> tuple[Section, ...]:
    return cfg.sections(text_of(source), DIALECTS[dialect])


def layer(options: str, dialect: str, name: str = "convolutional") -> Section:
    """The one layer of a cfg, whose options begin at line 4."""
    return sections(f"[net]\nwidth=8\n[{name}]\n{options}", dialect)[1]


def net(options: str, dialect: str) -> Section:
    """The [net] of a cfg, whose options begin at line 2."""
    return sections(f"[net]\n{options}\n[avgpool]\n", dialect)[0]


def error(source: str | bytes, dialect: str) -> CfgError:
    with pytest.raises(CfgError) as caught:
        sections(source, dialect)
    return caught.value


# --- bytes that are not text ------------------------------------------------------------------------------------------


def test_a_byte_order_mark_is_named():
    with pytest.raises(CfgError, match="byte order mark") as caught:
        text_of(b"\xef\xbb\xbf[net]\n")
    assert caught.value.line == 1


def test_utf_16_is_named():
    for encoding in ("utf-16", "utf-16-be"):
        data = ("\ufeff" if encoding.endswith("be") else "") + "[net]\nwidth=8\n"
        with pytest.raises(CfgError, match="it is UTF-16: save it as UTF-8"):
            cfg.parse(Path("net.cfg"), data.encode(encoding))


def test_the_first_byte_that_is_not_utf_8_is_named_with_its_line():
    with pytest.raises(CfgError, match="byte 0xe9, expected UTF-8") as caught:
        text_of("[net]\n# caf\xe9\n".encode("latin-1"))
    assert caught.value.line == 2


def test_utf_16_is_not_utf_8():
    with pytest.raises(CfgError, match="expected UTF-8"):
        text_of("[net]\n".encode("utf-16"))


def test_a_zero_byte_is_not_text():
    with pytest.raises(CfgError, match="zero byte") as caught:
        text_of(b"[net]\nwidth=8\0\n")
    assert caught.value.line == 2


@pytest.mark.parametrize(
    ("data", "line", "cause", "finding"),
    [
        (b"\xef\xbb\xbf[net]\n", 1, "save without BOM", "cfg-bom"),
        (b"\n[net]\n# caf\xe9", 3, "save it as UTF-8", "cfg-not-text"),
        (b"\0\0\0\0\n\xe9", 2, "is this the weights file?", "cfg-not-text"),
        (b"\n[net]\nwidth=8\0\n\0", 3, "is this the weights file?", "cfg-not-text"),
        (b"[net]\rwidth=8\r[avgpool]\r", 1, "save it with LF line ends", "cfg-cr"),
    ],
)
def test_bytes_that_are_not_text_are_refused_with_line_and_cause(data, line, cause, finding):
    found = error(data, "alexeyab")
    assert (found.line, cause in found.cause, found.finding) == (line, True, finding)


def test_a_file_of_a_weights_file_s_size_is_not_read(tmp_path):
    path = tmp_path / "big.cfg"
    path.write_bytes(b"#" * (cfg.MOST_BYTES + 1))
    with pytest.raises(CfgError, match=f"more than {cfg.MOST_BYTES:,} bytes") as caught:
        cfg.read(path)
    assert ("weights file" in caught.value.cause, caught.value.finding) == (True, "cfg-not-text")


def test_a_file_of_the_largest_size_is_read(tmp_path):
    path = tmp_path / "big.cfg"
    path.write_bytes(b"#" * cfg.MOST_BYTES)
    assert len(cfg.read(path).lines) == 1


def test_a_text_has_a_limited_number_of_lines():
    assert len(text_of("\n" * cfg.MOST_LINES).lines) == cfg.MOST_LINES
    with pytest.raises(CfgError, match=f"more than {cfg.MOST_LINES} lines"):
        text_of("\n" * (cfg.MOST_LINES + 1))


def test_a_pipe_is_not_a_cfg(tmp_path):
    os.mkfifo(tmp_path / "net.cfg")
    with pytest.raises(CfgError, match="is a pipe or a device"):
        cfg.read(tmp_path / "net.cfg")


# --- sections ---------------------------------------------------------------------------------------------------------


@every_dialect
def test_sections_know_their_type_name_and_line(dialect):
    source = """\
        # a comment
        [network]
        width=8

        [conv]
        filters=2
        [maxpool]"""
    found = sections(dedent(source), dialect)
    assert [(section.type, section.name, section.line) for section in found] == [
        ("net", "network", 2),
        ("convolutional", "conv", 5),
        ("maxpool", "maxpool", 7),
    ]


@pytest.mark.parametrize("dialect", EVERY)
@pytest.mark.parametrize("source", ["", "\n\n", "# only a comment\n", ";\n"])
def test_a_file_without_sections_is_refused(dialect, source):
    found = error(source, dialect)
    assert (found.what, "is empty" in found.cause) == ("no section, expected [net]", True)


@line_based
@pytest.mark.parametrize("option", ["width=8", "width", "width="])
def test_an_option_before_any_section_is_refused(dialect, option):
    found = error(f"# x\n{option}\n[net]\n[avgpool]\n", dialect)
    assert (found.line, found.what) == (2, f"{option} appears before the first section, expected [net]")


def test_hank_refuses_an_option_before_any_section():
    assert error("width=8\n[net]\n[avgpool]\n", "hank").line == 1


def test_hank_skips_a_line_that_is_not_an_option_before_any_section():
    assert sections("my network\n[net]\nwidth=8\n[avgpool]\n", "hank")[0].type == "net"


@every_dialect
def test_the_first_section_must_be_net(dialect):
    found = error("\n[convolutional]\nfilters=1\n[net]\nwidth=8\n", dialect)
    assert (found.line, "expected [net] as the first section" in found.what) == (2, True)


@every_dialect
def test_a_second_net_is_not_a_layer(dialect):
    found = error("[net]\nwidth=8\n[avgpool]\n[net]\nwidth=8\n", dialect)
    assert (found.line, found.what) == (4, "[net] appears again, expected it as the first section only")


def test_the_error_of_a_missing_value_has_the_line_of_its_key():
    """It hides later lines with the same key."""
    text = text_of("[net]\nwidth=8\nheight=8\nchannels=3\n[conv]\n[shortcut]\nactivation=linear\nfrom\nfrom=-2\n")
    with pytest.raises(CfgError, match="has no from") as caught:
        build(text, DIALECTS["alexeyab"])
    assert caught.value.line == 8


def test_an_option_without_a_key_is_not_the_line_of_other_errors():
    text = text_of("[net]\nwidth=8\n[conv]\n=5\n")
    with pytest.raises(CfgError) as caught:
        build(text, DIALECTS["alexeyab"])
    assert caught.value.line == 1


def test_the_error_says_that_a_name_extends_to_the_last_bracket():
    assert "extends to the line's last ]" in error("[net] # x]\nwidth=8\n[avgpool]\n", "hank").cause
    assert "blanks inside the brackets count" in error("[ net ]\nwidth=8\n[avgpool]\n", "hank").cause


@every_dialect
def test_net_alone_is_not_a_network(dialect):
    found = error("# alone\n[net]\nwidth=8\n", dialect)
    assert (found.line, found.what) == (2, "no layer after [net]")


def test_hank_replaces_a_net_without_options_by_the_next_section_and_fails_on_that():
    with pytest.raises(CfgError):
        build(text_of("[net]\n[convolutional]\nfilters=1\n[avgpool]\n"), DIALECTS["hank"])


@every_dialect
def test_an_unknown_section_is_refused_with_its_line(dialect):
    found = error("[net]\nwidth=8\n[convolutionnal]\n", dialect)
    assert (found.line, found.what) == (3, f"[convolutionnal] is unknown to {dialect}, expected a layer")


@line_based
def test_a_section_without_a_name_is_refused(dialect):
    found = error("[net]\nwidth=8\n[]\n", dialect)
    assert (found.line, found.what) == (3, f"[] is unknown to {dialect}, expected a layer")


@every_dialect
def test_section_names_are_case_sensitive(dialect):
    assert error("[net]\nwidth=8\n[Convolutional]\n", dialect).line == 3


@line_based
def test_blanks_in_brackets_do_not_count(dialect):
    assert sections("[ n e t ]\nwidth=8\n[\tavg pool ]\n", dialect)[1].type == "avgpool"


def test_hank_counts_blanks_in_brackets():
    found = error("[ net ]\nwidth=8\n[avgpool]\n", "hank")
    assert (found.line, found.cause) == (1, "in hank, blanks inside the brackets count: expected [net]")


@line_based
def test_a_comment_after_a_bracket_changes_the_section_s_name(dialect):
    found = error("[net] # x\nwidth=8\n[avgpool]\n", dialect)
    assert (found.line, found.cause) == (1, f"in {dialect}, the whole line is the section's type: expected [net]")


def test_hank_accepts_a_comment_after_a_bracket():
    assert sections("[net] # x\nwidth=8\n[avgpool]junk\n", "hank")[1].type == "avgpool"


@line_based
def test_a_bracket_that_is_not_closed_is_refused(dialect):
    found = error("[net\nwidth=8\n[avgpool]\n", dialect)
    assert (found.line, found.what.partition(" is ")[0]) == (1, "[net")


def test_hank_skips_a_bracket_that_is_not_closed():
    assert "appears before the first section" in error("[net\nwidth=8\n[avgpool]\n", "hank").what
    assert len(sections("[net]\nwidth=8\n[maxpool\n[avgpool]\n", "hank")) == 2


# Section names by dialect: darknet-format.md, 1.3.
KNOWN = {
    "conv convolutional conn connected max maxpool avg avgpool soft softmax": EVERY,
    "route shortcut upsample dropout cost region yolo crnn rnn lstm": EVERY,
    "deconv deconvolutional logistic l2norm iseg": ["pjreddie"],
    "local_avg local_avgpool reorg3d Gaussian_yolo scale_channels sam contrastive": ["alexeyab", "hank"],
    "reorg local gru batchnorm activation crop detection lrn normalization": ["alexeyab", "pjreddie"],
    "conv_lstm history implicit empty silence": ["alexeyab"],
    "blank implicit_add implicit_mul gaussian_yolo": [],
}


@pytest.mark.parametrize(
    ("name", "dialects"), [(name, known) for names, known in KNOWN.items() for name in names.split()]
)
def test_a_section_is_known_to_these_forks(name, dialects):
    assert [dialect for dialect in EVERY if name in SECTIONS[dialect]] == dialects


# --- line ends --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", ["alexeyab", "hank"])
def test_crlf_is_a_line_end(dialect):
    section = sections("[net]\r\nwidth=8\r\n[convolutional]\r\nactivation=leaky\r\n", dialect)[1]
    assert section.text("activation") == "leaky"


def test_a_file_of_one_line_may_end_in_crlf():
    assert error("[net]\r\n", "alexeyab").what == "no layer after [net]"


def test_pjreddie_fails_on_the_first_section_of_a_crlf_file():
    found = error("[net]\r\nwidth=8\r\n[avgpool]\r\n", "pjreddie")
    assert (found.line, "CR" in found.cause, "\r" in str(found)) == (1, True, False)


def test_pjreddie_reads_numbers_before_a_carriage_return():
    section = layer("filters=8\r\nactivation=leaky\r\n", "pjreddie")
    assert (section.integer("filters", 1), section.text("activation")) == (8, "leaky\r")


@every_dialect
def test_the_last_line_needs_no_line_end(dialect):
    assert layer("filters=8", dialect).integer("filters", 1) == 8


# --- options ----------------------------------------------------------------------------------------------------------


@line_based
def test_blanks_inside_keys_and_values_do_not_count(dialect):
    assert layer("fil ters = 1 1", dialect).integer("filters", 1) == 11


@line_based
def test_the_first_of_two_equal_keys_counts(dialect):
    section = layer("filters=2\nfilters=3\n", dialect)
    assert (section.integer("filters", 1), section.find("filters").line) == (2, 4)


@line_based
def test_a_key_without_value_hides_the_next_one(dialect):
    assert layer("filters\nfilters=9\n", dialect).integer("filters", 1) == 1


@line_based
def test_a_key_with_an_empty_value_is_dropped(dialect):
    assert layer("filters=\nfilters=9\n", dialect).integer("filters", 1) == 9


@pytest.mark.parametrize("line", ["filters", "filters=", "filters=#8", "fil ters=8"])
def test_hank_skips_a_line_that_is_not_an_option(line):
    assert layer(f"{line}\nfilters=9\n", "hank").integer("filters", 1) == 9


@line_based
def test_an_inline_comment_stays_in_the_value(dialect):
    section = layer("filters=8 # eight\nactivation=leaky # why\n", dialect)
    assert (section.integer("filters", 1), section.text("activation")) == (8, "leaky#why")


@line_based
def test_semicolons_begin_comments(dialect):
    assert layer(" ;filters=8\nsize=3 ; three\n", dialect).integer("filters", 1) == 1


def test_hank_ends_a_value_at_a_comment():
    section = layer("filters=8 # eight\nactivation=leaky#why\n", "hank")
    assert (section.integer("filters", 1), section.text("activation")) == (8, "leaky")


def test_hank_refuses_a_number_with_a_semicolon():
    with pytest.raises(CfgError, match="filters=8 ; eight, expected a plain decimal"):
        layer("filters=8 ; eight\n", "hank").integer("filters", 1)


def test_hank_refuses_an_empty_value_with_its_line():
    found = error("[net]\nwidth=8\n[convolutional]\nsize=1\nfilters = # 8\n", "hank")
    assert (found.line, "filters=, expected a value" in found.what) == (5, True)


@line_based
def test_unknown_keys_are_kept_and_not_used(dialect):
    section = layer("Filters=9\ncolour=red\n", dialect)
    assert [option.key for option in section.options] == ["Filters", "colour"]
    assert section.integer("filters", 1) == 1


@every_dialect
def test_a_key_of_another_fork_has_its_default(dialect):
    section = layer("", dialect)
    assert section.knows("numload") is (dialect == "pjreddie")
    assert section.knows("share_index") is (dialect != "pjreddie")


def test_pjreddie_ignores_keys_of_alexeyab():
    assert layer("stride_x=3\n", "pjreddie").integer("stride_x", -1) == -1


# --- values -----------------------------------------------------------------------------------------------------------


@every_dialect
def test_an_absent_value_is_the_default(dialect):
    section = layer("filters=2\n", dialect)
    assert section.integer("size", 7) == 7
    assert (section.positive("stride"), section.natural("padding")) == (1, 0)
    assert section.integers("stream") is None
    assert section.text("activation", "logistic") == "logistic"
    assert not section.flag("pad")


@every_dialect
@pytest.mark.parametrize(("value", "switched"), [("0", False), ("1", True), ("2", True), ("-1", True)])
def test_any_number_but_zero_is_a_switch_turned_on(dialect, value, switched):
    assert layer(f"pad={value}\n", dialect).flag("pad") is switched


@every_dialect
@pytest.mark.parametrize("value", ["0", "-4"])
def test_a_number_below_the_least_is_refused_with_its_line(dialect, value):
    with pytest.raises(CfgError, match=f"filters={value}, expected at least 1") as caught:
        layer(f"size=1\nfilters={value}\n", dialect).positive("filters")
    assert caught.value.line == 5


@every_dialect
def test_a_number_beyond_32_bits_is_refused_with_its_line(dialect):
    with pytest.raises(CfgError, match="filters=1000000000000, expected a number that fits a 32-bit int") as caught:
        layer("filters=1000000000000\n", dialect).positive("filters")
    assert caught.value.line == 4


@pytest.mark.parametrize("comment", ["#,2", "#,2#,3"])
def test_a_mask_ends_at_a_comment_in_alexeyab(comment):
    assert layer(f"mask=0,1{comment}\n", "alexeyab", "yolo").integers("mask") == [0, 1]


def test_a_mask_continues_after_a_comment_in_pjreddie():
    assert layer("mask=0,1#,2\n", "pjreddie", "yolo").integers("mask") == [0, 1, 2]


def test_a_list_other_than_mask_continues_after_a_comment_in_alexeyab():
    assert layer("layers=-1#,-2\n", "alexeyab", "route").integers("layers") == [-1, -2]


def test_hank_cuts_a_list_at_a_comment_before_splitting_it():
    assert layer("layers=-1 -3 # , -2\n", "hank", "route").integers("layers") == [-1, -3]


def test_an_error_without_a_key_has_the_line_of_the_section():
    assert layer("filters=2\n", "alexeyab").error("is odd").line == 3


def test_an_error_has_the_cause_and_the_finding_that_are_given():
    plain = layer("", "alexeyab").error("is odd")
    explained = layer("", "alexeyab").error("is odd", cause="a typing error", finding="cfg-odd")
    assert (plain.cause, plain.finding) == ("", "cfg-refused")
    assert (explained.cause, explained.finding) == ("a typing error", "cfg-odd")


# --- removing lines ---------------------------------------------------------------------------------------------------

SOURCES = [
    b"[net]\nwidth=8\n\n[avgpool]\n",
    b"[net]\r\nwidth=8\r\n\r\n[avgpool]\r\n",
    b"[net]\nwidth=8\n\n[avgpool]",
    b"[net]\r\nwidth=8\n\n[avgpool]\r",
    "[net]\n# \u03b3 and \u03b2\v\f\x85\u2028\n".encode(),
    b"\n",
    b"",
]


@pytest.mark.parametrize("source", SOURCES)
def test_dropping_no_lines_keeps_the_bytes(source):
    assert text_of(source).encode() == source


@pytest.mark.parametrize("source", SOURCES)
def test_a_text_without_one_line_keeps_every_other_byte(source):
    lines = source.split(b"\n")
    ended = [line + b"\n" for line in lines[:-1]] + ([lines[-1]] if lines[-1] else [])
    for number in range(1, len(ended) + 1):
        assert apply(text_of(source), dropped([number])).encode() == b"".join(ended[: number - 1] + ended[number:])


def test_a_text_without_several_lines():
    assert apply(text_of("a\nb\r\nc\nd"), {3: "C\n"}, dropped([2, 4])).encode() == b"a\nC\n"


# --- any text ---------------------------------------------------------------------------------------------------------

WORDS = st.sampled_from([*KEYS["alexeyab"]["convolutional"], "[net]", "[convolutional]", "[yolo]", "mask", "layers"])
PIECES = st.sampled_from(["=", " ", "\t", "\r", "\n", "#", ";", ",", "-", ".", "[", "]", "1", "16777217", "9" * 39, ""])
TEXTS = st.lists(WORDS | PIECES | st.text(max_size=3), max_size=40).map("".join)


@every_dialect
@settings(max_examples=100, deadline=None)
@example("[net]\nwidth=" + "9" * 40 + "\n[avgpool]\n")
@example("[net]\nwidth=8\n[")
@given(source=TEXTS)
def test_any_text_is_read_or_refused(dialect, source):
    """Every value of every section is converted as well: if a fork fails, the error is a `CfgError`."""
    try:
        text = text_of(source)
        found = cfg.sections(text, DIALECTS[dialect])
    except CfgError:
        return
    text_findings(text, found)
    for section in found:
        for option in section.options:
            for convert in (section.flag, section.integers, section.text):
                with contextlib.suppress(CfgError):
                    convert(option.key)


@given(source=st.text(alphabet=st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
@settings(max_examples=100, deadline=None)
def test_dropping_no_lines_of_any_text_keeps_the_bytes(source):
    data = source.encode()
    if not data.startswith(b"\xef\xbb\xbf"):
        assert text_of(data).encode() == data


@given(data=st.binary(max_size=60))
@settings(max_examples=100, deadline=None)
def test_any_bytes_are_text_or_refused(data):
    with contextlib.suppress(CfgError):
        assert text_of(data).encode() == data
