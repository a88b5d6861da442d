"""The embeddings that a [yolo] layer takes from another layer for tracking, and the number of that layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bnorm.darknet.layer import Layer
from bnorm.darknet.shape_rules import boxes

NO_EMBEDDING = 999_999  # the default of embedding_layer (AlexeyAB, `parser.c: parse_yolo`)


def embedding_layer(yolo: Layer) -> int | None:
    """Return the number of the layer that a [yolo] takes embeddings from, possibly out of range; None without one."""
    number = yolo.section.integer("embedding_layer", NO_EMBEDDING)
    index = yolo.index + number if number < 0 else number
    return None if index == NO_EMBEDDING else index


def embedding_size(yolo: Layer, earlier: Sequence[Layer]) -> tuple[int, int]:
    """Return the values per embedding, and the filters that are left over; (0, 0) without an embedding layer.

    These are the quotient and remainder of that layer's filters divided by the boxes of the [yolo]. For a layer that
    comes after the [yolo], the fork reads zeros.
    """
    index = embedding_layer(yolo)
    if index is None or not 0 <= index < yolo.index:
        return 0, 0
    given = earlier[index]
    count = _FILTERS.get(given.type, _none)
    return divmod(count(given), boxes(yolo.section))


def _none(_: Layer) -> int:
    return 0


def _channels(layer: Layer) -> int:
    return layer.output.channels


def _inputs(layer: Layer) -> int:
    return len(layer.reads)


def _boxes(layer: Layer) -> int:
    return boxes(layer.section)


# The field `n` of a layer: its filters, the layers that it reads, or its boxes. It is 0 in all other types.
_FILTERS: dict[str, Callable[[Layer], int]] = {
    "convolutional": _channels,
    "local": _channels,
    "connected": _channels,
    "route": _inputs,
    "shortcut": _inputs,
    "yolo": _boxes,
    "Gaussian_yolo": _boxes,
    "region": _boxes,
    "detection": _boxes,
}
