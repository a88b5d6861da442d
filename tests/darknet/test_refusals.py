"""`darknet.refusals`: the checks of a fork's program when it builds a layer or reads [net]."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest

from bnorm.darknet.cfg import parse
from bnorm.darknet.dialects import DIALECTS
from bnorm.darknet.network import build
from bnorm.errors import CfgError
from support.builders import cfg_source

PJ, AB, HK = "pjreddie", "alexeyab", "hank"
SINCE_AB = (AB, HK)


class Case(NamedTuple):
    """Layers, the forks that refuse them, and the line of the error; other forks that know the layers accept them."""

    layers: str
    refusing: tuple[str, ...]
    line: int
    unknown_to: tuple[str, ...] = ()


TRACKED = "convolutional filters=8 | convolutional filters={} | yolo classes=3 {}"
CASES = [
    # deformations: the sum of the four counts
    Case("convolutional size=3 sway=1 rotate=1", SINCE_AB, 7),
    Case("convolutional size=3 stretch=1 stretch_sway=1", SINCE_AB, 7),
    Case("convolutional size=3 rotate=2", SINCE_AB, 7),
    Case("convolutional size=3 rotate=2 stretch=-1", (), 0),
    Case("convolutional size=3 stretch_sway=1", (), 0),
    Case("convolutional sway=1", SINCE_AB, 6),
    Case("convolutional size=1 rotate=1", SINCE_AB, 7),
    Case("convolutional size=2 rotate=1", (), 0),
    Case("convolutional sway=0", (), 0),
    # DropBlock
    Case("cost | dropout dropblock=1", SINCE_AB, 7),
    Case("softmax | dropout dropblock=-1", SINCE_AB, 7),
    Case("cost | dropout dropblock=0", (), 0),
    Case("cost | dropout", (), 0),
    Case("avgpool | dropout dropblock=1", (), 0),
    # classes
    Case("convolutional filters=8 | yolo classes=3 counters_per_class=1,2", SINCE_AB, 9),
    Case("convolutional filters=8 | yolo classes=3 counters_per_class=1,2,3,4", SINCE_AB, 9),
    Case("convolutional filters=8 | yolo classes=3 counters_per_class=1,2,3", (), 0),
    Case("convolutional filters=8 | yolo classes=3 counters_per_class=1,2,3,", (AB,), 9),
    Case("convolutional filters=12 | Gaussian_yolo classes=3 counters_per_class=1", SINCE_AB, 9, (PJ,)),
    Case("convolutional filters=12 | Gaussian_yolo classes=3 counters_per_class=1,2,3", (), 0, (PJ,)),
    # contrastive layers
    Case("convolutional | contrastive", SINCE_AB, 6, (PJ,)),
    Case("convolutional | contrastive yolo_layer=-1", SINCE_AB, 7, (PJ,)),
    Case("maxpool | convolutional | contrastive yolo_layer=1", SINCE_AB, 8, (PJ,)),
    Case("convolutional filters=8 | yolo classes=3 | contrastive yolo_layer=5", SINCE_AB, 10, (PJ,)),
    Case("convolutional filters=8 | yolo classes=3 | contrastive yolo_layer=1", SINCE_AB, 10, (PJ,)),
    Case(f"{TRACKED.format(8, 'embedding_layer=0')} | contrastive yolo_layer=2", (), 0, (PJ,)),
    Case(f"{TRACKED.format(8, 'embedding_layer=-1')} | contrastive yolo_layer=-1", (), 0, (PJ,)),
    Case(f"{TRACKED.format(8, 'embedding_layer=0')} | maxpool | contrastive yolo_layer=2", (), 0, (PJ,)),
    Case(f"{TRACKED.format(8, 'embedding_layer=0')} | maxpool stride=2 | contrastive yolo_layer=2", (), 0, (PJ,)),
    Case(f"{TRACKED.format(8, 'embedding_layer=7')} | contrastive yolo_layer=2", SINCE_AB, 13, (PJ,)),
    Case(f"{TRACKED.format(8, 'embedding_layer=0')} | cost | contrastive yolo_layer=2", SINCE_AB, 14, (PJ,)),
    Case(
        f"{TRACKED.format(8, 'embedding_layer=0')} | convolutional filters=9 | contrastive yolo_layer=2",
        SINCE_AB,
        15,
        (PJ,),
    ),
    # embeddings of several boxes
    Case(TRACKED.format(24, "num=3 embedding_layer=1"), (), 0),
    Case(TRACKED.format(24, "num=3 embedding_layer=0"), (HK,), 12),
    # activations
    Case("avgpool | upsample stride=8 | sam from=-1 activation=mish", (HK,), 10, (PJ,)),
    Case("maxpool stride=1 | avgpool | scale_channels from=0 activation=swish", (HK,), 10, (PJ,)),
    Case("maxpool stride=1 | avgpool | scale_channels from=0 activation=hard_mish", (), 0, (PJ,)),
    # hank takes one number here, not a list
    Case("maxpool stride=1 | avgpool | scale_channels from=0,1", (HK,), 9, (PJ,)),
    Case("maxpool stride=1 | avgpool | scale_channels from=.9", (), 0, (PJ,)),
]


def build_cfg(source: str, dialect: str) -> None:
    build(parse(Path("net.cfg"), source.encode()), DIALECTS[dialect])


def check(source: str, refusing: tuple[str, ...], line: int, unknown_to: tuple[str, ...] = ()) -> None:
    for dialect in DIALECTS.keys() - set(unknown_to) - set(refusing):
        build_cfg(source, dialect)
    for dialect in refusing:
        with pytest.raises(CfgError) as caught:
            build_cfg(source, dialect)
        assert caught.value.line == line, dialect


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.layers)
def test_a_layer_is_refused_by_the_forks_that_check_it(case):
    source = cfg_source("3x32x32", case.layers)
    if PJ not in case.unknown_to + case.refusing:
        build_cfg(source, PJ)
    check(source, case.refusing, case.line, case.unknown_to)


NET = "[net]\nwidth=8\nheight=8\nchannels=3\n{}\n[maxpool]\n"


@pytest.mark.parametrize(
    ("options", "refusing", "line"),
    [
        ("policy=steps", (PJ, AB, HK), 5),
        ("policy=steps\nsteps=1", (PJ, AB, HK), 5),
        ("policy=steps\nscales=1", (PJ, AB, HK), 5),
        ("policy=steps\nsteps\nscales=1", (PJ, AB, HK), 5),
        ("policy=steps\nsteps=x\nscales=1", (HK,), 5),
        ("policy=steps\nsteps=1\nscales=1", (), 0),
        ("policy=sgdr", (), 0),
        ("policy=constant", (), 0),
        ("contrastive=1", (AB, HK), 5),
        ("contrastive=1\nbatch=4\nsubdivisions=3", (AB, HK), 5),
        ("contrastive=1\nbatch=4\nsubdivisions=2", (), 0),
        ("contrastive=0", (), 0),
        ("inputs=0", (), 0),
        ("batch=0", (), 0),
        ("batch=-2", (), 0),
    ],
)
def test_net_is_refused_by_the_forks_that_check_it(options, refusing, line):
    check(NET.format(options), refusing, line)


NAMES = [
    ("yolo classes=3", "iou_thresh_kind", "ciou", "siou"),
    ("yolo classes=3", "iou_loss", "ciou", "siou"),
    ("yolo classes=3", "nms_kind", "diounms", "soft"),
    ("Gaussian_yolo classes=3", "iou_thresh_kind", "giou", "IOU"),
    ("Gaussian_yolo classes=3", "nms_kind", "cornersnms", "corners"),
    ("Gaussian_yolo classes=3", "yolo_point", "left_top", "left_bottom"),
    ("shortcut from=-1", "weights_normalization", "softmax", "softmin"),
    ("cost", "type", "masked", "l1"),
]


@pytest.mark.parametrize(("layer", "key", "known", "other"), NAMES)
def test_an_unknown_name_is_refused_by_hank_alone(layer, key, known, other):
    """With `weights_normalization` also of a shortcut without weights, which does not use it."""
    filters = 12 if layer.startswith("G") else 8
    for name, refusing in ((known, ()), (other, (HK,))):
        source = cfg_source("3x32x32", f"convolutional filters={filters} | {layer} {key}={name}")
        line = source[: source.index(f"{key}=")].count("\n") + 1
        check(source, refusing, line, (PJ,) if layer.startswith("G") else ())


@pytest.mark.parametrize("key", ["learning_rate", "max_delta"])
def test_a_number_beyond_an_int_is_read_by_hank_where_it_wants_a_float(key):
    build_cfg(cfg_source("8x32x32", f"yolo classes=3 {key}=99999999999"), HK)


def test_hank_takes_the_section_after_an_empty_one_for_net():
    build_cfg("[convolutional]\n[net]\nwidth=8\nheight=8\nchannels=3\n[maxpool]\n", HK)
    for source in ("[net]\n[maxpool]\nstride=1\n", "[nett]\n[net]\nwidth=8\nheight=8\nchannels=3\n[maxpool]\n"):
        with pytest.raises(CfgError):
            build_cfg(source, HK)
