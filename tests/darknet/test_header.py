"""The header of a weights file: its version, the width of `seen`, and the forks that write it."""

from __future__ import annotations

import gzip
import io
import lzma
import pickle
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bnorm.darknet.dialects import DIALECTS
from bnorm.darknet.foreign import FOREIGN
from bnorm.darknet.header import Header, read_header, written_by
from bnorm.errors import WeightsError

PJ, AB, HK = "pjreddie", "alexeyab", "hank"
PATH = Path("net.weights")
INTS = st.integers(-(2**31), 2**31 - 1)


def header(data: bytes, dialect: str) -> Header:
    return read_header(io.BytesIO(data), PATH, DIALECTS[dialect])


def version(*fields: int) -> bytes:
    return struct.pack("<3i", *fields)


# Version, and the width of `seen` in pjreddie and in the two others.
WIDTHS = [
    ((0, 1, 0), 4, 4),
    ((0, 0, 0), 4, 4),
    ((0, 2, 0), 8, 8),
    ((0, 2, 5), 8, 8),
    ((1, 0, 0), 8, 8),
    ((0, 999, 0), 8, 8),
    ((0, 1000, 0), 4, 8),
    ((0, 2000, 0), 4, 8),
    ((1000, 0, 0), 4, 8),
    ((1001, 0, 0), 4, 8),
    ((0, -1, 0), 4, 4),
    ((1, -9, 0), 4, 4),
    ((1, -8, 0), 8, 8),
    ((-1, 500, 0), 8, 8),
]


@pytest.mark.parametrize(("fields", "pjreddie", "others"), WIDTHS)
def test_the_version_decides_how_wide_seen_is(fields, pjreddie, others):
    data = version(*fields) + struct.pack("<Q", 5 + (6 << 32)) + b"\xff" * 8
    for dialect, width in ((PJ, pjreddie), (AB, others), (HK, others)):
        found = header(data, dialect)
        assert (found.nbytes, found.seen) == (12 + width, 5 if width == 4 else 5 + (6 << 32))
        assert found[:3] == fields


def test_a_version_made_of_floats_wraps_around_to_a_negative_int():
    """Some very old files are said to begin with a learning rate and a momentum: as ints, far beyond 2^31 / 10."""
    fields = struct.unpack("<3i", struct.pack("<3f", 0.001, 0.9, 0.0005))
    assert [header(version(*fields) + b"\7" * 8, dialect).nbytes for dialect in (PJ, AB, HK)] == [16, 16, 16]


@pytest.mark.parametrize(("major", "nbytes"), [(2**31 // 10, 20), (2**31 // 10 + 1, 16), (2**32 // 10 + 1, 20)])
def test_a_version_wraps_around_as_a_c_int_does(major, nbytes):
    assert header(version(major, 0, 0) + b"\7" * 8, AB).nbytes == nbytes


@pytest.mark.parametrize(
    ("fields", "transposed"),
    [
        ((0, 2, 0), False),
        ((0, 1000, 0), False),
        ((1000, 0, 0), False),
        ((0, 1001, 0), True),
        ((0, 2000, 0), True),
        ((1001, 0, 0), True),
        ((0, 2, 5000), False),
    ],
)
def test_a_major_or_minor_over_1000_means_transposed(fields, transposed):
    assert Header(*fields, seen=0, nbytes=20).transposed is transposed


def test_pjreddie_reads_four_bytes_of_seen_with_their_sign():
    assert header(version(0, 1, 0) + struct.pack("<i", -7), PJ).seen == -7


@pytest.mark.parametrize("dialect", [AB, HK])
def test_four_bytes_of_seen_have_no_sign_since_alexeyab(dialect):
    assert header(version(0, 1, 0) + struct.pack("<i", -7), dialect).seen == 2**32 - 7


@pytest.mark.parametrize("dialect", sorted(DIALECTS))
def test_eight_bytes_of_seen_have_no_sign(dialect):
    assert header(version(0, 2, 0) + b"\xff" * 8, dialect).seen == 2**64 - 1


@pytest.mark.parametrize(("dialect", "fields"), [(PJ, (0, 2, 0)), (AB, (0, 2, 5)), (HK, (0, 2, 5))])
def test_each_fork_writes_its_version(dialect, fields):
    assert written_by(DIALECTS[dialect]) == (*fields, 0, 20)


@pytest.mark.parametrize(
    ("fields", "writers"),
    [
        ((0, 2, 5), ("alexeyab", "hank")),
        ((0, 2, 0), ("pjreddie",)),
        ((0, 1, 0), ("pjreddie",)),
        ((0, 1, 9), ("pjreddie",)),
        ((0, 2, 1), ()),
        ((1, 2, 0), ()),
        ((0, 2000, 0), ()),
    ],
)
def test_a_version_identifies_its_writers(fields, writers):
    assert Header(*fields, seen=0, nbytes=20).writers == writers


def test_a_version_reads_as_users_write_it():
    assert Header(0, 2, 5, seen=0, nbytes=20).version == "0.2.5"


# --- too short, or something else -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", sorted(DIALECTS))
def test_an_empty_file_is_named(dialect):
    with pytest.raises(WeightsError, match="an empty file, expected at least 16 or 20 bytes, got 0"):
        header(b"", dialect)


@pytest.mark.parametrize("nbytes", [1, 3, 11])
def test_a_file_without_a_whole_version_is_too_short(nbytes):
    with pytest.raises(WeightsError, match=f"too short for a header, expected at least 16 or 20 bytes, got {nbytes}"):
        header(b"\0" * nbytes, AB)


@pytest.mark.parametrize(("fields", "nbytes"), [((0, 2, 0), 20), ((0, 1, 0), 16)])
def test_a_file_without_a_whole_seen_is_too_short(fields, nbytes):
    with pytest.raises(WeightsError, match=f"expected at least {nbytes} bytes, got {nbytes - 1}"):
        header((version(*fields) + b"\0" * 8)[: nbytes - 1], AB)


def zipped(name: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(name, bytes(600))
    return file.getvalue()


def tarred() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("yolo.weights"), io.BytesIO())
    return file.getvalue()


def saved_array() -> bytes:
    file = io.BytesIO()
    np.save(file, np.zeros(100))
    return file.getvalue()


# Real beginnings of such files, written by the standard library or NumPy where possible.
SAMPLES = {
    "a Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
    "HTML": b"\n<!DOCTYPE html>\n<html>",
    "XML": b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>',
    "JSON": b'{"message": "Not Found"}',
    "a PyTorch model": zipped("archive/data.pkl"),
    "a NumPy archive": zipped("scales.npy"),
    "a ZIP archive": zipped("yolo.weights"),
    "a gzip archive": gzip.compress(bytes(600)),
    "an archive": lzma.compress(bytes(600)),
    "a tar archive": tarred(),
    "a pickle, as of PyTorch": pickle.dumps({"model": [1.0] * 600}, protocol=2),
    "a safetensors model": struct.pack("<Q", 80) + b'{"weight":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
    "a GGUF or GGML model": b"GGUF\3\0\0\0" + bytes(600),
    "an HDF5 file, as of Keras": b"\x89HDF\r\n\x1a\n" + bytes(600),
    "a NumPy array": saved_array(),
    "a TensorFlow Lite model": b"\x1c\0\0\0TFL3" + bytes(600),
    "an ONNX model": b"\x08\x07\x12\x07pytorch\x1a\x052.1.0:" + bytes(600),
}


@pytest.mark.parametrize("row", FOREIGN, ids=lambda row: row.kind)
def test_another_kind_of_file_is_named(row):
    with pytest.raises(WeightsError, match=f"is {row.kind}, expected darknet's weights") as caught:
        header(SAMPLES[row.kind], AB)
    assert (caught.value.cause, caught.value.finding) == (row.cause, row.finding)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (b"\r\n <!DOCTYPE html><html>", "HTML"),
        (b"<HTML>" + b"x" * 600, "HTML"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n", "a Git LFS pointer"),
        (b"[network]\nwidth=8\n", "a cfg"),
        (b"404: Not Found", "text"),
        (b"0.1 0.2\r\n" * 100, "text"),
        (("\u6587\u4ef6\u4e0d\u5b58\u5728\n" * 100).encode(), "text"),
    ],
)
def test_text_is_named(text, kind):
    with pytest.raises(WeightsError, match=f"is {kind}, expected"):
        header(text, AB)


# --- any header -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", sorted(DIALECTS))
@given(fields=st.tuples(INTS | st.integers(-1, 1002), INTS | st.integers(-1, 2000), INTS), seen=st.binary(min_size=8))
@settings(max_examples=100, deadline=None)
def test_packing_a_header_gives_the_bytes_that_were_read(dialect, fields, seen):
    data = version(*fields) + seen[:8]
    try:
        found = header(data, dialect)
    except WeightsError:  # three ints that look like a text or like another kind of file
        return
    assert found.pack() == data[: found.nbytes]


@pytest.mark.parametrize("dialect", sorted(DIALECTS))
@given(seen=st.integers(0, 2**64 - 1))
@settings(max_examples=50, deadline=None)
def test_reading_a_header_gives_the_fields_that_were_packed(dialect, seen):
    written = written_by(DIALECTS[dialect])._replace(seen=seen)
    assert header(written.pack(), dialect) == written
