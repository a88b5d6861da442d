"""The difference between the size of a weights file and its plan, as a value and in words."""

from __future__ import annotations

from typing import NamedTuple

from bnorm.darknet.layout import FLOAT, Array, Layout, ends_at_layer
from bnorm.text import size

WAY_ON = "--trailing keep or --trailing drop accepts bytes that another program appended"


class SizeMismatch(NamedTuple):
    """The planned and the actual size, in bytes, and where the file ends.

    `array` is the first array that the file does not hold completely, None if it is longer than planned; it holds
    `floats_held` of its values. `last` is the last array of the plan, None if the plan has none.
    """

    expected: int
    actual: int
    array: Array | None
    floats_held: int
    between_layers: bool  # the file ends between two layers
    last: Array | None

    @property
    def missing(self) -> int:
        """Return the number of missing bytes; negative if bytes are left over."""
        return self.expected - self.actual


class Wording(NamedTuple):
    """A mismatch in words, part by part."""

    where: str
    amount: str
    sizes: str
    cause: str

    @property
    def sentence(self) -> str:
        """Return a sentence with the place where the file ends, the bytes missing or left over, and both sizes."""
        return f"{self.where}: {self.amount}, {self.sizes}"


def size_mismatch(layout: Layout, nbytes: int) -> SizeMismatch | None:
    """Return the mismatch between the plan and a file of `nbytes`; None if the sizes are equal."""
    if nbytes == layout.nbytes:
        return None
    array = layout.cut(nbytes)
    return SizeMismatch(
        expected=layout.nbytes,
        actual=nbytes,
        array=array,
        floats_held=max(0, nbytes - array.offset) // FLOAT if array else 0,
        between_layers=ends_at_layer(layout, nbytes),
        last=layout.arrays[-1] if layout.arrays else None,
    )


def worded(mismatch: SizeMismatch) -> Wording:
    """Put a mismatch into words."""
    missing = mismatch.missing
    return Wording(
        where=_where(mismatch),
        amount=f"{size(missing)} missing" if missing > 0 else f"{size(-missing)} left over",
        sizes=f"expected {mismatch.expected:,} bytes, got {mismatch.actual:,}",
        cause=_cause(mismatch),
    )


def _cause(mismatch: SizeMismatch) -> str:
    if mismatch.between_layers:
        return "it ends between two layers: a partial file such as NAME.conv.N?"
    check = "wrong cfg or --dialect? Run `bnorm check` to find out"
    return check if mismatch.missing > 0 else f"{check}; {WAY_ON}"


def _where(mismatch: SizeMismatch) -> str:
    array, last = mismatch.array, mismatch.last
    if array is None:
        return (
            f"continues after the last array, layer {last.layer} {last.name}" if last else "continues after the header"
        )
    name = f"layer {array.layer} {array.name}"
    if mismatch.actual <= array.offset:
        return f"ends before {name}"
    return f"ends inside {name}, after {mismatch.floats_held:,} of {array.size:,} floats"
