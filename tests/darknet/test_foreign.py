"""`darknet.foreign`: another program's file given as a cfg. As weights: tests/darknet/test_header.py."""

from __future__ import annotations

import pickle
import struct

import pytest

from bnorm.darknet import cfg
from bnorm.darknet.dialects import ALEXEYAB
from bnorm.darknet.foreign import FOREIGN, is_cfg, is_weights
from bnorm.darknet.header import read_header
from bnorm.errors import CfgError, WeightsError
from support.builders import TINY
from support.damage import findings

GIVEN = {
    "HTML": [b"<!DOCTYPE html>", b"\n\n<html lang='en'>", b"<!-- saved -->\n<html>", b'<?xml version="1.0"?><html>'],
    "a Git LFS pointer": [b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"],
    "XML": [b'<?xml version="1.0"?><Error><Code>NoSuchKey</Code></Error>'],
    "JSON": [b'{"message": "Not Found"}', b'\xef\xbb\xbf{\n "error": 1}'],
    "a ZIP archive": [b"PK\3\4" + bytes(40)],
    "a PyTorch model": [b"PK\3\4" + bytes(26) + b"archive/data.pkl"],
    "a gzip archive": [b"\x1f\x8b\x08" + bytes(40)],
    "a pickle, as of PyTorch": [pickle.dumps({"model": [1.0] * 600}, protocol=2)],
    "a safetensors model": [struct.pack("<Q", 80) + b'{"weight":{"dtype":"F32"}}'],
    "an HDF5 file, as of Keras": [b"\x89HDF\r\n\x1a\n" + bytes(600)],
}


@pytest.mark.parametrize(("kind", "data"), [(kind, data) for kind in GIVEN for data in GIVEN[kind]], ids=str)
def test_a_foreign_file_given_as_a_cfg_has_the_cause_that_weights_have(tmp_path, kind, data):
    path = tmp_path / "net.cfg"
    path.write_bytes(data)
    row = next(row for row in FOREIGN if row.kind == kind)
    with pytest.raises(CfgError, match=f"is {kind}, expected a cfg") as caught:
        cfg.read(path)
    assert (caught.value.cause, caught.value.finding) == (row.cause, row.cfg_finding)
    assert [(found.id, found.severity, found.line) for found in findings(path)] == [(row.cfg_finding, "error", None)]


def test_a_large_model_is_recognised_as_well(tmp_path):
    path = tmp_path / "net.cfg"
    path.write_bytes(b"\x80\x02}q\0" + bytes(1 << 20))
    with pytest.raises(CfgError, match="is a pickle"):
        cfg.read(path)


def test_weights_given_as_a_cfg_are_recognised(tiny):
    with pytest.raises(CfgError, match="is a weights file, expected a cfg"):
        cfg.read(tiny[1])


@pytest.mark.parametrize("comment", ["#   TFL3", '#       {"a"', "# <html>", "# version https://git-lfs"])
def test_words_in_a_comment_of_a_cfg_are_not_mistaken_for_another_file(tmp_path, comment):
    path = tmp_path / "net.cfg"
    path.write_text(f"{comment}\n{TINY}")
    assert cfg.read(path).lines[0] == f"{comment}\n"


@pytest.mark.parametrize("data", [TINY.encode(), b"\xef\xbb\xbf[net]\n", b"# caf\xe9\n[network]\n", b"x=1\n  [conv]"])
def test_a_heading_makes_a_cfg(data):
    assert (is_cfg(data), is_weights(data)) == (True, False)


@pytest.mark.parametrize("data", [b"", b"[", b"[[1, 2]", b'{"a": [1]}', b"<html>\n[x]</html>", bytes(16), b"a[0]=1"])
def test_other_brackets_do_not(data):
    assert not is_cfg(data)


def test_a_cfg_given_as_weights_is_named(tiny):
    with tiny[0].open("rb") as file, pytest.raises(WeightsError, match="is a cfg, expected darknet's weights"):
        read_header(file, tiny[0], ALEXEYAB)
