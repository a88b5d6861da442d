"""Convert a model to another fork's order, another ε, another header, or unfold it; its function stays the same.

All requested changes are made in one pass. A change that cannot be made exactly is refused, with layer and reason.
`converted_model` decides, `proof` compares every array of the new file with the old one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bnorm.batchnorm.epsilon import Epsilon
from bnorm.batchnorm.formulas import quiet
from bnorm.checks.cfg_rules import cfg_findings
from bnorm.checks.findings import Finding, worst_first
from bnorm.darknet.autodetect import has_gates
from bnorm.darknet.header import Header
from bnorm.darknet.layout import Array
from bnorm.darknet.model import Model
from bnorm.darknet.translation import CfgChange
from bnorm.darknet.weights import Trailing, Weights, open_weights
from bnorm.errors import ProofError
from bnorm.files import FORCE, check_outputs
from bnorm.statistics.bad_variance import BadVariance
from bnorm.statistics.normalisers import Key
from bnorm.transforms.convert.converted_model import ConvertedModel, PartChange, converted_model
from bnorm.transforms.convert.header import with_header_of_its_size
from bnorm.transforms.convert.proof import carried_wrongly, difference
from bnorm.transforms.convert.request import EpsilonChange, request
from bnorm.transforms.fold.folded_model import DEFECT
from bnorm.transforms.fold.proof import Difference
from bnorm.transforms.pair import Meter, NullWriter, Progress, Targets, Writer, targets, while_syncing, writing


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertedLayer:
    """The result for one part: what was changed, or why not.

    `kinds` are of `moved` (gates in another order), `transposed`, `biases added`, `biases removed`, `scales` (rewritten
    for another ε), `clamped` (its variances) and `unfolded`; empty if the part is unchanged, for the `reason`.
    `scale_change` is the largest |new / old − 1| of its scales. The errors are those of gain and offset, None without
    new vectors or without a proof.
    """

    index: int
    type: str
    part: str
    kinds: tuple[str, ...]
    reason: str
    scale_change: float | None = None
    max_abs_error: float | None = None
    max_rel_error: float | None = None
    clamped: tuple[int, ...] = ()
    silent_channels: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertReport:
    """The result of `convert`, with totals before and after; without outputs it was a dry run.

    `epsilons` are None if the scales were not rewritten. `findings` are those of `check` on the new cfg, with its
    line and layer numbers. `ambiguous_gates` says that the gates are in one fork's order, but the version in the
    header is another fork's: a reader that relies on the version needs an explicit dialect.
    """

    dialect_before: str
    dialect_after: str
    header_before: Header
    header_after: Header
    cfg_changes: tuple[CfgChange, ...]
    layers: tuple[ConvertedLayer, ...]
    ambiguous_gates: bool
    epsilons: EpsilonChange | None
    verified: bool
    parameters_before: int
    parameters_after: int
    bytes_before: int
    bytes_after: int
    output: Path | None
    output_cfg: Path | None
    findings: tuple[Finding, ...]

    @property
    def worst(self) -> ConvertedLayer | None:
        """Return the layer with the largest relative error; None without a comparison."""
        compared = [layer for layer in self.layers if layer.max_rel_error is not None]
        return max(compared, key=lambda layer: layer.max_rel_error or 0, default=None)


@quiet
def convert(
    model: Model,
    output: Path | str | None,
    output_cfg: Path | str | None = None,
    *,
    to: str | None = None,
    epsilon_from: Epsilon | str | None = None,
    epsilon_to: Epsilon | str | None = None,
    header: int | None = None,
    seen: int | None = None,
    unfold: bool = False,
    layers: Iterable[int] | None = None,
    bad_variance: BadVariance | str = BadVariance.ERROR,
    verify: bool = True,
    dry_run: bool = False,
    force: bool = False,
    trailing: Trailing | str = Trailing.ERROR,
    advance: Progress | None = None,
) -> ConvertReport:
    """Write the converted weights and cfg, or neither; a dry run, for which `output` may be None, writes nothing.

    `to` is another dialect. `epsilon_from` and `epsilon_to` rewrite the scales; with a rolling variance that is bad for
    one of the two (see `statistics.variance_rule`), `bad_variance` decides as in `fold`. `header` is its size, 16 or 20
    bytes; `seen` the number of images in it. `unfold` puts an identity batch normalisation for `epsilon_to` (by default
    darknet's ε) into every bare convolution of `layers`, by default all except those before a head. `trailing` decides
    about bytes after the last array, as in `fold`.

    `CfgError` and `WeightsError` for a change that cannot be made exactly; the other errors are those of `fold`.
    """
    wanted = request(
        model,
        to=to,
        epsilon_from=epsilon_from,
        epsilon_to=epsilon_to,
        header=header,
        seen=seen,
        unfold=unfold,
        layers=layers,
        bad_variance=bad_variance,
    )
    paths = None if output is None else targets(output, output_cfg)
    if paths is None and not dry_run:
        raise ValueError("expected an output, or a dry run")
    if header is not None and not model.fits:
        model = with_header_of_its_size(model)
    with open_weights(model, trailing) as weights, ExitStack() as stack:
        check_outputs(paths or (), (model.network.text.path, weights.path), force=force, cause=FORCE)
        converted = converted_model(weights, wanted)
        writer = NullWriter() if dry_run or paths is None else stack.enter_context(writing(paths))
        meter = Meter(converted.layout.parameters * (1 + verify), advance)
        _write(converted, writer, meter)
        differences = _verify(converted, writer, meter) if verify else {}
        findings = worst_first(cfg_findings(converted.after.network))
    return _report(converted, differences, None if dry_run else paths, findings, verify)


def _write(converted: ConvertedModel, writer: Writer, meter: Meter) -> None:
    writer.begin(converted.after.header.pack(), converted.text())
    for array in converted.layout.arrays:
        for block in converted.blocks(array):
            writer.write(block)
            meter.add(block.size)
    for data in converted.weights.kept():
        writer.append(data)


def _verify(converted: ConvertedModel, writer: Writer, meter: Meter) -> dict[Key, Difference]:
    """Compare every array with what was written or, in a dry run, with what would have been written."""
    with ExitStack() as stack:
        written = writer.reopen(converted.after)
        if written:
            stack.enter_context(written)
        pool = stack.enter_context(while_syncing(writer))
        for array in pool.map(partial(_same_bits, converted, written or converted), converted.layout.arrays):
            meter.add(array.size)
        proofs = pool.map(partial(difference, converted, new=written or converted), converted.parts.values())
        return {
            key: _proven(converted, change, found)
            for (key, change), found in zip(converted.parts.items(), proofs, strict=True)
            if found
        }


def _same_bits(converted: ConvertedModel, written: Weights | ConvertedModel, array: Array) -> Array:
    """Return the array; raise `ProofError` if it was only moved but its bits differ."""
    if carried_wrongly(converted, array, written.blocks(array)):
        what = f"layer {array.layer} {array.name} has changed, expected the same bits"
        raise ProofError(converted.weights.path, what, cause=DEFECT)
    return array


def _proven(converted: ConvertedModel, change: PartChange, found: Difference) -> Difference:
    """Return the difference; `ProofError` if it exceeds its bound, or is NaN."""
    if not found.excess <= 1:
        gap = f"differs by {found.absolute:.1e} from the original"
        what = f"layer {change.layer.index} {gap}, expected no more than rounding"
        raise ProofError(converted.weights.path, what, cause=DEFECT)
    return found


def _report(
    converted: ConvertedModel,
    differences: Mapping[Key, Difference],
    paths: Targets | None,
    findings: tuple[Finding, ...],
    verified: bool,
) -> ConvertReport:
    """Return the report: totals, and a row for each part that was changed or could have been changed."""
    before, after = converted.weights.model, converted.after
    return ConvertReport(
        dialect_before=before.dialect.name,
        dialect_after=after.dialect.name,
        header_before=before.header,
        header_after=after.header,
        cfg_changes=converted.cfg_changes,
        layers=tuple(
            _row(change, differences.get(key))
            for key, change in converted.parts.items()
            if change.kinds or change.reason
        ),
        ambiguous_gates=has_gates(after.network) and after.dialect.name not in after.header.writers,
        epsilons=converted.rescaled_for,
        verified=verified,
        parameters_before=before.layout.parameters,
        parameters_after=after.layout.parameters,
        bytes_before=converted.weights.nbytes,
        bytes_after=after.layout.nbytes + converted.weights.kept_bytes,
        output=paths.weights if paths else None,
        output_cfg=paths.cfg if paths else None,
        findings=findings,
    )


def _row(change: PartChange, found: Difference | None) -> ConvertedLayer:
    return ConvertedLayer(
        index=change.layer.index,
        type=change.layer.type,
        part=change.part.name,
        kinds=change.kinds,
        reason=change.reason,
        scale_change=change.scale_change,
        max_abs_error=found.absolute if found else None,
        max_rel_error=found.relative if found else None,
        clamped=change.clamped,
        silent_channels=found.silent if found else 0,
    )
