"""Arrays converted to types with fewer bits: their scales, values and errors.

    float16    every array, rounded to nearest even
    int8       weights: q = round(w / scale), |q| ≤ 127, value = q * scale; scale = max |w| / 127
    int16      the same with 32,767

Symmetric, with a zero point of 0, and one scale for each output channel or for the tensor. Biases stay float32: as
integers they would need the scale of the layer's input, which a weights file does not have.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bnorm.batchnorm.formulas import quiet
from bnorm.darknet.layout import FORMS
from bnorm.darknet.network import Network
from bnorm.errors import WeightsError
from bnorm.exchange.job import SCALE, Item, Job

Doubles = NDArray[np.float64]

LARGEST = {"int8": 127, "int16": 32_767}

CODES = {"float16": "<f2", "int8": "<i1", "int16": "<i2"}

DTYPES = ("float32", *CODES)

SCALE_PER = ("channel", "tensor")

SMALLEST = float(np.finfo(np.float32).smallest_subnormal)  # the least scale, used where a division would give 0


class Rounding(NamedTuple):
    """The error of one array in another type, with one kind of scale.

    `scale_min` and `scale_max` are the smallest and largest scale, None for float16. `max_abs` and `rms` are the
    largest error, value − rounded value, and the root of its mean square. `snr` is 10·log10(Σ value² / Σ error²) in
    decibels: infinite without an error, None for an array of zeros.
    """

    layer: int
    part: str
    array: str
    name: str
    dtype: str
    scale_per: str
    scale_min: float | None
    scale_max: float | None
    max_abs: float
    rms: float
    snr: float | None


class Encoded(NamedTuple):
    """The arrays as they are written, and their errors; for integers, with either kind of scale."""

    items: tuple[Item, ...]
    roundings: tuple[Rounding, ...]


@quiet
def encoded(job: Job) -> Encoded:
    """Return the arrays in the type of the job; a `WeightsError` for values that it cannot hold."""
    dtype = job.options.dtype
    if dtype == "float32":
        return Encoded(job.items, ())
    parts = [_float16(job, item) if dtype == "float16" else _integers(job, item) for item in job.items]
    return Encoded(
        items=tuple(item for part in parts for item in part.items),
        roundings=tuple(rounding for part in parts for rounding in part.roundings),
    )


# --- float16 ----------------------------------------------------------------------------------------------------------


def _float16(job: Job, item: Item) -> Encoded:
    new = item._replace(dtype=CODES["float16"], blocks=lambda: (block.astype("<f2") for block in item.blocks()))
    errors = _Errors(item.size)
    for block in item.blocks():
        rounded = block.astype("<f2")
        if (np.isinf(rounded) & np.isfinite(block)).any():
            what = f"layer {item.array.layer} {item.array.name} exceeds float16, expected at most 65,504"
            raise WeightsError(job.source.weights.path, what, cause="bnorm inspect --channels shows the ranges")
        errors.add(block, rounded)
    return Encoded((new,), (errors.rounding(item, "float16", "", None),))


# --- integers ---------------------------------------------------------------------------------------------------------


def _integers(job: Job, item: Item) -> Encoded:
    """Return the weights of a layer as integers, and their scales; other arrays unchanged."""
    axis = filter_axis(job.source.model.network, item)
    if axis is None:
        return Encoded((item,), ())
    dtype, per = job.options.dtype, job.options.scale_per
    magnitudes = _magnitudes(job, item, axis)
    scales = {
        "channel": _scales(magnitudes, LARGEST[dtype]),
        "tensor": _scales(magnitudes.max(initial=0, keepdims=True), LARGEST[dtype]),
    }
    chosen = scales[per]

    def integers() -> Iterator[NDArray[Any]]:
        for block, (rows,) in _with_rows(item, axis, chosen):
            yield _quantised(block, rows, LARGEST[dtype]).astype(CODES[dtype])

    weights = item._replace(dtype=CODES[dtype], blocks=integers)
    table = Item(
        name=item.name + SCALE,
        array=item.array,
        shape=chosen.shape,
        dtype="<f4",
        blocks=lambda: iter([chosen]),
        scale_of=item.name,
    )
    return Encoded((weights, table), _roundings(item, axis, dtype, scales))


def filter_axis(network: Network, item: Item) -> int | None:
    """Return the axis of the output channels of weights; None for other arrays, and for weights without one."""
    kinds = {part.name: part.kind for part in network.layers[item.array.layer].parts}
    form = FORMS.get(kinds[item.array.part])
    return form.filters if form and item.array.field == "weights" else None


def _magnitudes(job: Job, item: Item, axis: int) -> Doubles:
    """Return the largest magnitude of each output channel, (channels,)."""
    result = np.zeros(item.shape[axis])
    row = 0
    for block in item.blocks():
        others = tuple(number for number in range(block.ndim) if number != axis)
        largest = np.abs(block).max(axis=others, initial=0)
        if not np.isfinite(largest).all():
            what = f"layer {item.array.layer} {item.array.name} holds NaN or infinity, expected finite weights"
            raise WeightsError(job.source.weights.path, what, cause="bnorm check names the values")
        rows = slice(row, row + len(block)) if axis == 0 else slice(None)
        result[rows] = np.maximum(result[rows], largest)
        row += len(block)
    return result


def _scales(magnitudes: Doubles, largest: int) -> NDArray[np.float32]:
    """Return one scale for each magnitude; 1 where all weights are 0, so that no reader divides by 0."""
    scales = np.maximum(magnitudes / largest, SMALLEST).astype(np.float32)
    return np.where(magnitudes == 0, np.float32(1), scales)


def _with_rows(item: Item, axis: int, *scales: NDArray[np.float32]) -> Iterator[tuple[NDArray[Any], list[Doubles]]]:
    """Yield each block in float64, and each of the scales in a shape that broadcasts with it."""
    shape = [-1 if number == axis else 1 for number in range(len(item.shape))]
    columns = [each.astype(np.float64).reshape(shape) for each in scales]
    row = 0
    for block in item.blocks():
        rows = slice(row, row + len(block)) if axis == 0 else slice(None)
        yield block.astype(np.float64), [column[rows] if column.size > 1 else column for column in columns]
        row += len(block)


def _quantised(block: Doubles, scales: Doubles, largest: int) -> Doubles:
    """Return the integers of a block, as float64; half-way values are rounded to even."""
    integers = block / scales
    np.rint(integers, out=integers)
    return np.clip(integers, -largest, largest, out=integers)


def _roundings(item: Item, axis: int, dtype: str, scales: Mapping[str, NDArray[np.float32]]) -> tuple[Rounding, ...]:
    """Return the errors with each kind of scale."""
    errors = {per: _Errors(item.size) for per in scales}
    for block, columns in _with_rows(item, axis, *scales.values()):
        for per, column in zip(scales, columns, strict=True):
            rounded = _quantised(block, column, LARGEST[dtype])
            rounded *= column
            errors[per].add(block, rounded)
    return tuple(errors[per].rounding(item, dtype, per, scales[per]) for per in scales)


# --- errors -----------------------------------------------------------------------------------------------------------


class _Errors:
    """The errors of an array, summed over its blocks in float64."""

    def __init__(self, count: int) -> None:
        self._count, self._signal, self._noise, self._largest = count, 0.0, 0.0, 0.0

    def add(self, values: NDArray[Any], rounded: NDArray[Any]) -> None:
        """Add a block, given its values before and after rounding; NaN and infinity count as exact."""
        exact = values.astype(np.float64, copy=False)
        error = rounded - exact
        finite = np.isfinite(exact)
        if not finite.all():
            exact, error = np.where(finite, exact, 0), np.where(finite, error, 0)
        self._signal += float(np.square(exact).sum())
        self._largest = max(self._largest, float(error.max(initial=0)), -float(error.min(initial=0)))
        self._noise += float(np.square(error, out=error).sum())

    def rounding(self, item: Item, dtype: str, per: str, scales: NDArray[np.float32] | None) -> Rounding:
        """Return the errors of all blocks."""
        return Rounding(
            layer=item.array.layer,
            part=item.array.part,
            array=item.array.name,
            name=item.name,
            dtype=dtype,
            scale_per=per,
            scale_min=None if scales is None else float(scales.min(initial=np.inf)),
            scale_max=None if scales is None else float(scales.max(initial=0)),
            max_abs=self._largest,
            rms=math.sqrt(self._noise / max(self._count, 1)),
            snr=_decibels(self._signal, self._noise),
        )


def _decibels(signal: float, noise: float) -> float | None:
    if signal == 0:
        return None
    return 10 * math.log10(signal / noise) if noise else math.inf
