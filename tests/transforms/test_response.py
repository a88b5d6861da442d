"""`transforms.response`: sums of windows against `forward_convolutional_layer`, one value at a time."""

from __future__ import annotations

import numpy as np
import pytest

from bnorm.darknet.autodetect import read_model
from bnorm.darknet.weights import open_weights
from bnorm.errors import ProofError
from bnorm.folding import obstacles
from bnorm.transforms.fold.fold import fold
from bnorm.transforms.response import Probe, Rows, Stored, channels_seen, probe
from support.builders import BN, cfg_source, write_weights


def model_of(folder, dialect, net, layers):
    cfg = folder / "net.cfg"
    cfg.write_text(cfg_source(net, layers))
    return read_model(cfg, write_weights(cfg, folder / "net.weights", dialect), dialect)


def gemm(weights, *, filters, channels, size, groups, windows):
    """Return the sums of the C loops for one place: (filters, W). Memory after the weights is 0."""
    m, k = filters // groups, size * size * channels // groups
    nweights = channels // groups * filters * size * size
    memory = np.concatenate([weights, np.zeros(nweights + k)])
    output = np.zeros([filters, windows.shape[-1]])
    for j in range(groups):
        a = j * nweights // groups
        for i in range(m):
            for t in range(k):
                output[j * m + i] += memory[a + i * k + t] * windows[j % len(windows), t]
    return output


GROUPED = [
    # filters, channels, size, groups
    (4, 3, 2, 3),  # neither rows nor filters
    (4, 3, 1, 3),
    (4, 4, 3, 3),
    (3, 4, 3, 3),
    (2, 3, 1, 3),  # no filter at all
    (6, 4, 3, 2),  # whole groups
    (8, 8, 1, 8),
]


@pytest.mark.parametrize("block", [1, 5, 1000])
@pytest.mark.parametrize("own_windows", [False, True])
@pytest.mark.parametrize(("filters", "channels", "size", "groups"), GROUPED)
def test_a_grouped_convolution_is_read_as_the_c_programs_do(
    tmp_path, monkeypatch, filters, channels, size, groups, own_windows, block
):
    layers = f"convolutional filters={filters} size={size} groups={groups}"
    model = model_of(tmp_path, "alexeyab", f"{channels}x4x4", layers)
    monkeypatch.setattr("bnorm.darknet.weights.BLOCK", block)
    (part,) = model.network.layers[0].parts
    length = size * size * channels // groups
    windows = np.random.default_rng(0).standard_normal([groups if own_windows else 1, length, 2])
    with open_weights(model) as weights:
        array = weights.layout.array(0, "weights")
        (sums,) = probe(Stored(array, lambda: weights.blocks(array)), part, [Probe(windows)])
        flat = weights.read(array).reshape(-1).astype("f8")
    expected = gemm(flat, filters=filters, channels=channels, size=size, groups=groups, windows=windows)
    np.testing.assert_allclose(sums[0], expected, atol=1e-12)


def test_groups_that_divide_everything_are_filter_after_filter(tmp_path):
    model = model_of(tmp_path, "alexeyab", "4x6x6", "convolutional filters=6 size=3 groups=2")
    (part,) = model.network.layers[0].parts
    rows = Rows.of(part)
    assert rows.starts.tolist() == [0, 18, 36, 54, 72, 90]
    assert (rows.groups.tolist(), rows.length) == ([0, 0, 0, 1, 1, 1], 18)
    assert channels_seen(part, 4).tolist() == [[0] * 9 + [1] * 9, [2] * 9 + [3] * 9]


UNEVEN = [
    ("pjreddie", "3x4x4", f"convolutional {BN} filters=4 size=2 groups=3"),
    ("alexeyab", "3x4x4", f"convolutional {BN} filters=4 size=2 groups=3"),
    ("hank", "4x4x4", f"convolutional {BN} filters=6 size=3 groups=3"),
    ("alexeyab", "3x4x4", "convolutional filters=4 size=2 groups=3 activation=linear | batchnorm"),
]


@pytest.mark.parametrize(("dialect", "net", "layers"), UNEVEN)
def test_the_proof_catches_a_fold_of_groups_that_do_not_divide(tmp_path, monkeypatch, dialect, net, layers):
    """A gain per filter is not a gain per row: the layer stays, and a fold that did not know it would fail."""
    model = model_of(tmp_path, dialect, net, layers)
    assert not any(row.folded for row in fold(model, None, dry_run=True).layers)
    monkeypatch.setattr(obstacles, "_uneven_groups", lambda _: "")
    with pytest.raises(ProofError):
        fold(model, tmp_path / "out.weights")
    assert not (tmp_path / "out.weights").exists()
