"""The header of a weights file: three ints for the version, then `seen`, the number of images it was trained on.

| offset | type       | field                                                                 |
|--------|------------|-----------------------------------------------------------------------|
| 0      | i32        | major                                                                 |
| 4      | i32        | minor                                                                 |
| 8      | i32        | revision, which no fork reads                                         |
| 12     | u64 or u32 | seen: 8 bytes where major·10 + minor ≥ 2 (as a C int), otherwise 4    |

Little-endian. pjreddie also reads 4 bytes where major or minor is 1000 or more. A major or minor over 1000 means that
the weights of fully connected layers are stored transposed. Source: `parser.c: load_weights_upto`, hank `weights.cpp`.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO, NamedTuple

from bnorm.darknet.dialects import Dialect
from bnorm.darknet.foreign import BEGINNING, refuse_foreign
from bnorm.errors import WeightsError

VERSION = struct.Struct("<3i")

WIDE, NARROW, NARROW_SIGNED = struct.Struct("<Q"), struct.Struct("<I"), struct.Struct("<i")

SIZES = (VERSION.size + NARROW.size, VERSION.size + WIDE.size)  # of the whole header: 16 and 20 bytes

TRANSPOSED_ABOVE = 1000

NARROW_VERSION = (0, 1, 0)  # with which every fork reads a `seen` of 4 bytes

# The dialects that write each (major, minor, revision); None matches any. pjreddie wrote 0.1 in the past.
WRITERS: tuple[tuple[tuple[int | None, int | None, int | None], tuple[str, ...]], ...] = (
    ((0, 2, 5), ("alexeyab", "hank")),
    ((0, 2, 0), ("pjreddie",)),
    ((0, 1, None), ("pjreddie",)),
)


class Header(NamedTuple):
    """The version fields, `seen`, and the size of the header in its file: 16 or 20 bytes."""

    major: int
    minor: int
    revision: int
    seen: int
    nbytes: int

    @property
    def transposed(self) -> bool:
        """Return whether the weights of fully connected layers are stored (in, out)."""
        return self.major > TRANSPOSED_ABOVE or self.minor > TRANSPOSED_ABOVE

    def pack(self) -> bytes:
        """Return the header as bytes, `nbytes` of them."""
        narrow = NARROW_SIGNED if self.seen < 0 else NARROW
        seen = WIDE if self.nbytes == VERSION.size + WIDE.size else narrow
        return VERSION.pack(*self[:3]) + seen.pack(self.seen)

    @property
    def version(self) -> str:
        """Return the version in the usual notation: `0.2.5`."""
        return f"{self.major}.{self.minor}.{self.revision}"

    @property
    def writers(self) -> tuple[str, ...]:
        """Return the dialects that write this version; empty if no known fork writes it."""
        return next((writers for row, writers in WRITERS if _matches(self, row)), ())


def _matches(header: Header, row: tuple[int | None, ...]) -> bool:
    return all(wanted in (None, field) for wanted, field in zip(row, header[:3], strict=True))


def written_by(dialect: Dialect) -> Header:
    """Return the header of a new network's file, as this fork saves it."""
    major, minor, revision = dialect.version
    return Header(major=major, minor=minor, revision=revision, seen=0, nbytes=VERSION.size + WIDE.size)


def limit_of_seen(nbytes: int) -> int:
    """Return the largest `seen` that every fork reads in a header of this size; pjreddie's narrow one is signed."""
    return 2**31 - 1 if nbytes == SIZES[0] else 2**64 - 1


def read_header(file: BinaryIO, path: Path, dialect: Dialect) -> Header:
    """Read the header as `dialect` does; raise `WeightsError` if the file is too short or of another kind."""
    file.seek(0)
    data = file.read(BEGINNING)
    refuse_foreign(path, data)
    if len(data) < VERSION.size:
        raise _too_short(path, len(data), "16 or 20")
    major, minor, revision = VERSION.unpack_from(data)
    seen = seen_type(major, minor, dialect)
    if len(data) < VERSION.size + seen.size:
        raise _too_short(path, len(data), f"{VERSION.size + seen.size}")
    (images,) = seen.unpack_from(data, VERSION.size)
    return Header(major=major, minor=minor, revision=revision, seen=images, nbytes=VERSION.size + seen.size)


def seen_type(major: int, minor: int, dialect: Dialect) -> struct.Struct:
    """Return the type of the field `seen` in a header of this version."""
    number = (major * 10 + minor + 2**31) % 2**32 - 2**31  # a C int wraps around
    limit = dialect.narrow_seen_from
    if number >= 2 and (limit is None or (major < limit and minor < limit)):
        return WIDE
    return NARROW_SIGNED if dialect.signed_seen else NARROW


def _too_short(path: Path, nbytes: int, expected: str) -> WeightsError:
    what = "an empty file" if nbytes == 0 else "too short for a header"
    return WeightsError(
        path,
        f"{what}, expected at least {expected} bytes, got {nbytes}",
        cause="an interrupted download or a full disk?",
        finding="weights-empty" if nbytes == 0 else "weights-cut",
    )
