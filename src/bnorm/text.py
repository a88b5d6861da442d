"""Text for messages: on one line, printable, and short."""

from __future__ import annotations


def printable(text: str) -> str:
    """The text on one line: with its control characters, if it has any, as Python writes them."""
    return text if text.isprintable() else repr(text)[1:-1]


def short(text: str) -> str:
    """A piece of the file, short and printable enough for a message."""
    shown = printable(text)
    return shown if len(shown) <= 40 else shown[:37] + "..."
