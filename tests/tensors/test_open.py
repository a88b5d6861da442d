"""Tensors in files: the accepted formats, and refusals before any memory is allocated for a file's claims."""

from __future__ import annotations

import io
import os
import random
import struct
import subprocess
import sys
import tracemalloc
import zipfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from bnorm.errors import TensorError
from bnorm.tensors.npz import read_vectors
from bnorm.tensors.open import open_tensor
from bnorm.tensors.tensor import MemoryTensor, Span, Tensor
from support.descriptors import open_files

MIB = 1 << 20


class Trap:
    """An object that creates a file when it is unpickled; the name of the file is its only state."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def npy(array: np.ndarray, **options) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, array, **options)
    return file.getvalue()


def header(text: str, version: tuple[int, int] = (1, 0)) -> bytes:
    """Return the start of a .npy file with this header."""
    return b"\x93NUMPY" + bytes(version) + struct.pack("<H" if version == (1, 0) else "<I", len(text)) + text.encode()


def claim(shape: str, descr: str = "'<f4'", order: str = "False") -> bytes:
    return header(f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}\n")


def npz(members: dict[str, bytes], kind: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", kind) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


X = np.arange(2 * 3 * 4 * 5, dtype="f4").reshape(2, 3, 4, 5)
ZIP_KINDS = {"stored": zipfile.ZIP_STORED, "deflate": zipfile.ZIP_DEFLATED}
every_kind = pytest.mark.parametrize("kind", ZIP_KINDS.values(), ids=list(ZIP_KINDS))


def read_all(tensor: Tensor) -> np.ndarray:
    """All values as (N, C, L)."""
    span = Span(0, tensor.channels, 0, tensor.length)
    values = tensor.buffer(span).array
    tensor.read(span, values)
    return values


def values_of(name: object, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """All values of a tensor in a file."""
    with open_tensor(str(name), shape) as tensor:
        return read_all(tensor).reshape(tensor.shape)


@pytest.fixture
def write(tmp_path):
    """Write a file, and return its path."""

    def run(data: bytes, name: str = "x.npy") -> Path:
        path = tmp_path / name
        path.write_bytes(data)
        return path

    return run


def refused(name: object, *arguments: object) -> str:
    """Return the message for a refused file: one or two lines that name it."""
    with pytest.raises(TensorError) as caught:
        open_tensor(str(name), *arguments)
    assert caught.value.path == Path(str(name).partition(":")[0])
    assert len(str(caught.value).splitlines()) <= 2
    return caught.value.what


# --- accepted files ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
@pytest.mark.parametrize("shape", [(6, 20), (3, 4, 10), (2, 3, 4, 5), (1, 120), (120, 1)], ids=str)
@pytest.mark.parametrize("version", [(1, 0), (2, 0)], ids=str)
def test_npy_files_are_read(write, dtype, shape, version):
    array = X.astype(dtype).reshape(shape)
    found = values_of(write(npy(array, version=version)))
    assert found.dtype == dtype
    assert np.array_equal(found, array)


@every_kind
@pytest.mark.parametrize("key", ["", ":x", ":y"])
def test_npz_files_are_read(write, kind, key):
    members = {"x.npy": npy(X), **({"y.npy": npy(2 * X), "names.npy": npy(np.array(["a"]))} if key else {})}
    path = write(npz(members, kind), "x.npz")
    assert np.array_equal(values_of(f"{path}{key}"), 2 * X if key == ":y" else X)


def test_an_npz_file_of_numpy_s_own_is_read(tmp_path):
    np.savez_compressed(tmp_path / "x.npz", a=X)
    assert np.array_equal(values_of(tmp_path / "x.npz"), X)


def test_a_key_with_dots_and_slashes_is_found(write):
    path = write(npz({"layer.0/x.npy": npy(X), "y.npy": npy(X[0])}), "x.npz")
    assert np.array_equal(values_of(f"{path}:layer.0/x"), X)


def test_raw_files_are_read(write):
    path = write(X.astype("<f4").tobytes(), "x.bin")
    for shape in [(2, 3, 4, 5), (6, 20), (3, 4, 10)]:
        assert np.array_equal(values_of(path, shape), X.reshape(shape))


@pytest.mark.parametrize(
    ("shape", "layout", "channels", "length"),
    [
        *[((7, 3), "nchw", 3, 7), ((7, 3), "nhwc", 3, 7), ((3, 4, 5), "nchw", 3, 20), ((3, 4, 5), "nhwc", 5, 12)],
        *[((2, 3, 4, 5), "nchw", 3, 40), ((2, 3, 4, 5), "nhwc", 5, 24), ((1, 1), "nchw", 1, 1)],
    ],
)
def test_the_layout_says_where_the_channels_are(shape, layout, channels, length):
    tensor = MemoryTensor(np.zeros(shape), layout)
    assert (tensor.channels, tensor.length) == (channels, length)


# --- types and shapes that are refused --------------------------------------------------------------------------------


def test_objects_are_refused_and_never_unpickled(tmp_path):
    trap = tmp_path / "sprung"
    np.save(tmp_path / "x.npy", np.array([[Trap(trap)]], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "x.npz", x=np.array([[Trap(trap)]], dtype=object))
    assert "object" in refused(tmp_path / "x.npy")
    assert "object" in refused(tmp_path / "x.npz")
    with pytest.raises(TensorError, match="object"):
        read_vectors(tmp_path / "x.npz", ("x",))
    assert not trap.exists()


@pytest.mark.parametrize(
    "array",
    [
        *[X.astype(dtype) for dtype in ("i4", "i8", "u1", "?", "c8", ">f4", ">f8", "U3", "S3", "M8[s]", "V4", "g")],
        np.zeros((2, 3), [("a", "f4")]),
        np.zeros((2, 3), [("a", "f4"), ("b", "i2")]),
    ],
    ids=lambda array: str(array.dtype),
)
def test_types_other_than_little_endian_floats_are_refused(write, array):
    for path in (write(npy(array)), write(npz({"x.npy": npy(array)}), "x.npz")):
        assert "expected little-endian float16, float32 or float64" in refused(path)


def test_fortran_order_is_refused(write):
    assert "Fortran order" in refused(write(npy(np.asfortranarray(X))))


def test_a_column_in_fortran_order_is_in_c_order_too(write):
    column = X.reshape(-1, 1)
    assert np.array_equal(values_of(write(npy(column))), column)


@pytest.mark.parametrize("shape", [(), (120,), (1, 2, 3, 4, 5), (0, 3), (3, 0, 4), (2, 3, 0, 5), (0, 0)], ids=str)
def test_unsupported_shapes_are_refused(write, shape):
    assert f"has the shape {shape}, expected 2 to 4 dimensions, none of them 0" in refused(
        write(npy(np.zeros(shape, "f4")))
    )
    assert f"has the shape {shape}" in refused(write(bytes(480), "x.bin"), shape)


@pytest.mark.parametrize(
    "shape",
    [
        *["(-2, -3)", "(-2, 3)", "(2, 3, -4, -5)", "(-1, 2, 3)", "(2.0, 3)", "[2, 3]", "6"],
        *["'(2, 3)'", "(2 3)", "(,2,,3)", "True"],
    ],
)
def test_shapes_that_no_array_has_are_refused(write, shape):
    refused(write(claim(shape) + bytes(480)))


# --- files that are not what they say ---------------------------------------------------------------------------------


@pytest.fixture
def frugal():
    """Fail if the test allocates far more memory than the size of the files that it reads."""
    tracemalloc.start()
    yield
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * MIB


HUGE = ["(1000000000000000, 1)", "(1, 1000000000000000)", "(1000000, 1000, 1000, 1000)", f"({10**30}, 3)"]


@pytest.mark.parametrize("shape", HUGE)
@pytest.mark.usefixtures("frugal")
def test_a_header_that_claims_too_much_is_refused(write, shape):
    data = claim(shape) + bytes(400)
    assert "got 400" in refused(write(data))
    assert "bytes of values, got" in refused(write(npz({"x.npy": data}, zipfile.ZIP_DEFLATED), "x.npz"))
    assert "bytes of values, got" in refused(write(npz({"x.npy": data}), "x.npz"))


@pytest.mark.usefixtures("frugal")
def test_a_shape_that_asks_for_too_much_is_refused(write):
    assert "got 480" in refused(write(bytes(480), "x.bin"), (1000000, 1000, 1000, 1000))


@pytest.mark.usefixtures("frugal")
def test_a_header_s_length_that_claims_4_gib_is_refused(write):
    assert "is not a .npy file" in refused(write(b"\x93NUMPY\x02\x00" + b"\xff" * 4 + bytes(400)))


def short_member(values: np.ndarray, kept: int) -> bytes:
    """An archive whose directory lists a whole array, with only some bytes of its values."""
    data = npy(values)
    cut = data[: len(data) - values.nbytes + kept]
    packed = npz({"x.npy": cut}, zipfile.ZIP_DEFLATED)
    place = packed.rindex(struct.pack("<I", len(cut)), 0, packed.rindex(b"x.npy"))
    return packed[:place] + struct.pack("<I", len(data)) + packed[place + 4 :]


def test_a_packed_member_with_fewer_values_than_promised_is_refused(write):
    assert refused(write(short_member(X, 100), "x.npz")) == "expected 480 bytes of values, got 100"
    with pytest.raises(TensorError, match="x ends early, expected 9 values"):
        read_vectors(write(short_member(np.zeros(9), 8), "p.npz"), ("x",))


@pytest.fixture
def bomb(tmp_path) -> Path:
    """64 MiB of zeros after a header that claims six values."""
    with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED) as archive, archive.open("x.npy", "w") as file:
        file.write(claim("(2, 3)"))
        for _ in range(64):
            file.write(bytes(MIB))
    return tmp_path / "x.npz"


@pytest.mark.usefixtures("frugal")
def test_a_bomb_in_an_archive_is_refused(bomb):
    refused(bomb)


@every_kind
def test_a_member_with_bytes_left_over_is_refused(write, kind):
    refused(write(npz({"x.npy": npy(X) + bytes(4)}, kind), "x.npz"))


@every_kind
def test_a_member_that_ends_early_is_refused_with_any_bytes_after_it(write, kind):
    members = {"x.npy": npy(X)[:-4], "y.npy": npy(X)}
    assert "480 bytes of values, got 476" in refused(f"{write(npz(members, kind), 'x.npz')}:x")


@pytest.mark.parametrize("length", [0, 1, 4, 6, 7, 8, 9, 10, 11, 60, 127])
def test_a_file_that_ends_inside_its_header_is_refused(write, length):
    assert "is not a .npy file" in refused(write(npy(X)[:length]))


@pytest.mark.parametrize("length", [128, 129, 607])
def test_a_file_that_ends_inside_its_values_is_refused(write, length):
    assert f"expected 480 bytes of values, got {length - 128}" in refused(write(npy(X)[:length]))


@pytest.mark.parametrize("data", [b"404: Not Found\n", b"\0" * 999, b"\x80\x04K\x01.", b"<!DOCTYPE html>", b"P"])
def test_a_file_that_is_not_npy_is_refused(write, data):
    assert "is not a .npy file" in refused(write(data))


def test_an_unknown_version_of_npy_is_refused(write):
    assert "unknown version" in refused(write(b"\x93NUMPY\x09\x00" + npy(X)[8:]))


@pytest.mark.parametrize(
    "text",
    [
        *["", "(", "{", "'''", "[]", "3", "None", "{[]: 1}", "{1: 2, 'a': 3}", "\0", "1L", "(" * 300, "-" * 9000],
        "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3)",
        "{'descr': '<f4', 'fortran_order': False}",
        "{'descr': '<f4', 'fortran_order': 1, 'shape': (2, 3)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), 'more': 1}",
        *[
            f"{{'descr': {descr}, 'fortran_order': False, 'shape': (2, 3)}}"
            for descr in ["''", "()", "('<f4',)", "None", "3", "',f4'", "'<04'", "'(2'", "{'names': ['a']}"]
        ],
    ],
    ids=lambda text: text[-40:],
)
def test_a_header_that_says_something_else_is_refused(write, text):
    refused(write(header(text) + bytes(480)))


def test_a_header_of_many_digits_is_refused_at_once(write):
    path = write(claim(f"({'1' * 9000}x)") + bytes(480))
    code = "import sys; from bnorm.tensors.open import open_tensor; open_tensor(sys.argv[1])"
    # Another process, which can be stopped: a pattern that tries every way to split the digits never returns.
    result = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, timeout=20)
    assert "TensorError" in result.stderr


def test_a_header_with_python_2_s_long_integers_is_read_or_refused_without_a_warning(write):
    path = write(claim("(2L, 3L)") + bytes(24))
    with suppress(TensorError):
        assert values_of(path).shape == (2, 3)


# --- archives ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def pair(write) -> Path:
    return write(npz({"a.npy": npy(X), "b.npy": npy(X)}), "x.npz")


def test_an_archive_of_several_arrays_needs_a_key(pair):
    assert "holds a, b, expected one array, or FILE.npz:NAME" in refused(pair)


def test_a_key_that_an_archive_lacks_is_refused(pair):
    assert "holds a, b, expected c" in refused(f"{pair}:c")


@pytest.mark.parametrize("key", ["", ":x"])
def test_an_archive_of_nothing_is_refused(write, key):
    refused(f"{write(npz({}), 'x.npz')}{key}")


def test_a_member_that_is_not_an_array_is_refused(write):
    assert "is not a .npy file" in refused(write(npz({"x.txt": b"hello"}), "x.npz"))


def test_an_encrypted_archive_is_refused(write):
    data = bytearray(npz({"x.npy": npy(X)}))
    for start in (6, data.index(b"PK\x01\x02") + 8):
        data[start] |= 1
    refused(write(data, "x.npz"))


def test_an_unknown_compression_is_refused(write):
    data = bytearray(npz({"x.npy": npy(X)}))
    for start in (8, data.index(b"PK\x01\x02") + 10):
        data[start] = 99
    refused(write(data, "x.npz"))


def test_an_archive_that_is_cut_is_refused(write):
    data = npz({"x.npy": npy(X)})
    for length in (4, 30, 200, len(data) - 1):
        refused(write(data[:length], "x.npz"))


@pytest.mark.parametrize("kind", list(ZIP_KINDS.values())[1:], ids=list(ZIP_KINDS)[1:])
def test_a_corrupted_value_in_a_compressed_archive_is_refused(write, kind):
    noise = np.random.default_rng(0).normal(size=(3, 4000)).astype("f4")
    data = bytearray(npz({"x.npy": npy(noise)}, kind))
    data[len(data) // 2] ^= 0x10
    with pytest.raises(TensorError):
        values_of(write(bytes(data), "x.npz"))


@every_kind
@pytest.mark.parametrize("seed", range(5))
def test_a_corrupted_archive_is_refused_or_read_and_never_a_crash(write, kind, seed):
    rng = random.Random(seed)  # not for secrets
    whole = npz({"scales.npy": npy(np.ones(5))}, kind), npz({"scales.npy": npy(X)}, kind)
    for number in range(60):
        data = bytearray(whole[number % 2])
        for _ in range(rng.randint(1, 3)):
            data[rng.randrange(len(data))] = rng.choice([0, 1, 255, rng.randrange(256)])
        path = write(bytes(data), "x.npz")
        with suppress(TensorError):
            if number % 2:
                with open_tensor(str(path)):
                    pass
            else:
                read_vectors(path, ("scales",))


@pytest.mark.parametrize("seed", range(5))
def test_a_corrupted_header_is_refused_or_read_and_never_a_crash(write, seed):
    rng, whole = random.Random(seed), npy(X)  # not for secrets
    for _ in range(100):
        data = bytearray(whole)
        for _ in range(rng.randint(1, 3)):
            data[rng.randrange(128)] = rng.choice([*b"0123456789,()-{}'<>fL \n#\\", rng.randrange(256)])
        with suppress(TensorError), open_tensor(str(write(bytes(data)))) as tensor:
            assert min(tensor.shape) > 0


# --- raw files, folders, pipes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("nbytes", [0, 4, 476, 479, 481, 484, 960])
def test_a_raw_file_of_another_size_is_refused(write, nbytes):
    what = refused(write(bytes(nbytes), "x.bin"), (2, 3, 4, 5))
    assert f"expected 480 bytes of values, got {nbytes}" in what


@pytest.mark.parametrize("shape", [None, (2, 3)], ids=["npy", "raw"])
def test_a_folder_is_refused(tmp_path, shape):
    with pytest.raises(IsADirectoryError) as caught:
        open_tensor(str(tmp_path), shape)
    assert caught.value.filename in (tmp_path, str(tmp_path))


@pytest.mark.parametrize("shape", [None, (2, 3)], ids=["npy", "raw"])
@pytest.mark.parametrize("name", ["x.npy", "x.npz", "x.npz:x"])
def test_a_missing_file_is_refused(tmp_path, shape, name):
    with pytest.raises(FileNotFoundError):
        open_tensor(str(tmp_path / name), shape)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no pipes in folders")
@pytest.mark.parametrize("shape", [None, (2, 3)], ids=["npy", "raw"])
def test_a_pipe_is_refused_without_waiting_for_a_writer(tmp_path, shape):
    os.mkfifo(tmp_path / "x.npy")
    assert "pipe" in refused(tmp_path / "x.npy", shape)


def test_a_file_that_is_cut_while_it_is_read_is_an_error(write):
    path = write(npy(X))
    with open_tensor(str(path)) as tensor:
        os.truncate(path, 300)
        with pytest.raises(TensorError, match="ended while it was read"):
            read_all(tensor)


def test_a_file_that_is_refused_is_closed(write):
    before = open_files()
    paths = [write(npy(X.astype("i4")), "a.npy"), write(npy(X)[:300], "b.npy"), write(b"text", "c.npy")]
    kept = []
    for path in paths:
        with pytest.raises(TensorError) as caught:
            open_tensor(str(path))
        kept.append(caught)  # and with it the frames that opened the file
    assert open_files() == before


# --- vectors per channel ----------------------------------------------------------------------------------------------

NAMES = ("scales", "biases")


def vectors_refused(path: Path) -> str:
    with pytest.raises(TensorError) as caught:
        read_vectors(path, NAMES)
    assert caught.value.path == path
    return caught.value.what


@every_kind
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_vectors_are_read_as_float64(write, kind, dtype):
    members = {f"{name}.npy": npy(np.arange(5, dtype=dtype) + at) for at, name in enumerate(NAMES)}
    found = read_vectors(write(npz(members, kind), "p.npz"), NAMES)
    assert [vector.dtype for vector in found] == ["f8", "f8"]
    assert [vector.tolist() for vector in found] == [[0, 1, 2, 3, 4], [1, 2, 3, 4, 5]]


VECTORS = {
    "missing": ({"scales": npy(np.ones(5))}, "expected biases"),
    "of two lengths": ({"scales": npy(np.ones(5)), "biases": npy(np.ones(4))}, "5, 4 values"),
    "matrix": ({"scales": npy(np.ones((5, 1))), "biases": npy(np.ones(5))}, r"scales has the shape"),
    "scalar": ({"scales": npy(np.array(1.0)), "biases": npy(np.ones(5))}, r"scales has the shape"),
    "empty": ({"scales": npy(np.ones(0)), "biases": npy(np.ones(0))}, r"scales has the shape"),
    "integers": ({"scales": npy(np.ones(5, "i4")), "biases": npy(np.ones(5))}, "holds <i4"),
    "big-endian": ({"scales": npy(np.ones(5, ">f4")), "biases": npy(np.ones(5))}, "holds >f4"),
    "cut": ({"scales": npy(np.ones(5))[:-1], "biases": npy(np.ones(5))}, "bytes of values, got 39"),
    "claims too much": ({"scales": claim("(1000000000000000,)"), "biases": npy(np.ones(5))}, "bytes of values, got 0"),
    "claims much": ({"scales": claim("(16000000,)") + bytes(9), "biases": npy(np.ones(5))}, "bytes of values, got 9"),
    "negative": ({"scales": claim("(-5,)") + bytes(40), "biases": npy(np.ones(5))}, "is not a .npy file of one array"),
}


@pytest.mark.parametrize("case", VECTORS)
@every_kind
@pytest.mark.usefixtures("frugal")
def test_vectors_that_are_none_are_refused(write, case, kind):
    members, what = VECTORS[case]
    found = vectors_refused(write(npz({f"{key}.npy": data for key, data in members.items()}, kind), "p.npz"))
    assert what in found


@pytest.mark.parametrize("data", [b"", b"text", npy(X), npz({})[:10]])
def test_vectors_in_something_else_than_an_archive_are_refused(write, data):
    vectors_refused(write(data, "p.npz"))


@pytest.mark.parametrize("kind", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_an_archive_that_numpy_would_not_write_is_refused(tmp_path, kind):
    """An LZMA stream may require 4 GiB before it yields a byte."""
    path = tmp_path / "x.npz"
    with zipfile.ZipFile(path, "w", kind) as archive:
        archive.writestr("x.npy", bytes(200))
    with pytest.raises(TensorError, match="another compression, expected stored or deflated"):
        open_tensor(str(path))
