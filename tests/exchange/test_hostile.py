"""Hostile and damaged files of arrays: exit code 1, a message of two lines at most, and nothing written."""

from __future__ import annotations

import io
import json
import os
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

import bnorm
from bnorm.exchange.safetensors import MOST_HEADER
from support.builders import TINY


def header_of(arrays):
    header, offset = {}, 0
    for name, values in arrays.items():
        header[name] = {"dtype": "F32", "shape": list(values.shape), "data_offsets": [offset, offset + values.nbytes]}
        offset += values.nbytes
    return header


def packed(header, data=b"", pad=b" "):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    text += pad * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


@pytest.fixture
def refused(invoke, tiny, tmp_path):
    """Import a file, which must fail in one or two lines, within little memory, and write nothing."""

    def run(path, *options):
        before = sorted(tmp_path.rglob("*"))
        error = invoke("import", tiny[0], path, "-o", tmp_path / "out.weights", *options, exit_code=1).stderr
        lines = [line for line in error.splitlines() if not line.startswith("note:")]
        assert lines[0].startswith("error: ")
        assert len(lines) <= 2
        assert max(map(len, lines)) < 400
        assert sorted(tmp_path.rglob("*")) == before
        return lines[0]

    return run


@pytest.fixture
def good(arrays):
    """The header and the values of a good .safetensors file."""
    return header_of(arrays), b"".join(np.ascontiguousarray(values).tobytes() for values in arrays.values())


def test_a_good_file_is_good(tiny, good, tmp_path):
    (tmp_path / "a.safetensors").write_bytes(packed(*good))
    bnorm.import_arrays(bnorm.read_model(tiny[0]), tmp_path / "a.safetensors", tmp_path / "out.weights")
    for pad in (b" ", b"\n"):
        (tmp_path / "a.safetensors").write_bytes(packed(*good, pad=pad))


def change(name, **values):
    def apply(header):
        return header | {name: header[name] | values}

    return apply


FIRST, SECOND = "0.biases", "0.scales"
HEADERS = {
    "a gap": change(FIRST, data_offsets=[4, 20]),
    "an overlap": change(SECOND, data_offsets=[0, 16]),
    "a negative offset": change(FIRST, data_offsets=[-16, 0]),
    "an end before its beginning": change(FIRST, data_offsets=[16, 0]),
    "three offsets": change(FIRST, data_offsets=[0, 16, 16]),
    "offsets in words": change(FIRST, data_offsets="0-16"),
    "true as an offset": change(FIRST, data_offsets=[False, 16]),
    "a negative size": change(FIRST, shape=[-4]),
    "a fraction as a size": change(FIRST, shape=[4.0]),
    "a product that overflows": change(FIRST, shape=[2**32, 2**32, 2**32]),
    "sizes beyond 64 bits": change(FIRST, shape=[2**64]),
    "a size beside zero": change(FIRST, shape=[2**62, 0]),
    "a thousand dimensions": change(FIRST, shape=[1] * 1000),
    "a shape that is no list": change(FIRST, shape=4),
    "an unknown type": change(FIRST, dtype="F4"),
    "a type that is a list": change(FIRST, dtype=[]),
    "another key": change(FIRST, strides=[1]),
    "a description that is a list": lambda header: header | {FIRST: [1, 2]},
    "a description that is missing": lambda header: header | {FIRST: None},
    "an array that is missing": lambda header: {name: header[name] for name in header if name != FIRST},
    "no arrays": lambda _: {},
    "metadata alone": lambda _: {"__metadata__": {"format": "pt"}},
}


@pytest.mark.parametrize("name", HEADERS)
def test_headers_that_lie(refused, good, tmp_path, name):
    header, data = good
    (tmp_path / "a.safetensors").write_bytes(packed(HEADERS[name](header), data))
    refused(tmp_path / "a.safetensors")


TEXTS = {
    "NUL padding": lambda text: text + b"\0" * 8,
    "not JSON": lambda _: b"{'0.biases': 1}",
    "a list": lambda text: b"[" + text + b"]",
    "a blank first": lambda text: b" " + text,
    "a name twice": lambda text: text[:-1] + b"," + text[1:],
    "a key twice": lambda text: text.replace(b'"dtype": "F32"', b'"dtype": "F32", "dtype": "F32"', 1),
    "NaN": lambda text: text.replace(b"[4]", b"[NaN]", 1),
    "a number of 5,000 digits": lambda text: text.replace(b"[4]", b"[" + b"9" * 5000 + b"]", 1),
    "deep lists": lambda text: text.replace(b"[4]", b"[" * 100_000 + b"]" * 100_000, 1),
    "no UTF-8": lambda text: text.replace(b"0.biases", b"0.bi\xffses", 1),
    "half a character": lambda text: text.replace(b"0.biases", b"\\ud800", 1),
    "a name of control characters": lambda text: text.replace(b"0.biases", b"\\u001b[31m\\n", 1),
    "a cut": lambda text: text[:-9],
}


@pytest.mark.parametrize("name", TEXTS)
def test_headers_that_are_no_json(refused, good, tmp_path, name):
    header, data = good
    (tmp_path / "a.safetensors").write_bytes(packed(TEXTS[name](json.dumps(header).encode()), data))
    refused(tmp_path / "a.safetensors")


@pytest.mark.parametrize("length", [0, 1, 2**20, 2**60, 2**63, 2**64 - 1])
def test_a_header_of_any_length(refused, good, tmp_path, length):
    data = packed(*good)
    (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", length) + data[8:])
    assert "safetensors file" in refused(tmp_path / "a.safetensors") or length < 2


def test_a_header_of_more_bytes_than_any_network_needs(refused, tmp_path):
    (tmp_path / "a.safetensors").write_bytes(packed(b"{}" + b" " * MOST_HEADER))
    assert "expected at most" in refused(tmp_path / "a.safetensors")


@pytest.mark.parametrize("size", [0, 3, 8, 200])
def test_a_file_that_was_cut(refused, good, tmp_path, size):
    (tmp_path / "a.safetensors").write_bytes(packed(*good)[:size])
    refused(tmp_path / "a.safetensors")


@pytest.mark.parametrize("more", [b"\0", b"\0" * 4, b"PK"])
def test_bytes_after_the_last_array(refused, good, tmp_path, more):
    (tmp_path / "a.safetensors").write_bytes(packed(*good) + more)
    assert "the end of the file" in refused(tmp_path / "a.safetensors")


# --- .npz and .npy ----------------------------------------------------------------------------------------------------


def npy(values):
    file = io.BytesIO()
    np.save(file, values, allow_pickle=True)
    return file.getvalue()


def archive(path, members, method=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", method) as target:
        for name, data in members:
            target.writestr(zipfile.ZipInfo(name), data, method)
    return path


@pytest.fixture
def members(arrays):
    """The members of a good archive."""
    return [(f"{name}.npy", npy(values)) for name, values in arrays.items()]


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("pwned",)


ODD = {
    "objects": npy(np.array([Bomb()], object)),
    "text": npy(np.array(["a"])),
    "integers": npy(np.arange(4)),
    "complex numbers": npy(np.ones(4, "c8")),
    "big-endian": npy(np.ones(4, ">f4")),
    "fortran order": npy(np.asfortranarray(np.ones((2, 2)))),
    "a lying shape": npy(np.ones(4, "f4")).replace(b"(4,)", b"(9,)"),
    "a shape that overflows": npy(np.ones(4, "f4")).replace(b"(4,), }   ", b"(4294967296, 4294967296, 4294967296), }"),
    "nothing": b"",
    "a pickle": b"\x80\x04K\x01.",
    "a cut array": npy(np.ones(4, "f4"))[:-1],
    "a long array": npy(np.ones(4, "f4")) + b"\0",
}


@pytest.mark.parametrize("name", ODD)
def test_odd_arrays_in_an_archive(refused, members, tmp_path, name):
    refused(archive(tmp_path / "a.npz", [(members[0][0], ODD[name]), *members[1:]]))
    assert not Path("pwned").exists()


@pytest.mark.parametrize("name", ODD)
def test_odd_arrays_in_a_folder(refused, members, tmp_path, name):
    (tmp_path / "folder").mkdir()
    for file, data in [*members[1:], (members[0][0], ODD[name])]:
        (tmp_path / "folder" / file).write_bytes(data)
    refused(tmp_path / "folder")


def test_a_name_twice_in_an_archive(refused, members, tmp_path):
    with pytest.warns(UserWarning, match="Duplicate"):
        path = archive(tmp_path / "a.npz", [*members, members[0]])
    assert "2 times" in refused(path)


@pytest.mark.parametrize("name", ["notes.txt", "folder/", "../0.biases"])
def test_a_member_that_is_no_array(refused, members, tmp_path, name):
    refused(archive(tmp_path / "a.npz", [*members, (name, b"")]))


def test_a_zip_bomb(refused, members, tmp_path):
    bomb = npy(np.zeros(300 << 18, "f4"))  # 300 MB of zeros, packed a thousand times smaller
    path = archive(tmp_path / "a.npz", [(members[0][0], bomb), *members[1:]], zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 1 << 20
    assert "unpacks to" in refused(path)


def test_a_bomb_below_the_limit_has_another_shape_than_the_cfg(refused, members, tmp_path):
    bomb = npy(np.zeros(200 << 18, "f4"))
    path = archive(tmp_path / "a.npz", [(members[0][0], bomb), *members[1:]], zipfile.ZIP_DEFLATED)
    assert "of the shape" in refused(path)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compressions(refused, members, tmp_path, method):
    assert "compression" in refused(archive(tmp_path / "a.npz", members, method))


def test_values_that_do_not_match_their_checksum(refused, members, tmp_path):
    path = archive(tmp_path / "a.npz", members)
    data = bytearray(path.read_bytes())
    at = data.index(members[4][1][-16:])
    data[at] ^= 1
    path.write_bytes(data)
    assert "not a valid .npz archive" in refused(path)


@pytest.mark.parametrize("target", ["/dev/zero", "good.npy", "missing", "0.biases.npy"])
def test_a_link_in_a_folder(refused, members, tmp_path, target):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "good.bin").write_bytes(members[0][1])
    for file, data in members[1:]:
        (tmp_path / "folder" / file).write_bytes(data)
    (tmp_path / "folder" / members[0][0]).symlink_to(target.replace("good.npy", "good.bin"))
    assert "is a link" in refused(tmp_path / "folder")


def test_a_pipe(refused, members, tmp_path):
    os.mkfifo(tmp_path / "a.npz")
    os.mkfifo(tmp_path / "a.safetensors")
    assert "pipe" in refused(tmp_path / "a.npz")
    assert "pipe" in refused(tmp_path / "a.safetensors")
    (tmp_path / "folder").mkdir()
    for file, data in members[1:]:
        (tmp_path / "folder" / file).write_bytes(data)
    os.mkfifo(tmp_path / "folder" / members[0][0])
    assert "pipe" in refused(tmp_path / "folder")


@pytest.mark.parametrize("name", ["a.txt", "a.weights", "empty"])
def test_other_inputs(refused, tmp_path, name):
    (tmp_path / name).mkdir() if name == "empty" else (tmp_path / name).write_bytes(TINY.encode())
    refused(tmp_path / name)


def test_a_missing_input(refused, tmp_path):
    assert refused(tmp_path / "a.npz").endswith("no such file or directory")
