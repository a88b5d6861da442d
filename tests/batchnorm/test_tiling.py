"""`batchnorm.tiling.Grouping`: the examples of its docstring; every value is in one piece."""

from __future__ import annotations

import numpy as np
import pytest

from bnorm.batchnorm.tiling import PIECE, PLANE, ROWS, WIDTH, Grouping
from bnorm.tensors.tensor import Span


@pytest.mark.parametrize(
    ("places", "columns", "images_per_piece", "pieces_per_plane"),
    [(1, 1, 256, 1), (13 * 13, 169, 256, 1), (300 * 300, 1024, 1, 2)],
)
def test_the_examples_of_the_docstring(places, columns, images_per_piece, pieces_per_plane):
    grouping = Grouping(places)
    assert grouping.columns == columns
    assert (grouping.images_per_piece, grouping.pieces_per_plane) == (images_per_piece, pieces_per_plane)


def test_a_tile_that_is_the_end_of_a_plane_is_its_last_piece():
    assert Grouping(300 * 300).pieces(Span(0, 1, PIECE, 300 * 300)) == slice(1, 2)


@pytest.mark.parametrize("places", [1, 2, 3, 64, 169, WIDTH + 1, PLANE, PLANE + 1, PIECE, PIECE + 1, 3 * PIECE + 5])
def test_pieces_are_whole_images_or_parts_of_one_and_not_too_large(places):
    grouping = Grouping(places)
    images = 2 * grouping.images_per_piece + 1
    pieces = np.array([grouping.piece_of(value) for value in range(places * images)])
    assert set(np.diff(pieces)) <= {0, 1}
    sizes = np.bincount(pieces)
    assert sizes.max() <= min(PIECE, ROWS * grouping.columns)
    assert sizes.max() == grouping.piece
    assert all(size % places == 0 or size in (PIECE, places % PIECE) for size in sizes)
