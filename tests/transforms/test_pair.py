"""`transforms.pair`: weights and cfg as one set."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from bnorm.darknet.autodetect import read_model
from bnorm.darknet.weights import open_weights
from bnorm.transforms.pair import Meter, NullWriter, Targets, targets, writing


@pytest.mark.parametrize(
    ("weights", "cfg", "expected"),
    [("a.weights", None, "a.cfg"), ("d/v1.0", None, "d/v1.cfg"), ("a", None, "a.cfg"), ("a.weights", "b.txt", "b.txt")],
)
def test_a_cfg_is_named_after_its_weights(weights, cfg, expected):
    assert targets(weights, cfg) == Targets(weights=Path(weights), cfg=Path(expected))


def copy(writer, pair) -> None:
    """Write the pair once wrongly and once rightly."""
    model = read_model(*pair)
    with open_weights(model) as weights:
        writer.begin(b"wrong" * 100, b"wrong" * 100)
        writer.write(np.zeros(1000, "f4"))
        writer.begin(weights.head(), pair[0].read_bytes())
        for array in model.layout.arrays:
            for block in weights.blocks(array):
                writer.write(block)


def test_a_second_begin_discards_earlier_blocks(tiny, tmp_path):
    paths = targets(tmp_path / "new.weights")
    with writing(paths) as writer:
        copy(writer, tiny)
        assert not any(path.exists() for path in paths)
        with writer.reopen(read_model(*tiny)) as written, open_weights(read_model(*tiny)) as old:
            np.testing.assert_array_equal(written[0, "scales"], old[0, "scales"])
        writer.sync()
    assert [path.read_bytes() for path in paths] == [tiny[1].read_bytes(), tiny[0].read_bytes()]


def test_an_error_leaves_nothing_of_a_pair(tiny, tmp_path):
    before = set(tmp_path.iterdir())
    with suppress(KeyError), writing(targets(tmp_path / "new.weights")) as writer:
        copy(writer, tiny)
        raise KeyError
    assert set(tmp_path.iterdir()) == before


def test_a_dry_run_writes_nothing(tiny, tmp_path):
    before = set(tmp_path.iterdir())
    writer = NullWriter()
    copy(writer, tiny)
    writer.sync()
    assert writer.reopen(read_model(*tiny)) is None
    assert set(tmp_path.iterdir()) == before


def test_a_meter_tells_how_many_of_how_many():
    told = []
    meter = Meter(10, lambda *counts: told.append(counts))
    meter.add(4)
    meter.add(6)
    assert told == [(4, 10), (10, 10)]
    Meter(10, None).add(4)
