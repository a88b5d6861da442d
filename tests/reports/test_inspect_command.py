"""`bnorm inspect`: the JSON document, and the forms for people and programs."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
import subprocess
import sys
from typing import NamedTuple

import numpy as np
import pytest

import bnorm
from bnorm.cli import main, render
from bnorm.darknet.autodetect import read_model
from support.builders import BN, TINY, cfg_source, patch, write_weights
from support.golden import LAYOUTS, MODELS, NETWORKS, Golden, golden, needs_shared
from support.oracle import EXACT
from support.runner import runner


def no_constant(name: str):
    raise AssertionError(f"{name} is no JSON")


def document(invoke, *arguments: object, exit_code: int = 0) -> dict:
    """The JSON document, which must be all of stdout and must hold no NaN or Infinity."""
    result = invoke("inspect", *arguments, "--format", "json", exit_code=exit_code)
    return json.loads(result.stdout, parse_constant=no_constant)


class Printed(NamedTuple):
    """Return the output for one network of the reference data, each form printed once for all tests below."""

    case: Golden
    document: dict  # with --channels
    layers: list[dict[str, str]]  # CSV
    channels: list[dict[str, str]]  # CSV with --channels
    markdown: str
    tables: dict[int, str]  # by width, with --channels


@pytest.fixture(scope="module", params=NETWORKS, ids=lambda path: path.stem)
def printed(request: pytest.FixtureRequest) -> Printed:
    """Every network of golden/layouts in turn."""
    case = golden(request.param)

    def run(*options: str, columns: int = 80) -> str:
        arguments = ["inspect", str(case.cfg), str(case.weights), "--dialect", case.dialect, *options]
        result = runner(COLUMNS=str(columns)).invoke(main, arguments, catch_exceptions=False)
        assert result.exit_code == 0
        return result.stdout

    return Printed(
        case=case,
        document=json.loads(run("--channels", "--format", "json"), parse_constant=no_constant),
        layers=list(csv.DictReader(io.StringIO(run("--format", "csv")))),
        channels=list(csv.DictReader(io.StringIO(run("--channels", "--format", "csv")))),
        markdown=run("--format", "markdown"),
        tables={columns: run("--channels", columns=columns) for columns in (80, 160)},
    )


# --- every network of the reference data: see test_inspect.py for the report itself -----------------------------------

CHANNEL_KEYS = [
    *["part", "channel", "scale", "bias", "mean", "variance", "gain", "offset"],
    *["weight_norm", "weight_max", "folded_max", "above_zero", "state"],
]


def test_the_document_has_these_keys(printed):
    found = printed.document
    assert list(found) == [
        *["cfg", "weights", "dialect", "fits", "header", "verified", "worst", "epsilon", "findings", "written_by"],
        *["input", "expected_bytes", "actual_bytes", "trailing_bytes", "parameters", "layers"],
    ]
    assert list(found["header"]) == ["major", "minor", "revision", "seen", "bytes"]
    assert list(found["input"]) == ["channels", "height", "width", "inputs"]
    for layer in found["layers"]:
        assert list(layer) == [
            *["index", "type", "line", "output", "outputs", "batch_normalize", "parameters", "arrays"],
            *["statistics", "weights", "channels"],
        ]


def test_the_document_describes_the_file(printed):
    found, case = printed.document, printed.case
    assert (found["cfg"], found["weights"]) == (str(case.cfg), str(case.weights))
    assert found["dialect"] == case.dialect
    assert tuple(found["header"].values()) == (*case.header, case.seen, 20)
    assert (found["fits"], found["trailing_bytes"], case.dialect in found["written_by"]) == (True, 0, True)
    assert found["expected_bytes"] == found["actual_bytes"] == case.size
    assert found["parameters"] == sum(array["count"] for array in case.arrays)


def test_the_document_has_every_layer_and_array(printed):
    layers, case = printed.document["layers"], printed.case
    assert [layer["index"] for layer in layers] == [row["i"] for row in case.layers]
    for layer, row in zip(layers, case.layers, strict=True):
        assert layer["output"] == {"channels": row["out_c"], "height": row["out_h"], "width": row["out_w"]}
        assert layer["outputs"] == row["outputs"]
        assert layer["parameters"] == sum(math.prod(array["shape"]) for array in layer["arrays"])
    found = [
        (layer["index"], array["name"], array["offset"], math.prod(array["shape"]))
        for layer in layers
        for array in layer["arrays"]
    ]
    assert found == [(array["layer"], array["name"], array["offset"], array["count"]) for array in case.arrays]


def test_the_document_s_lines_are_those_of_the_sections(printed):
    lines = printed.case.cfg.read_text().splitlines()
    sections = [number for number, line in enumerate(lines, 1) if line.startswith("[")]
    assert [layer["line"] for layer in printed.document["layers"]] == sections[1:]


def test_the_document_s_numbers_are_those_of_the_report(printed):
    case = printed.case
    report = bnorm.inspect(read_model(case.cfg, case.weights, case.dialect), weights=True)
    for layer, expected in zip(printed.document["layers"], report.layers, strict=True):
        found = layer["statistics"]
        assert (found is None) == (expected.statistics is None)
        if found and expected.statistics:
            for name in ("channels", "dead", "near_dead", "constant"):
                assert found[name] == getattr(expected.statistics, name)
            for name, quantiles in expected.statistics.quantiles.items():
                assert found[name] == quantiles._asdict()


def test_the_document_has_every_channel(printed):
    for layer in printed.document["layers"]:
        assert (layer["channels"] is None) == (layer["statistics"] is None)
        if layer["channels"] is not None:
            assert [list(row) for row in layer["channels"]] == [CHANNEL_KEYS] * layer["statistics"]["channels"]
            parts = layer["statistics"]["parts"] or {"": layer["statistics"]}
            assert list(dict.fromkeys(row["part"] for row in layer["channels"])) == list(parts)


def test_csv_has_the_numbers_of_the_document(printed):
    for row, layer in zip(printed.layers, printed.document["layers"], strict=True):
        names = ("index", "line", "outputs", "parameters", "batch_normalize")
        assert [int(row[name]) for name in names] == [layer[name] for name in names]
        assert {name: int(row[name]) for name in layer["output"]} == layer["output"]
        found = layer["statistics"]
        assert row["gain_max"] == (str(found["gain_magnitude"]["high"]) if found else "")
        assert row["dead"] == (str(found["dead"]) if found else "")


def test_csv_has_the_channels_of_the_document(printed):
    assert printed.channels == [
        {"layer": str(layer["index"])} | {name: "" if value is None else str(value) for name, value in row.items()}
        for layer in printed.document["layers"]
        for row in layer["channels"] or []
    ]


def test_markdown_is_a_table_of_equal_rows(printed):
    grid = [line for line in printed.markdown.splitlines() if line.startswith("|")]
    cells = [re.split(r"(?<!\\)\|", line)[1:-1] for line in grid]
    assert {len(row) for row in cells} == {15}
    numbers = [row[0].strip() for row in cells[2:]]
    assert [number for number in numbers if number] == [str(layer["i"]) for layer in printed.case.layers]
    assert set("".join(cells[1])) <= set(" :-")


@pytest.mark.parametrize(("columns", "shown"), [(80, False), (160, True)])
def test_columns_that_do_not_fit_the_terminal_are_dropped(printed, columns, shown):
    lines = [line for line in printed.tables[columns].splitlines() if str(printed.case.cfg.parent) not in line]
    assert max(map(len, lines)) <= columns
    if any("variance" in line for line in lines):
        assert any(" weight_norm " in line for line in lines) == (shown and "batchnorm" not in printed.case.cfg.name)


# --- without weights --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", ["pjreddie", "alexeyab", "hank"])
def test_without_weights_there_is_no_header(invoke, tiny, dialect):
    found = document(invoke, tiny[0], "--dialect", dialect)
    assert (found["weights"], found["header"], found["actual_bytes"]) == (None, None, None)
    assert found["expected_bytes"] == 556  # with the header that the dialect writes


def test_without_weights_the_size_that_the_file_must_have_is_printed(invoke, tiny):
    assert "none given; the file must have 556 bytes" in invoke("inspect", tiny[0]).stdout


def test_an_input_without_image_has_no_shape(invoke, tmp_path):
    cfg = tmp_path / "net.cfg"
    cfg.write_text(cfg_source("12", "connected"))
    assert document(invoke, cfg)["input"] == {"channels": 0, "height": 0, "width": 0, "inputs": 12}


# --- numbers ----------------------------------------------------------------------------------------------------------

SCALES, MEANS, VARIANCES = 36, 52, 68  # offsets in the tiny file


@pytest.mark.parametrize(("value", "text"), [(math.nan, "nan"), (math.inf, "inf"), (-math.inf, "-inf")])
def test_a_number_that_json_cannot_hold_is_a_string(invoke, tiny, value, text):
    patch(tiny[1], VARIANCES, value)
    variance = document(invoke, *tiny)["layers"][0]["statistics"]["rolling_variance"]
    assert text in variance.values()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -1.0, 0.0, 3e38, 1e-45])
@pytest.mark.parametrize(("offset", "name"), [(SCALES, "scale"), (VARIANCES, "variance")])
def test_any_number_of_a_channel_is_shown(invoke, tiny, offset, name, value):
    """Exactly in CSV, in the tables with two digits."""
    patch(tiny[1], offset, value)
    stored = float(np.float32(value))
    row, *_ = rows_of_csv(invoke, *tiny, "--channels")
    assert row[name] == str(stored)
    for form in ("table", "markdown"):
        output = invoke("inspect", *tiny, "--channels", "--format", form, columns="200").stdout
        rows = [line.replace("|", " ").split() for line in output.splitlines()]
        heading = next(row for row in rows if name in row and "channel" in row)
        first = next(row for row in rows if row[:2] == ["0", "0"])
        assert first[heading.index(name)] == render.number(stored)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -1.0, 0.0, 3e38, 1e-45])
@pytest.mark.parametrize(("offset", "name"), [(SCALES, "scale"), (VARIANCES, "variance")])
def test_any_number_is_an_end_of_its_layer_s_range(invoke, tiny, offset, name, value):
    patch(tiny[1], offset, *[value] * 4)
    stored = float(np.float32(abs(value) if name == "scale" else value))
    row, *_ = rows_of_csv(invoke, *tiny)
    assert [row[f"{name}_{end}"] for end in ("min", "median", "max")] == [str(stored)] * 3
    for form in ("table", "markdown"):
        span = f" {render.number(stored)}..{render.number(stored)} "
        assert span in invoke("inspect", *tiny, "--format", form).stdout


# --- pairs that do not fit --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["table", "json", "csv", "markdown"])
def test_a_pair_that_does_not_fit_is_reported_and_is_exit_code_1(invoke, tiny, form):
    cfg, weights = tiny
    weights.write_bytes(weights.read_bytes()[:-4])
    result = invoke("inspect", cfg, weights, "--format", form, exit_code=1)
    assert "convolutional" in result.stdout
    assert result.stderr.startswith(f"error: {weights}: ")
    assert "layer 1 weights" in result.stderr


def test_a_pair_that_does_not_fit_has_both_sizes_in_its_document(invoke, tiny):
    cfg, weights = tiny
    weights.write_bytes(weights.read_bytes() + bytes(8))
    found = document(invoke, cfg, weights, exit_code=1)
    assert (found["expected_bytes"], found["actual_bytes"]) == (556, 564)


def test_statistics_after_the_end_of_the_file_are_null(invoke, tiny):
    cfg, weights = tiny
    weights.write_bytes(weights.read_bytes()[:80])
    first, _ = document(invoke, cfg, weights, exit_code=1)["layers"]
    assert first["statistics"] is None


# --- selected layers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "layers"),
    [
        (["--layer", "1"], [1]),
        (["--layer", "0-1"], [0, 1]),
        (["--layer", "1", "--layer", "0"], [0, 1]),
        (["--layer", "1", "--layer", "1-1"], [1]),
        ([], [0, 1]),
    ],
)
def test_only_the_chosen_layers_are_shown(invoke, tiny, options, layers):
    assert [layer["index"] for layer in document(invoke, *tiny, *options)["layers"]] == layers


@pytest.mark.parametrize("form", ["table", "markdown", "csv"])
def test_other_layers_are_not_shown(invoke, tiny, form):
    output = invoke("inspect", *tiny, "--format", form, "--layer", "1").stdout
    assert output.count("convolutional") == 1


# --- forms ------------------------------------------------------------------------------------------------------------


def test_the_table_of_a_cfg(invoke, tiny):
    cfg, _ = tiny
    assert invoke("inspect", cfg, "--dialect", "pjreddie").stdout == (
        f"cfg      {cfg}\n"
        "         2 layers, 1 batch-normalised; input 3x8x8; dialect pjreddie\n"
        "weights  none given; the file must have 556 bytes\n"
        "index type          output kernel stride groups activation parameters\n"
        "---------------------------------------------------------------------\n"
        "    0 convolutional  4x8x8      3      1      1 leaky             124\n"
        "    1 convolutional  2x8x8      1      1      1 linear             10\n"
        "\n"
        "total    134 parameters in 2 layers\n"
    )


def test_the_header_tells_writer_images_and_batches(invoke, tiny):
    """12345 images in batches of 4."""
    output = " ".join(invoke("inspect", *tiny).stdout.split())
    assert "header 0.2.5, as written by alexeyab or hank" in output
    assert "12,345 images seen = 3,086 batches of 4" in output


def test_the_verdict_tells_that_a_pair_fits(invoke, tiny):
    assert "verdict  fits: 556 bytes = 20 + 4 × 134 parameters" in invoke("inspect", *tiny).stdout


@needs_shared("models")
@pytest.mark.parametrize("name", ["yolo-fastest-1.1", "yolo-fastest-1.1-xl"])
def test_a_detector_is_shown_within_80_columns(invoke, name):
    model = MODELS / name
    output = invoke("inspect", f"{model}.cfg", f"{model}.weights").stdout
    wide = [line for line in output.splitlines() if len(line) > 80]
    assert [line for line in wide if str(model) not in line] == []


def rows_of_csv(invoke, *arguments: object) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(invoke("inspect", *arguments, "--format", "csv").stdout)))


def test_csv_has_a_heading_and_nothing_else_on_stdout(invoke, tiny):
    first, *rows = invoke("inspect", *tiny, "--format", "csv").stdout.splitlines()
    assert first.startswith("index,type,line,")
    assert len(rows) == 2


# --- findings and notes -----------------------------------------------------------------------------------------------


def test_a_finding_has_these_keys(invoke, tmp_path):
    cfg = tmp_path / "net.cfg"
    cfg.write_text(TINY.replace("=leaky", "=leaky # why"))
    (found,) = document(invoke, cfg, "--dialect", "alexeyab")["findings"]
    assert list(found) == ["id", "severity", "layer", "channel", "message", "line", "part", "cause"]
    assert (found["id"], found["line"], found["layer"]) == ("cfg-inline-comment", 12, None)


def test_findings_are_below_the_table(invoke, tmp_path):
    cfg = tmp_path / "net.cfg"
    cfg.write_text(TINY.replace("filters=4", "filters=4\nfilters=5"))
    assert invoke("inspect", cfg, "--dialect", "alexeyab").stdout.endswith(
        "warning  line 10: [convolutional] filters: given before, the first one counts\n         [cfg-duplicate-key]\n"
    )


def test_a_plain_cfg_has_no_findings(invoke, tiny):
    assert document(invoke, *tiny)["findings"] == []


@pytest.mark.parametrize("form", ["table", "json", "csv", "markdown"])
def test_the_choice_of_a_dialect_is_one_note_on_stderr(invoke, tiny, form):
    tiny[0].write_text(TINY + "colour=red\n")  # hank refuses it
    result = invoke("inspect", *tiny, "--format", form)
    assert re.fullmatch(r"note: dialect alexeyab: [^\n]+\n", result.stderr)
    assert "note: dialect" not in result.stdout


def test_a_given_dialect_needs_no_note(invoke, tiny):
    assert invoke("inspect", *tiny, "--dialect", "hank").stderr == ""


# --- channels ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["table", "markdown"])
def test_a_table_has_a_row_per_channel(invoke, tiny, form):
    output = invoke("inspect", *tiny, "--channels", "--format", form).stdout
    rows = [line.replace("|", " ").split() for line in output.splitlines()]
    assert [row[1] for row in rows if row[:1] == ["0"]] == ["0", "1", "2", "3"]


ORDER = {"variance": [3, 1, 0, 2], "variance:desc": [3, 1, 0, 2], "variance:asc": [2, 0, 1, 3]}


@pytest.mark.parametrize("order", ORDER)
@pytest.mark.parametrize("top", [None, 1, 3, 9])
def test_channels_are_sorted_and_cut(invoke, tiny, order, top):
    for channel, variance in enumerate((2.0, 3.0, 1.0, 4.0)):
        patch(tiny[1], VARIANCES + 4 * channel, variance)
    options = ["--channels", "--sort", order, *(["--top", top] if top else [])]
    expected = ORDER[order][:top]
    assert [int(row["channel"]) for row in rows_of_csv(invoke, *tiny, *options)] == expected
    layers = document(invoke, *tiny, *options)["layers"]
    assert [row["channel"] for row in layers[0]["channels"]] == expected
    assert len(layers) == 2


def test_nan_is_sorted_first_and_empty_cells_last(invoke, tiny):
    patch(tiny[1], VARIANCES + 8, math.nan)
    for order in ("variance", "variance:asc"):
        first, *_ = rows_of_csv(invoke, *tiny, "--channels", "--sort", order)
        assert first["variance"] == "nan"
        *_, last = rows_of_csv(invoke, *tiny, "--sort", order.replace("variance", "variance_max"))
        assert (last["index"], last["variance_max"]) == ("1", "")


def test_layers_are_sorted_and_cut_in_every_form(invoke, tiny):
    assert [row["index"] for row in rows_of_csv(invoke, *tiny, "--sort", "parameters:asc")] == ["1", "0"]
    assert [row["index"] for row in rows_of_csv(invoke, *tiny, "--sort", "scale_max:asc")] == ["0", "1"]
    assert [layer["index"] for layer in document(invoke, *tiny, "--sort", "index", "--top", 1)["layers"]] == [1]
    output = invoke("inspect", *tiny, "--sort", "index").stdout
    assert output.index("    1 conv") < output.index("    0 conv")


@pytest.mark.parametrize(
    ("value", "text"),
    [(99.4, "99"), (99.6, "100"), (-99.6, "-100"), (9999.4, "9999"), (0.012, "0.012"), (1e-3, "1.0e-3")],
)
def test_a_number_has_two_digits_or_its_whole_part(value, text):
    assert render.number(value) == text


def test_a_path_stays_whole_and_is_spelled_for_people_alone(tiny, tmp_path):
    folder = tmp_path / ("a longer name × of a folder " * 4).strip()
    folder.mkdir()
    cfg = folder / "net.cfg"
    cfg.write_bytes(tiny[0].read_bytes())
    for command in ("inspect", "check"):
        for encoding, form in (("utf-8", "table"), ("utf-8", "json")):
            arguments = [sys.executable, "-m", "bnorm", command, cfg, "--format", form]
            environment = {**os.environ, "PYTHONIOENCODING": encoding, "COLUMNS": "80"}
            printed = subprocess.run(arguments, capture_output=True, check=True, env=environment).stdout.decode(
                encoding
            )
            assert str(cfg) in printed


def test_names_are_sorted_too_and_empty_ones_come_last(invoke, tmp_path):
    cfg = tmp_path / "net.cfg"
    cfg.write_text(cfg_source("1x4x4", "maxpool | convolutional filters=3 batch_normalize=1 | maxpool"))
    weights = write_weights(cfg, tmp_path / "net.weights")
    patch(weights, 20 + 4 * 4, 0.0)  # scales[1]
    for order, expected in {"type": [0, 2, 1], "type:DESC": [0, 2, 1], "type:asc": [1, 0, 2]}.items():
        assert [int(row["index"]) for row in rows_of_csv(invoke, cfg, weights, "--sort", order)] == expected
    for order in ("state", "state:asc"):
        first, *_ = rows_of_csv(invoke, cfg, weights, "--channels", "--sort", order)
        assert first["channel"] == "1"


@pytest.mark.parametrize("order", ["batch_normalize", "batch_normalize:asc"])
def test_equal_rows_stay_in_the_order_of_the_file(invoke, tmp_path, order):
    cfg = tmp_path / "net.cfg"
    layers = " | ".join(f"convolutional filters=2 {option}".rstrip() for option in (BN, "", BN, "", "", BN))
    cfg.write_text(cfg_source("3x8x8", layers))
    found = [int(row["index"]) for row in rows_of_csv(invoke, cfg, "--dialect", "alexeyab", "--sort", order)]
    normalised, bare = [0, 2, 5], [1, 3, 4]
    assert found == ([*bare, *normalised] if order.endswith("asc") else [*normalised, *bare])


@pytest.mark.parametrize("options", [["--channels"], ["--epsilon", "opencv"]])
def test_options_for_numbers_of_the_weights_need_weights(invoke, tiny, options):
    assert f"{options[0]} needs WEIGHTS" in invoke("inspect", tiny[0], *options, exit_code=2).stderr


def test_a_column_of_the_other_table_is_hinted_at(invoke, tiny):
    assert "with --channels others" in invoke("inspect", *tiny, "--sort", "offset", exit_code=2).stderr


@pytest.mark.parametrize("name", ["net\x1b[31m.cfg", "net\nverdict  fits.cfg", "net\udcff.cfg"])
def test_a_file_s_name_is_shown_and_not_obeyed(invoke, tiny, tmp_path, name):
    """In a terminal, in a pull request, and in a file: a name may hold any bytes."""
    cfg = tmp_path / name
    cfg.write_bytes(tiny[0].read_bytes())
    for command in ("inspect", "check"):
        for form in ("table", "markdown"):
            printed = invoke(command, cfg, tiny[1], "--format", form, columns="200").stdout
            assert " ".join(repr(name)[1:-1].split()) in " ".join(printed.split())
    invoke("inspect", cfg, "-o", tmp_path / "report", "--format", "json")
    assert json.loads((tmp_path / "report").read_text())["layers"]


@pytest.mark.parametrize(
    "options",
    [
        ["--sort", "colour"],
        ["--sort", "offset", "--top", 3],
        ["--sort", "gain:up", "--channels"],
        ["--channels", "--sort", "parameters"],
        ["--top", 0],
        ["--epsilon", "torch"],
        ["--plot", "net.gif"],
    ],
)
def test_a_wrong_option_is_exit_code_2(invoke, tiny, options):
    assert invoke("inspect", *tiny, *options, exit_code=2).stdout == ""


@pytest.mark.parametrize(
    ("choice", "deviation"),
    [
        ("keras", lambda variance: math.sqrt(variance + 1e-3)),
        ("0.5:outside", lambda variance: math.sqrt(variance) + 0.5),
        ("opencv", lambda variance: math.sqrt(variance + 1e-6)),
    ],
)
def test_gains_are_those_of_the_epsilon(invoke, tiny, choice, deviation):
    for row in document(invoke, *tiny, "--channels", "--epsilon", choice)["layers"][0]["channels"]:
        assert row["gain"] == pytest.approx(row["scale"] / deviation(row["variance"]), rel=EXACT)


# --- histograms -------------------------------------------------------------------------------------------------------


def test_a_histogram_has_a_bar_per_half_decade(invoke, tiny):
    for channel, scale in enumerate((1e-9, -0.2, 0.25, 500)):
        patch(tiny[1], SCALES + 4 * channel, scale)
    line = next(line for line in invoke("inspect", *tiny).stdout.splitlines() if line.startswith("    0"))
    assert line.endswith(" ▄·█··▄")


def test_a_terminal_of_ascii_gets_plain_bars(tiny):
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "COLUMNS": "100"}
    arguments = [sys.executable, "-m", "bnorm", "inspect", *tiny]
    done = subprocess.run(arguments, capture_output=True, check=True, env=environment)
    bars = next(line for line in done.stdout.decode().splitlines() if line.startswith("    0")).split()[-1]
    assert set(bars) <= set("._:-=+*#@")
    assert "@" in bars
    report = tiny[0].with_name("report")
    subprocess.run([*arguments, "-o", report], check=True, env=environment)
    assert "█" in report.read_text()  # a file is UTF-8 from wherever it is written


def test_a_layer_of_parts_has_a_row_for_each(invoke):
    output = invoke("inspect", LAYOUTS / "lstm.cfg", LAYOUTS / "lstm.alexeyab.weights").stdout
    names = [line.split()[0] for line in output.splitlines() if line.startswith("        ") and line[8] in "wu"]
    assert names == ["wf", "wi", "wg", "wo", "uf", "ui", "ug", "uo"] * 2  # the second layer does not normalise


# --- written files ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["table", "json", "csv", "markdown"])
def test_an_output_file_holds_the_printed_text(invoke, tiny, tmp_path, form):
    printed = invoke("inspect", *tiny, "--format", form, columns="1000").stdout
    for force in ([], ["--force"]):
        assert invoke("inspect", *tiny, "--format", form, "-o", tmp_path / "report", *force).stdout == ""
        assert (tmp_path / "report").read_text() == printed
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report", "tiny.cfg", "tiny.weights"]


@pytest.mark.parametrize("option", ["-o", "--plot"])
def test_an_output_that_exists_is_replaced_by_force_alone(invoke, tiny, tmp_path, option):
    (tmp_path / "old.png").write_text("mine")
    assert "exists already" in invoke("inspect", *tiny, option, tmp_path / "old.png", exit_code=1).stderr
    assert (tmp_path / "old.png").read_text() == "mine"


@pytest.mark.parametrize("option", ["-o", "--plot"])
def test_an_input_is_never_overwritten(invoke, tiny, tmp_path, option):
    link = tmp_path / "link.png"
    link.symlink_to(tiny[1])
    before = tiny[1].read_bytes()
    assert "is an input" in invoke("inspect", *tiny, option, link, exit_code=1).stderr
    assert tiny[1].read_bytes() == before


def test_a_report_that_cannot_be_written_is_an_error(invoke, tiny, tmp_path):
    error = invoke("inspect", *tiny, "-o", tmp_path / "missing" / "report", exit_code=1).stderr
    assert error.startswith(f"error: {tmp_path}/missing/report: no folder")
