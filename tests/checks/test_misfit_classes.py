"""`checks.misfit.classes`: the number of classes, and of filters before each detection layer, that a file has."""

from __future__ import annotations

import pytest

from support.builders import TINY, write_weights
from support.damage import BAD_CFGS, BAD_FILES, TEXT, findings, with_classes
from support.golden import MODELS, needs_shared


@needs_shared("models")
@pytest.mark.parametrize("classes", [20, 1, 3])
@pytest.mark.parametrize("changed", ["both", "classes", "filters"])
def test_the_weights_tell_how_many_classes_they_have(tmp_path, classes, changed):
    cfg = tmp_path / "net.cfg"
    text = (MODELS / "yolo-fastest-1.1.cfg").read_text()
    number = classes if changed != "filters" else None
    cfg.write_text(with_classes(text, number, 3 * (classes + 5) if changed != "classes" else None))
    assert cfg.read_text() != text
    first, *others = findings(cfg, MODELS / "yolo-fastest-1.1.weights")
    assert first.id == "weights-classes"
    assert "classes=80 and filters=255" in first.message
    assert [found.id for found in others] == ([] if changed == "both" else ["cfg-filters"])


@pytest.mark.parametrize("dialect", ["auto", "alexeyab"])
def test_classes_and_filters_that_contradict_each_other_are_both_reported(pair, dialect):
    """The cfg is refused, and the weights tell whether `classes` or `filters` is right."""
    cfg, weights = pair
    cfg.write_bytes(BAD_CFGS["cfg-filters"].data)
    classes, filters = findings(cfg, weights, dialect)
    assert [classes.id, filters.id] == ["weights-classes", "cfg-filters"]
    assert "classes=2 and filters=21" in classes.message
    assert "filters=30" in classes.message


def test_a_cfg_and_weights_that_are_both_wrong_are_both_reported(pair):
    cfg, weights = pair
    cfg.write_bytes(BAD_CFGS["cfg-filters"].data)
    weights.write_bytes(BAD_FILES["weights-html"].data)
    assert [found.id for found in findings(cfg, weights)] == ["weights-html", "cfg-filters"]


def test_a_cfg_is_read_once_however_many_dialects_are_tried(pair, monkeypatch):
    from bnorm.darknet import cfg as cfg_module

    read = []
    original = cfg_module.read
    monkeypatch.setattr(cfg_module, "read", lambda path: read.append(path) or original(path))
    cfg, weights = pair
    cfg.write_text(TEXT.replace("filters=21", "filters=22"))
    weights.write_bytes(weights.read_bytes()[:-4])  # which no number of classes explains
    assert [found.id for found in findings(cfg, weights)] == ["cfg-filters"]
    assert len(read) == 2  # to build the network, and to look for the number of classes
    read.clear()
    cfg.write_text(TEXT)
    assert [found.id for found in findings(cfg, weights)] == ["weights-cut"]
    assert len(read) == 1


@pytest.mark.parametrize("name", ["region", "yolo", "Gaussian_yolo"])
def test_every_detection_layer_has_its_own_number_of_filters(tmp_path, name):
    values = {"region": 2 * (4 + 1 + 7), "yolo": 2 * (5 + 7), "Gaussian_yolo": 2 * (9 + 7)}
    end = "\n[{}]\nclasses={}\nnum=2\n" if name == "region" else "\n[{}]\nclasses={}\nmask=0,1\nnum=4\n"
    end += "anchors=1,1, 2,2, 3,3, 4,4\n"[: 16 if name == "region" else None] + "\n"
    cfg = tmp_path / "net.cfg"
    source = TINY.replace("filters=2", "filters={}")
    cfg.write_text(source.format(values[name]) + end.format(name, 7))
    weights = write_weights(cfg, tmp_path / "net.weights")
    cfg.write_text(source.format(values[name] + 4) + end.format(name, 9))
    (found,) = findings(cfg, weights)
    assert found.id == "weights-classes"
    assert f"classes=7 and filters={values[name]} before each [{name}]" in found.message


def test_a_detection_layer_without_classes_is_solved_for_its_default(tmp_path):
    cfg = tmp_path / "net.cfg"
    end = "\n[region]\nnum=1\nanchors=1,2\n"
    cfg.write_text(TINY.replace("filters=2", "filters=12") + end + "classes=7\n")
    weights = write_weights(cfg, tmp_path / "net.weights")
    cfg.write_text(TINY.replace("filters=2", "filters=25") + end)
    (found,) = findings(cfg, weights)
    assert "classes=7 and filters=12" in found.message
    assert "classes=20 and filters=25" in found.message


def test_a_cfg_that_asks_for_more_than_memory_is_checked_without_it(pair):
    """2^31 - 1 filters before a [yolo]: the plan alone says so."""
    cfg, weights = pair
    cfg.write_text(TEXT.replace("classes=2\n", "classes=100000000\n"))
    assert [found.id for found in findings(cfg, weights)][-1] in ("cfg-filters", "cfg-refused")
