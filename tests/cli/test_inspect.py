"""`bnorm inspect` as a command line: exit codes, formats and widths (bnorm.cli.inspect, inspect_tables)."""

from __future__ import annotations

import csv
import json

import pytest

import bnorm
from support.builders import cfg_source, write_weights
from support.golden import sample

CHANNELS = """layer channel scale bias mean variance gain offset weight_norm weight_max folded_max above_zero
    state""".split()


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
    assert dropped == [
        [],
        ["weight_norm"],
        ["weight_norm", "weight_max"],
        ["mean", "weight_norm", "weight_max"],
    ]


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
    assert "total    8 parameters in 1 layer; no normalised channels" in printed.splitlines()


@pytest.mark.parametrize("option", [["--channels"], ["--epsilon", "opencv"], ["--plot", "x.png"]], ids=str)
def test_options_for_values_of_the_weights_need_weights(invoke, tiny, option):
    assert option[0] in invoke("inspect", tiny[0], *option, exit_code=2).stderr


@pytest.mark.parametrize(
    "option",
    [
        ["--sort", "colour"],
        ["--sort", "offset"],
        ["--top", "0"],
        ["--plot", "x.gif"],
        ["--layer", "9"],
        ["--layer", "a"],
    ],
    ids=" ".join,
)
def test_a_wrong_option_is_exit_code_2(invoke, tiny, option):
    result = invoke("inspect", *tiny, *option, exit_code=2)
    assert option[0] in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize("form", ["table", "json", "csv", "markdown"])
def test_an_output_file_holds_the_printed_text(invoke, tiny, tmp_path, form):
    """A file has no width: it holds what a very wide terminal shows."""
    printed = invoke("inspect", *tiny, "--format", form, columns="1000").stdout
    assert invoke("inspect", *tiny, "--format", form, "-o", tmp_path / "report", columns="40").stdout == ""
    assert (tmp_path / "report").read_text(encoding="utf-8") == printed


def test_a_dash_is_stdout(invoke, tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert invoke("inspect", *tiny, "-o", "-").stdout == invoke("inspect", *tiny).stdout
    assert not (tmp_path / "-").exists()


@pytest.mark.parametrize(("suffix", "form"), [(".json", "json"), (".csv", "csv"), (".md", "markdown"), ("", "table")])
def test_the_suffix_of_the_file_is_its_format(invoke, tiny, tmp_path, suffix, form):
    report = tmp_path / f"report{suffix}"
    invoke("inspect", *tiny, "-o", report)
    printed = invoke("inspect", *tiny, "--format", form, columns="1000").stdout
    assert report.read_text(encoding="utf-8") == printed


# --- quantisation -----------------------------------------------------------------------------------------------------


def records(invoke, *arguments: object) -> list[dict[str, str]]:
    return list(csv.DictReader(invoke("inspect", *arguments, "--format", "csv").stdout.splitlines()))


def test_the_range_after_folding_is_a_column_of_every_layer_with_weights(invoke, tiny):
    report = bnorm.inspect(bnorm.read_model(*tiny), weights=True)
    for row, layer in zip(records(invoke, *tiny), report.layers, strict=True):
        filters = layer.filters[""]
        assert float(row["range"]) == filters.range.after
        assert float(row["range_before"]) == filters.range.before
        assert float(row["folded_max"]) == filters.folded.max()
        assert float(row["weight_max"]) == filters.largest.max()
    assert row["range"] == row["range_before"]  # the last layer is not normalised
    heading = next(line for line in invoke("inspect", *tiny).stdout.splitlines() if line.startswith("index"))
    assert "range" in heading.split()


def test_layers_are_sorted_by_their_range(invoke):
    rows = records(invoke, *sample("digits"), "--sort", "range")
    known = [float(row["range"]) for row in rows if row["range"]]
    assert known == sorted(known, reverse=True)
    assert [row["range"] for row in rows[len(known) :]] == ["", ""]


def test_a_folded_network_shows_its_weights(invoke, tiny, tmp_path):
    before = records(invoke, *tiny, "--epsilon", "darknet")
    invoke("fold", *tiny, "-o", tmp_path / "folded.weights")
    after = records(invoke, tmp_path / "folded.cfg", tmp_path / "folded.weights")
    for old, new in zip(before, after, strict=True):
        assert float(new["range_before"]) == pytest.approx(float(old["range"]), rel=1e-6)
        assert float(new["weight_max"]) == pytest.approx(float(old["folded_max"]), rel=1e-6)
    printed = invoke("inspect", tmp_path / "folded.cfg", tmp_path / "folded.weights").stdout
    heading = next(line for line in printed.splitlines() if line.startswith("index")).split()
    assert "range" in heading
    assert "variance" not in heading


def test_a_cut_file_has_the_statistics_that_it_holds(invoke, tiny):
    """Layer 0 is cut in its weights, after its batch normalisation."""
    tiny[1].write_bytes(tiny[1].read_bytes()[:100])
    found = json.loads(invoke("inspect", *tiny, "--format", "json", exit_code=1).stdout)["layers"][0]
    assert found["statistics"]["weight_range"] is None
    assert found["statistics"]["gain_magnitude"]
    assert found["weights"] is None


# --- headings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [[], ["--channels"]], ids=str)
def test_every_heading_is_a_name_to_sort_by(invoke, options):
    printed = invoke("inspect", *sample("digits"), *options, columns="300").stdout.splitlines()
    heading = next(line for line in printed if line.startswith(("index", "layer"))).split()
    assert len(heading) > 10
    for name in heading:
        invoke("inspect", *sample("digits"), *options, "--sort", name, exit_code=2 if name == ".01-10" else 0)


@pytest.mark.parametrize(("order", "column"), [("gain", "gain_max"), ("gain:asc", "gain_min"), ("output", "outputs")])
def test_a_heading_of_several_columns_sorts_by_one_of_them(invoke, order, column):
    _, colon, direction = order.partition(":")
    expected = records(invoke, *sample("digits"), "--sort", f"{column}{colon}{direction}")
    assert records(invoke, *sample("digits"), "--sort", order) == expected


def test_markdown_has_the_headings_of_the_table(invoke):
    printed = invoke("inspect", *sample("digits"), columns="300").stdout.splitlines()
    heading = next(line for line in printed if line.startswith("index")).split()
    grid = invoke("inspect", *sample("digits"), "--format", "markdown").stdout.splitlines()
    assert next(line for line in grid if line.startswith("|")).strip("| ").split(" | ") == heading


def test_kernel_stride_groups_and_activation_are_columns(invoke, tmp_path):
    cfg = tmp_path / "net.cfg"
    layers = (
        "convolutional filters=4 size=3 stride=2 groups=2 activation=mish | convolutional filters=2 | "
        "maxpool size=3 stride=1 | shortcut from=-2"
    )
    cfg.write_text(cfg_source("4x8x8", layers))
    rows = records(invoke, cfg, "--dialect", "alexeyab")
    names = ("kernel", "stride", "groups", "activation")
    assert [[row[name] for name in names] for row in rows] == [
        ["3", "2", "2", "mish"],
        ["1", "1", "1", "logistic"],
        ["3", "1", "", ""],
        ["", "", "", "linear"],
    ]
    heading = next(line for line in invoke("inspect", cfg, "-q").stdout.splitlines() if line.startswith("index"))
    assert set(names) <= set(heading.split())


def test_steps_that_differ_are_both_shown(invoke, tmp_path):
    cfg = tmp_path / "net.cfg"
    cfg.write_text(cfg_source("4x8x8", "convolutional filters=4 size=3 stride_x=2 stride_y=1"))
    (row,) = records(invoke, cfg, "--dialect", "alexeyab")
    assert row["stride"] == "2x1"


@pytest.mark.parametrize("number", [0, 1])
def test_an_input_is_not_an_output(invoke, tiny, number):
    before = tiny[number].read_bytes()
    invoke("inspect", *tiny, "-o", tiny[number], exit_code=1)
    assert tiny[number].read_bytes() == before
