"""The arrays that are exported: those of the file, or those of the folded model, which is never written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from bnorm.batchnorm.formulas import quiet
from bnorm.darknet.layout import Array
from bnorm.darknet.model import Model
from bnorm.darknet.weights import Floats, Weights, open_weights
from bnorm.exchange.axes import reordered
from bnorm.folding.fates import Kept
from bnorm.transforms.fold.arrays import TOO_LARGE
from bnorm.transforms.fold.folded_model import FoldedModel, FoldOptions, fold_model


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The arrays of `model`, the network as it is exported. `folded` is the folded model, None without folding.

    `numbers` gives the layer in the given cfg for each layer of `model`: folding may remove `[batchnorm]` layers.
    """

    model: Model
    weights: Weights
    folded: FoldedModel | None
    numbers: tuple[int, ...]

    def blocks(self, array: Array) -> Iterator[Floats]:
        """Yield an array of `model.layout` in C order of its shape in memory, in blocks of whole rows of axis 0."""
        if array.axes is None:
            return self._stored(array)
        return reordered(lambda: self._stored(array), array.stored, array.axes)

    def read(self, array: Array) -> Floats:
        """Return an array of `model.layout`, float32, in its shape in memory."""
        stored, row = np.empty(array.stored, np.float32), 0
        for block in self._stored(array):
            stored[row : row + len(block)] = block  # a block is valid until the next one
            row += len(block)
        return stored if array.axes is None else stored.transpose(array.axes)

    def __getitem__(self, key: tuple[int, str]) -> Floats:
        """Return an array as `read` does, by its layer and name, as in `Weights`."""
        return self.read(self.model.layout.array(*key))

    def _stored(self, array: Array) -> Iterator[Floats]:
        """Yield the array as a file would store it."""
        if self.folded is None:
            return self.weights.blocks(array)
        return self.folded.blocks(self.weights.layout.array(self.numbers[array.layer], array.name))


@contextmanager
def open_source(model: Model, fold: FoldOptions | None) -> Iterator[Source]:
    """Open the arrays of the model, folded unless `fold` is None; a `WeightsError` if the file does not fit."""
    with open_weights(model) as weights:
        weights.require_fit()
        folded = None if fold is None else _fold(weights, fold)
        numbers = folded.survivors() if folded else range(len(model.network.layers))
        yield Source(model=folded.after if folded else model, weights=weights, folded=folded, numbers=tuple(numbers))


@quiet
def _fold(weights: Weights, options: FoldOptions) -> FoldedModel:
    """Return the folded model; layers whose folded values exceed float32 stay as they are."""
    overflowing: dict[int, Kept] = {}
    while True:
        folded = fold_model(weights, options, overflowing)
        more = frozenset[int]().union(*(piece.overflowing for piece in folded.stream()))
        if not more:
            return folded
        overflowing |= dict.fromkeys(more, TOO_LARGE)
