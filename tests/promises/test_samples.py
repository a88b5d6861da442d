"""The samples that are shipped: each is read, folded, and computes the same afterwards."""

from __future__ import annotations

import runpy

import numpy as np
import pytest

from bnorm.batchnorm.epsilon import DARKNET
from bnorm.darknet.autodetect import read_model
from bnorm.transforms.fold.fold import fold
from support.forward import Run
from support.golden import ROOT, sample

SAMPLES = sorted(path.stem for path in (ROOT / "sample_cfgs").glob("*.cfg"))
STAYING = {"batchnorm": {6}}  # normalised layers that cannot be folded


@pytest.mark.parametrize("name", SAMPLES)
def test_every_sample_has_weights_that_fit(name):
    assert read_model(*sample(name)).fits


@pytest.mark.parametrize("name", SAMPLES)
def test_every_sample_has_a_comment_on_its_purpose(name):
    assert sample(name)[0].read_text().startswith("# ")


@pytest.mark.parametrize("name", SAMPLES)
def test_every_sample_computes_the_same_when_it_is_folded(name, tmp_path):
    """Outputs that nothing else reads, so the last layer's, in relation to the largest of them."""
    model = read_model(*sample(name))
    report = fold(model, tmp_path / "out.weights")
    assert {row.index for row in report.layers if not row.folded} == STAYING.get(name, set())
    before = Run(*sample(name), model.dialect.name, DARKNET)
    after = Run(tmp_path / "out.cfg", tmp_path / "out.weights", model.dialect.name, DARKNET)
    entry = model.network.input
    images = np.random.default_rng(0).normal(size=(2, *(entry[:3] if entry.channels else (entry.outputs, 1, 1))))
    for old, new in zip(before.layers(*images), after.layers(*images), strict=True):
        np.testing.assert_allclose(new[-1], old[-1], rtol=0, atol=1e-5 * np.abs(old[-1]).max())


def test_the_random_samples_are_those_that_their_script_writes(tmp_path):
    script = runpy.run_path(str(ROOT / "sample_weights/make_samples.py"))
    names = script["DIALECTS"]
    assert sorted([*names, "digits"]) == SAMPLES
    (tmp_path / "sample_weights").mkdir()
    (tmp_path / "sample_cfgs").symlink_to(ROOT / "sample_cfgs")
    script["main"].__globals__["HERE"] = tmp_path / "sample_weights"
    script["main"]()
    written = {path.stem: path.read_bytes() for path in (tmp_path / "sample_weights").iterdir()}
    assert written == {name: sample(name)[1].read_bytes() for name in names}
