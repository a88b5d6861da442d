"""Arrays with their axes in another order, in a given amount of memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

STRIP = 1 << 22  # values of a strip, unless a single row is longer

Blocks = Callable[[], Iterator[NDArray[Any]]]  # an array in C order, in blocks of whole rows of its first axis


def reordered(blocks: Blocks, shape: tuple[int, ...], axes: tuple[int, ...]) -> Iterator[NDArray[Any]]:
    """Yield `array.transpose(axes)` in C order, in strips of whole rows; `blocks` yields the array, of this shape.

    Rows of the result lie across the array, which is therefore read once for each strip: transposed matrices of files
    from before 2015 and `flipped` convolutions, nothing else.
    """
    axis = axes[0]
    length = shape[axis]
    step = max(1, STRIP // max(prod(shape) // max(length, 1), 1))
    for start in range(0, length, step):
        yield np.ascontiguousarray(_strip(blocks, axis, start, min(start + step, length)).transpose(axes))


def _strip(blocks: Blocks, axis: int, start: int, stop: int) -> NDArray[Any]:
    """Return the part of the array from `start` to before `stop` on this axis."""
    row, parts = 0, []
    for block in blocks():
        if axis:
            parts.append(block[(slice(None),) * axis + (slice(start, stop),)].copy())
        else:
            parts.append(block[max(start - row, 0) : max(stop - row, 0)].copy())
        row += len(block)
    return np.concatenate(parts)
