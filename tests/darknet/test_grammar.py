"""`darknet.grammar`: one line, one number and one list in each dialect (darknet's own parsers are the reference)."""

from __future__ import annotations

import pytest

from bnorm.darknet.grammar import GRAMMARS, INT_MAX, Heading
from bnorm.text import short

LINE_BASED = ("pjreddie", "alexeyab")


def line(dialect: str, text: str):
    return GRAMMARS[dialect].read_line(text)


@pytest.mark.parametrize(("text", "entry"), [("[", ("[", "")), ("[ = 5", ("[", "5")), ("[net", ("[net", ""))])
def test_a_bracket_alone_is_not_a_heading_in_hank(text, entry):
    assert line("hank", text) == entry


def test_hank_refuses_a_comment_in_place_of_a_value():
    with pytest.raises(ValueError, match="activation=, expected a value before the #"):
        line("hank", "activation= # leaky")


def integer(dialect: str, text: str) -> int:
    return GRAMMARS[dialect].integer(text)


def integers(dialect: str, text: str) -> list[int]:
    return GRAMMARS[dialect].integers(text)


# --- lines: pjreddie and alexeyab -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", LINE_BASED)
@pytest.mark.parametrize(
    ("text", "entry"),
    [
        ("filters=8\n", ("filters", "8")),
        ("  filters\t= 8 \n", ("filters", "8")),
        ("fil ters = 1 1\n", ("filters", "11")),
        ("filters=8", ("filters", "8")),
        ("activation=leaky # why\n", ("activation", "leaky#why")),
        ("width=416 ; note\n", ("width", "416;note")),
        ("a==1\n", ("a", "=1")),
        ("map=a=b\n", ("map", "a=b")),
        ("Filters=8\n", ("Filters", "8")),
    ],
)
def test_line_based_options_lose_every_blank_and_split_at_the_first_equals_sign(dialect, text, entry):
    assert line(dialect, text) == entry


@pytest.mark.parametrize("dialect", LINE_BASED)
@pytest.mark.parametrize("text", ["", "\n", " \t\n", "# a=1\n", ";a=1\n", "  # a\n", " \t; a\n", "#[net]\n"])
def test_line_based_comments_and_empty_lines_are_skipped(dialect, text):
    assert line(dialect, text) is None


@pytest.mark.parametrize("dialect", LINE_BASED)
@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("[net]\n", "net"),
        ("[ n e t ]\n", "net"),
        ("\t [net] \n", "net"),
        ("[net", "[net"),
        ("[net] # x\n", "[net]#x"),
        ("[net]]\n", "net]"),
        ("[]\n", ""),
    ],
)
def test_line_based_section_is_the_whole_line(dialect, text, name):
    assert line(dialect, text) == Heading(name)


@pytest.mark.parametrize("dialect", LINE_BASED)
def test_line_based_key_without_equals_sign_has_no_value(dialect):
    assert line(dialect, "filters\n") == ("filters", None)


@pytest.mark.parametrize("dialect", LINE_BASED)
def test_line_based_key_with_nothing_after_the_equals_sign_has_an_empty_value(dialect):
    assert line(dialect, "filters = \n") == ("filters", "")


@pytest.mark.parametrize("dialect", LINE_BASED)
def test_line_based_value_without_key_has_an_empty_key(dialect):
    assert line(dialect, "=5\n") == ("", "5")


def test_pjreddie_keeps_carriage_returns():
    assert line("pjreddie", "[net]\r\n") == Heading("[net]\r")
    assert line("pjreddie", "activation=leaky\r\n") == ("activation", "leaky\r")


def test_alexeyab_drops_carriage_returns_anywhere():
    assert line("alexeyab", "[net]\r\n") == Heading("net")
    assert line("alexeyab", "fil\rters=8\r\n") == ("filters", "8")


@pytest.mark.parametrize("dialect", LINE_BASED)
def test_line_based_keeps_blanks_that_strip_does_not_remove(dialect):
    assert line(dialect, "a=1\v2\n") == ("a", "1\v2")
    assert line(dialect, "a=1\N{NO-BREAK SPACE}2\n") == ("a", "1\N{NO-BREAK SPACE}2")


@pytest.mark.parametrize("dialect", LINE_BASED)
def test_line_based_lines_have_no_longest_length(dialect):
    assert line(dialect, "a=" + "1," * 100_000) == ("a", "1," * 100_000)


# --- lines: hank ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "entry"),
    [
        ("filters=8\n", ("filters", "8")),
        (" \tfilters \t=\t 8 \r\n", ("filters", "8")),
        ("mask = 0, 1, 2\n", ("mask", "0, 1, 2")),
        ("width=416 # why\n", ("width", "416")),
        ("width=416#why\n", ("width", "416")),
        ("width=1 ; note\n", ("width", "1 ; note")),
        (";a=1\n", (";a", "1")),
        ("a==1\n", ("a", "=1")),
        ("map=a=b\n", ("map", "a=b")),
    ],
)
def test_hank_options_are_trimmed_and_end_at_a_comment(text, entry):
    assert line("hank", text) == entry


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("[net]\r\n", "net"),
        ("  [net]\n", "net"),
        ("[net] # c\n", "net"),
        ("[conv]junk\n", "conv"),
        ("[ net ]\n", " net "),
        ("[net] # c]\n", "net] # c"),
    ],
)
def test_hank_section_reaches_from_the_first_bracket_to_the_last(text, name):
    assert line("hank", text) == Heading(name)


@pytest.mark.parametrize("text", ["", " \t\r\n", "# a=1\n", ";text\n"])
def test_hank_comments_are_skipped(text):
    assert line("hank", text) is None


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("filters\n", "filters"),
        ("filters =\n", "filters"),
        ("filters=#8\n", "filters"),
        ("a b=1\n", "a b"),
        ("a b=c=d\n", "a b"),
        ("=5\n", ""),
        ("[net\n", "[net"),
        ("[]\n", "[]"),
    ],
)
def test_hank_skips_lines_that_match_neither_pattern(text, key):
    assert line("hank", text) == (key, "")


@pytest.mark.parametrize("character", ["\v", "\f", "\N{NO-BREAK SPACE}"])
def test_hank_keeps_blanks_that_its_trim_does_not_remove(character):
    assert line("hank", f"a=1{character}\n") == ("a", f"1{character}")
    assert line("hank", f"{character}a=1\n") == (f"{character}a", "1")


def test_hank_refuses_a_value_of_blanks_before_a_comment():
    with pytest.raises(ValueError, match="expected a value"):
        line("hank", "filters = # 8\n")


def test_hank_refuses_a_value_that_overflows_its_regular_expressions():
    with pytest.raises(ValueError, match="50,000 characters"):
        line("hank", "map=" + "x" * 50_001)
    assert line("hank", "map=" + "x" * 50_000) == ("map", "x" * 50_000)


@pytest.mark.parametrize("value", ["-", ".", "--5", "-.-"])
def test_hank_refuses_a_line_with_a_value_that_only_looks_like_a_number(value):
    with pytest.raises(ValueError, match="expected a number"):
        line("hank", f"momentum={value}\n")


# --- numbers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", LINE_BASED)
@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("12", 12),
        ("-3", -3),
        ("+5", 5),
        ("007", 7),
        ("4.9", 4),
        ("1e1", 1),
        ("0x10", 0),
        ("12#416", 12),
        ("-1-4", -1),
        ("--5", 0),
        ("leaky", 0),
        ("", 0),
        ("\v\f\r7", 7),
        ("\N{ARABIC-INDIC DIGIT THREE}", 0),
        ("2147483647", INT_MAX),
    ],
)
def test_line_based_integers_are_those_of_atoi(dialect, text, number):
    assert integer(dialect, text) == number


@pytest.mark.parametrize("dialect", sorted(GRAMMARS))
@pytest.mark.parametrize("text", ["2147483648", "-3000000000", "1000000000000", "9" * 39, "9" * 40, "9" * 5000])
def test_an_integer_beyond_32_bits_is_refused(dialect, text):
    with pytest.raises(ValueError, match="32-bit int"):
        integer(dialect, text)


@pytest.mark.parametrize(
    ("text", "number"),
    [("12", 12), ("-3", -3), ("4.9", 4), ("-4.9", -4), (".5", 0), ("1.", 1), ("1.2.3", 1), ("1-2", 1), ("007", 7)],
)
def test_hank_integers_are_the_leading_decimal_truncated(text, number):
    assert integer("hank", text) == number


@pytest.mark.parametrize(
    ("text", "number"), [("16777216", 2**24), ("16777217", 2**24), ("16777219", 2**24 + 4), ("-16777217", -(2**24))]
)
def test_hank_integers_pass_through_a_float32(text, number):
    assert integer("hank", text) == number


@pytest.mark.parametrize(
    "text", ["1e-4", "1e4", "+5", "0x10", "inf", "nan", "leaky", "1 ; note", "1 2", "--5", "-", ".", "-.", ""]
)
def test_hank_refuses_a_value_that_is_not_a_plain_decimal(text):
    with pytest.raises(ValueError, match="plain decimal"):
        integer("hank", text)


# --- lists ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", LINE_BASED)
@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("-1,-4", [-1, -4]),
        ("-1,-2,", [-1, -2, 0]),
        ("1,,2", [1, 0, 2]),
        (",", [0, 0]),
        ("-1-4", [-1]),
        ("1.5,2x", [1, 2]),
        ("0,1#,2", [0, 1, 2]),
    ],
)
def test_line_based_lists_count_commas(dialect, text, numbers):
    assert integers(dialect, text) == numbers


@pytest.mark.parametrize("dialect", LINE_BASED)
def test_blanks_without_a_comma_make_one_number_of_two(dialect):
    _, value = line(dialect, "layers = -1 -4\n")
    assert integers(dialect, value) == [-1]


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("-1, -4", [-1, -4]),
        ("-1 -4", [-1, -4]),
        ("-1,-2,", [-1, -2]),
        ("1,,2", [1, 2]),
        ("1.5", [1, 5]),
        ("1e-1", [1, -1]),
        ("7x8", [7, 8]),
        ("1-2,3", [1, 3]),
        ("1,--5,2", [1]),
        ("1,-", [1]),
        ("x", []),
    ],
)
def test_hank_lists_are_runs_of_digits(text, numbers):
    assert integers("hank", text) == numbers


@pytest.mark.parametrize("dialect", sorted(GRAMMARS))
def test_a_list_with_an_integer_beyond_32_bits_is_refused(dialect):
    with pytest.raises(ValueError, match="32-bit int"):
        integers(dialect, "1,4294967296")


# --- messages ---------------------------------------------------------------------------------------------------------


def test_a_piece_of_the_file_is_cut_for_a_message():
    assert short("x" * 40) == "x" * 40
    assert short("x" * 41) == "x" * 37 + "..."


def test_a_printable_piece_of_the_file_is_shown_unchanged():
    assert short("data\\9k.tree 'x' γ") == "data\\9k.tree 'x' γ"


def test_a_piece_of_the_file_cannot_move_the_terminal():
    assert short("a\x1b[2Jb\n") == r"a\x1b[2Jb\n"
