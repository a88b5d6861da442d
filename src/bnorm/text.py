"""Text for messages: on one line, printable and short; counts and sizes."""

from __future__ import annotations

LONGEST = 40  # characters of a quotation from a file in a message

FLOAT = 4  # bytes of a float32


def printable(text: str) -> str:
    """Return the text on one line, with its control characters, if any, escaped as in Python."""
    return text if text.isprintable() else repr(text)[1:-1]


def short(text: str) -> str:
    """Return a quotation from a file, printable and short enough for a message."""
    shown = printable(text)
    return shown if len(shown) <= LONGEST else shown[: LONGEST - 3] + "..."


def plural(count: int, noun: str) -> str:
    """Return the count and the noun: `1 channel`, `2,048 channels`."""
    return f"{count:,} {noun}{'s' * (count != 1)}"


def size(nbytes: int) -> str:
    """Return a size in words, in floats as well if it is a whole number of them: `2 floats (8 bytes)`, `3 bytes`."""
    count, rest = divmod(nbytes, FLOAT)
    return plural(nbytes, "byte") if rest else f"{plural(count, 'float')} ({plural(nbytes, 'byte')})"
