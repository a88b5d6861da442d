"""`darknet.shape_rules`: the output shape of each section type in each dialect, and the refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bnorm.darknet import cfg
from bnorm.darknet.autodetect import read_model
from bnorm.darknet.dialects import DIALECTS
from bnorm.darknet.header import written_by
from bnorm.darknet.layout import plan
from bnorm.darknet.network import Network, build
from bnorm.darknet.section_types import SECTIONS
from bnorm.darknet.shape_rules import RULES
from bnorm.darknet.shapes import c_division
from bnorm.darknet.vocabulary import KEYS
from bnorm.errors import CfgError
from support.builders import cfg_source
from support.golden import SHARED, Golden, needs_shared

PJ, AB, HK = "pjreddie", "alexeyab", "hank"
ALL, SINCE_AB, UNTIL_AB = (PJ, AB, HK), (AB, HK), (PJ, AB)


def network(dialect: str, net: str, layers: str) -> Network:
    return build(cfg.parse(Path("net.cfg"), cfg_source(net, layers).encode()), DIALECTS[dialect])


class Row(NamedTuple):
    """A network and the shape of its last layer: channels, height, width, and outputs if they are not the product."""

    dialects: tuple[str, ...]
    net: str
    layers: str
    shape: tuple[int, ...]

    @property
    def full(self) -> tuple[int, ...]:
        channels, height, width, *outputs = self.shape
        return (channels, height, width, *(outputs or [channels * height * width]))


EMBEDDED = "maxpool stride=1 | convolutional filters=25 | yolo embedding_layer=-1"
SEQUENCE = "connected output=12 | softmax | "  # layers without a shape, then 12 values

ROWS = [
    # convolutional
    Row(ALL, "3x8x10", "convolutional", (1, 8, 10)),
    Row(ALL, "3x8x10", "convolutional filters=4 size=3", (4, 6, 8)),
    Row(ALL, "3x8x10", "convolutional filters=4 size=3 pad=1", (4, 8, 10)),
    Row(ALL, "3x8x10", "convolutional filters=4 size=4 pad=1", (4, 9, 11)),
    Row(ALL, "3x8x10", "convolutional filters=4 size=3 padding=2", (4, 10, 12)),
    Row(ALL, "3x8x10", "convolutional filters=4 size=3 pad=1 padding=9", (4, 8, 10)),
    Row(ALL, "3x8x10", "convolutional filters=4 size=3 stride=2 pad=1", (4, 4, 5)),
    Row((PJ,), "3x8x10", "convolutional filters=4 stride=2 stride_x=5 stride_y=4", (4, 4, 5)),
    Row(SINCE_AB, "3x8x10", "convolutional filters=4 stride=2 stride_x=5 stride_y=4", (4, 2, 2)),
    Row(SINCE_AB, "3x8x10", "convolutional filters=4 stride=2 stride_x=5", (4, 4, 2)),
    Row(SINCE_AB, "3x8x10", "convolutional filters=4 stride=2 stride_y=8", (4, 1, 5)),
    Row(SINCE_AB, "3x8x10", "convolutional filters=4 stride=2 stride_x=0 stride_y=8", (4, 1, 5)),
    Row(SINCE_AB, "3x8x10", "convolutional filters=4 size=3 pad=1 dilation=4", (4, 8, 10)),
    Row(ALL, "3x1x1", "convolutional filters=4 size=5 stride=3 | connected", (1, 1, 1)),
    # antialiasing: the convolution itself has stride 1, and the next layer receives the blurred output
    Row((PJ,), "3x8x10", "convolutional filters=4 stride=2 antialiasing=1", (4, 4, 5)),
    Row(SINCE_AB, "3x8x10", "convolutional filters=4 stride=2 antialiasing=1", (4, 8, 10)),
    Row(SINCE_AB, "3x8x10", "convolutional filters=4 stride=2 antialiasing=1 | dropout", (4, 4, 5)),
    Row(SINCE_AB, "3x9x11", "convolutional filters=4 stride=2 antialiasing=1 | dropout", (4, 5, 6)),
    Row(SINCE_AB, "3x9x11", "convolutional filters=4 stride=2 antialiasing=2 | dropout", (4, 4, 5)),
    Row(SINCE_AB, "3x9x11", "convolutional filters=4 stride_x=3 stride_y=1 antialiasing=1 | dropout", (4, 9, 4)),
    Row(SINCE_AB, "3x8x10", "convolutional filters=4 stride=2 antialiasing=1 | route layers=-1", (4, 8, 10)),
    Row(
        SINCE_AB,
        "3x8x10",
        "convolutional filters=4 stride=2 antialiasing=1 | convolutional filters=2 | route layers=0 | "
        "convolutional stride=2 | shortcut from=1",
        (1, 4, 5),
    ),
    # deconvolutional, local, connected
    Row((PJ,), "3x4x5", "deconvolutional", (1, 4, 5)),
    Row((PJ,), "3x4x5", "deconvolutional filters=6 size=4 stride=2 padding=1", (6, 8, 10)),
    Row((PJ,), "3x4x5", "deconvolutional filters=6 size=3 stride=2 pad=1", (6, 7, 9)),
    Row(UNTIL_AB, "3x8x10", "local", (1, 8, 10)),
    Row(UNTIL_AB, "3x8x10", "local filters=2 size=3", (2, 6, 8)),
    Row(UNTIL_AB, "3x8x10", "local filters=2 size=3 stride=2", (2, 3, 4)),
    Row(UNTIL_AB, "3x8x10", "local filters=2 size=3 pad=1", (2, 8, 10)),
    Row(UNTIL_AB, "3x8x10", "local filters=2 size=3 stride=2 pad=1", (2, 4, 5)),
    Row(ALL, "3x8x10", "connected", (1, 1, 1)),
    Row(ALL, "7", "connected output=5", (5, 1, 1)),
    # pooling
    Row(ALL, "3x8x10", "maxpool", (3, 8, 10)),
    Row(ALL, "3x8x10", "maxpool size=2 stride=2", (3, 4, 5)),
    Row(ALL, "3x9x11", "maxpool size=2 stride=2", (3, 5, 6)),
    Row(ALL, "3x8x10", "maxpool stride=3", (3, 3, 4)),
    Row(ALL, "3x8x10", "maxpool size=5 stride=1", (3, 8, 10)),
    Row(ALL, "3x9x11", "maxpool size=2 stride=2 padding=0", (3, 4, 5)),
    Row(ALL, "3x1x1", "maxpool size=5 stride=3 padding=0 | connected", (1, 1, 1)),
    Row((PJ,), "3x8x10", "maxpool size=2 stride=1 stride_x=2 stride_y=2", (3, 8, 10)),
    Row(SINCE_AB, "3x8x10", "maxpool size=2 stride=1 stride_x=2 stride_y=4", (3, 2, 5)),
    Row(SINCE_AB, "3x8x10", "maxpool size=2 stride=4 stride_x=2", (3, 2, 5)),
    Row((PJ,), "3x8x10", "maxpool maxpool_depth=1 out_channels=2", (3, 8, 10)),
    Row(SINCE_AB, "3x8x10", "maxpool maxpool_depth=1 stride=2", (1, 8, 10)),
    Row(SINCE_AB, "3x8x10", "maxpool maxpool_depth=1 out_channels=2 stride=2", (2, 8, 10)),
    Row(SINCE_AB, "3x8x10", "maxpool size=2 stride=2 antialiasing=1", (3, 8, 10)),
    Row(SINCE_AB, "3x8x10", "maxpool size=2 stride=2 antialiasing=1 | dropout", (3, 4, 5)),
    Row(SINCE_AB, "3x8x10", "local_avgpool size=2 stride=2", (3, 4, 5)),
    Row(SINCE_AB, "3x8x10", "local_avgpool stride=3", (3, 3, 4)),
    Row(SINCE_AB, "3x8x10", "local_avgpool size=2 stride=4 stride_x=2 padding=0", (3, 2, 5)),
    Row(ALL, "3x8x10", "avgpool", (3, 1, 1)),
    # rearranging values
    Row(ALL, "3x8x10", "upsample", (3, 16, 20)),
    Row(ALL, "3x8x10", "upsample stride=3", (3, 24, 30)),
    Row(ALL, "3x8x10", "upsample stride=-3", (3, 2, 3)),
    Row(UNTIL_AB, "8x8x10", "reorg", (8, 8, 10)),
    Row(UNTIL_AB, "8x8x10", "reorg stride=2", (32, 4, 5)),
    Row(UNTIL_AB, "8x9x11", "reorg stride=2", (32, 4, 5)),
    Row(UNTIL_AB, "8x8x10", "reorg stride=2 reverse=1", (2, 16, 20)),
    Row((PJ,), "8x8x10", "reorg stride=2 extra=7", (0, 0, 0, 647)),
    Row((AB,), "8x8x10", "reorg stride=2 extra=7", (32, 4, 5)),
    Row(SINCE_AB, "8x8x10", "reorg3d stride=2", (32, 4, 5)),
    Row(SINCE_AB, "8x8x10", "reorg3d stride=2 reverse=1", (2, 16, 20)),
    Row(UNTIL_AB, "3x8x10", "crop", (3, 1, 1)),
    Row(UNTIL_AB, "3x8x10", "crop crop_height=6 crop_width=7", (3, 6, 7)),
    Row((AB,), "3x8x10", "history", (12, 8, 10)),
    Row((AB,), "3x8x10", "history history_size=2", (6, 8, 10)),
    # route
    Row(ALL, "3x8x10", "avgpool | route layers=-1", (3, 1, 1)),
    Row(ALL, "3x8x10", "convolutional filters=4 | convolutional filters=2 | route layers=-1,0", (6, 8, 10)),
    Row(ALL, "3x8x10", "convolutional filters=4 | maxpool stride=2 | route layers=-1,-2", (0, 0, 0, 400)),
    Row(ALL, "3x8x10", "convolutional filters=4 | avgpool | route layers=0,1,0", (4, 0, 0, 644)),
    Row(ALL, "3x8x10", f"{SEQUENCE}route layers=-1", (0, 0, 0, 12)),
    Row(UNTIL_AB, "3x8x10", "convolutional filters=4 | convolutional filters=2 | route layers=-1,0,", (10, 8, 10)),
    Row((HK,), "3x8x10", "convolutional filters=4 | convolutional filters=2 | route layers=-1,0,", (6, 8, 10)),
    Row((PJ,), "3x8x10", "convolutional filters=4 | route layers=-1 groups=2 group_id=1", (4, 8, 10)),
    Row(SINCE_AB, "3x8x10", "convolutional filters=4 | route layers=-1 groups=2 group_id=1", (2, 8, 10)),
    Row(SINCE_AB, "3x8x10", "convolutional filters=5 | route layers=-1 groups=2", (2, 8, 10, 200)),
    Row(SINCE_AB, "3x8x10", "convolutional filters=4 | avgpool | route layers=0,1 groups=4", (0, 0, 0, 81)),
    # shortcut and similar layers
    Row(ALL, "3x8x10", "convolutional filters=4 | convolutional filters=4 | shortcut from=-2", (4, 8, 10)),
    Row(ALL, "3x8x10", "convolutional filters=9 | convolutional filters=4 | shortcut from=0", (4, 8, 10)),
    Row((PJ,), "3x8x10", "maxpool stride=2 | convolutional filters=4 stride=5 | shortcut from=0", (4, 1, 1)),
    Row(SINCE_AB, "3x8x10", "dropout | dropout | shortcut from=-2,0", (3, 8, 10)),
    Row(SINCE_AB, "3x8x10", "dropout | avgpool | scale_channels from=0", (3, 8, 10)),
    Row(SINCE_AB, "3x8x10", "dropout | convolutional | scale_channels from=0 scale_wh=1", (3, 8, 10)),
    Row(SINCE_AB, "3x8x10", "dropout | convolutional filters=3 | sam from=0", (3, 8, 10)),
    Row((AB,), "3x8x10", "implicit", (128, 1, 1)),
    Row((AB,), "3x8x10", "implicit filters=6 atoms=2", (6, 2, 1)),
    # layers that pass their input on
    Row(ALL, "3x8x10", "dropout probability=.5", (3, 8, 10)),
    Row(ALL, "3x8x10", f"{SEQUENCE}dropout", (0, 0, 0, 12)),
    Row(UNTIL_AB, "3x8x10", "activation", (3, 8, 10)),
    Row(UNTIL_AB, "3x8x10", f"{SEQUENCE}activation", (0, 0, 0, 12)),
    Row((PJ,), "3x8x10", "logistic | l2norm", (3, 8, 10)),
    Row((AB,), "3x8x10", "empty", (3, 8, 10)),
    Row(UNTIL_AB, "3x8x10", "lrn", (3, 8, 10)),
    Row(UNTIL_AB, "3x8x10", "batchnorm", (3, 8, 10)),
    Row(UNTIL_AB, "3x8x10", f"{SEQUENCE}batchnorm", (0, 0, 0, 0)),
    # layers without a shape
    Row(ALL, "3x8x10", "softmax", (0, 0, 0, 240)),
    Row(ALL, "3x8x10", "softmax groups=24", (0, 0, 0, 240)),
    Row(ALL, "3x8x10", "cost", (0, 0, 0, 240)),
    Row(UNTIL_AB, "245", "detection num=2 side=7 classes=1", (0, 0, 0, 245)),
    Row(UNTIL_AB, "1470", "detection num=2 side=7 coords=4 classes=20", (0, 0, 0, 1470)),
    Row(UNTIL_AB, "147", "detection", (0, 0, 0, 147)),
    # detection layers
    Row(ALL, "75x32x32", "yolo mask=0,1,2 num=9", (75, 32, 32)),
    Row(ALL, "25x32x32", "yolo", (25, 32, 32)),
    Row(ALL, "24x32x32", "yolo classes=3 num=3", (24, 32, 32)),
    Row((AB,), "16x32x32", "yolo classes=3 num=9 mask=0,1#,2", (16, 32, 32)),
    Row((PJ,), "24x32x32", "yolo classes=3 num=9 mask=0,1#,2", (24, 32, 32)),
    Row(UNTIL_AB, "24x32x32", "yolo classes=3 num=9 mask=0,1,", (24, 32, 32)),
    Row((HK,), "16x32x32", "yolo classes=3 num=9 mask=0,1,", (16, 32, 32)),
    Row(SINCE_AB, "87x32x32", "Gaussian_yolo mask=0,1,2 num=9", (87, 32, 32)),
    Row(ALL, "125x32x32", "region num=5", (125, 32, 32)),
    Row(ALL, "16x32x32", "region num=2 coords=4 classes=3", (16, 32, 32)),
    Row((PJ,), "52x8x10", "iseg", (52, 8, 10)),
    Row((PJ,), "5x8x10", "iseg classes=2 ids=3", (5, 8, 10)),
    Row(SINCE_AB, "25x32x32", f"{EMBEDDED} | contrastive yolo_layer=-1", (0, 0, 0, 25600)),
    # recurrent
    Row((PJ,), "7", "rnn output=5 hidden=3", (0, 0, 0, 5)),
    Row((AB,), "7", "rnn output=5 hidden=3", (5, 1, 1)),
    Row((HK,), "7", "rnn output=5 hidden=3", (5, 1, 1)),
    Row(UNTIL_AB, "7", "gru output=5", (0, 0, 0, 5)),
    Row((PJ,), "7", "lstm output=5", (0, 0, 0, 5)),
    Row(SINCE_AB, "7", "lstm output=5", (5, 1, 1)),
    Row((PJ,), "3x8x10", "crnn output_filters=5 hidden_filters=4", (5, 10, 8)),
    Row((PJ,), "3x8x10", "crnn output=5", (1, 10, 8)),
    Row(SINCE_AB, "3x8x10", "crnn output=5 hidden=4 pad=1", (5, 8, 10)),
    Row(SINCE_AB, "3x8x10", "crnn output=5 hidden=4 size=1", (5, 8, 10)),
    Row((AB,), "3x8x10", "conv_lstm output=5", (5, 6, 8)),
    Row((AB,), "3x8x10", "conv_lstm output=5 pad=1", (5, 8, 10)),
    Row((AB,), "3x8x10", "conv_lstm output=5 size=5 padding=1 stride=2", (5, 3, 4)),
]
CASES = [
    pytest.param(row, dialect, id=f"{dialect}: {row.net} {row.layers}") for row in ROWS for dialect in row.dialects
]


@pytest.mark.parametrize(("row", "dialect"), CASES)
def test_the_last_layer_reports_this_shape(row, dialect):
    assert network(dialect, row.net, row.layers).layers[-1].output == row.full


@pytest.mark.parametrize("dialect", sorted(DIALECTS))
def test_every_type_that_a_dialect_knows_has_a_row(dialect):
    named = [layer.split()[0] for row in ROWS if dialect in row.dialects for layer in row.layers.split(" | ")]
    tested = {SECTIONS[dialect][name] for name in named}
    assert tested == set(SECTIONS[dialect].values()) - {"net"}


def test_every_rule_belongs_to_a_section_type():
    assert set(RULES) == {name for names in SECTIONS.values() for name in names.values()} - {"net"}


# --- C's division -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("numerator", "denominator", "quotient"), [(7, 2, 3), (-7, 2, -3), (-4, 3, -1), (-1, 2, 0)])
def test_division_truncates_towards_zero(numerator, denominator, quotient):
    assert c_division(numerator, denominator) == quotient


@pytest.mark.parametrize("dialect", ALL)
def test_a_kernel_larger_than_its_image_may_leave_nothing(dialect):
    """(1 - 5) / 3 + 1 is 0 in C, and would be -1 by Python's division."""
    built = network(dialect, "3x1x1", "convolutional size=5 stride=3 | connected")
    assert built.layers[0].output == (1, 0, 0, 0)


# --- [net] ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", ALL)
def test_inputs_may_differ_from_the_image(dialect):
    text = cfg.parse(Path("net.cfg"), b"[net]\nwidth=4\nheight=4\nchannels=2\ninputs=5\n[connected]\noutput=3\n")
    assert build(text, DIALECTS[dialect]).input == (2, 4, 4, 5)


@pytest.mark.parametrize("dialect", ALL)
@pytest.mark.parametrize("net", ["0", "0x8x8", "3x0x8", "3x8x0"])
def test_a_network_without_inputs_is_refused(dialect, net):
    with pytest.raises(CfgError, match="has 0 inputs"):
        network(dialect, net, "connected")


@pytest.mark.parametrize(
    ("options", "images"),
    [("", 1), ("batch=8", 8), ("batch=64 subdivisions=16", 64), ("batch=9 subdivisions=4 time_steps=3", 24)],
)
def test_a_batch_is_whole_subdivisions_times_the_time_steps(options, images):
    lines = "\n".join(options.split())
    text = cfg.parse(Path("net.cfg"), f"[net]\ninputs=4\n{lines}\n[connected]\n".encode())
    assert build(text, DIALECTS[AB]).images_per_batch == images


# --- errors -----------------------------------------------------------------------------------------------------------


class Refused(NamedTuple):
    """A network on which the fork would fail, and bnorm's message."""

    dialects: tuple[str, ...]
    net: str
    layers: str
    message: str


def _references(dialects: tuple[str, ...], kind: str, key: str) -> list[Refused]:
    return [
        Refused(dialects, "3x8x8", f"dropout | dropout | {kind} {key}=5 | dropout", rf"{key}=5 points ahead"),
        Refused(dialects, "3x8x8", f"dropout | dropout | {kind} {key}=2", rf"{key}=2 points to itself"),
        Refused(dialects, "3x8x8", f"dropout | dropout | {kind} {key}=-3", rf"{key}=-3 points before the first layer"),
        Refused(dialects, "3x8x8", f"dropout | dropout | {kind}", rf"\[{kind}\] has no {key}"),
    ]


REFUSED = [
    *_references(ALL, "route", "layers"),
    *_references(ALL, "shortcut", "from"),
    *_references(SINCE_AB, "scale_channels", "from"),
    *_references(SINCE_AB, "sam", "from"),
    Refused(ALL, "3x8x8", "dropout | dropout | route layers=-1,2", "layers=2 points to itself"),
    Refused(SINCE_AB, "3x8x8", "dropout | dropout | shortcut from=-2,7", "from=7 points ahead"),
    Refused((AB,), "3x8x8", "dropout | maxpool stride=2 | shortcut from=0", "from layer 0"),
    Refused((AB,), "3x8x8", "dropout | maxpool stride=2 | scale_channels from=0", "gets 3x4x4 scales"),
    Refused((AB,), "3x8x8", "dropout | avgpool | scale_channels from=0 scale_wh=1", "gets 3x1x1 scales"),
    Refused((AB,), "3x8x8", "dropout | convolutional | sam from=0", "from layer 0"),
    Refused(ALL, "24x32x32", "yolo classes=4 num=3", "gets 24 channels, expected 27"),
    Refused(SINCE_AB, "24x32x32", "Gaussian_yolo classes=4 num=3", "gets 24 channels, expected 39"),
    Refused(ALL, "24x32x32", "region classes=4 num=3", "gets 24 channels, expected 27"),
    Refused(ALL, "3x32x32", "softmax | yolo", "expected 25"),
    Refused(UNTIL_AB, "24", "detection", "gets 24 values, expected 147"),
    Refused((PJ,), "24x8x8", "iseg", "gets 24 channels, expected 52"),
    Refused(SINCE_AB, "25x32x32", "yolo | contrastive", "has no yolo_layer"),
    Refused(UNTIL_AB, "3x8x8", "softmax groups=5", "groups=5, expected a divisor of 192"),
    Refused(ALL, "3x8x8", "softmax | convolutional", "expected an image"),
    Refused(ALL, "3x8x8", "cost | maxpool", "expected an image"),
    Refused(ALL, "3x8x8", "softmax | avgpool", "expected an image"),
    Refused(UNTIL_AB, "3x8x8", "gru | crop", "expected an image"),
    Refused(UNTIL_AB, "3x8x8", "gru | local", "expected an image"),
    Refused((PJ,), "3x8x8", "lstm | convolutional", "expected an image"),
    Refused(ALL, "3x1x1", "convolutional size=5 stride=3 | convolutional", "expected an image"),
    Refused(ALL, "7", "convolutional", "expected an image"),
    Refused(ALL, "3x8x8", "convolutional stride=0", "stride=0, expected at least 1"),
    Refused(ALL, "3x8x8", "maxpool size=2 stride=0", "stride=0, expected at least 1"),
    Refused(SINCE_AB, "3x8x8", "maxpool size=2 stride=2 stride_x=0", "stride_x=0, expected at least 1"),
    Refused(ALL, "3x8x8", "upsample stride=0", "stride=0"),
    Refused(UNTIL_AB, "3x8x8", "reorg stride=0", "stride=0, expected at least 1"),
    Refused(UNTIL_AB, "3x8x8", "local stride=0", "stride=0, expected at least 1"),
    Refused(SINCE_AB, "3x8x8", "route layers=0 groups=0 | dropout", "layers=0 points to itself"),
    Refused(SINCE_AB, "3x8x8", "dropout | route layers=0 groups=0", "groups=0, expected at least 1"),
    Refused(ALL, "3x8x8", "convolutional filters=0", "filters=0, expected at least 1"),
    Refused(UNTIL_AB, "3x8x8", "convolutional filters=0x10", "filters=0x10, which .* reads as 0, expected at least 1"),
    Refused(UNTIL_AB, "3x8x8", "softmax | crnn", "expected an image"),
    Refused((AB,), "3x8x8", "softmax | conv_lstm", "expected an image"),
    Refused(ALL, "3x32x32", "softmax | yolo", "the layer before it outputs no image"),
    Refused(UNTIL_AB, "3x8x8", "reorg stride=100000", "has an output of 30000000000x0x0, 0 values, expected numbers"),
    Refused(ALL, "3x8x8", "convolutional filters=-4", "filters=-4, expected at least 1"),
    Refused(ALL, "3x8x8", "convolutional size=-3", "size=-3, expected at least 0"),
    Refused(ALL, "3x8x8", "convolutional size=3 padding=-1", "padding=-1, expected at least 0"),
    Refused(ALL, "3x8x8", "convolutional stride=-2", "stride=-2, expected at least 1"),
    Refused(ALL, "3x8x8", "convolutional size=11", "no negative size"),
    Refused(ALL, "3x8x8", "connected output=-1", "output=-1, expected at least 1"),
    Refused(ALL, "3x-8x8", "connected", "height=-8, expected at least 0"),
    Refused(ALL, "-8", "connected", "inputs=-8, expected at least 0"),
    Refused(UNTIL_AB, "3x8x8", "crop crop_width=-1", "crop_width=-1, expected at least 1"),
    Refused((PJ,), "3x8x8", "deconvolutional size=1 padding=9", "no negative size"),
    Refused(SINCE_AB, "3x8x8", "convolutional filters=4 size=9 antialiasing=2", "blurs 4x0x0 to -1x-1"),
    Refused(ALL, "3x8x8", "convolutional filters=1000000000000", "expected a number that fits a 32-bit int"),
    Refused(ALL, "3x8x8", "convolutional filters=2147483647", "32-bit int"),
    Refused(ALL, "3x1000000x1000000", "dropout", "has 3000000000000 inputs"),
    Refused(ALL, "2000000000", "connected output=2", "weights, expected a number that fits a 32-bit int"),
    Refused(ALL, "3x8x8", "upsample stride=100000", "32-bit int"),
    Refused((PJ,), "4x8x8", "convolutional groups=0", "groups=0, expected at least 1"),
    Refused((AB,), "3x8x8", "crnn output=5 hidden=4", "expected the input's 8x8"),
    Refused((AB,), "3x8x8", "crnn output=5 hidden=4 pad=1 stride=2", "expected the input's 8x8"),
    Refused((HK,), "25x16x32", "yolo", "multiples of 32"),
    Refused((HK,), "25x33x32", "yolo", "multiples of 32"),
    Refused((HK,), "25x40x40", "region", "multiples of 32"),
]
ERRORS = [
    pytest.param(row, dialect, id=f"{dialect}: {row.net} {row.layers}") for row in REFUSED for dialect in row.dialects
]


@pytest.mark.parametrize(("row", "dialect"), ERRORS)
def test_this_network_is_refused_with_its_line(row, dialect):
    with pytest.raises(CfgError, match=row.message) as caught:
        network(dialect, row.net, row.layers)
    assert caught.value.line


@pytest.mark.parametrize("dialect", SINCE_AB)
@pytest.mark.parametrize("groups", [0, -3])
def test_groups_below_one_are_one_since_alexeyab(dialect, groups):
    layer = network(dialect, "4x8x8", f"convolutional filters=2 groups={groups}").layers[0]
    assert layer.parts[0].weights == (2, 4, 1, 1)


@pytest.mark.parametrize("dialect", UNTIL_AB)
def test_only_hank_demands_multiples_of_32(dialect):
    assert network(dialect, "25x16x33", "yolo").layers[0].output == (25, 16, 33, 25 * 16 * 33)


def test_an_error_points_at_the_key_s_line():
    with pytest.raises(CfgError) as caught:
        network(AB, "3x8x8", "dropout | route groups=1 layers=7")
    assert caught.value.line == 8


# --- the cfgs shipped with the forks ----------------------------------------------------------------------------------


def _shipped() -> list[object]:
    path = SHARED / "golden" / "cfgs" / "expected.json"
    if not path.exists():
        return []
    expected = json.loads(path.read_text())
    return [
        pytest.param(fork, name, row, id=f"{fork}-{name}") for fork in expected for name, row in expected[fork].items()
    ]


@needs_shared("golden")
@pytest.mark.parametrize(("dialect", "name", "expected"), _shipped())
def test_a_shipped_cfg_has_the_size_and_shapes_that_its_fork_computes(dialect, name, expected):
    model = read_model(SHARED / "golden" / "cfgs" / dialect / f"{name}.cfg", dialect=dialect)
    assert model.layout.nbytes == expected["bytes"]
    shapes = [tuple(row[key] for key in ("out_c", "out_h", "out_w", "outputs")) for row in expected["layers"]]
    assert [tuple(layer.output) for layer in model.network.layers] == shapes


def test_every_golden_layer_has_its_shape(layout_case: Golden):
    layers = read_model(layout_case.cfg, dialect=layout_case.dialect).network.layers
    shapes = [tuple(row[key] for key in ("out_c", "out_h", "out_w", "outputs")) for row in layout_case.layers]
    assert [tuple(layer.output) for layer in layers] == shapes
    # The C struct's own flag is 0 in recurrent layers, and layers that share arrays store none.
    normalised = {array["layer"] for array in layout_case.arrays if array["name"].endswith("rolling_mean")}
    normalised |= {row["i"] for row in layout_case.layers if row["bn"]}
    assert {layer.index for layer in layers if layer.batch_normalize} == normalised


# --- any network ------------------------------------------------------------------------------------------------------

NUMBERS = st.sampled_from(["0", "1", "2", "3", "-1", "-2", "8", "40", "65536", "2147483647", "1e9", "x", "1,2,", ".5"])


@st.composite
def one_layer(draw) -> str:
    """A section of any type, with keys that at least one dialect asks for there."""
    kind = draw(st.sampled_from(sorted(RULES)))
    keys = st.sampled_from(sorted(KEYS[AB][kind] | KEYS[PJ][kind] | {"colour"}))
    options = draw(st.dictionaries(keys, NUMBERS, max_size=5))
    return " ".join([kind, *(f"{key}={value}" for key, value in options.items())])


@pytest.mark.parametrize("dialect", ALL)
@settings(max_examples=100, deadline=None)
@given(layers=st.lists(one_layer(), min_size=1, max_size=5))
def test_any_network_is_planned_or_refused(dialect, layers):
    try:
        layout = plan(network(dialect, "4x8x8", " | ".join(layers)), written_by(DIALECTS[dialect]))
    except CfgError:
        return
    assert layout.nbytes == 20 + 4 * layout.parameters
