"""Writes C99: a header with the sizes of all arrays, and a source file with their values.

An array in a header alone would be duplicated in every unit that includes it. Both files compile without warnings with
`-std=c99 -Wall -Wextra -Werror -pedantic`, and as C++.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bnorm.errors import OutputError, WeightsError
from bnorm.exchange.job import Item, Job

INDENT = "    "


def _float(value: float) -> str:
    """Return nine significant digits, which read back as the same float32; always with a point or an exponent."""
    text = f"{value:.9g}"
    return f"{text}f" if "." in text or "e" in text else f"{text}.0f"


class CType(NamedTuple):
    """A type of C99: its name, the spelling of a value, and the number of values on a line of 100 columns."""

    name: str
    text: Callable[[Any], str]
    per_line: int


TYPES = {
    "<f4": CType("float", _float, 5),
    "<f2": CType("uint16_t", lambda bits: f"0x{bits:04x}", 12),  # C99 has no such type: the bits
    "<i1": CType("int8_t", str, 16),
    "<i2": CType("int16_t", str, 12),
}

MACROS = """\
/* Define these to align the arrays, or to place them: __attribute__((aligned(16))), PROGMEM, ... */
#ifndef BNORM_ALIGN
#define BNORM_ALIGN
#endif
#ifndef BNORM_SECTION
#define BNORM_SECTION
#endif
"""


def c_files(header: Path, _items: Sequence[Item] | None = None) -> tuple[Path, ...]:
    """Return the header and the source file."""
    return header, header.with_suffix(".c")


def write_c(job: Job, files: Sequence[BinaryIO]) -> None:
    """Write both files; a `WeightsError` for NaN and infinity, which C cannot spell."""
    header, source = files
    path = job.outputs[0]
    if not path.name.isprintable() or set(path.name) & set('"\\'):
        raise OutputError(path, "has a name that #include cannot hold, expected letters and digits")
    prefix = identifier(path.stem)
    prefix = f"net_{prefix}" if prefix[0].isdigit() else prefix
    guard = f"BNORM_{prefix.upper()}_H"
    source.write(f'#include "{path.name}"\n'.encode(errors="surrogateescape"))
    header.write(f"#ifndef {guard}\n#define {guard}\n\n#include <stdint.h>\n\n{MACROS}".encode())
    header.write(b'\n#ifdef __cplusplus\nextern "C" {\n#endif\n')
    for item in job.items:
        name = f"{prefix}_{identifier(item.name)}"
        declaration = f"const {TYPES[item.dtype].name} {name}[{name.upper()}_SIZE]"
        header.write(f"\n/* {_comment(job, item)} */\n#define {name.upper()}_SIZE {item.size}\n".encode())
        header.write(f"extern {declaration};\n".encode())
        source.write(f"\nBNORM_ALIGN BNORM_SECTION {declaration} = {{\n".encode())
        for lines in _lines(job, item):
            source.write(lines.encode())
        source.write(b"};\n")
    header.write(b"\n#ifdef __cplusplus\n}\n#endif\n\n#endif\n")


def identifier(text: str) -> str:
    """Return a name that C allows: every other character becomes an underscore.

    The name of a file goes before a layer's number, so it needs no check against reserved words.
    """
    name = re.sub(r"_+", "_", re.sub(r"[^A-Za-z0-9]", "_", text)).strip("_")
    return name or "net"


def _comment(job: Job, item: Item) -> str:
    """Return the layer's type, and the shape."""
    kind = job.source.model.network.layers[item.array.layer].type
    return f"{item.name} of [{kind}]: {' x '.join(map(str, item.shape))}"


def _lines(job: Job, item: Item) -> Iterator[str]:
    """Yield the values as lines of C, several lines at a time."""
    kind = TYPES[item.dtype]
    left: list[str] = []
    for block in item.blocks():
        _check_finite(job, item, block)
        values = np.ascontiguousarray(block).ravel()
        left += map(kind.text, (values.view("<u2") if item.dtype == "<f2" else values).tolist())
        whole = len(left) // kind.per_line * kind.per_line
        yield "".join(_line(left[start : start + kind.per_line]) for start in range(0, whole, kind.per_line))
        del left[:whole]
    if left:
        yield _line(left)


def _line(values: list[str]) -> str:
    return f"{INDENT}{', '.join(values)},\n"


def _check_finite(job: Job, item: Item, block: NDArray[Any]) -> None:
    if not np.isfinite(block).all():
        what = f"layer {item.array.layer} {item.array.name} holds NaN or infinity, expected finite values"
        raise WeightsError(job.source.weights.path, what, cause="bnorm check names the values")
