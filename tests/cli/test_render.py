"""Pages as text (bnorm.cli.render, page, sentences and terminal)."""

from __future__ import annotations

import csv
import io
import json
import math
import sys

import click
import pytest

from bnorm.checks.findings import Finding
from bnorm.cli import render, terminal
from bnorm.cli.page import BLANK, Column, Line, Page, Records, Table
from bnorm.cli.sentences import described

WORDS = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"


@pytest.fixture(autouse=True)
def columns(monkeypatch):
    """Set the width of the terminal, 80 to begin with."""

    def resize(count: int) -> None:
        monkeypatch.setenv("COLUMNS", str(count))

    resize(80)
    return resize


def page(document: object = None, **fields) -> Page:
    return Page(document=lambda: document, **{"records": Records((), ()), **fields})


def printed(form: str, result: Page, capsys) -> list[str]:
    render.show(result, form)
    return capsys.readouterr().out.splitlines()


def finding(severity: str = "warning", number: int = 0, **fields) -> Finding:
    return Finding(
        **{"id": "nan", "severity": severity, "layer": None, "channel": None, "message": f"m{number}"} | fields
    )


# --- lines ------------------------------------------------------------------------------------------------------------


def test_a_line_begins_with_its_label(capsys):
    lines = printed("table", page(summary=(Line("cfg", "a.cfg"), Line("", "more"), BLANK, Line(None, "text"))), capsys)
    assert lines == ["cfg      a.cfg", "         more", "", "text"]


@pytest.mark.parametrize("count", [40, 60, 80, 160])
def test_words_are_wrapped_after_the_label(capsys, columns, count):
    columns(count)
    first, *others = printed("table", page(footer=[Line("verdict", WORDS)]), capsys)
    assert max(map(len, [first, *others])) <= count
    assert first.startswith("verdict  one")
    assert all(line.startswith(" " * 9) for line in others)
    assert " ".join([first, *others]).split()[1:] == WORDS.split()


def test_a_path_stays_whole(capsys):
    path = " ".join(["long name"] * 20)
    assert printed("table", page(summary=[Line("cfg", path, wrap=False)]), capsys) == [f"cfg      {path}"]


def test_a_word_wider_than_the_terminal_stays_whole(capsys):
    assert "x" * 200 in printed("table", page(summary=[Line("verdict", f"a {'x' * 200}")]), capsys)[-1]


def test_an_empty_text_is_a_line(capsys):
    assert printed("table", page(summary=[Line("verdict", "")]), capsys) == ["verdict"]


@pytest.mark.parametrize("form", ["table", "markdown"])
@pytest.mark.parametrize("label", ["cfg", None])
def test_control_characters_are_spelled(capsys, form, label):
    (line,) = printed(form, page(summary=[Line(label, "a\x1b[31m\nb")]), capsys)
    assert line.endswith(r"a\x1b[31m\nb")


# --- findings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({}, "m0"),
        ({"line": 12}, "line 12: m0"),
        ({"layer": 3}, "layer 3: m0"),
        ({"layer": 3, "part": "wf"}, "layer 3 wf: m0"),
        ({"layer": 3, "line": 12}, "layer 3: m0"),
        ({"id": "weights-cut", "layer": 3}, "m0"),
        ({"cause": "why"}, "m0; why"),
    ],
)
def test_a_finding_is_described_by_its_fields(fields, text):
    assert described(finding(**fields)) == text


def test_the_first_of_many_findings_of_a_kind_are_shown(capsys):
    findings = [finding(number=number) for number in range(render.MAX_ALIKE + 3)]
    lines = printed("table", page(findings=findings), capsys)
    assert [line.split()[1] for line in lines] == ["m0", "m1", "m2", "m3", "3"]
    assert len(printed("markdown", page(findings=findings), capsys)) == render.MAX_ALIKE + 3


def test_as_many_as_are_shown_need_no_rest(capsys):
    findings = [finding(number=number) for number in range(render.MAX_ALIKE)]
    assert printed("table", page(findings=findings), capsys)[-1].split()[1] == "m3"


# --- colour -----------------------------------------------------------------------------------------------------------


def coloured(result: Page, monkeypatch, **environment: str) -> str:
    """Return the text that is sent to the terminal."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Terminal()
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "stdout", screen)
    render.show(result, "table")
    return screen.getvalue()


SHOWN = page(
    findings=[finding("error"), finding("warning"), finding("note")], table=Table((Column("a", "a"),), [{"a": 1}])
)


@pytest.mark.parametrize(("severity", "code"), [("error", 31), ("warning", 33), ("note", 36)])
def test_a_terminal_shows_severities_in_colour(monkeypatch, severity, code):
    assert f"\x1b[{code}m{severity:9}\x1b[0m" in coloured(SHOWN, monkeypatch)


def test_a_terminal_shows_headings_in_bold(monkeypatch):
    assert "\x1b[1ma\x1b[0m" in coloured(SHOWN, monkeypatch)


def test_no_color_is_honoured(monkeypatch):
    assert "\x1b" not in coloured(SHOWN, monkeypatch, NO_COLOR="1")
    assert "\x1b" in coloured(SHOWN, monkeypatch, NO_COLOR="")


def test_colour_changes_nothing_else(monkeypatch):
    assert click.unstyle(coloured(SHOWN, monkeypatch)) == coloured(SHOWN, monkeypatch, NO_COLOR="1")


@pytest.mark.parametrize("form", render.FORMATS)
def test_a_pipe_and_a_file_get_no_colour(capsys, tmp_path, form):
    assert not [line for line in printed(form, SHOWN, capsys) if "\x1b" in line]
    render.show(SHOWN, form, tmp_path / "report")
    assert "\x1b" not in (tmp_path / "report").read_text()


# --- tables -----------------------------------------------------------------------------------------------------------

ROWS = [{"name": "a", "n": 1, "low": "x" * 10}, {"name": "bbb", "n": None, "low": "y", "high": "z" * 10}]

COLUMNS = (
    Column("name", "name", right=False),
    Column("n", "n", lambda value: f"{value}!"),
    Column("low", "low", drop_order=1),
    Column("high", "high", right=False, drop_order=2),
)


def test_a_table_is_aligned(capsys):
    assert printed("table", page(table=Table(COLUMNS, ROWS)), capsys) == [
        "name  n        low high",
        "-----------------------------",
        "a    1! xxxxxxxxxx",
        "bbb              y zzzzzzzzzz",
    ]


@pytest.mark.parametrize(
    ("count", "names"),
    [(29, "name n low high"), (28, "name n high"), (18, "name n high"), (17, "name n"), (3, "name n")],
)
def test_columns_are_dropped_in_their_order(capsys, columns, count, names):
    columns(count)
    assert printed("table", page(table=Table(COLUMNS, ROWS)), capsys)[0].split() == names.split()


def test_an_empty_column_is_dropped_if_it_may_be(capsys):
    rows = [{"name": "a"}]
    assert printed("table", page(table=Table(COLUMNS, rows)), capsys)[0].split() == ["name", "n"]


def test_a_table_without_rows_is_not_printed(capsys):
    assert printed("table", page(table=Table(COLUMNS, [])), capsys) == []


def test_the_order_of_a_page(capsys):
    table = Table((Column("t", "t"),), [{"t": 1}])
    totals = Table((Column("s", "s"),), [{"s": 2}])
    result = page(summary=[Line(None, "top")], table=table, footer=[BLANK], findings=[finding()], totals=totals)
    assert printed("table", result, capsys) == ["top", "t", "-", "1", "", "warning  m0 [nan]", "", "s", "-", "2"]


def test_a_file_is_as_wide_as_its_page(tmp_path, columns):
    columns(17)
    render.show(page(table=Table(COLUMNS, ROWS), footer=[Line("verdict", WORDS)]), "table", tmp_path / "report")
    heading, *_, footer = (tmp_path / "report").read_text().splitlines()
    assert heading.split() == ["name", "n", "low", "high"]
    assert footer == f"verdict  {WORDS}"


def test_markdown_escapes_and_aligns(capsys):
    table = Table((Column("a|b", "a"), Column("c", "c", right=False)), [{"a": 1, "c": "x|y"}])
    lines = printed("markdown", page(summary=[Line("cfg", "a.cfg"), BLANK], table=table), capsys)
    assert lines == ["* cfg a.cfg", "", r"| a\|b | c |", "| ---: | :--- |", r"| 1 | x\|y |"]


# --- for programs -----------------------------------------------------------------------------------------------------


def test_csv_is_the_records(capsys):
    records = Records(("a", "b"), [(1, None), ('x"y', 0.1)])
    text = "\n".join(printed("csv", page(records=records, summary=[Line(None, "no")]), capsys))
    assert list(csv.reader(io.StringIO(text))) == [["a", "b"], ["1", ""], ['x"y', "0.1"]]


def test_json_has_strings_for_numbers_that_it_cannot_hold(capsys):
    document = {"a": [math.nan, math.inf, -math.inf, 1.5], "b": (1, None), "c": "ε"}
    found = json.loads("\n".join(printed("json", page(document), capsys)))
    assert found == {"a": ["nan", "inf", "-inf", 1.5], "b": [1, None], "c": "ε"}


# --- the terminal -----------------------------------------------------------------------------------------------------


class Ascii(io.StringIO):
    encoding = "ascii"


def test_characters_that_stdout_lacks_are_spelled(monkeypatch):
    assert terminal.spelled("ε×²") == "ε×²"
    monkeypatch.setattr(sys, "stdout", Ascii())
    assert terminal.spelled("ε×²█") == "epsx^2@"


def test_programs_get_every_character(monkeypatch):
    screen = Ascii()
    monkeypatch.setattr(sys, "stdout", screen)
    render.show(page("ε"), "json")
    assert screen.getvalue() == '"ε"\n'


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (1.0, "1"), (0.0123, "0.012"), (0.00123, "1.2e-3"), (99.4, "99"), (99.6, "100"), (12345.0, "1.2e4")],
)
def test_a_number_has_two_digits_or_its_whole_part(value, text):
    assert render.number(value) == text
    assert render.number(-value).lstrip("-") == text


def test_a_count_has_commas():
    assert render.count(1234567) == "1,234,567"
