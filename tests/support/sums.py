"""Sums in the order that `batchnorm.tiling` draws, value by value in plain Python: what both engines must give."""

from __future__ import annotations

import numpy as np


def in_order(values: list[float]) -> float:
    """One value after the other, beginning with the first."""
    total = values[0]
    for value in values[1:]:
        total += value
    return total


def halved(columns: list[float]) -> float:
    """Columns that are padded with zeros to a power of two, and added in halves."""
    while len(columns) & (len(columns) - 1):
        columns = [*columns, 0.0]
    while len(columns) > 1:
        half = len(columns) // 2
        columns = [columns[j] + columns[j + half] for j in range(half)]
    return columns[0]


def pieces(plane_values: np.ndarray) -> list[list[list[float]]]:
    """The rows of each piece of one channel, shape (N, L)."""
    images, places = plane_values.shape
    if places <= 4096:
        step = min(64 * 1024 // places, 256)
        return [plane_values[first : first + step].tolist() for first in range(0, images, step)]
    flat = [plane[first : first + 64 * 1024] for plane in plane_values for first in range(0, places, 64 * 1024)]
    return [[piece[row : row + 1024].tolist() for row in range(0, len(piece), 1024)] for piece in flat]


def sum_of(plane_values: np.ndarray) -> float:
    """The sum of one channel, shape (N, L), of float64."""
    sums = []
    for rows in pieces(plane_values):
        columns = [[row[j] for row in rows if j < len(row)] for j in range(len(rows[0]))]
        sums.append(halved([in_order(column) for column in columns]))
    return in_order([0.0, *sums])
