"""`bnorm diff`: every sentence, every kind of array, files that are cut or of other forks, and `--function`."""

from __future__ import annotations

import csv
import io
import json
import struct
from pathlib import Path

import numpy as np
import pytest

from bnorm.darknet.autodetect import read_model
from bnorm.darknet.dialects import DIALECTS
from bnorm.reports.diff.diff import diff, paired_layers
from bnorm.transforms.convert.convert import convert
from bnorm.transforms.fold.fold import fold
from support.builders import BN, cfg_source, patch, write_weights
from support.golden import GOLDEN, SHARED, golden, needs_shared

FOUR = " | ".join([f"convolutional {BN} filters=3 size=3 pad=1"] * 3 + ["convolutional filters=2 activation=linear"])


@pytest.fixture
def pair(tmp_path) -> tuple[Path, Path, Path]:
    """A cfg of three normalised layers and a bare one, and two copies of one weights file."""
    return model_of(tmp_path, FOUR)


def model_of(folder: Path, layers: str, dialect: str = "alexeyab", net: str = "3x8x8") -> tuple[Path, Path, Path]:
    cfg, a, b = folder / "net.cfg", folder / "a.weights", folder / "b.weights"
    cfg.write_text(cfg_source(net, layers))
    b.write_bytes(write_weights(cfg, a, dialect).read_bytes())
    return cfg, a, b


def change(cfg: Path, weights: Path, *arrays: tuple[int, str], dialect: str = "alexeyab") -> None:
    """Add 1 to the first value of each of these arrays."""
    layout = read_model(cfg, weights, dialect).layout
    for key in arrays:
        offset = layout.array(*key).offset
        (value,) = struct.unpack_from("<f", weights.read_bytes(), offset)
        patch(weights, offset, value + 1)


def document(invoke, *arguments: object, exit_code: int = 3) -> dict:
    found: dict = json.loads(invoke("diff", *arguments, "--format", "json", exit_code=exit_code).stdout)
    return found


# --- sentences --------------------------------------------------------------------------------------------------------

EVERY = [(layer, name) for layer in range(4) for name in ("biases", "weights")]


@pytest.mark.parametrize(
    ("changed", "verdict", "same_until", "sentence"),
    [
        ([], "identical", 3, "identical"),
        ([(1, "rolling_mean")], "rolling", 0, "only rolling statistics differ, in layer 1"),
        (
            [(0, "rolling_variance"), (2, "rolling_mean")],
            "rolling",
            None,
            "only rolling statistics differ, in layers 0 and 2",
        ),
        ([(2, "weights"), (3, "biases")], "prefix", 1, "identical up to layer 1, all layers after it differ"),
        ([(3, "biases")], "prefix", 2, "identical up to layer 2, all layers after it differ"),
        ([(1, "scales")], "layers", 0, "only layer 1 differs"),
        ([(1, "scales"), (2, "biases")], "layers", 0, "only layers 1 and 2 differ"),
        ([(0, "weights"), (1, "weights"), (2, "biases")], "layers", None, "only layers 0, 1 and 2 differ"),
        ([(1, "scales"), (3, "biases")], "layers", 0, "only layers 1 and 3 differ"),
        ([(0, "scales"), (3, "biases")], "different", None, "2 of 4 layers differ"),
        (EVERY, "different", None, "all layers differ"),
    ],
)
def test_the_sentence_names_the_difference(invoke, pair, changed, verdict, same_until, sentence):
    cfg, a, b = pair
    change(cfg, b, *changed)
    exit_code = 3 if changed else 0
    found = document(invoke, cfg, a, b, "--dialect", "alexeyab", exit_code=exit_code)
    assert (found["verdict"], found["same_until"], found["sentence"]) == (verdict, same_until, sentence)
    assert sorted((row["layer"], row["name"]) for row in found["arrays"]) == sorted(changed)
    assert invoke("diff", cfg, a, b, exit_code=exit_code).stdout.splitlines()[0] == sentence


def test_many_layers_are_a_range(invoke, tmp_path):
    cfg, a, b = model_of(tmp_path, " | ".join(["convolutional"] * 7))
    change(cfg, b, *((layer, "biases") for layer in (1, 2, 4, 5)))
    assert document(invoke, cfg, a, b)["sentence"] == "only layers 1 to 5 differ"


@pytest.mark.parametrize("seen", [0, 12346])
def test_identical_except_for_the_header(invoke, pair, seen):
    cfg, a, b = pair
    b.write_bytes(b.read_bytes()[:12] + struct.pack("<Q", seen) + b.read_bytes()[20:])
    found = document(invoke, cfg, a, b)
    assert (found["verdict"], found["sentence"], found["arrays"]) == ("header", "identical but for the header", [])
    assert (found["header"]["seen"], found["header_b"]["seen"]) == (12345, seen)
    page = invoke("diff", cfg, a, b, exit_code=3).stdout
    assert f"header   B 0.2.5, 20 bytes, {seen:,} images seen" in page
    assert document(invoke, cfg, a, b, "--function", exit_code=0)["verdict"] == "identical"


def test_headers_of_16_and_20_bytes(invoke, pair):
    cfg, a, b = pair
    convert(read_model(cfg, a), b, header=16, force=True)
    assert document(invoke, cfg, a, b, "--dialect", "alexeyab")["verdict"] == "header"


# --- arrays -----------------------------------------------------------------------------------------------------------


def test_every_golden_network_is_identical_to_itself_and_each_changed_value_is_found(layout_case, tmp_path):
    """Multiply the last value of each array by 1.5 and add 1: array, place, count and size are right."""
    case, other = layout_case, tmp_path / "b.weights"
    model = read_model(case.cfg, case.weights, case.dialect)
    assert diff(model, model).is_same
    for row in case.arrays:
        array = model.layout.array(row["layer"], row["name"])
        flat = row["count"] - 1
        other.write_bytes(case.weights.read_bytes())
        old = np.float32(row["last"])
        new = np.float32(old * np.float32(1.5) + np.float32(1))
        patch(other, array.offset + 4 * flat, new)
        report = diff(model, read_model(case.cfg, other, case.dialect))
        (found,) = [item for item in report.arrays if not item.is_same]
        assert (found.layer, found.name, found.count, found.changed) == (row["layer"], row["name"], row["count"], 1)
        assert found.max_abs == abs(float(new) - float(old))
        assert found.place == tuple(size - 1 for size in array.shape)
        assert found.index in found.place
        values = np.fromfile(case.weights, "<f4", offset=array.offset, count=row["count"])
        largest = float(max(np.abs(values).max(), abs(new)))
        assert found.max_rel == pytest.approx(found.max_abs / largest, rel=1e-12)


@pytest.mark.parametrize(
    ("values", "others", "changed", "changed_value", "gap"),
    [
        ([0.0, 1.0], [-0.0, 1.0], 1, 0, 0.0),
        ([np.nan, 1.0], [np.nan, 1.0], 0, 0, 0.0),
        ([np.nan, 1.0], [1.0, 1.0], 1, 1, np.inf),
        ([np.inf, 1.0], [np.inf, 2.0], 1, 1, 1.0),
        ([np.inf, 1.0], [-np.inf, 1.0], 1, 1, np.inf),
        ([3e38, 1.0], [-3e38, 1.5], 2, 2, 2 * float(np.float32(3e38))),
        ([1e-45, 0.0], [0.0, 0.0], 1, 1, 2.0**-149),
    ],
)
def test_bits_and_values_are_told_apart(invoke, pair, values, others, changed, changed_value, gap):
    cfg, a, b = pair
    offset = read_model(cfg, a).layout.array(0, "scales").offset
    patch(a, offset, *values)
    patch(b, offset, *others)
    report = diff(read_model(cfg, a), read_model(cfg, b))
    row = next(row for row in report.arrays if row.name == "scales")
    assert (row.changed, row.changed_value, row.max_abs) == (changed, changed_value, gap)
    if changed > changed_value:
        assert "equal in value" in invoke("diff", cfg, a, b, exit_code=3).stdout


def test_nan_of_another_kind_is_another_value_by_its_bits_alone(pair):
    cfg, a, b = pair
    offset = read_model(cfg, a).layout.array(0, "scales").offset
    patch(a, offset, np.nan)
    b.write_bytes(b.read_bytes()[:offset] + struct.pack("<I", 0x7FC00001) + b.read_bytes()[offset + 4 :])
    row = next(row for row in diff(read_model(cfg, a), read_model(cfg, b)).arrays if row.name == "scales")
    assert (row.changed, row.changed_value, row.max_abs, row.index) == (1, 0, 0.0, 0)


def test_the_largest_of_many_differences_is_the_one_that_is_shown(invoke, tmp_path):
    """Against NumPy, over several blocks of the file."""
    cfg, a, b = model_of(tmp_path, "convolutional filters=300 size=3", net="64x4x4")
    array = read_model(cfg, a).layout.array(0, "weights")
    rng = np.random.default_rng(1)
    values = np.fromfile(a, "<f4", offset=array.offset)
    others = np.where(rng.random(values.size) < 0.3, values + rng.normal(0, 1, values.size).astype("f4"), values)
    b.write_bytes(b.read_bytes()[: array.offset] + others.tobytes())
    (row,) = document(invoke, cfg, a, b)["arrays"]
    gap = np.abs(values.astype("f8") - others)
    assert row["count"] == values.size > 1 << 17
    assert row["changed"] == np.count_nonzero(values != others)
    assert row["max_abs"] == gap.max()
    assert row["max_rel"] == gap.max() / max(np.abs(values).max(), np.abs(others).max())
    assert tuple(row["place"]) == np.unravel_index(gap.argmax(), array.shape)
    assert row["index"] == row["place"][0]


def test_all_lists_equal_arrays_as_well(invoke, pair):
    cfg, a, b = pair
    change(cfg, b, (1, "scales"))
    assert len(document(invoke, cfg, a, b)["arrays"]) == 1
    rows = document(invoke, cfg, a, b, "--all")["arrays"]
    assert [(row["layer"], row["name"]) for row in rows] == list(read_model(cfg, a).layout.by_name)
    assert [row["changed"] for row in rows if row["changed"]] == [1]
    assert all(row["compared"] for row in rows)


def test_csv_has_the_keys_of_the_document(invoke, pair):
    cfg, a, b = pair
    change(cfg, b, (1, "weights"))
    (row,) = csv.DictReader(io.StringIO(invoke("diff", cfg, a, b, "--format", "csv", exit_code=3).stdout))
    assert (row["layer"], row["name"], row["changed"], row["compared"], row["reason"]) == ("1", "weights", "1", "1", "")


# --- arrays in only one file ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["A", "B"])
@pytest.mark.parametrize("inside", [0, 6])
def test_a_file_that_ends_early_is_compared_as_far_as_it_goes(invoke, pair, which, inside):
    cfg, a, b = pair
    path = a if which == "A" else b
    end = read_model(cfg, a).layout.array(2, "biases").offset + inside
    path.write_bytes(path.read_bytes()[:end])
    found = document(invoke, cfg, a, b)
    assert (found["verdict"], found["same_until"]) == ("prefix", 1)
    assert found["sentence"] == f"identical up to layer 1, where {which} ends"
    assert {row["layer"] for row in found["arrays"]} == {2, 3}
    assert not any(row["compared"] for row in found["arrays"])
    first = f"{which} ends {'inside' if inside else 'before'} it"
    assert [row["reason"] for row in found["arrays"]] == [first] + [f"{which} ends before it"] * 6
    by_function = document(invoke, cfg, a, b, "--function")
    assert (by_function["verdict"], by_function["same_until"]) == ("prefix", 1)
    change(cfg, b, (0, "rolling_mean"))
    assert document(invoke, cfg, a, b)["verdict"] == "different"


def test_a_file_that_does_not_fit_asks_for_its_cfg_and_says_which_option_names_it(invoke, pair):
    cfg, a, b = pair
    b.write_bytes(b.read_bytes()[:-2])
    assert "--cfg-b" in invoke("diff", cfg, a, b, exit_code=3).stdout
    assert "--cfg-b" not in invoke("diff", cfg, b, a, exit_code=3).stdout


def test_bytes_after_the_last_array_are_said_and_compared(invoke, pair):
    cfg, a, b = pair
    b.write_bytes(b.read_bytes() + bytes(8))
    found = document(invoke, cfg, a, b)
    assert (found["verdict"], found["trailing_bytes"], found["trailing_bytes_b"]) == ("header", 0, 8)
    assert "B has 8 bytes after its last array" in invoke("diff", cfg, a, b, exit_code=3).stdout
    a.write_bytes(b.read_bytes())
    assert document(invoke, cfg, a, b, exit_code=0)["verdict"] == "identical"


def test_other_class_counts_are_compared_up_to_the_heads(invoke, tmp_path):
    def layers(classes: int) -> str:
        head = f"convolutional filters={3 * (5 + classes)} activation=linear | yolo classes={classes} num=3"
        return f"convolutional {BN} filters=4 | {head}"

    cfg, a, b = model_of(tmp_path, layers(1), net="3x32x32")
    other = tmp_path / "b.cfg"
    other.write_text(cfg_source("3x32x32", layers(2)))
    write_weights(other, b)
    old, new = read_model(cfg, a).layout, read_model(other, b).layout
    size = old.array(1, "biases").offset
    b.write_bytes(a.read_bytes()[:size] + b.read_bytes()[size:])
    found = document(invoke, cfg, a, b, "--cfg-b", other)
    assert (found["verdict"], found["same_until"]) == ("prefix", 0)
    reasons = [(row["name"], row["reason"]) for row in found["arrays"]]
    assert reasons == [
        ("biases", "has the shape 18 in A, 21 in B"),
        ("weights", "has the shape 18x4x1x1 in A, 21x4x1x1 in B"),
    ]
    assert new.array(1, "biases").offset == size


def test_layers_that_one_network_lacks_are_named_and_the_rest_is_matched(invoke, tmp_path):
    layers = [f"convolutional {BN} filters=3", "batchnorm", "maxpool", "convolutional filters=2"]
    cfg, a, b = model_of(tmp_path, " | ".join(layers))
    other = tmp_path / "b.cfg"
    other.write_text(cfg_source("3x8x8", " | ".join(layers[:1] + layers[2:])))
    layout = read_model(cfg, a, "alexeyab").layout
    start, end = layout.array(1, "biases").offset, layout.array(3, "biases").offset
    b.write_bytes(a.read_bytes()[:start] + a.read_bytes()[end:])
    found = document(invoke, cfg, a, b, "--cfg-b", other, "--dialect", "alexeyab")
    names = ("biases", "scales", "rolling_mean", "rolling_variance")
    assert [(row["layer"], row["name"], row["reason"]) for row in found["arrays"]] == [
        (1, name, "is only in A") for name in names
    ]
    back = document(invoke, other, b, a, "--cfg-b", cfg, "--dialect", "alexeyab")
    assert [(row["name"], row["reason"]) for row in back["arrays"]] == [(name, "is only in B") for name in names]


def test_layers_are_matched_by_type_in_their_order(tmp_path):
    networks = []
    for number, layers in enumerate(("connected | batchnorm | dropout | connected", "connected | dropout | connected")):
        cfg = tmp_path / f"{number}.cfg"
        cfg.write_text(cfg_source("4", layers))
        networks.append(read_model(cfg, None, "alexeyab").network)
    assert paired_layers(*networks) == {0: 0, 2: 1, 3: 2}


# --- forks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_gates_are_compared_with_their_own_kind_in_another_fork(invoke, tmp_path, name):
    case = golden(GOLDEN / "layouts" / f"{name}.pjreddie.json")
    b = tmp_path / "b.weights"
    convert(read_model(case.cfg, case.weights, "pjreddie"), b, to="alexeyab")
    forks = ("--dialect", "pjreddie", "--dialect-b", "alexeyab")
    assert document(invoke, case.cfg, case.weights, b, *forks)["verdict"] == "header"
    part = DIALECTS["alexeyab"].lstm[0].name if name == "lstm" else DIALECTS["alexeyab"].gru[0].name
    change(case.cfg, b, (0, f"{part}.weights"), dialect="alexeyab")
    (row,) = document(invoke, case.cfg, case.weights, b, *forks)["arrays"]
    assert (row["name"], row["changed"], row["place"]) == ("wf.weights" if name == "lstm" else "uz.weights", 1, [0, 0])


def test_a_transposed_file_is_compared_value_by_value(invoke, tmp_path):
    cfg, a, b = model_of(tmp_path, "connected output=5", net="12")
    values = np.fromfile(a, "<f4", offset=20)
    turned = np.concatenate([values[:5], values[5:].reshape(5, 12).T.ravel()])
    b.write_bytes(struct.pack("<3iI", 0, 2000, 0, 12345) + bytes(4) + turned.tobytes())
    assert document(invoke, cfg, a, b, "--dialect", "alexeyab")["verdict"] == "header"
    patch(b, 20 + 4 * (5 + 7 * 5 + 3), 99.0)
    (row,) = document(invoke, cfg, a, b, "--dialect", "alexeyab")["arrays"]
    assert (row["place"], row["index"], row["changed"]) == ([3, 7], 3, 1)


# --- comparison by function -------------------------------------------------------------------------------------------


@needs_shared("models")
@pytest.mark.parametrize("name", ["yolo-fastest-1.1", "yolo-fastest-1.1-xl"])
def test_a_detector_is_the_same_function_as_the_one_folded_by_alexeyab_s_program(invoke, tmp_path, name):
    model = SHARED / "models" / name
    fold(read_model(f"{model}.cfg", f"{model}.weights"), tmp_path / "f.weights")
    files = (f"{model}.cfg", f"{model}.weights", f"{model}.fused-by-alexeyab.weights", "--cfg-b", tmp_path / "f.cfg")
    found = document(invoke, *files, "--function", exit_code=0)
    assert (found["verdict"], found["arrays"]) == ("identical", [])
    assert found["sentence"] == "identical in function, up to rounding"
    stored = document(invoke, *files)
    assert stored["verdict"] == "layers"
    only = {row["name"] for row in stored["arrays"] if not row["compared"]}
    assert only == {"scales", "rolling_mean", "rolling_variance"}
    wrong = document(invoke, *files, "--function", "--epsilon", "opencv")
    assert wrong["verdict"] != "identical"


FUNCTIONS = [
    FOUR,
    f"convolutional {BN} filters=4 activation=linear | batchnorm | convolutional filters=2 activation=linear",
    "batchnorm | convolutional filters=4 groups=1 | maxpool | batchnorm | connected output=3",
    f"convolutional filters=4 | batchnorm | route layers=0 | convolutional {BN} filters=3",
    f"convolutional {BN} filters=6 groups=3 size=3 xnor=0 | crnn output=3 hidden=2 pad=1 {BN}",
    f"connected {BN} output=5 | lstm {BN} output=4 | gru {BN} output=3",
]


@pytest.mark.parametrize("layers", FUNCTIONS)
@pytest.mark.parametrize("epsilon", ["darknet", "keras", "pjreddie-cpu"])
def test_a_folded_and_an_unfolded_model_are_the_same_function(invoke, tmp_path, layers, epsilon):
    cfg, a, _ = model_of(tmp_path, layers)
    fold(read_model(cfg, a, "alexeyab"), tmp_path / "f.weights", epsilon=epsilon)
    options = ("--cfg-b", tmp_path / "f.cfg", "--function", "--epsilon", epsilon, "--dialect", "alexeyab")
    document(invoke, cfg, a, tmp_path / "f.weights", *options, exit_code=0)
    arrays = read_model(tmp_path / "f.cfg", tmp_path / "f.weights", "alexeyab").layout.arrays
    first = next(array for array in arrays if array.field == "weights")
    change(tmp_path / "f.cfg", tmp_path / "f.weights", (first.layer, first.name))
    (row,) = document(invoke, cfg, a, tmp_path / "f.weights", *options)["arrays"]
    assert (row["name"], row["changed"]) == (first.name, 1)


@pytest.mark.parametrize("layers", FUNCTIONS)
def test_a_model_for_another_epsilon_is_the_same_function(invoke, tmp_path, layers):
    cfg, a, b = model_of(tmp_path, layers)
    convert(read_model(cfg, a, "alexeyab"), b, epsilon_from="darknet", epsilon_to="keras", force=True)
    options = ("--function", "--dialect", "alexeyab")
    document(invoke, cfg, a, b, *options, "--epsilon-b", "keras", exit_code=0)
    found = document(invoke, cfg, a, b, *options)
    assert found["sentence"].endswith(("compute something else", "computes something else"))


def test_rolling_statistics_that_moved_are_another_function(invoke, pair):
    cfg, a, b = pair
    change(cfg, b, (1, "rolling_mean"))
    found = document(invoke, cfg, a, b, "--function")
    assert [(row["layer"], row["name"], row["changed"]) for row in found["arrays"]] == [(1, "biases", 1)]
    assert found["sentence"] == "only layer 1 computes something else"


def test_values_that_no_float32_holds_are_compared_too(pair):
    cfg, a, b = pair
    offset = read_model(cfg, a).layout.array(0, "rolling_variance").offset
    patch(a, offset, -1.0)
    patch(b, offset, -1.0)
    assert diff(read_model(cfg, a), read_model(cfg, b), function=True).is_same
    patch(b, offset, 1.0)
    report = diff(read_model(cfg, a), read_model(cfg, b), function=True)
    assert [(row.name, row.max_abs) for row in report.arrays if not row.is_same] == [
        ("biases", np.inf),
        ("weights", np.inf),
    ]


# --- arguments --------------------------------------------------------------------------------------------------------


def test_an_epsilon_for_b_needs_function(invoke, pair):
    assert "--epsilon-b needs --function" in invoke("diff", *pair, "--epsilon-b", "opencv", exit_code=2).stderr


def test_an_unknown_epsilon_is_refused_by_the_library(pair):
    model = read_model(*pair[:2])
    with pytest.raises(ValueError, match="epsilon 'foo'"):
        diff(model, model, function=True, epsilon="foo")


def test_a_file_that_is_missing_is_one_line(invoke, pair, tmp_path):
    missing = tmp_path / "gone.weights"
    error = invoke("diff", pair[0], pair[1], missing, exit_code=1).stderr
    assert error.splitlines()[-1] == f"error: {missing}: no such file or directory"


def test_no_line_of_the_page_is_wider_than_80_columns(invoke, pair):
    cfg, a, b = pair
    change(cfg, b, *EVERY)
    lines = invoke("diff", cfg, a, b, exit_code=3).stdout.splitlines()
    assert max(map(len, lines)) <= 80


def test_progress_ends_with_every_value(pair):
    told: list[tuple[int, int]] = []
    models = [read_model(pair[0], path) for path in pair[1:]]
    diff(*models, advance=lambda *counts: told.append(counts))
    assert told[-1] == (models[0].layout.parameters, models[0].layout.parameters)


def test_the_document_has_the_keys_of_the_contract(invoke, pair):
    cfg, a, b = pair
    change(cfg, b, (1, "weights"))
    found = document(invoke, cfg, a, b)
    assert found.keys() >= {"cfg", "weights", "weights_b", "verdict", "sentence", "same_until", "header", "arrays"}
    assert found["arrays"][0].keys() >= set("layer part name count changed max_abs max_rel index compared".split())
    assert (found["cfg"], found["weights"], found["weights_b"]) == tuple(map(str, pair))
