"""Fold batch normalisation into neighbouring layers: the new network computes the same for any reader.

With `gain = scale / deviation(rolling_variance)` per filter, `weights·gain` and `biases − rolling_mean·gain` compute
what the normalised layer computed (alexeyab `network.c: fuse_conv_batchnorm`). `folding.plan` decides what is folded
into what, and `arrays` computes the new arrays. The cfg loses its `batch_normalize` lines, and the sections of the
`[batchnorm]` layers that were folded: several readers test only for the key, and hank refuses unknown ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

import numpy as np

from bnorm.batchnorm.epsilon import DARKNET, RUNTIMES, Epsilon, as_epsilon
from bnorm.batchnorm.formulas import Rolling, quiet
from bnorm.checks.cfg_rules import cfg_findings
from bnorm.checks.findings import Finding, worst_first
from bnorm.darknet.layout import Array
from bnorm.darknet.model import Model
from bnorm.darknet.model_or_paths import model_or_paths
from bnorm.darknet.network import Layer
from bnorm.darknet.parts import Part
from bnorm.darknet.weights import Floats, Trailing, Weights, open_weights
from bnorm.errors import ProofError
from bnorm.files import FORCE, check_outputs
from bnorm.folding.fates import NOT_SELECTED, Into, Kept
from bnorm.statistics.bad_variance import BadVariance, policy_by_name
from bnorm.statistics.normalisers import Key
from bnorm.text import plural
from bnorm.transforms.fold.arrays import TOO_LARGE
from bnorm.transforms.fold.folded_model import DEFECT, FoldedModel, FoldOptions, fold_model
from bnorm.transforms.fold.proof import Difference, LayerProof, Source
from bnorm.transforms.pair import Meter, NullWriter, Progress, Targets, Writer, targets, while_syncing, writing
from bnorm.transforms.response import Stored


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldedLayer:
    """The result for one normalised part.

    `into` is the layer that a `[batchnorm]` was folded into, None for other layers. `clamped` are the channels whose
    rolling variance was clamped. `silent_channels` counts the channels that produce no finite value and were not
    compared. `reason` puts all this into words, or explains why the layer was not folded; `selected` is False if that
    is because only other layers were asked for.

    The errors are those of `proof.Difference`, None without a proof. `gain_change` is, for each row of `RUNTIMES`, the
    largest change of a channel's gain that the runtime's ε would cause: |gain' / gain − 1|; NaN if it computes NaN.
    """

    index: int
    type: str
    part: str
    folded: bool
    reason: str
    max_abs_error: float | None = None
    max_rel_error: float | None = None
    gain_change: Mapping[str, float] = field(default_factory=dict)
    into: int | None = None
    clamped: tuple[int, ...] = ()
    silent_channels: int = 0
    selected: bool = True

    def __repr__(self) -> str:
        name = f"{self.index} {self.type} {self.part}".rstrip()
        error = "" if self.max_rel_error is None else f", max_rel_error={self.max_rel_error:.1e}"
        return f"<FoldedLayer: {name}, {'folded' if self.folded else 'kept'}{error}>"


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldReport:
    """The result of `fold`, with totals before and after; the outputs are None after a dry run.

    `verified` says whether every folded layer was compared before and after, and `epsilon` is the ε that was folded.
    `findings` are those of `check` on the folded cfg, with its line and layer numbers.
    """

    layers: tuple[FoldedLayer, ...]
    parameters_before: int
    parameters_after: int
    bytes_before: int
    bytes_after: int
    output: Path | None
    output_cfg: Path | None
    findings: tuple[Finding, ...]
    verified: bool
    epsilon: Epsilon

    @property
    def worst(self) -> FoldedLayer | None:
        """Return the folded layer with the largest relative error; None without a comparison."""
        return worst_of(self.layers)

    def __repr__(self) -> str:
        output = f", output={str(self.output)!r}" if self.output else ""
        return f"<FoldReport: folded={sum(layer.folded for layer in self.layers)} of {len(self.layers)}{output}>"


@model_or_paths
@quiet
def fold(
    model: Model,
    output: Path | str | None,
    output_cfg: Path | str | None = None,
    *,
    layers: Iterable[int] | None = None,
    epsilon: Epsilon | str = DARKNET,
    bad_variance: BadVariance | str = BadVariance.ERROR,
    verify: bool = True,
    dry_run: bool = False,
    force: bool = False,
    trailing: Trailing | str = Trailing.ERROR,
    advance: Progress | None = None,
) -> FoldReport:
    """Write the folded weights and cfg, or neither; a dry run, for which `output` may be None, writes nothing.

    The paths of a cfg and its weights can replace the model: `fold("net.cfg", "net.weights", "folded.weights")`.
    `output_cfg` is by default the output with the suffix `.cfg`. `layers` selects, by default all; the others are not
    touched. `epsilon` is an `Epsilon`, the name of one in `RUNTIMES`, or a text such as `1e-6:outside`. With a rolling
    variance that is bad for this ε (see `statistics.variance_rule`), `bad_variance` decides: `error` fails, `clamp`
    takes the nearest variance (0 for NaN), `skip` leaves the layer unchanged. With bytes after the last array,
    `trailing` decides: `error` fails, `keep` copies them, `drop` leaves them out.

    `WeightsError` for a file that does not fit; `OutputError` for an output that must not be written; `ProofError` if
    `verify` finds a difference that rounding does not explain; ValueError for an invalid argument or a missing output.
    Arguments are checked before anything is read.
    """
    options = FoldOptions(
        layers=known_layers(model, layers), epsilon=as_epsilon(epsilon), bad_variance=policy_by_name(bad_variance)
    )
    paths = None if output is None else targets(output, output_cfg)
    if paths is None and not dry_run:
        raise ValueError("expected an output, or a dry run")
    with open_weights(model, trailing) as weights, ExitStack() as stack:
        check_outputs(paths or (), (model.network.text.path, weights.path), force=force, cause=FORCE)
        writer = NullWriter() if dry_run or paths is None else stack.enter_context(writing(paths))
        folded, meter = _write(weights, options, writer, verify, advance)
        differences = compared(folded, writer, meter) if verify else {}
        findings = worst_first(cfg_findings(folded.after.network))
    return _report(folded, differences, None if dry_run else paths, findings, verify)


def known_layers(model: Model, layers: Iterable[int] | None) -> frozenset[int] | None:
    """Return the selected layers; ValueError for a layer that the network does not have."""
    if layers is None:
        return None
    selection, count = frozenset(layers), len(model.network.layers)  # once: an iterator is empty afterwards
    for layer in selection:
        if layer not in range(count):
            raise ValueError(f"layer {layer}, expected 0 to {count - 1}")
    return selection


def _write(
    weights: Weights, options: FoldOptions, writer: Writer, verify: bool, advance: Progress | None
) -> tuple[FoldedModel, Meter]:
    """Plan and write the folded pair; repeat it without the layers whose folded values exceed float32."""
    overflowing: dict[int, Kept] = {}
    while True:
        folded = fold_model(weights, options, overflowing)
        compared = sum(prod(change.fold.part.weights) for change in folded.changes.values())
        meter = Meter(folded.after.layout.parameters + compared * verify, advance)
        more = _stream(folded, writer, meter)
        if not more:
            for data in weights.kept():
                writer.append(data)
            return folded, meter
        overflowing |= dict.fromkeys(more, TOO_LARGE)


def _stream(folded: FoldedModel, writer: Writer, meter: Meter) -> set[int]:
    """Write the folded pair, each block while the next is computed; return the layers whose values exceed float32."""
    overflowing: set[int] = set()
    with ThreadPoolExecutor(1) as pool:
        written = pool.submit(writer.begin, folded.weights.head(), folded.text)
        for values, layers in folded.stream():
            written.result()
            written = pool.submit(writer.write, values)
            meter.add(values.size)
            overflowing |= layers
        written.result()
    return overflowing


def compared(folded: FoldedModel, writer: Writer, meter: Meter) -> dict[Key, Difference]:
    """Compare every folded part before and after; after is the written file, or of a `NullWriter` what it would hold.

    `ProofError` for a difference that rounding does not explain.
    """
    arrays = folded.weights.layout.by_name
    old, new = _source(arrays, folded.weights.blocks), _source(arrays, folded.blocks)
    with ExitStack() as stack:
        if written := writer.reopen(folded.after):
            stack.enter_context(written)
            survivors = folded.survivors()
            after = {(survivors[array.layer], array.name): array for array in written.layout.arrays}
            new = _source(after, written.blocks)
        pool = stack.enter_context(while_syncing(writer))
        proofs = [
            LayerProof(fold=change.fold, old=old, new=new, normalisers=folded.normalisers, epsilon=folded.epsilon)
            for change in folded.changes.values()
        ]
        results = zip(folded.changes, pool.map(LayerProof.difference, proofs), strict=True)
        return {key: _proven(folded, key, difference, meter) for key, difference in results}


def _source(arrays: Mapping[tuple[int, str], Array], blocks: Callable[[Array], Iterator[Floats]]) -> Source:
    """Return a source of these arrays, by the layer's number in the old network and the array's name."""

    def stored(layer: int, name: str) -> Stored:
        array = arrays[layer, name]
        return Stored(array, lambda: blocks(array))

    return stored


def _proven(folded: FoldedModel, key: Key, difference: Difference, meter: Meter) -> Difference:
    """Count a compared part; `ProofError` if the difference exceeds its bound, or is NaN."""
    if not difference.excess <= 1:
        what = f"layer {key[0]} differs by {difference.absolute:.1e} after folding, expected no more than rounding"
        raise ProofError(folded.weights.path, what, cause=DEFECT)
    meter.add(prod(folded.changes[key].fold.part.weights))
    return difference


def _report(
    folded: FoldedModel,
    differences: Mapping[Key, Difference],
    paths: Targets | None,
    findings: tuple[Finding, ...],
    verified: bool,
) -> FoldReport:
    """Return the totals, and a row for each normalised part in the order of the file."""
    before, after = folded.weights.layout, folded.after.layout
    return FoldReport(
        layers=folded_layers(folded, differences),
        parameters_before=before.parameters,
        parameters_after=after.parameters,
        bytes_before=folded.weights.nbytes,
        bytes_after=after.nbytes + folded.weights.kept_bytes,
        output=paths.weights if paths else None,
        output_cfg=paths.cfg if paths else None,
        findings=findings,
        verified=verified,
        epsilon=folded.epsilon,
    )


def folded_layers(folded: FoldedModel, differences: Mapping[Key, Difference]) -> tuple[FoldedLayer, ...]:
    """Return a row for each normalised part in the order of the file; without errors where nothing was compared."""
    return tuple(
        _row(folded, layer, part, differences)
        for layer in folded.weights.model.network.layers
        for part in layer.parts
        if part.batch_normalize
    )


def worst_of(layers: Iterable[FoldedLayer]) -> FoldedLayer | None:
    """Return the folded layer with the largest relative error; None without a comparison."""
    errors = [layer for layer in layers if layer.max_rel_error is not None]
    return max(errors, key=lambda layer: layer.max_rel_error or 0, default=None)


def _row(folded: FoldedModel, layer: Layer, part: Part, differences: Mapping[Key, Difference]) -> FoldedLayer:
    """Return the result for one normalised part; its `reason` is worded only here."""
    index, fate = layer.index, folded.folds.fates[layer.index]
    if isinstance(fate, Kept):
        return FoldedLayer(
            index=index,
            type=layer.type,
            part=part.name,
            folded=False,
            reason="; ".join(fate.reasons),
            selected=fate != NOT_SELECTED,
        )
    own = (folded.folds.shared.get(index, index), part.name)  # the part that holds the arrays
    into = fate.target if isinstance(fate, Into) else None
    difference = differences.get(own if into is None else (into, ""))
    clamped, silent = folded.clamped.get(own), difference.silent if difference else 0
    remarks = [
        "" if into is None else f"into layer {into}",
        f"clamped: {clamped}" if clamped else "",
        f"{plural(silent, 'channel')} without a finite output: not compared" if silent else "",
    ]
    return FoldedLayer(
        index=index,
        type=layer.type,
        part=part.name,
        folded=True,
        reason="; ".join(filter(None, remarks)),
        max_abs_error=difference.absolute if difference else None,
        max_rel_error=difference.relative if difference else None,
        gain_change=_gain_change(folded.normalisers[own].rolling, folded.epsilon),
        into=into,
        clamped=clamped.channels if clamped else (),
        silent_channels=silent,
    )


def _gain_change(rolling: Rolling, epsilon: Epsilon) -> dict[str, float]:
    """Return the largest |gain' / gain − 1| of the channels for every runtime; gain here is 1 / deviation.

    NaN for a runtime that computes NaN from one of the variances.
    """
    chosen = epsilon.deviation(rolling.variance)
    return {
        name: float(np.abs(chosen / other.deviation(rolling.variance) - 1).max(initial=0))
        for name, other in RUNTIMES.items()
    }
