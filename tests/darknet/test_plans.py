"""300 cfgs for each fork: its program's verdict, the shapes of its layers, and the bytes that it reads."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from bnorm.checks.cfg_rules import cfg_findings
from bnorm.darknet.cfg import parse
from bnorm.darknet.dialects import DIALECTS
from bnorm.darknet.header import written_by
from bnorm.darknet.layout import plan
from bnorm.darknet.network import Network, build
from bnorm.errors import CfgError
from support.golden import GOLDEN

NEGATIVE = "degenerate: a layer has a negative size"
UNKNOWN = "degenerate: an unknown section, which the fork takes for an empty layer"
NO_IMAGE = "degenerate: a [conv_lstm] after a layer without an image has no output"
FORWARD = "a reference to the layer itself, which the fork reads as an empty layer"

STRICTER: dict[str, dict[int, str]] = {  # cfgs that the fork reads but bnorm refuses, by id
    "pjreddie": dict.fromkeys((416, 467, 492, 897), NEGATIVE),
    "alexeyab": {
        **dict.fromkeys((82, 484), NEGATIVE),
        **dict.fromkeys((157, 175, 187, 451, 495, 513), UNKNOWN),
        259: NO_IMAGE,
        545: FORWARD,
    },
    "hank": {
        **dict.fromkeys((76, 217, 544, 840, 854), NEGATIVE),
        **dict.fromkeys((136, 404, 886), FORWARD),
    },
}

ACCEPTED = {"reads": {"reads"}, "refuses": {"refuses"}, "crashes": {"crashes", "refuses"}}


def read(source: str, dialect: str) -> Network | None:
    try:
        return build(parse(Path("net.cfg"), source.encode()), DIALECTS[dialect])
    except CfgError:
        return None


def verdict(network: Network | None) -> str:
    if network is None:
        return "refuses"
    return "crashes" if any(finding.id == "cfg-crash" for finding in cfg_findings(network)) else "reads"


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_cfg_is_read_as_by_the_fork(dialect):
    rows = json.loads(gzip.decompress((GOLDEN / "plans" / f"{dialect}.json.gz").read_bytes()))
    others = {}
    for row in rows:
        network = read(row["cfg"], dialect)
        if verdict(network) not in ACCEPTED[row["verdict"]]:
            others[row["id"]] = (row["verdict"], verdict(network))
        elif network and row["verdict"] == "reads":
            assert [list(layer.output) for layer in network.layers] == row["layers"], row["id"]
            assert plan(network, written_by(network.dialect)).nbytes == row["bytes_read"], row["id"]
    assert len(rows) == 300
    assert others == dict.fromkeys(STRICTER[dialect], ("reads", "refuses"))
