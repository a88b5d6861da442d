"""Export, then import: the same bytes except for the header (bnorm.exchange)."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import bnorm
from bnorm.exchange.axes import reordered
from support.golden import MODELS, ROOT, needs_shared, sample

SAMPLES = sorted(path.stem for path in (ROOT / "sample_weights").glob("*.weights"))


def as_folder(path, folder):
    """The arrays of a .npz in a folder of .npy files."""
    folder.mkdir()
    with np.load(path) as archive:
        for name in archive.files:
            np.save(folder / f"{name}.npy", archive[name])
    return folder


def assert_round_trip(model, folder):
    """A model goes out and comes back in each format that is read."""
    for suffix in (".npz", ".safetensors"):
        bnorm.export(model, folder / f"out{suffix}")
    as_folder(folder / "out.npz", folder / "out")
    plain = bnorm.read_model(model.network.text.path, None, model.dialect.name)
    for name in ("out.npz", "out.safetensors", "out"):
        bnorm.import_arrays(plain, folder / name, folder / "back.weights", force=True)
        back = bnorm.read_model(model.network.text.path, folder / "back.weights", model.dialect.name)
        if not model.header.transposed:
            old, new = model.weights.read_bytes(), back.weights.read_bytes()
            assert old[model.header.nbytes :] == new[back.header.nbytes :], name
        with bnorm.open_weights(model) as first, bnorm.open_weights(back) as second:
            for one, other in zip(model.layout.arrays, back.layout.arrays, strict=True):
                assert first.read(one).tobytes() == second.read(other).tobytes(), (name, one)


def test_every_golden_network_comes_back(layout_case, tmp_path):
    model = bnorm.read_model(layout_case.cfg, layout_case.weights, layout_case.dialect)
    if not model.layout.arrays:
        pytest.skip("stores nothing")
    assert_round_trip(model, tmp_path)


@pytest.mark.parametrize("name", SAMPLES)
def test_every_sample_comes_back(name, tmp_path):
    assert_round_trip(bnorm.read_model(*sample(name)), tmp_path)


@needs_shared("models")
@pytest.mark.parametrize("name", ["yolo-fastest-1.1", "yolo-fastest-1.1-xl"])
def test_every_model_comes_back(name, tmp_path):
    assert_round_trip(bnorm.read_model(MODELS / f"{name}.cfg", MODELS / f"{name}.weights"), tmp_path)


@pytest.mark.parametrize("names", ["ultralytics", "eriklindernoren"])
@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_names_of_ports_come_back(names, suffix, tmp_path):
    model = bnorm.read_model(*sample("detector"))
    bnorm.export(model, tmp_path / f"out{suffix}", names=names)
    report = bnorm.import_arrays(model, tmp_path / f"out{suffix}", tmp_path / "back.weights")
    assert report.names == names
    assert (tmp_path / "back.weights").read_bytes()[20:] == model.weights.read_bytes()[20:]


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_a_folded_export_fits_the_folded_cfg(suffix, tmp_path):
    model = bnorm.read_model(*sample("batchnorm"))
    bnorm.fold(model, tmp_path / "folded.weights")
    report = bnorm.export(model, tmp_path / f"out{suffix}", fold=True)
    assert report.removed
    folded = bnorm.read_model(tmp_path / "folded.cfg")
    bnorm.import_arrays(folded, tmp_path / f"out{suffix}", tmp_path / "back.weights")
    assert (tmp_path / "back.weights").read_bytes()[20:] == (tmp_path / "folded.weights").read_bytes()[20:]


@given(
    shape=st.lists(st.integers(1, 5), min_size=2, max_size=4),
    order=st.randoms(),
    rows=st.integers(1, 5),
    strip=st.integers(1, 60),
)
def test_axes_are_reordered_in_strips(shape, order, rows, strip):
    array = np.arange(np.prod(shape)).reshape(shape)
    axes = list(range(len(shape)))
    order.shuffle(axes)

    def blocks():
        return iter([array[start : start + rows] for start in range(0, len(array), rows)])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bnorm.exchange.axes.STRIP", strip)
        parts = list(reordered(blocks, tuple(shape), tuple(axes)))
    assert np.array_equal(np.concatenate(parts), array.transpose(axes))
    assert all(part.flags.c_contiguous for part in parts)
