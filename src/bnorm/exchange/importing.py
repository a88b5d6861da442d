"""`bnorm import`: a weights file made from the arrays of another program."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bnorm.batchnorm.epsilon import DARKNET, Epsilon, as_epsilon
from bnorm.batchnorm.formulas import quiet
from bnorm.darknet.header import Header, written_by
from bnorm.darknet.layout import Array, plan
from bnorm.darknet.model import Model
from bnorm.darknet.network import Network
from bnorm.darknet.parts import array_name
from bnorm.darknet.weights import Floats, write_block
from bnorm.errors import TensorError
from bnorm.exchange.axes import reordered
from bnorm.exchange.matching import ORDER, Match, match
from bnorm.exchange.names import FAMILIES, NAMES
from bnorm.exchange.readers import StoredArray, open_arrays
from bnorm.files import FORCE, check_outputs, replacing
from bnorm.text import short
from bnorm.transforms.pair import Meter, Progress
from bnorm.transforms.rescaling import rescaled

WAYS = ("auto", *NAMES, ORDER)

MOST_SEEN = 2**64 - 1


class ImportedArray(NamedTuple):
    """An array of the new file: the name and type of the array that it was made from, and how its values changed.

    `rounding` is the largest |float32 / value − 1|, 0 for an exact array. `rescaled` is the largest |new / old − 1| of
    scales that were rewritten for another ε, None for all others. `not_finite` counts NaN and infinity.
    """

    layer: int
    part: str
    array: str
    source: str
    shape: tuple[int, ...]
    dtype: str
    rounding: float
    rescaled: float | None
    not_finite: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportReport:
    """The result of `import_arrays`.

    `epsilon` is that of the source if the scales were rewritten; `family_epsilon` the one that programs with these
    names use, None if that is darknet's or not known. `heads` are the `[yolo]` layers without `new_coords`, if the
    names are those of a family in which some programs decode boxes as `new_coords` does. `ends_after` is the last layer
    of a partial file, None for one with all arrays.
    """

    arrays_path: Path
    output: Path
    names: str
    epsilon: Epsilon | None
    family_epsilon: float | None
    heads: tuple[int, ...]
    header: Header
    nbytes: int
    ends_after: int | None
    arrays: tuple[ImportedArray, ...]
    ignored: tuple[str, ...]

    def __repr__(self) -> str:
        return f"<ImportReport: {len(self.arrays):,} arrays, output={str(self.output)!r}>"


@quiet
def import_arrays(
    model: Model,
    arrays: Path | str,
    output: Path | str,
    *,
    names: str = "auto",
    epsilon: Epsilon | str | None = None,
    seen: int = 0,
    partial: bool = False,
    force: bool = False,
    advance: Progress | None = None,
) -> ImportReport:
    """Write a weights file for the model's cfg from a .npz, a .safetensors, or a folder of .npy files.

    `names` is a family of names, `order` if the names do not tell what the arrays are, or `auto`. Every array is used
    exactly once, and rounded once to float32. `epsilon` is the ε of the source's batch normalisation: the scales are
    rewritten so that darknet computes the same; with None they are kept. The header is that of a new file of the
    model's dialect, with `seen`. `partial` accepts a file with the arrays of only the first layers, and writes those,
    as `darknet partial` does.

    `TensorError` for a file that cannot be read, or an array that is missing, extra or misshapen; `OutputError` for
    an output that must not be written; ValueError for an invalid argument, before anything is read.
    """
    arrays, output = Path(arrays), Path(output)
    if names not in WAYS:
        raise ValueError(f"names {names!r}, expected one of {', '.join(WAYS)}")
    if not 0 <= seen <= MOST_SEEN:
        raise ValueError(f"seen={seen}, expected 0 to {MOST_SEEN}")
    source_epsilon = None if epsilon is None else as_epsilon(epsilon)
    header = written_by(model.dialect)._replace(seen=seen)
    layout = plan(model.network, header)
    check_outputs([output], _inputs(model, arrays), force=force, cause=FORCE)
    with open_arrays(arrays) as reader:
        found = match(model._replace(layout=layout), reader, names, partial=partial)
        scales = _rescaled(arrays, found, source_epsilon) if source_epsilon else {}
        with replacing(output) as (file,):
            file.write(header.pack())
            meter = Meter(sum(array.size for array in found.arrays), advance)
            rows = tuple(
                _write(lambda block: write_block(file, block), _Import(arrays, array, stored, scales.get(array)), meter)
                for array, stored in found.arrays.items()
            )
    return ImportReport(
        arrays_path=arrays,
        output=output,
        names=found.family,
        epsilon=source_epsilon,
        family_epsilon=_family_epsilon(found.family),
        heads=_heads(model.network) if found.family in FAMILIES else (),
        header=header,
        nbytes=max(array.end for array in found.arrays),
        ends_after=None if len(rows) == len(layout.arrays) else rows[-1].layer,
        arrays=rows,
        ignored=found.ignored,
    )


def _inputs(model: Model, arrays: Path) -> list[Path]:
    """Return the files that are read."""
    files = sorted(arrays.glob("*.npy")) if arrays.is_dir() else [arrays]
    return [model.network.text.path, *files]


def _family_epsilon(family: str) -> float | None:
    epsilon = FAMILIES[family].epsilon if family in FAMILIES else DARKNET.value
    return None if epsilon == DARKNET.value else epsilon


def _heads(network: Network) -> tuple[int, ...]:
    """Return the `[yolo]` layers without `new_coords`."""
    return tuple(
        layer.index for layer in network.layers if layer.type == "yolo" and not layer.section.flag("new_coords")
    )


# --- another ε --------------------------------------------------------------------------------------------------------


class Rescaled(NamedTuple):
    """The new scales of one part, (C,), and the largest |new / old − 1|."""

    values: Floats
    change: float


def _rescaled(path: Path, found: Match, epsilon: Epsilon) -> dict[Array, Rescaled]:
    """Return the scales of every part for darknet's ε; a `TensorError` if no float32 scale computes the same."""
    by_name = {(array.layer, array.name): array for array in found.arrays}
    result = {}
    for array in found.arrays:
        if array.field == "scales":
            variance = by_name[array.layer, array_name(array.part, "rolling_variance")]
            scales, variances = _vector(found.arrays[array]), _vector(found.arrays[variance])
            result[array] = _rescaled_part(path, array, scales, variances, epsilon)
    return result


def _rescaled_part(
    path: Path, array: Array, scales: NDArray[np.float64], variance: NDArray[np.float64], epsilon: Epsilon
) -> Rescaled:
    """Return the new scales of one part."""
    bad = np.flatnonzero(~(np.isfinite(variance) & (variance >= 0)))
    if bad.size:
        name = array_name(array.part, "rolling_variance")
        what = f"layer {array.layer} {name} is {variance[bad[0]]:g} in channel {bad[0]}, expected finite values ≥ 0"
        raise TensorError(path, what, cause="without --epsilon the scales are not changed")
    values = rescaled(scales, variance, epsilon, DARKNET).astype(np.float32)
    if (np.isfinite(scales) & ~np.isfinite(values)).any():
        what = f"layer {array.layer} {array.name} exceeds float32 with darknet's ε, expected a larger variance or ε"
        raise TensorError(path, what)
    change = np.abs(values[scales != 0] / scales[scales != 0] - 1)
    return Rescaled(values, float(np.fmax.reduce(change, initial=0)))


def _vector(stored: StoredArray) -> NDArray[np.float64]:
    """Return an array of one value per channel as float64."""
    return np.concatenate([np.empty(0), *(block.astype(np.float64) for block in stored.blocks())])


# --- writing ----------------------------------------------------------------------------------------------------------


class _Import(NamedTuple):
    """One array to import: its source, and its new scales if they are rewritten for another ε."""

    path: Path
    array: Array
    stored: StoredArray
    scales: Rescaled | None


def _write(write: Callable[[Floats], None], one: _Import, meter: Meter) -> ImportedArray:
    """Write one array in the order in which the weights file stores it; return its row of the report."""
    array, stored, scales = one.array, one.stored, one.scales
    blocks = stored.blocks if array.axes is None else lambda: reordered(stored.blocks, array.shape, _inverse(array))
    rounding, not_finite = 0.0, 0
    for block in [scales.values] if scales else blocks():
        values = _rounded(one, block)
        write(values)
        meter.add(values.size)
        finite = np.isfinite(values)
        not_finite += int(values.size - np.count_nonzero(finite))
        if block.dtype == np.float64:
            rounding = max(rounding, _change(values, block, finite & (block != 0)))
    return ImportedArray(
        layer=array.layer,
        part=array.part,
        array=array.name,
        source=stored.name,
        shape=stored.shape,
        dtype=stored.dtype,
        rounding=rounding,
        rescaled=scales.change if scales else None,
        not_finite=not_finite,
    )


def _inverse(array: Array) -> tuple[int, ...]:
    """Return the axes that transpose the array from its order in memory to its order in the file."""
    return tuple(int(axis) for axis in np.argsort(array.axes or ()))


def _rounded(one: _Import, block: NDArray[Any]) -> Floats:
    """Return the block as float32; a `TensorError` for a finite value that float32 cannot hold."""
    values: Floats = block.astype(np.float32, copy=False)
    if block.dtype == np.float64 and (np.isinf(values) & np.isfinite(block)).any():
        what = f"layer {one.array.layer} {one.array.name} exceeds float32 in {short(one.stored.name)}"
        raise TensorError(one.path, f"{what}, expected at most 3.4e38")
    return values


def _change(values: Floats, block: NDArray[Any], compared: NDArray[np.bool_]) -> float:
    """Return the largest relative change."""
    return float(np.abs(values[compared] / block[compared] - 1).max(initial=0))
