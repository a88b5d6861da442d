"""Proof of a conversion: every array of the new file is compared with the old file.

An array that was only moved must have the same bits. If a part has new vectors, it still computes
`y = gain·(weights·x) + offset` with the same weights, so gain and offset are compared, in float64: the old values with
the old ε, the new values with the new ε, or 1 and the biases if a layer had no batch normalisation. They differ by the
one rounding of a scale, or of an identity's variance.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from bnorm.batchnorm.epsilon import Vector
from bnorm.batchnorm.formulas import quiet
from bnorm.darknet.layout import Array
from bnorm.darknet.parts import array_name
from bnorm.darknet.weights import Arrays, Floats, same_bits
from bnorm.statistics.normalisers import normalises, read_normaliser
from bnorm.transforms.convert.converted_model import ConvertedModel, PartChange
from bnorm.transforms.fold.proof import DOUBLE, ROUNDING, SMALLEST, Difference


def carried_wrongly(converted: ConvertedModel, array: Array, written: Iterable[Floats]) -> bool:
    """Return whether the bits of a moved array differ from those of its source; False for a new vector."""
    source = converted.source(array)
    return source is not None and not same_bits(converted.weights.blocks_as(source, array.axes), written)


@quiet
def difference(converted: ConvertedModel, change: PartChange, new: Arrays) -> Difference | None:
    """Compare gain and offset of a part before and after; return None for a part without new vectors."""
    if not change.vectors or not normalises(change.part):
        return None
    after = read_normaliser(new, change.layer.index, change.part)
    before = converted.normalisers.get((change.layer.index, change.old_name))
    if before is None:
        biases = converted.weights[change.layer.index, array_name(change.old_name, "biases")].astype(np.float64)
        lines = np.ones_like(biases), biases
    else:
        lines = before.gain_offset(converted.epsilons.old)
    gain, offset = after.gain_offset(converted.epsilons.new)
    shift = np.abs(after.rolling.mean * gain)
    least = SMALLEST / converted.epsilons.new.deviation(after.rolling.variance)  # the rounding of a scale near 0
    bound = ROUNDING * np.abs(gain) + least
    bounds = bound, bound * np.abs(after.rolling.mean) + DOUBLE * (shift + np.abs(after.parameters.biases))
    return _worst(lines, (gain, offset), bounds)


def _worst(before: tuple[Vector, Vector], after: tuple[Vector, Vector], bounds: tuple[Vector, Vector]) -> Difference:
    """Compare gains and offsets, (C,) each, of the channels whose old values are finite."""
    finite = np.isfinite(before[0]) & np.isfinite(before[1])
    gaps = [np.abs(new - old)[finite] for old, new in zip(before, after, strict=True)]
    excess = [_ratio(gap, bound[finite]) for gap, bound in zip(gaps, bounds, strict=True)]
    relative = _ratio(gaps[0], np.abs(before[0][finite]))
    compared = bool(finite.any())
    return Difference(
        absolute=max(float(gap.max()) for gap in gaps) if compared else None,
        relative=float(relative.max()) if compared else None,
        excess=max((float(np.nan_to_num(part, nan=np.inf).max(initial=0)) for part in excess), default=0.0),
        silent=int(np.count_nonzero(~finite)),
    )


def _ratio(gap: Vector, size: Vector) -> Vector:
    """Return gap / size, and 0 where both are 0."""
    ratio: Vector = np.where(gap == 0, 0.0, gap / size)
    return ratio
