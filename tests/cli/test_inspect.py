"""`bnorm inspect` as a command line: exit codes, formats and widths (bnorm.cli.inspect, inspect_tables)."""

from __future__ import annotations

import csv

import pytest

from support.builders import cfg_source, write_weights
from support.golden import sample

CHANNELS = "layer channel scale bias mean variance gain offset norm max|w| folded >0 state".split()


@pytest.mark.parametrize("form", ["table", "json", "csv", "markdown"])
def test_a_pair_that_does_not_fit_is_shown_and_is_exit_code_1(invoke, tiny, form):
    tiny[1].write_bytes(tiny[1].read_bytes()[:-4])
    result = invoke("inspect", *tiny, "--format", form, exit_code=1)
    assert result.stdout
    assert result.stderr.startswith(f"error: {tiny[1]}: ")


def test_the_verdict_of_a_pair_that_does_not_fit_has_both_sizes(invoke, tiny):
    size = tiny[1].stat().st_size
    tiny[1].write_bytes(tiny[1].read_bytes()[:-4])
    lines = invoke("inspect", *tiny, exit_code=1).stdout.splitlines()
    verdict = lines.index("verdict  does not fit:")
    told = " ".join(line.strip() for line in lines[verdict + 1 : verdict + 4])
    assert f"{size:,}" in told
    assert f"{size - 4:,}" in told


def test_channels_are_dropped_in_their_order(invoke):
    """A terminal one column narrower than the table loses the next one."""
    columns, dropped = 200, []
    for _ in range(4):
        printed = invoke("inspect", *sample("digits"), "--channels", "--top", 1, columns=str(columns)).stdout
        heading, rule = (line for line in printed.splitlines() if line.startswith(("layer ", "---")))
        dropped.append([name for name in CHANNELS if name not in heading.split()])
        columns = len(rule) - 1
    assert dropped == [[], ["norm"], ["mean", "norm"], ["mean", "norm", "max|w|"]]


@pytest.mark.parametrize("columns", ["80", "160"])
@pytest.mark.parametrize("options", [[], ["--channels"]], ids=str)
def test_tables_fit_the_terminal(invoke, columns, options):
    printed = invoke("inspect", *sample("digits"), *options, columns=columns).stdout.splitlines()
    assert max(map(len, printed)) <= int(columns)


def test_a_part_has_its_own_row_and_its_layer_s_number_by_channel(invoke):
    cfg, weights = sample("recurrent")
    rows = list(csv.DictReader(invoke("inspect", cfg, weights, "--channels", "--format", "csv").stdout.splitlines()))
    first = next(row for row in rows if row["part"])
    assert f"\n{first['layer']}.{first['part']} " in invoke("inspect", cfg, weights, "--channels").stdout
    assert f"      {first['part']} " in invoke("inspect", cfg, weights).stdout


def test_a_network_without_normalisation_says_so(invoke, tmp_path):
    cfg = tmp_path / "plain.cfg"
    cfg.write_text(cfg_source("3x8x8", "convolutional filters=2 size=1"))
    printed = invoke("inspect", cfg, write_weights(cfg, tmp_path / "plain.weights")).stdout
    assert printed.splitlines()[-1] == "total    8 parameters in 1 layer; no normalised channels"


@pytest.mark.parametrize("option", [["--channels"], ["--epsilon", "opencv"], ["--plot", "x.png"]], ids=str)
def test_what_shows_values_of_the_weights_needs_them(invoke, tiny, option):
    assert option[0] in invoke("inspect", tiny[0], *option, exit_code=2).stderr


@pytest.mark.parametrize(
    "option",
    [["--sort", "colour"], ["--sort", "gain"], ["--top", "0"], ["--plot", "x.gif"], ["--layer", "9"], ["--layer", "a"]],
    ids=" ".join,
)
def test_a_wrong_option_is_exit_code_2(invoke, tiny, option):
    result = invoke("inspect", *tiny, *option, exit_code=2)
    assert option[0] in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize("form", ["table", "json", "csv", "markdown"])
def test_a_file_holds_what_would_be_printed(invoke, tiny, tmp_path, form):
    printed = invoke("inspect", *tiny, "--format", form).stdout
    assert invoke("inspect", *tiny, "--format", form, "-o", tmp_path / "report").stdout == ""
    assert (tmp_path / "report").read_text(encoding="utf-8") == printed


@pytest.mark.parametrize("number", [0, 1])
def test_an_input_is_not_an_output(invoke, tiny, number):
    before = tiny[number].read_bytes()
    invoke("inspect", *tiny, "-o", tiny[number], exit_code=1)
    assert tiny[number].read_bytes() == before
