"""`transforms.fold.fold`: arrays against the formula and AlexeyAB's own, the cfg byte for byte, and refusals."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import re
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest

from bnorm.batchnorm.epsilon import parse_epsilon
from bnorm.checks.check import check
from bnorm.darknet.autodetect import read_model
from bnorm.darknet.model import Model
from bnorm.darknet.weights import open_weights
from bnorm.errors import BnormError, WeightsError
from bnorm.statistics.bad_variance import bad_channels
from bnorm.transforms.fold.fold import fold
from support.builders import TINY, cfg_source, patch, write_weights
from support.golden import GOLDEN, NETWORKS, SHARED, golden, needs_shared
from support.oracle import ONE_ROUNDING

FILTERS = {"deconvolutional": 1}  # the axis of the filters in a layer's weights, 0 elsewhere


def formula(arrays: dict[str, np.ndarray], axis: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A part's folded biases and weights: the formula of `fuse_conv_batchnorm`, in float64."""
    values = {name: array.astype("f8") for name, array in arrays.items()}
    deviation = np.sqrt(values["rolling_variance"] + 1e-5)
    biases = values["biases"] - values["scales"] * values["rolling_mean"] / deviation
    gain = values["scales"] / deviation
    shape = [-1 if number == axis else 1 for number in range(values["weights"].ndim)]
    return biases, values["weights"] * gain.reshape(shape)


def arrays_of(cfg: Path, weights: Path, dialect: str) -> dict[tuple[int, str], np.ndarray]:
    """Every array of a pair that must fit."""
    with open_weights(read_model(cfg, weights, dialect)) as opened:
        opened.require_fit()
        return {(array.layer, array.name): opened.read(array) for array in opened.layout.arrays}


def fold_cfg(invoke, folder: Path, source: bytes | str, *options: str, dialect: str = "alexeyab") -> bytes:
    """Return the folded cfg for this cfg, with weights that fit it."""
    cfg = folder / "net.cfg"
    cfg.write_bytes(source if isinstance(source, bytes) else source.encode())
    weights = write_weights(cfg, folder / "net.weights", dialect)
    invoke("fold", cfg, weights, "-o", folder / "out.weights", "--dialect", dialect, *options)
    return (folder / "out.cfg").read_bytes()


def refuse(invoke, cfg: Path, weights: Path, *options: object) -> str:
    """Return the message of a fold that is refused, and assert that no file changed."""
    before = {path: path.read_bytes() for path in cfg.parent.iterdir() if path.is_file()}
    error = invoke("fold", cfg, weights, *options, exit_code=1).stderr
    assert {path: path.read_bytes() for path in cfg.parent.iterdir() if path.is_file()} == before
    assert 1 <= len(error.splitlines()) <= 2
    return error


# --- the arrays -------------------------------------------------------------------------------------------------------


@needs_shared("models")
@pytest.mark.parametrize("name", ["yolo-fastest-1.1", "yolo-fastest-1.1-xl"])
def test_a_detector_folds_to_the_result_of_alexeyab_s_program(invoke, tmp_path, name):
    """Its header is not compared: that program computes a new `seen`."""
    model = SHARED / "models" / name
    output = tmp_path / "out.weights"
    invoke("fold", f"{model}.cfg", f"{model}.weights", "-o", output)
    fused = np.fromfile(f"{model}.fused-by-alexeyab.weights", "<f4", offset=20)
    np.testing.assert_allclose(np.fromfile(output, "<f4", offset=20), fused, rtol=1e-6, atol=0)


@needs_shared("models")
def test_a_detector_s_cfg_loses_its_82_switches_alone(invoke, tmp_path):
    model = SHARED / "models" / "yolo-fastest-1.1"
    invoke("fold", f"{model}.cfg", f"{model}.weights", "-o", tmp_path / "out.weights")
    lines = Path(f"{model}.cfg").read_bytes().splitlines(keepends=True)
    kept = [line for line in lines if not line.startswith(b"batch_normalize")]
    assert (len(lines) - len(kept), (tmp_path / "out.cfg").read_bytes()) == (82, b"".join(kept))


def parts_of(arrays: dict[tuple[int, str], np.ndarray]) -> dict[tuple[int, str], dict[str, np.ndarray]]:
    """The arrays of each part, by its layer and its name."""
    found: dict[tuple[int, str], dict[str, np.ndarray]] = {}
    for (layer, name), array in arrays.items():
        part, _, field = name.rpartition(".")
        found.setdefault((layer, part), {})[field] = array
    return found


PARTS_ALONE = [path for path in NETWORKS if not path.stem.startswith("batchnorm.")]  # those have a test of their own


@pytest.mark.parametrize("path", PARTS_ALONE, ids=lambda path: path.stem)
def test_a_golden_network_folds_to_the_formula_s_values(invoke, tmp_path, path):
    """Every part of every layer."""
    case, output = golden(path), tmp_path / "out.weights"
    invoke("fold", case.cfg, case.weights, "-o", output, "--dialect", case.dialect)
    old = parts_of(arrays_of(case.cfg, case.weights, case.dialect))
    new = parts_of(arrays_of(output.with_suffix(".cfg"), output, case.dialect))
    assert new.keys() == old.keys()
    for place, arrays in old.items():
        expected = {field: array for field, array in arrays.items() if field in ("biases", "weights")}
        if "rolling_mean" in arrays:
            axis = FILTERS.get(case.layers[place[0]]["name"], 0)
            expected["biases"], expected["weights"] = formula(arrays, axis)
        assert new[place].keys() == expected.keys()
        for field, values in expected.items():
            np.testing.assert_allclose(new[place][field], values, rtol=ONE_ROUNDING)


def test_a_golden_batchnorm_goes_into_the_convolution_before_it(invoke, tmp_path):
    """y = gain·(W·x + b) + offset; the first one stays: the convolution after it pads. pjreddie stores no biases."""
    for dialect in ("alexeyab", "pjreddie"):
        case, output = golden(GOLDEN / f"layouts/batchnorm.{dialect}.json"), tmp_path / f"{dialect}.weights"
        invoke("fold", case.cfg, case.weights, "-o", output, "--dialect", dialect)
        old = arrays_of(case.cfg, case.weights, dialect)
        new = arrays_of(output.with_suffix(".cfg"), output, dialect)
        after = {name: old[2, name].astype("f8") for name in ("scales", "rolling_mean", "rolling_variance")}
        gain = after["scales"] / np.sqrt(after["rolling_variance"] + 1e-5)
        biases = old.get((2, "biases"), np.zeros(6)).astype("f8")
        expected = gain * (old[1, "biases"] - after["rolling_mean"]) + biases
        np.testing.assert_allclose(new[1, "biases"], expected, rtol=ONE_ROUNDING, atol=1e-9)  # the sum may cancel
        np.testing.assert_allclose(new[1, "weights"], old[1, "weights"] * gain[:, None, None, None], rtol=ONE_ROUNDING)
        assert {layer for layer, _ in new} == {0, 1}


def test_a_folded_network_fits_in_every_dialect_that_knows_it(invoke, tmp_path, layout_case):
    case, output = layout_case, tmp_path / "out.weights"
    invoke("fold", case.cfg, case.weights, "-o", output, "--dialect", case.dialect)
    knowing = set()
    for dialect in ("pjreddie", "alexeyab", "hank"):
        with contextlib.suppress(BnormError):
            if read_model(case.cfg, case.weights, dialect).fits:
                knowing.add(dialect)
    assert case.dialect in knowing
    assert all(read_model(output.with_suffix(".cfg"), output, dialect).fits for dialect in knowing)


def test_folding_the_folded_pair_again_says_so_and_changes_nothing(invoke, tmp_path, layout_case):
    case, once, twice = layout_case, tmp_path / "once.weights", tmp_path / "twice.weights"
    invoke("fold", case.cfg, case.weights, "-o", once, "--dialect", case.dialect)
    result = invoke("fold", once.with_suffix(".cfg"), once, "-o", twice, "--dialect", case.dialect)
    assert result.stdout.startswith(f"nothing to fold; the same in {twice} and {twice.with_suffix('.cfg')}\n")
    assert twice.read_bytes() == once.read_bytes()
    assert twice.with_suffix(".cfg").read_bytes() == once.with_suffix(".cfg").read_bytes()


def test_a_channel_that_was_folded_computes_the_same(invoke, tiny):
    """One pixel through a 3x3 convolution, normalised and folded, both in float64."""
    cfg, weights = tiny
    output = cfg.with_name("out.weights")
    invoke("fold", cfg, weights, "-o", output)
    old, new = arrays_of(cfg, weights, "alexeyab"), arrays_of(output.with_suffix(".cfg"), output, "alexeyab")
    patch = np.random.default_rng(1).normal(size=(3, 3, 3))
    before = np.sum(old[0, "weights"] * patch, axis=(1, 2, 3)) - old[0, "rolling_mean"]
    before = before / np.sqrt(old[0, "rolling_variance"] + 1e-5) * old[0, "scales"] + old[0, "biases"]
    after = np.sum(new[0, "weights"] * patch, axis=(1, 2, 3)) + new[0, "biases"]
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-5)  # 27 float32 weights, each rounded once


@pytest.mark.parametrize(
    "options", ["cbn=1", "batch_normalize=2", "batch_normalize=1 cbn=1", "cbn=1 batch_normalize=0"]
)
def test_every_switch_that_turns_it_on_is_folded(invoke, tmp_path, options):
    source = cfg_source("3x8x8", f"convolutional filters=2 {options}")
    assert fold_cfg(invoke, tmp_path, source) == cfg_source("3x8x8", "convolutional filters=2").encode()
    assert (tmp_path / "out.weights").stat().st_size == 20 + 4 * (2 + 6)


# --- the header -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "nbytes"), [((0, 1, 0), 16), ((0, 2, 0), 20), ((0, 2, 5), 20), ((0, 2000, 7), 16), ((1, 0, 0), 20)]
)
def test_the_header_is_copied(invoke, tmp_path, fields, nbytes):
    cfg, weights, output = (tmp_path / name for name in ("net.cfg", "net.weights", "out.weights"))
    cfg.write_text(cfg_source("1x4x4", "convolutional batch_normalize=1 | connected output=2"))
    head = (struct.pack("<3i", *fields) + b"\1\2\3\4\5\6\7\0")[:nbytes]
    arrays = np.arange(1, 5 + 2 + 32 + 1, dtype="<f4")
    weights.write_bytes(head + arrays.tobytes())
    invoke("fold", cfg, weights, "-o", output, "--dialect", "pjreddie")
    data = output.read_bytes()
    assert data[:nbytes] == head
    # The connected layer is unchanged, transposed or not.
    assert data[nbytes + 4 * 2 :] == arrays[5:].tobytes()


# --- the cfg ----------------------------------------------------------------------------------------------------------

CFG = """\
# a network
[net]
width=8
height=8
channels=3

[convolutional]
batch_normalize=1
filters=2
# batch_normalize=1 stays: a comment
activation=leaky

[maxpool]
size=2
"""


def without_switches(source: str) -> str:
    return "".join(line for line in source.splitlines(keepends=True) if not line.startswith(("batch_norm", "cbn")))


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_the_cfg_keeps_every_byte_but_the_switches(invoke, tmp_path, end):
    folded = fold_cfg(invoke, tmp_path, CFG.replace("\n", end))
    assert folded == without_switches(CFG).replace("\n", end).encode()


def test_a_last_line_without_end_stays_without(invoke, tmp_path):
    assert fold_cfg(invoke, tmp_path, CFG.rstrip()) == without_switches(CFG.rstrip()).encode()


def test_a_switch_on_the_last_line_goes(invoke, tmp_path):
    source = cfg_source("3x8x8", "convolutional filters=2")
    assert fold_cfg(invoke, tmp_path, source + "batch_normalize=1") == source.encode()


@pytest.mark.parametrize(
    "line",
    [
        " batch_normalize = 1 ",
        "batch_ normalize=1",
        "batch_normalize=1 # on",
        "batch_normalize=1\nbatch_normalize=1",
        "batch_normalize=1\nbatch_normalize=0",
        "cbn=1",
        "cbn=0\nbatch_normalize=1",
    ],
)
def test_every_spelling_of_a_switch_goes(invoke, tmp_path, line):
    """Readers that only look for the key, such as OpenCV's, must not find it."""
    source = cfg_source("3x8x8", "convolutional filters=2")
    assert fold_cfg(invoke, tmp_path, f"{source}{line}\nactivation=leaky\n") == f"{source}activation=leaky\n".encode()


def test_a_switch_that_is_off_goes_from_layers_that_do_not_normalise(invoke, tmp_path):
    layers = "convolutional batch_normalize=1 | convolutional filters=2 batch_normalize=0 | connected batch_normalize=0"
    plain = layers.replace(" batch_normalize=1", "").replace(" batch_normalize=0", "")
    assert fold_cfg(invoke, tmp_path, cfg_source("3x8x8", layers)) == cfg_source("3x8x8", plain).encode()


def test_hank_reads_a_pair_folded_in_hank_s_dialect(invoke, tmp_path):
    source = CFG.replace("batch_normalize=1\n", " batch_normalize=1 # on\n", 1)
    fold_cfg(invoke, tmp_path, source, dialect="hank")
    assert read_model(tmp_path / "out.cfg", tmp_path / "out.weights", "hank").fits


# --- folding twice ----------------------------------------------------------------------------------------------------


def test_a_folded_network_has_nothing_to_fold(invoke, tiny):
    once, twice = tiny[0].with_name("once.weights"), tiny[0].with_name("twice.weights")
    invoke("fold", *tiny, "-o", once)
    result = invoke("fold", once.with_suffix(".cfg"), once, "-o", twice)
    assert result.stdout.startswith(f"nothing to fold; the same in {twice} and {twice.with_suffix('.cfg')}\n")
    assert twice.read_bytes() == once.read_bytes()
    assert twice.with_suffix(".cfg").read_bytes() == once.with_suffix(".cfg").read_bytes()


def test_folding_twice_from_the_same_files_gives_the_same_bytes(invoke, tiny):
    outputs = [tiny[0].with_name(f"{name}.weights") for name in "ab"]
    for output in outputs:
        invoke("fold", *tiny, "-o", output)
    assert outputs[0].read_bytes() == outputs[1].read_bytes()


def test_the_inputs_stay_as_they_are(invoke, tiny):
    before = [path.read_bytes() for path in tiny]
    invoke("fold", *tiny, "-o", tiny[0].with_name("out.weights"))
    assert [path.read_bytes() for path in tiny] == before


# --- numbers that are refused -----------------------------------------------------------------------------------------


def change(weights: Path, field: int, channel: int, value: float) -> None:
    """Set a channel of the tiny model's layer 0: of its biases (0), scales, rolling_mean or rolling_variance (3)."""
    patch(weights, 20 + 4 * (4 * field + channel), value)


@pytest.mark.parametrize(
    ("values", "epsilon", "channels"),
    [
        ([1, -1], "darknet", (1,)),
        ([np.nan, 1, np.inf, -np.inf], "darknet", (0, 2, 3)),
        ([0, -0.0], "darknet", None),
        ([-7e-44, -1e-12, 3e38], "darknet", None),
        ([-9.99e-6, -1e-5], "darknet", (0, 1)),
        ([-7e-44, 0, 7e-44], "pjreddie-cpu", (0,)),
        ([-1e-9, -1.1e-9], "opencv", (1,)),
        ([-1e-6, -2e-6], "keras", (1,)),
        ([0, 1e-30, -1e-30], "0", (0, 2)),
    ],
)
def test_the_channels_that_the_guard_cannot_use_are_listed(values, epsilon, channels):
    bad = bad_channels(np.array(values, "f8"), parse_epsilon(epsilon))
    assert (bad and bad.channels) == channels


@pytest.mark.parametrize("residue", [-7e-44, -1e-12, -1e-9])
def test_a_rounding_residue_folds_as_its_positive_twin(tiny, residue):
    """A published MobileNet-YOLO has variances of -7e-44, and detects well everywhere."""
    cfg, weights = tiny
    folded = []
    for value in (residue, -residue):
        change(weights, 3, 1, value)
        output = cfg.with_name("out.weights")
        (row,) = fold(read_model(cfg, weights), output, force=True).layers
        assert (row.folded, row.clamped) == (True, ())
        folded.append(np.fromfile(output, "<f4")[5:])
    np.testing.assert_allclose(*folded, rtol=1.1e-4)


def test_a_residue_without_root_is_named_for_the_runtime_that_makes_nan_of_it(invoke, tiny):
    cfg, weights = tiny
    change(weights, 3, 1, -1e-12)
    (row,) = fold(read_model(cfg, weights), None, dry_run=True).layers
    assert {name for name, value in row.gain_change.items() if np.isnan(value)} == {"pjreddie-cpu"}
    assert "pjreddie-cpu NaN" in " ".join(invoke("fold", cfg, weights, "--dry-run", "--runtimes").stdout.split())
    (row,) = fold(read_model(cfg, weights), None, dry_run=True, epsilon="pjreddie-cpu", bad_variance="clamp").layers
    assert row.clamped == (1,)
    with pytest.raises(WeightsError):
        fold(read_model(cfg, weights), None, dry_run=True, epsilon="pjreddie-cpu")


def test_clamp_leaves_a_residue_beside_a_bad_variance(tiny):
    cfg, weights = tiny
    change(weights, 3, 0, -1)
    change(weights, 3, 1, -1e-9)
    (row,) = fold(read_model(cfg, weights), None, dry_run=True, bad_variance="clamp").layers
    assert row.clamped == (0,)


@pytest.mark.parametrize("policy", ["errror", "", "CLAMP", None])
def test_a_policy_that_is_misspelled_is_refused(tiny, policy):
    """`errror` used to switch the guard off, and to write NaN."""
    model = read_model(*tiny)
    tiny[1].unlink()  # nothing is read before
    with pytest.raises(ValueError, match="expected one of error, clamp, skip"):
        fold(model, None, dry_run=True, bad_variance=policy)


@pytest.mark.parametrize(("value", "shown"), [(-1, "-1"), (-9.99e-6, "-9.99e-06"), (np.nan, "nan"), (np.inf, "inf")])
def test_a_variance_without_root_is_refused_with_layer_and_channel(invoke, tiny, value, shown):
    cfg, weights = tiny
    change(weights, 3, 2, value)
    error = refuse(invoke, cfg, weights, "-o", cfg.with_name("out.weights"))
    assert error.startswith(f"error: {weights}: layer 0 rolling_variance is {shown} in channel 2, expected")
    assert "--bad-variance clamp or skip continues anyway" in " ".join(error.split())


def test_several_variances_without_root_are_counted(invoke, tiny):
    cfg, weights = tiny
    for channel in (1, 2, 3):
        change(weights, 3, channel, -1)
    assert "is -1 in channel 1 and 2 more" in refuse(invoke, cfg, weights, "-o", cfg.with_name("out.weights"))


@pytest.mark.parametrize("variance", [0.0, -0.0, 1e-38])
def test_a_variance_of_zero_is_folded_by_epsilon(invoke, tiny, variance):
    cfg, weights = tiny
    change(weights, 3, 1, variance)
    output = cfg.with_name("out.weights")
    invoke("fold", cfg, weights, "-o", output)
    old, new = arrays_of(cfg, weights, "alexeyab"), arrays_of(output.with_suffix(".cfg"), output, "alexeyab")
    expected, _ = formula({name: array for (layer, name), array in old.items() if layer == 0})
    np.testing.assert_allclose(new[0, "biases"], expected, rtol=ONE_ROUNDING)


def test_clamp_takes_the_nearest_variance_and_says_so(invoke, tiny):
    """0 for a negative one and for NaN, the largest float32 for infinity."""
    cfg, weights = tiny
    for channel, value in enumerate([-1, np.nan, np.inf]):
        change(weights, 3, channel, value)
    outputs = cfg.with_name("clamped.weights"), cfg.with_name("expected.weights")
    result = invoke("fold", cfg, weights, "-o", outputs[0], "--bad-variance", "clamp", "--format", "json")
    (layer,) = json.loads(result.stdout)["layers"]
    assert (layer["folded"], layer["clamped"]) == (True, [0, 1, 2])
    assert layer["reason"] == "clamped: rolling_variance is -1 in channel 0 and 2 more"
    for channel, value in enumerate([0, 0, np.finfo("f4").max]):
        change(weights, 3, channel, value)
    invoke("fold", cfg, weights, "-o", outputs[1])
    assert outputs[0].read_bytes() == outputs[1].read_bytes()


def test_skip_leaves_the_layer_unchanged(tiny):
    cfg, weights = tiny
    change(weights, 3, 2, np.nan)
    output = cfg.with_name("out.weights")
    (row,) = fold(read_model(cfg, weights), output, bad_variance="skip").layers
    assert (row.folded, row.reason) == (False, "rolling_variance is nan in channel 2")
    assert (output.read_bytes(), output.with_suffix(".cfg").read_text()) == (weights.read_bytes(), TINY)


def test_a_bad_variance_of_a_layer_that_stays_is_not_an_error(invoke, tiny):
    cfg, weights = tiny
    change(weights, 3, 2, -1)
    invoke("fold", cfg, weights, "-o", cfg.with_name("out.weights"), "--layer", "1")


@pytest.mark.parametrize(("field", "value"), [(0, np.nan), (1, np.inf), (1, 3e38), (2, np.inf), (2, -3e38)])
def test_no_number_of_a_file_brings_a_python_warning(tiny, field, value):
    """The result is an error or a network with an infinity: never a warning with a line of bnorm's source."""
    cfg, weights = tiny
    change(weights, field, 0, value)
    change(weights, 3, 0, 0)
    with warnings.catch_warnings(), contextlib.suppress(BnormError):
        warnings.simplefilter("error")
        fold(read_model(cfg, weights, "alexeyab"), cfg.with_name("out.weights"), cfg.with_name("out.cfg"))


@pytest.mark.parametrize("verify", [False, True])
@pytest.mark.parametrize("dry", [False, True])
def test_a_layer_whose_folded_numbers_no_float32_holds_stays(tiny, verify, dry):
    """A gain of 1e35 times weights of about 1: beyond 3.4e38 for some of them."""
    cfg, weights = tiny
    change(weights, 1, 0, 3e38)
    change(weights, 3, 0, 0)
    output = cfg.with_name("out.weights")
    (row,) = fold(read_model(cfg, weights), output, verify=verify, dry_run=dry).layers
    assert (row.folded, row.reason) == (False, "its folded values exceed float32")
    if not dry:
        assert (output.read_bytes(), output.with_suffix(".cfg").read_text()) == (weights.read_bytes(), TINY)


def bad_lstm(folder: Path) -> Model:
    """An LSTM with two parts whose rolling variance has no root."""
    cfg = folder / "net.cfg"
    cfg.write_text(cfg_source("5", "lstm output=3 batch_normalize=1"))
    weights = write_weights(cfg, folder / "net.weights")
    model = read_model(cfg, weights, "alexeyab")
    data = bytearray(weights.read_bytes())
    for name, channel, value in (("wi", 1, -3), ("uo", 2, np.nan)):
        offset = model.layout.by_name[0, f"{name}.rolling_variance"].offset
        struct.pack_into("<f", data, offset + 4 * channel, value)
    weights.write_bytes(data)
    return read_model(cfg, weights, "alexeyab")


def test_the_reason_of_a_skipped_layer_names_its_parts(tmp_path):
    report = fold(bad_lstm(tmp_path), None, dry_run=True, bad_variance="skip")
    reason = "wi.rolling_variance is -3 in channel 1; uo.rolling_variance is nan in channel 2"
    assert {row.reason for row in report.layers} == {reason}


def test_the_error_names_the_part(tmp_path):
    with pytest.raises(WeightsError, match=r"layer 0 wi\.rolling_variance is -3 in channel 1, expected"):
        fold(bad_lstm(tmp_path), None, dry_run=True)


def test_a_batchnorm_row_has_its_target_and_the_clamped_channels(tmp_path):
    cfg = tmp_path / "net.cfg"
    cfg.write_text(cfg_source("3x6x6", "convolutional filters=2 activation=linear | batchnorm"))
    weights = write_weights(cfg, tmp_path / "net.weights")
    data = bytearray(weights.read_bytes())
    struct.pack_into("<f", data, len(data) - 4, -1)  # rolling_variance[1]
    weights.write_bytes(data)
    (row,) = fold(read_model(cfg, weights, "alexeyab"), None, dry_run=True, bad_variance="clamp").layers
    assert (row.folded, row.into, row.clamped) == (True, 0, (1,))
    assert row.reason == "into layer 0; clamped: rolling_variance is -1 in channel 1"


# --- outputs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("output", "output_cfg"), [("a.weights", "a.cfg"), ("a", "a.cfg"), ("a.b.weights", "a.b.cfg"), ("v1.0", "v1.cfg")]
)
def test_the_folded_cfg_is_named_after_the_folded_weights(invoke, tiny, output, output_cfg):
    folder = tiny[0].parent
    invoke("fold", *tiny, "-o", folder / output)
    assert (folder / output_cfg).read_text() == without_switches(TINY)


def test_the_folded_cfg_may_have_a_name_of_its_own(invoke, tiny):
    folder = tiny[0].parent
    invoke("fold", *tiny, "-o", folder / "a.weights", "--output-cfg", folder / "b.txt")
    assert {path.name for path in folder.iterdir()} == {"tiny.cfg", "tiny.weights", "a.weights", "b.txt"}


@pytest.mark.parametrize("existing", ["out.weights", "out.cfg"])
def test_an_output_that_exists_is_refused(invoke, tiny, existing):
    cfg, weights = tiny
    cfg.with_name(existing).write_text("mine")
    error = refuse(invoke, cfg, weights, "-o", cfg.with_name("out.weights"))
    assert error.startswith(f"error: {cfg.with_name(existing)}: exists already")
    assert "--force" in error


@pytest.mark.parametrize("existing", ["out.weights", "out.cfg"])
def test_force_overwrites_an_output(invoke, tiny, existing):
    cfg, weights = tiny
    cfg.with_name(existing).write_text("mine")
    invoke("fold", cfg, weights, "-o", cfg.with_name("out.weights"), "--force")
    assert read_model(cfg.with_name("out.cfg"), cfg.with_name("out.weights")).fits


@pytest.mark.parametrize("outputs", [["tiny.weights"], ["tiny.cfg"], ["out", "tiny.cfg"], ["out", "tiny.weights"]])
def test_force_overwrites_no_input(invoke, tiny, outputs):
    cfg, weights = tiny
    options = zip(["-o", "--output-cfg"], [cfg.with_name(name) for name in outputs], strict=False)
    error = refuse(invoke, cfg, weights, "--force", *(value for pair in options for value in pair))
    assert "is an input, expected another name for the output" in error


def test_the_cfg_that_would_be_named_like_the_input_is_refused(invoke, tiny):
    cfg, weights = tiny
    error = refuse(invoke, cfg, weights, "--force", "-o", cfg.with_name("tiny.folded"))
    assert error.startswith(f"error: {cfg}: is an input")


@pytest.mark.parametrize("link", ["symlink_to", "hardlink_to"])
@pytest.mark.parametrize("number", [0, 1])
def test_force_overwrites_no_input_through_a_link(invoke, tiny, link, number):
    cfg, weights = tiny
    output = cfg.with_name("link.weights")
    getattr(output, link)(tiny[number])
    error = refuse(invoke, cfg, weights, "--force", "-o", output)
    assert error.startswith(f"error: {output}: is an input")


def test_one_name_for_both_outputs_is_refused(invoke, tiny):
    cfg, weights = tiny
    assert "is given for two outputs" in refuse(invoke, cfg, weights, "-o", cfg.with_name("out.cfg"))


def test_a_missing_folder_is_refused(invoke, tiny):
    cfg, weights = tiny
    assert "no folder" in refuse(invoke, cfg, weights, "-o", cfg.parent / "missing" / "out.weights")


# --- printed output ---------------------------------------------------------------------------------------------------


def test_the_document_has_the_fate_of_each_layer(invoke, tiny):
    output = tiny[0].with_name("out.weights")
    document = json.loads(invoke("fold", *tiny, "-o", output, "--format", "json").stdout)
    (layer,) = document.pop("layers")
    assert 0 < layer.pop("max_abs_error") < 1e-5
    assert 0 < layer.pop("max_rel_error") < 1e-6
    assert list(layer.pop("gain_change")) == ["darknet", "pjreddie-cpu", "opencv", "ultralytics", "keras"]
    assert layer == {
        "index": 0,
        "type": "convolutional",
        "part": "",
        "folded": True,
        "reason": "",
        "into": None,
        "clamped": [],
        "silent_channels": 0,
        "selected": True,
    }
    expected = {
        "cfg": str(tiny[0]),
        "weights": str(tiny[1]),
        "dialect": "alexeyab",
        "parameters_before": 134,
        "parameters_after": 122,
        "bytes_before": 556,
        "bytes_after": 508,
        "output": str(output),
        "output_cfg": str(output.with_suffix(".cfg")),
        "findings": [],
        "verified": True,
        "epsilon": {"value": 1e-5, "inside": True},
        "worst": {"layer": 0, "part": "", "max_rel_error": pytest.approx(1e-7, abs=1e-7)},
    }
    assert document | expected == document
    assert output.stat().st_size == 508


VECTORS = cfg_source("2x4x4", "batchnorm | connected output=3 activation=linear")


@pytest.mark.parametrize("dry", [False, True])
def test_a_folded_cfg_is_looked_at_as_check_looks_at_one(invoke, tmp_path, dry):
    """The [batchnorm] was the only layer with an image, and alexeyab divides by the number of such layers."""
    cfg = tmp_path / "net.cfg"
    cfg.write_text(VECTORS)
    weights = write_weights(cfg, tmp_path / "net.weights", "alexeyab")
    model = read_model(cfg, weights, "alexeyab")
    report = fold(model, tmp_path / "python.weights", dry_run=dry)
    assert [(finding.id, finding.line) for finding in report.findings] == [("cfg-crash", 1)]
    assert not check(cfg, weights, "alexeyab").findings
    assert dry or check(tmp_path / "python.cfg", None, "alexeyab").findings == report.findings
    options = ["--dialect", "alexeyab", *(["--dry-run"] if dry else ["-o", tmp_path / "out.weights", "--force"])]
    document = json.loads(invoke("fold", cfg, weights, *options, "--format", "json").stdout)
    assert document["findings"] == [finding._asdict() for finding in report.findings]
    assert "[cfg-crash]" in invoke("fold", cfg, weights, *options).stdout


def test_a_sound_folded_cfg_has_no_findings(tiny):
    assert fold(read_model(*tiny), None, dry_run=True).findings == ()


def test_csv_has_a_row_per_folded_layer(invoke, tiny):
    output = invoke("fold", *tiny, "-o", tiny[0].with_name("out.weights"), "--format", "csv").stdout
    (row,) = csv.DictReader(io.StringIO(output))
    assert (row["index"], row["type"], row["folded"]) == ("0", "convolutional", "1")


def test_the_table_shows_the_folded_layers(invoke, tiny):
    output = tiny[0].with_name("out.weights")
    lines = invoke("fold", *tiny, "-o", output).stdout.splitlines()
    assert lines[0] == f"folded 1 layer into {output} and {output.with_suffix('.cfg')}"
    assert [line.split() for line in lines if line.startswith(("parameters", "bytes"))] == [
        ["parameters", "134", "122"],
        ["bytes", "556", "508"],
    ]


def test_markdown_holds_both_tables(invoke, tiny):
    text = invoke("fold", *tiny, "-o", tiny[0].with_name("out.weights"), "--format", "markdown").stdout
    assert "| layer | type | max abs | max rel |\n" in text
    assert "| bytes | 556 | 508 |" in text


def test_a_dry_run_says_the_same_and_writes_nothing(invoke, tiny):
    cfg, weights = tiny
    output = cfg.with_name("out.weights")
    before = set(cfg.parent.iterdir())
    dry = json.loads(invoke("fold", cfg, weights, "--dry-run", "--format", "json").stdout)
    assert set(cfg.parent.iterdir()) == before
    done = json.loads(invoke("fold", cfg, weights, "-o", output, "--format", "json").stdout)
    names = {"output": None, "output_cfg": None}
    assert dry == done | names
    assert "would fold 1 layer; a dry run writes nothing" in invoke("fold", cfg, weights, "--dry-run").stdout


def test_without_output_only_a_dry_run_is_possible(invoke, tiny):
    assert "--dry-run" in invoke("fold", *tiny, exit_code=2).stderr
    with pytest.raises(ValueError, match="expected an output, or a dry run"):
        fold(read_model(*tiny), None)


def test_a_dry_run_refuses_the_outputs_that_a_real_one_would(invoke, tiny):
    cfg, weights = tiny
    assert "is an input" in refuse(invoke, cfg, weights, "--dry-run", "-o", weights)


@pytest.mark.parametrize("epsilon", ["darknet", "3e-5", "1e-37:outside"])
def test_no_line_is_wider_than_80_columns(invoke, tiny, epsilon):
    lines = invoke("fold", *tiny, "--dry-run", "--epsilon", epsilon).stdout.splitlines()
    assert max(map(len, lines)) <= 80


def test_an_error_of_the_disk_while_layers_are_compared_is_an_error(invoke, tiny, monkeypatch):
    """The system tells it once, to whoever syncs first."""
    calls = []

    def fsync(descriptor):
        calls.append(descriptor)
        if len(calls) == 1:
            raise OSError(5, "Input/output error")

    monkeypatch.setattr("os.fsync", fsync)
    before = set(tiny[0].parent.iterdir())
    error = invoke("fold", *tiny, "-o", tiny[0].with_name("out.weights"), exit_code=1).stderr
    assert "input/output error" in error
    assert set(tiny[0].parent.iterdir()) == before


@pytest.mark.parametrize("dry_run", [False, True])
@pytest.mark.parametrize(("verify", "total"), [(False, 122), (True, 122 + 4 * 27)])
def test_progress_counts_every_value_that_is_written_or_compared(tiny, dry_run, verify, total):
    """The folded file has 122, and the weights of the folded layer are compared with the original weights."""
    told = []
    output = tiny[0].with_name("out.weights")
    fold(read_model(*tiny), output, verify=verify, dry_run=dry_run, advance=lambda *counts: told.append(counts))
    done = [count for count, _ in told]
    assert {of for _, of in told} == {total}
    assert (sorted(set(done)), done[-1]) == (done, total)


def test_no_verify_leaves_the_errors_open(invoke, tiny):
    output = tiny[0].with_name("out.weights")
    document = json.loads(invoke("fold", *tiny, "-o", output, "--no-verify", "--format", "json").stdout)
    (layer,) = document["layers"]
    assert (layer["max_abs_error"], layer["max_rel_error"], layer["reason"]) == (None, None, "")
    again = output.with_name("again.weights")
    invoke("fold", *tiny, "-o", again)
    assert output.read_bytes() == again.read_bytes()


def test_the_choice_of_a_dialect_is_one_note(invoke, tiny):
    tiny[0].write_text(TINY + "colour=red\n")  # hank refuses it
    result = invoke("fold", *tiny, "-o", tiny[0].with_name("a.weights"), "--format", "json")
    assert re.fullmatch(r"note: dialect alexeyab: [^\n]+\n", result.stderr)
    named = invoke("fold", *tiny, "-o", tiny[0].with_name("b.weights"), "--dialect", "pjreddie")
    assert named.stderr == ""
