"""`checks.misfit`: the smallest edit of a cfg that makes a file fit and its variances plausible."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from bnorm.checks.misfit import sizes as sizes_module
from bnorm.checks.misfit.evidence import Evidence
from bnorm.checks.misfit.layers import fewer_layers
from bnorm.checks.misfit.sizes import Sizes
from bnorm.checks.misfit.window import window
from bnorm.darknet.autodetect import read_model
from bnorm.darknet.layout import plan
from bnorm.darknet.network import build
from bnorm.darknet.weights import open_weights, save
from support.builders import BN, cfg_source
from support.damage import findings
from support.golden import GOLDEN

FIELD = GOLDEN / "field"

FILTERS = (16, 24, 32, 24, 48, 32, 21)

HEAD = "yolo mask=0,1,2 num=3 classes=2 anchors=10,14,23,27,37,58"


def layer(filters: int, size: int = 3, more: str = BN) -> str:
    return f"convolutional filters={filters} size={size} pad=1 {more}".strip()


LAYERS = [*(layer(filters) for filters in FILTERS[:-1]), layer(21, 1, ""), HEAD]


def source(layers: list[str], net: str = "3x32x32") -> str:
    return cfg_source(net, " | ".join(layers))


def replaced(index: int, *texts: str) -> list[str]:
    """Return the layers, one of them replaced by these."""
    return [*LAYERS[:index], *texts, *LAYERS[index + 1 :]]


@pytest.fixture
def trained(tmp_path: Path):
    """Return a function that writes weights with the magnitudes of a trained network, and returns their path."""

    def write(layers: list[str], net: str = "3x32x32", seed: int = 0) -> Path:
        cfg, path, rng = tmp_path / "trained.cfg", tmp_path / "net.weights", np.random.default_rng(seed)
        cfg.write_text(source(layers, net))
        model = read_model(cfg, None, "alexeyab")
        draw = {
            "rolling_variance": lambda shape: np.exp(rng.uniform(-3, 1, shape)),
            "scales": lambda shape: rng.uniform(0.3, 2, shape),
            "biases": lambda shape: rng.normal(0, 0.5, shape),
            "rolling_mean": lambda shape: rng.normal(0, 1, shape),
            "weights": lambda shape: rng.normal(0, 1, shape) / np.prod(shape[1:]) ** 0.5,
        }
        arrays = (draw[array.field](array.shape).astype("f4") for array in model.layout.arrays)
        save(path, model.header._replace(seen=6400), model.layout, arrays)
        return path

    return write


def check(tmp_path: Path, layers: list[str], weights: Path, net: str = "3x32x32"):
    cfg = tmp_path / "net.cfg"
    cfg.write_text(source(layers, net))
    return findings(cfg, weights, "alexeyab")


# --- cases from users -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cfg", "weights", "kind", "line", "words"),
    [
        ("base", "w2", "weights-folded", 20, ["line 20", "line 21"]),
        ("gray", "base.ab", "weights-channels", 6, ["channels=3", "channels=1"]),
        ("removed", "base.ab", "weights-layer", 40, ["batch_normalize=1 filters=32 size=1"]),
        ("base", "bn-none", "weights-folded", None, ["trained without it, or folded", "9, 21, 33"]),
        ("bn-none", "base.ab", "weights-unfolded", 8, ["8, 19, 30"]),
    ],
)
def test_the_cause_and_its_line_are_named(cfg, weights, kind, line, words):
    (found,) = findings(FIELD / f"{cfg}.cfg", FIELD / f"{weights}.weights")
    assert (found.id, found.line) == (kind, line)
    for word in words:
        assert word in f"{found.message}; {found.cause}"


# --- by kind ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chosen", [(1,), (4,), (0, 3), (1, 2, 5), (0, 1, 3, 5)])
@pytest.mark.parametrize("lost", [True, False])
def test_any_few_sections_may_have_an_extra_or_a_missing_key(tmp_path, trained, chosen, lost):
    bare = [text.replace(BN, "") if index in chosen else text for index, text in enumerate(LAYERS)]
    cfg, file = (bare, LAYERS) if lost else (LAYERS, bare)
    (found,) = check(tmp_path, cfg, trained(file))
    assert (found.id, found.layer) == ("weights-unfolded" if lost else "weights-folded", chosen[0])
    lines = [number for number, line in enumerate(source(cfg).splitlines(), 1) if line.startswith("[conv")]
    for index in chosen[:3]:
        assert str(lines[index]) in found.message


@pytest.mark.parametrize("net", ["1x32x32", "4x32x32", "6x32x32"])
def test_the_image_may_have_another_number_of_channels(tmp_path, trained, net):
    (found,) = check(tmp_path, LAYERS, trained(LAYERS), net)
    assert (found.id, found.line, "channels=3" in found.message) == ("weights-channels", 2, True)


@pytest.mark.parametrize(
    ("index", "given", "key"),
    [
        (2, layer(40), "filters=32"),
        (5, layer(16), "filters=32"),
        (3, layer(24, 1), "size=3"),
        (4, layer(48, 5), "size=3"),
    ],
)
def test_one_value_of_one_layer_may_differ(tmp_path, trained, index, given, key):
    (found,) = check(tmp_path, replaced(index, given), trained(LAYERS))
    assert (found.id, found.layer) == ("weights-value", index)
    assert f"fits if {key} " in found.message


@pytest.mark.parametrize("groups", [2, 4, 8])
def test_the_groups_of_one_layer_may_differ(tmp_path, trained, groups):
    (found,) = check(tmp_path, replaced(3, layer(24, 3, f"{BN} groups={groups}")), trained(LAYERS))
    assert (found.id, found.layer, "groups=1 " in found.message) == ("weights-value", 3, True)


@pytest.mark.parametrize("index", [0, 2, 5])
def test_a_layer_may_be_missing_anywhere(tmp_path, trained, index):
    (found,) = check(tmp_path, replaced(index), trained(LAYERS))
    assert (found.id, found.layer) == ("weights-layer", index)
    assert f"filters={FILTERS[index]} size=3" in found.message


@pytest.mark.parametrize("index", [0, 2, 5])
def test_there_may_be_an_extra_layer(tmp_path, trained, index):
    (found,) = check(tmp_path, replaced(index, LAYERS[index], layer(56)), trained(LAYERS))
    assert (found.id, found.layer) == ("weights-layer", index + 1)


def test_edits_that_have_the_same_plan_are_both_named(tmp_path, trained):
    """Nine channels with a kernel of 1x1 have as many weights as one channel with 3x3."""
    weights = trained([layer(9), layer(32, 1), layer(8)])
    found = check(tmp_path, [layer(9), layer(32, 3), layer(8)], weights)
    assert [(row.id, row.layer) for row in found] == [("weights-value", 1)] * 2
    assert {row.message.split()[2] for row in found} == {"size=1", "groups=9"}
    assert all("other explanation" in row.cause for row in found)


def test_a_cut_file_and_a_longer_file_are_reported_as_such(tmp_path, trained):
    weights = trained(LAYERS)
    data = weights.read_bytes()
    rng = np.random.default_rng(0)
    for changed, kind in (
        (data[:-4000], "weights-cut"),
        (data + rng.normal(0, 1, 50).astype("f4").tobytes(), "weights-left-over"),
    ):
        weights.write_bytes(changed)
        assert [found.id for found in check(tmp_path, LAYERS, weights)] == [kind]


def test_no_edit_is_named_if_none_is_plausible(tmp_path, trained):
    other = [layer(filters) for filters in (12, 20, 40, 56, 36)] + LAYERS[-2:]
    (found,) = check(tmp_path, LAYERS, trained(other))
    assert found.id in ("weights-other-cfg", "weights-left-over", "weights-cut")


# --- the search -------------------------------------------------------------------------------------------------------


def test_the_window_is_where_variances_stop_being_plausible(tmp_path, trained):
    weights = trained(LAYERS)
    cfg = tmp_path / "net.cfg"
    cfg.write_text(source(replaced(4, layer(40))))
    with open_weights(read_model(cfg, weights, "alexeyab"), allow_misfit=True) as opened:
        layers = window(Evidence(opened))
    assert 4 in layers
    assert len(layers) <= 4


def test_sizes_are_those_of_the_plan(tmp_path, trained):
    weights = trained(LAYERS)
    model = read_model(tmp_path / "trained.cfg", weights, "alexeyab")
    sizes = Sizes(model)
    assert sizes.nbytes(sizes.sections) == model.nbytes
    for index in range(len(sizes.sections) - 2):
        sections = [*sizes.sections[:index], *sizes.sections[index + 1 :]]
        cfg = tmp_path / "less.cfg"
        cfg.write_text(source(replaced(index)))
        layout = plan(build(read_model(cfg, None, "alexeyab").network.text, model.dialect), model.header)
        assert sizes.nbytes(sections) == layout.nbytes


def test_work_is_bounded_by_a_count(tmp_path, trained):
    """A search that has used up its work proposes nothing."""
    weights = trained(replaced(2))
    cfg = tmp_path / "net.cfg"
    cfg.write_text(source(LAYERS))
    model = read_model(cfg, weights, "alexeyab")
    assert list(fewer_layers(Sizes(model), range(len(LAYERS))))
    assert not list(fewer_layers(Sizes(model, work=0), range(len(LAYERS))))
    assert sizes_module.WORK < 1_000_000


def test_the_first_answer_for_many_damaged_pairs_is_the_edit(tmp_path, trained):
    """Random edits of one layer: at most one in twenty is missed, and no answer is wrong."""
    random_ = random.Random(0)
    weights = trained(LAYERS)
    true = 0
    for _ in range(20):
        index = random_.randrange(1, 6)
        filters = FILTERS[index]
        new = random_.choice(
            [layer(filters * 2), layer(filters + 8), layer(filters, 5), layer(filters, 1), layer(filters, 3, "")]
        )
        found, *_ = check(tmp_path, replaced(index, new), weights)
        true += found.layer == index and found.id in ("weights-value", "weights-unfolded")
    assert true >= 19
