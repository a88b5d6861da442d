"""The safetensors format: streamed when written, and its header not trusted when read.

    u64 little-endian N | N bytes of JSON, padded with spaces to a multiple of 8 | the values of all arrays, no gaps

The header maps each name to `{"dtype": "F32", "shape": [...], "data_offsets": [begin, end]}`, with offsets from the end
of the header, and `__metadata__` to strings. Source: huggingface/safetensors, `safetensors/src/tensor.rs`.

The package `safetensors` is the oracle of the tests and not used here, because it does not stream: `serialize_file`
takes the bytes of all arrays at once, and `safe_open` maps the file, which counts the whole file as memory, and kills
the process with SIGBUS if another one cuts it. It also keeps the last of two equal names.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from bnorm.errors import TensorError
from bnorm.exchange.job import Job
from bnorm.text import short

LENGTH = struct.Struct("<Q")

ALIGNMENT = 8

METADATA = "__metadata__"

MOST_HEADER = 4 << 20  # bytes: a network of a thousand layers has 0.6 MB; JSON takes up to 25 times as much in memory

MOST_DIMENSIONS = 32

SIZES = {"BOOL": 1, "U8": 1, "I8": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2, "I32": 4, "U32": 4, "F32": 4}
SIZES |= {"F64": 8, "I64": 8, "U64": 8, "F8_E4M3": 1, "F8_E5M2": 1}  # bytes of a value


def write_safetensors(job: Job, files: Sequence[BinaryIO]) -> None:
    """Write the arrays in the order of the model's file."""
    header: dict[str, object] = {}
    offset = 0
    for item in job.items:
        end = offset + item.nbytes
        header[item.name] = {"dtype": "F32", "shape": list(item.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    files[0].write(LENGTH.pack(len(text)) + text)
    for item in job.items:
        for block in item.blocks():
            files[0].write(np.ascontiguousarray(block, item.dtype).data)


class Entry(NamedTuple):
    """One array of a file: its type as safetensors names it, its shape and its offset in the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int


def read_header(path: Path, file: BinaryIO, nbytes: int) -> list[Entry]:
    """Return the arrays of a file of this size, in the order of their values; a `TensorError` for a damaged one."""
    start = file.read(LENGTH.size)
    length = LENGTH.unpack(start)[0] if len(start) == LENGTH.size else 0
    begin = LENGTH.size + length
    if length < 2 or begin > nbytes:
        raise TensorError(
            path, "is not a safetensors file", cause=f"its header has {length:,} bytes, the file {nbytes:,}"
        )
    if length > MOST_HEADER:
        raise TensorError(path, f"has a header of {length:,} bytes, expected at most {MOST_HEADER:,}")
    text = file.read(length)
    entries = [_entry(path, name, value, begin) for name, value in _parsed(path, text).items() if name != METADATA]
    entries.sort(key=lambda entry: entry.offset)  # stable: arrays of no values keep their order
    _check_ranges(path, entries, begin, nbytes)
    return entries


def _parsed(path: Path, text: bytes) -> Mapping[str, Any]:
    """Return the header as a dictionary; a `TensorError` for anything but one JSON object of distinct names."""
    try:
        if not text.startswith(b"{"):
            raise ValueError("it does not begin with {")
        header = json.loads(text.decode(), object_pairs_hook=_distinct, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise TensorError(path, "has a header that is not valid JSON", cause=short(str(error))) from None
    return dict(header)


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the pairs as a dictionary; ValueError if a name is repeated."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{short(name)} is repeated")
        found[name] = value
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _entry(path: Path, name: str, value: object, begin: int) -> Entry:
    """Return one array of the header; a `TensorError` if its offsets do not match its type and shape."""
    if not isinstance(value, dict) or value.keys() != {"dtype", "shape", "data_offsets"}:
        raise TensorError(path, f"does not describe {short(name)} by dtype, shape and data_offsets alone")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in SIZES:
        raise TensorError(path, f"{short(name)} has the type {short(str(dtype))}, expected F16, F32, F64 or BF16")
    if not _sizes(shape, MOST_DIMENSIONS):
        raise TensorError(path, f"{short(name)} has the shape {short(str(shape))}, expected a list of sizes")
    if not _sizes(offsets, 2) or len(offsets) != 2 or offsets[1] - offsets[0] != prod(shape) * SIZES[dtype]:
        what = f"{short(name)} has the data_offsets {short(str(offsets))}"
        raise TensorError(path, f"{what}, expected {short(f'{prod(shape) * SIZES[dtype]:,}')} bytes")
    return Entry(name=name, dtype=dtype, shape=tuple(shape), offset=begin + offsets[0])


def _sizes(value: object, most: int) -> bool:
    """Return whether the value is a list of sizes, and not too long."""
    return (
        isinstance(value, list)
        and len(value) <= most
        and all(type(size) is int and 0 <= size < 2**63 for size in value)
    )


def _check_ranges(path: Path, entries: Iterable[Entry], begin: int, nbytes: int) -> None:
    """Raise a `TensorError` unless the arrays fill the file from the header to its end, without gaps or overlaps."""
    end = begin
    for entry in entries:
        if entry.offset != end:
            what = f"{short(entry.name)} begins at byte {entry.offset:,}, expected {end:,}"
            raise TensorError(path, what, cause="its arrays overlap" if entry.offset < end else "bytes are left out")
        end += prod(entry.shape) * SIZES[entry.dtype]
    if end != nbytes:
        raise TensorError(path, f"its arrays end at byte {end:,}, expected {nbytes:,}, the end of the file")
