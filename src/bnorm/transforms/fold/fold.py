"""Fold batch normalisation into the layers beside it: a network that computes the same, for any reader.

With `gain = scale / deviation(rolling_variance)` per filter, `weights·gain` and `biases − rolling_mean·gain` give what
the normalised layer gave (AB `network.c: fuse_conv_batchnorm`). `folds` says what goes where, `affine` computes it. The
cfg loses its `batch_normalize` lines, and the sections of the `[batchnorm]` layers that went: several readers test for
the key alone, and hank refuses unknown ones.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import BinaryIO

import numpy as np

from bnorm.batchnorm.epsilon import DARKNET, RUNTIMES, Epsilon
from bnorm.batchnorm.formulas import Rolling
from bnorm.batchnorm.threads import processors
from bnorm.darknet.layout import Array
from bnorm.darknet.model import Model
from bnorm.darknet.network import Layer
from bnorm.darknet.parts import Part
from bnorm.darknet.weights import Floats, Weights, open_weights, write_block
from bnorm.errors import ProofError
from bnorm.files import check_outputs, replacing
from bnorm.statistics.normalisers import Key
from bnorm.transforms.fold.arrays import TOO_LARGE, Beyond
from bnorm.transforms.fold.folded_model import DEFECT, Wish, Work, prepare
from bnorm.transforms.fold.proof import Difference, Source, compare
from bnorm.transforms.response import Stored

POLICIES = ("error", "clamp", "skip")  # for a rolling variance that is negative, infinite or no number

Advance = Callable[[int, int], None] | None  # told how many values are done, of how many


@dataclass(frozen=True, slots=True)
class FoldedLayer:
    """What became of one normalised part. `reason` says why it stays, or where a `[batchnorm]` went.

    The errors are those of `verification.Difference`, None without it. `gain_change` says by how much, over the
    channels, another runtime's ε would change the gain at most: |gain' / gain − 1| for each row of `RUNTIMES`.
    """

    index: int
    type: str
    part: str
    folded: bool
    reason: str
    max_abs_error: float | None
    max_rel_error: float | None
    gain_change: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FoldReport:
    """What `fold` did, and the totals before and after; without outputs it was a dry run."""

    layers: tuple[FoldedLayer, ...]
    parameters_before: int
    parameters_after: int
    bytes_before: int
    bytes_after: int
    output: Path | None
    output_cfg: Path | None


@np.errstate(all="ignore")  # a file may hold any number, signalling NaN too: no news to the user
def fold(
    model: Model,
    output: Path | str | None,
    output_cfg: Path | str | None = None,
    *,
    layers: Collection[int] | None = None,
    epsilon: Epsilon = DARKNET,
    bad_variance: str = "error",
    verify: bool = True,
    dry_run: bool = False,
    force: bool = False,
    advance: Advance = None,
) -> FoldReport:
    """Write the folded weights and cfg, or neither; a dry run, for which `output` may be None, does all but that.

    `output_cfg` is by default the output with the suffix `.cfg`; `layers` selects, by default all, and nothing else is
    touched. With a rolling variance that is negative, infinite or no number, folding fails, takes the nearest variance
    (0 for no number), or leaves the layer as it is: `bad_variance`, one of `POLICIES`.

    `WeightsError` for a file that does not fit; `OutputError` for an output that must not be written, or where `verify`
    finds a difference that rounding does not explain; ValueError without an output that is needed.
    """
    targets = _targets(output, output_cfg)
    if not (targets or dry_run):
        raise ValueError("expected an output, or a dry run")
    with open_weights(model) as weights, ExitStack() as stack:
        check_outputs(targets, (model.network.text.path, weights.path), force=force, cause="--force overwrites it")
        weights.require_fit()
        files = () if dry_run else stack.enter_context(replacing(*targets))
        work, meter = _write(weights, Wish(layers, epsilon, bad_variance, verify), files, advance)
        differences = _verified(work, files, meter) if verify else {}
    return _report(work, differences, () if dry_run else targets)


def _targets(output: Path | str | None, output_cfg: Path | str | None) -> tuple[Path, ...]:
    if output is None:
        return ()
    output = Path(output)
    return output, Path(output_cfg) if output_cfg else output.parent / f"{output.stem}.cfg"


class _Meter:
    """Counts the values that are written and compared, and tells how far it is."""

    def __init__(self, work: Work, verify: bool, advance: Advance) -> None:
        self.advance, self.done = advance, 0
        compared = sum(prod(fold.part.weights) for fold in work.folds.folds)
        self.total = work.after.layout.parameters + compared * verify

    def add(self, count: int) -> None:
        self.done += count
        if self.advance:
            self.advance(self.done, self.total)


def _write(weights: Weights, wish: Wish, files: Sequence[BinaryIO], advance: Advance) -> tuple[Work, _Meter]:
    """Write the folded pair, in a dry run to nowhere; a layer whose folded numbers no float32 can hold stays."""
    beyond: dict[int, str] = {}
    while True:
        work = prepare(weights, wish, beyond)
        meter = _Meter(work, wish.verify, advance)
        try:
            _stream(work, files, meter)
        except Beyond as error:
            beyond |= dict.fromkeys(error.layers, TOO_LARGE)
        else:
            return work, meter


def _stream(work: Work, files: Sequence[BinaryIO], meter: _Meter) -> None:
    for file, head in zip(files, (work.weights.head(), work.text), strict=True) if files else ():
        file.seek(0)
        file.truncate()
        file.write(head)
    for block in work.stream():
        if files:
            write_block(files[0], block)
        meter.add(block.size)
    if files:
        files[0].flush()  # it is read again before it is closed


def _verified(work: Work, files: Sequence[BinaryIO], meter: _Meter) -> dict[Key, Difference]:
    """Compare every folded part with what was written, in a dry run with what would have been."""
    arrays = work.weights.layout.by_name
    old, new = _source(arrays, work.weights.blocks), _source(arrays, work.blocks)
    with ExitStack() as stack:
        if files:
            written = stack.enter_context(open_weights(work.after._replace(weights=Path(files[0].name))))
            survivors = work.survivors()
            after = {(survivors[array.layer], array.name): array for array in written.layout.arrays}
            new = _source(after, written.blocks)
        pool = stack.enter_context(ThreadPoolExecutor(processors() + 1))
        synced = [pool.submit(os.fsync, file.fileno()) for file in files]  # the disk works while the processors do
        folds = [change.fold for change in work.affines.values()]
        found = pool.map(lambda fold: compare(fold, old, new, work.statistics, work.epsilon), folds)
        result = {key: _proven(work, key, gap, meter) for key, gap in zip(work.affines, found, strict=True)}
        for sync in synced:
            sync.result()  # the system tells an error of writing once
    return result


def _proven(work: Work, key: Key, difference: Difference, meter: _Meter) -> Difference:
    if not difference.excess <= 1:
        what = f"layer {key[0]} differs by {difference.absolute:.1e} from what it was, expected rounding alone"
        raise ProofError(work.weights.path, what, cause=DEFECT)
    meter.add(prod(work.affines[key].fold.part.weights))
    return difference


def _source(arrays: Mapping[tuple[int, str], Array], blocks: Callable[[Array], Iterator[Floats]]) -> Source:
    return lambda layer, name: Stored(arrays[layer, name], lambda: blocks(arrays[layer, name]))


def _report(work: Work, differences: Mapping[Key, Difference], targets: tuple[Path, ...]) -> FoldReport:
    before = work.weights.layout
    rows = (
        _row(work, layer, part, differences)
        for layer in work.weights.model.network.layers
        for part in layer.parts
        if part.batch_normalize
    )
    output, output_cfg = targets or (None, None)
    return FoldReport(
        tuple(rows),
        parameters_before=before.parameters,
        parameters_after=work.after.layout.parameters,
        bytes_before=before.nbytes,
        bytes_after=work.after.layout.nbytes,
        output=output,
        output_cfg=output_cfg,
    )


def _row(work: Work, layer: Layer, part: Part, differences: Mapping[Key, Difference]) -> FoldedLayer:
    folds, index = work.folds, layer.index
    if index in folds.kept:
        return FoldedLayer(index, layer.type, part.name, False, folds.kept[index], None, None)
    own = (folds.shared.get(index, index), part.name)
    target = folds.removed.get(index)
    into = "" if target is None else f"into layer {target}"
    difference = differences.get(own if target is None else (target, ""))
    silent = difference.silent if difference else 0
    many = "1 channel gives" if silent == 1 else f"{silent} channels give"
    compared = f"{many} no number, so not compared" if silent else ""
    reasons = [into, work.notes.get(own, ""), compared]
    return FoldedLayer(
        index,
        layer.type,
        part.name,
        folded=True,
        reason="; ".join(filter(None, reasons)),
        max_abs_error=difference.absolute if difference else None,
        max_rel_error=difference.relative if difference else None,
        gain_change=_gain_change(work.statistics[own][1], work.epsilon),
    )


def _gain_change(rolling: Rolling, epsilon: Epsilon) -> dict[str, float]:
    """The largest |gain' / gain − 1| of the channels, for every runtime: gain is the inverse of the deviation."""
    chosen = epsilon.deviation(rolling.variance)
    return {
        name: float(np.abs(chosen / other.deviation(rolling.variance) - 1).max(initial=0))
        for name, other in RUNTIMES.items()
    }
