"""float16, int8 and int16: scales, values and errors against plain formulas (bnorm.exchange.encoding)."""

from __future__ import annotations

import numpy as np
import pytest

import bnorm
from support.builders import odd_pair
from support.golden import MODELS, needs_shared, sample

LARGEST = {"int8": 127, "int16": 32_767}
AXES = {"deconvolutional": 1, "local": 1}  # of the output channels; 0 in all others


def recomputed(weights, dtype, axis, per):
    """Integers, scales and errors by the plain formula, over the whole array at once."""
    others = tuple(number for number in range(weights.ndim) if number != axis) if per == "channel" else None
    largest = np.abs(weights.astype(np.float64)).max(axis=others, keepdims=True)
    scales = np.where(largest == 0, 1, largest / LARGEST[dtype]).astype("f4")
    integers = np.clip(np.rint(weights / scales.astype(np.float64)), -LARGEST[dtype], LARGEST[dtype])
    error = weights - integers * scales.astype(np.float64)
    rms = np.sqrt(np.mean(error**2))
    snr = 10 * np.log10(np.sum(weights.astype(np.float64) ** 2) / np.sum(error**2))
    return integers, scales.ravel(), np.abs(error).max(), rms, snr


def assert_encoded(model, folder, dtype, per, fold=False):
    plain, out = folder / f"plain{fold}.npz", folder / f"{dtype}{per}{fold}.npz"
    bnorm.export(model, plain, fold=fold, force=True)
    report = bnorm.export(model, out, dtype=dtype, scale_per=per, fold=fold)
    rows = {(row.name, row.scale_per): row for row in report.roundings}
    types = {layer.index: layer.type for layer in model.network.layers}
    with np.load(plain) as exact, np.load(out) as archive:
        for name in exact.files:
            if (name, per) not in rows:
                assert np.array_equal(archive[name], exact[name])
                continue
            axis = AXES.get(types[int(name.split(".")[0])], 0)
            integers, scales, *_ = recomputed(exact[name], dtype, axis, per)
            assert archive[name].dtype == dtype
            assert np.array_equal(archive[name], integers)
            assert np.array_equal(archive[f"{name}_scale"], scales)
            for kind in ("channel", "tensor"):
                row = rows[name, kind]
                _, scales, largest, rms, snr = recomputed(exact[name], dtype, axis, kind)
                assert (row.scale_min, row.scale_max) == (scales.min(), scales.max())
                assert (row.max_abs, row.rms) == pytest.approx((largest, rms), rel=1e-9)
                assert row.snr == pytest.approx(snr, abs=1e-6)
    return report


@pytest.mark.parametrize("per", ["channel", "tensor"])
@pytest.mark.parametrize("dtype", LARGEST)
@pytest.mark.parametrize("name", ["detector", "deconvolution", "local", "digits", "recurrent"])
def test_integers_are_those_of_the_formula(name, dtype, per, tmp_path):
    report = assert_encoded(bnorm.read_model(*sample(name)), tmp_path, dtype, per)
    assert report.roundings


@needs_shared("models")
def test_a_published_network_loses_less_with_a_scale_per_channel(tmp_path):
    model = bnorm.read_model(MODELS / "yolo-fastest-1.1.cfg", MODELS / "yolo-fastest-1.1.weights")
    report = assert_encoded(model, tmp_path, "int8", "channel", fold=True)
    channel, tensor = ([row.snr for row in report.roundings if row.scale_per == per] for per in ("channel", "tensor"))
    assert np.median(channel) > 40 > np.median(tensor)


def test_weights_of_zero_have_a_scale_that_can_be_divided_by(tmp_path):
    changes = {(0, "weights"): dict.fromkeys(range(3), 0.0)}
    model = odd_pair(tmp_path, "convolutional filters=2", changes)
    report = bnorm.export(model, tmp_path / "out.npz", dtype="int8")
    with np.load(tmp_path / "out.npz") as archive:
        assert archive["0.weights_scale"][0] == 1
        assert not archive["0.weights"][0].any()
    assert report.roundings[0].snr > 20


def test_a_tensor_of_zeros_has_no_signal(tmp_path):
    model = odd_pair(tmp_path, "convolutional filters=1", {(0, "weights"): dict.fromkeys(range(3), 0.0)})
    report = bnorm.export(model, tmp_path / "out.npz", dtype="int8")
    assert [row.snr for row in report.roundings] == [None, None]
    assert report.roundings[0].max_abs == 0


def test_weights_too_small_for_a_scale_have_the_smallest_one(tmp_path):
    model = odd_pair(tmp_path, "convolutional filters=1", {(0, "weights"): {0: 1e-44, 1: 0.0, 2: -1e-45}})
    bnorm.export(model, tmp_path / "out.npz", dtype="int8")
    with np.load(tmp_path / "out.npz") as archive:
        assert archive["0.weights_scale"][0] > 0
        assert archive["0.weights"].ravel().tolist() == [7, 0, -1]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_have_no_scale(tmp_path, value):
    model = odd_pair(tmp_path, "convolutional filters=2", {(0, "weights"): {4: value}})
    with pytest.raises(bnorm.WeightsError, match="layer 0 weights holds NaN or infinity"):
        bnorm.export(model, tmp_path / "out.npz", dtype="int8")


def test_float16_rounds_each_array_and_counts_the_error(tmp_path):
    model = bnorm.read_model(*sample("detector"))
    bnorm.export(model, tmp_path / "plain.npz")
    report = bnorm.export(model, tmp_path / "half.npz", dtype="float16")
    rows = {row.name: row for row in report.roundings}
    with np.load(tmp_path / "plain.npz") as exact, np.load(tmp_path / "half.npz") as archive:
        assert rows.keys() == set(exact.files)
        for name in exact.files:
            half = exact[name].astype("f2")
            assert np.array_equal(archive[name], half)
            assert archive[name].dtype == np.float16
            error = exact[name].astype(np.float64) - half
            assert rows[name].max_abs == np.abs(error).max()
            assert rows[name].rms == pytest.approx(np.sqrt(np.mean(error**2)), rel=1e-9)


def test_a_value_beyond_float16_is_an_error(tmp_path):
    model = odd_pair(tmp_path, "convolutional filters=2", {(0, "weights"): {1: 7e4}})
    with pytest.raises(bnorm.WeightsError, match="layer 0 weights exceeds float16, expected at most 65,504"):
        bnorm.export(model, tmp_path / "out.npz", dtype="float16")
    assert not (tmp_path / "out.npz").exists()
