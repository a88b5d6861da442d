"""`batchnorm.tiling.RowScheme`: the examples of its docstring; every value is in one row and one piece."""

from __future__ import annotations

import numpy as np
import pytest

from bnorm.batchnorm.tiling import PIECE, ROW, RUN, RowScheme
from bnorm.tensors.tensor import Span


@pytest.mark.parametrize(
    ("places", "images_per_row", "rows_per_plane", "rows_per_piece", "images_per_piece"),
    [(1, 256, 1, 16, 4096), (13 * 13, 1, 1, 24, 24), (208 * 208, 1, 169, 16, 1)],
)
def test_the_examples_of_the_docstring(places, images_per_row, rows_per_plane, rows_per_piece, images_per_piece):
    scheme = RowScheme(places)
    assert (scheme.images_per_row, scheme.rows_per_plane) == (images_per_row, rows_per_plane)
    assert (scheme.rows_per_piece, scheme.images_per_piece) == (rows_per_piece, images_per_piece)


def test_a_large_plane_s_last_piece_is_short_and_the_next_plane_begins_another():
    scheme = RowScheme(208 * 208)
    starts = scheme.piece_starts(*scheme.rows(Span(0, 1, 0, 2 * 208 * 208)))
    assert starts.tolist() == [*range(0, 169, 16), *range(169, 338, 16)]


def test_a_tile_counts_its_pieces_from_its_own_first_row():
    scheme = RowScheme(208 * 208)
    tile = Span(0, 1, 10 * PIECE, 208 * 208)  # the last piece of a plane
    assert scheme.rows(tile) == (160, 169)
    assert scheme.piece_starts(*scheme.rows(tile)).tolist() == [0]


@pytest.mark.parametrize("places", [1, 2, 3, ROW - 1, ROW, 169, RUN, RUN + 1, 1000, PIECE, PIECE + 1, 3 * PIECE + 5])
def test_rows_are_as_long_as_they_may_be_and_pieces_are_whole_rows(places):
    scheme, images = RowScheme(places), 2 * RowScheme(places).images_per_piece + 1
    rows = np.array([scheme.row_of(value) for value in range(places * images)])
    assert (np.diff(rows) >= 0).all()
    assert (np.diff(rows) <= 1).all()
    assert np.bincount(rows).max() <= RUN
    starts = scheme.piece_starts(*scheme.rows(Span(0, 1, 0, places * images)))
    sizes = np.diff([*np.searchsorted(rows, starts), len(rows)])
    assert sizes.sum() == places * images
    assert sizes.max() <= PIECE
