"""The layers of a network, and the layers that read other layers by number."""

from __future__ import annotations

from pathlib import Path

import pytest

from bnorm.darknet.cfg import parse
from bnorm.darknet.dialects import DIALECTS
from bnorm.darknet.network import Network, build
from bnorm.errors import CfgError
from support.builders import cfg_source


def network(layers: str, dialect: str = "alexeyab") -> Network:
    return build(parse(Path("net.cfg"), cfg_source("4x8x8", layers).encode()), DIALECTS[dialect])


@pytest.mark.parametrize(
    ("layer", "reads"),
    [
        ("route layers=-1,0", (2, 0)),
        ("route layers=1", (1,)),
        ("shortcut from=-3", (0,)),
        ("shortcut from=-2,0", (1, 0)),
        ("sam from=1", (1,)),
        ("dropout", ()),
        ("convolutional filters=4 share_index=0", ()),
    ],
)
def test_a_layer_has_the_absolute_numbers_of_the_layers_that_it_reads(layer, reads):
    convolutions = "convolutional filters=4 | convolutional filters=4 | convolutional filters=4"
    assert network(f"{convolutions} | {layer}").layers[3].reads == reads


def test_pjreddie_reads_the_first_layer_of_a_shortcut_only():
    layers = "convolutional filters=4 | convolutional filters=4 | shortcut from=-2,0"
    assert network(layers, "pjreddie").layers[2].reads == (0,)


def test_the_scales_of_scale_channels_come_from_the_layer_before():
    layers = network("convolutional filters=4 | avgpool | scale_channels from=-2").layers
    assert (layers[2].reads, layers[2].incoming, layers[2].output) == ((0,), layers[1].output, layers[0].output)


@pytest.mark.parametrize("number", ["-9", "1", "5"])
def test_a_number_of_no_earlier_layer_is_refused(number):
    with pytest.raises(CfgError) as caught:
        network(f"convolutional filters=4 | route layers={number}")
    assert (caught.value.line, caught.value.finding) == (8, "cfg-index")
