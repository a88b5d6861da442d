"""Batch normalisation in too many or too few sections of the cfg."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from bnorm.checks.findings import Finding, make_finding
from bnorm.checks.misfit.candidate import ONE_OF_MANY, SETTING, Candidate
from bnorm.checks.misfit.evidence import Evidence
from bnorm.darknet import cfg
from bnorm.darknet.cfg import Section
from bnorm.darknet.layout import FLOAT, NORMALISATION, Layout, arrays_of, plan
from bnorm.darknet.model import Model
from bnorm.darknet.network import Layer, build
from bnorm.darknet.parts import SWITCHES
from bnorm.darknet.section_types import TYPES
from bnorm.folding.plan import Folds, plan_folds, without_normalisation

NAMED = 3  # lines that a message lists

STEPS = 20_000  # layers that the search visits

PLANNED = 2  # steps per layer of a set that is planned, and whose values are read

MOST = 24  # sets of sections that are proposed


def folded_weights(model: Model) -> Iterator[Candidate]:
    """Yield the same network without any batch normalisation, as `bnorm fold` writes it."""
    network, missing = model.network, model.layout.nbytes - (model.nbytes or 0)
    folds = plan_folds(network, {}) if missing > 0 else None
    if folds is None or _stored_by_normalisation(model, folds) != missing:
        return
    data = without_normalisation(network, folds)
    layout = plan(build(cfg.parse(network.text.path, data), model.dialect), model.header)
    if layout.nbytes == model.nbytes:
        message = "fits without any batch normalisation"
        cause = f"trained without it, or folded: delete {_switch_lines(network.layers)}"
        yield Candidate(layout=layout, finding=make_finding("weights-folded", message, cause=cause))


def _stored_by_normalisation(model: Model, folds: Folds) -> int:
    """Return how many bytes the folded batch normalisation takes in the file."""
    removed, kept = folds.removed, folds.kept
    return sum(
        FLOAT * array.size
        for array in model.layout.arrays
        if array.layer in removed or (array.field in NORMALISATION and array.layer not in kept)
    )


def _switch_lines(layers: Sequence[Layer]) -> str:
    """Return the lines that turn batch normalisation on."""
    lines = [option.line for layer in layers for option in _switches(layer.section)]
    return f"batch_normalize=1 in {_lines(lines)}" if lines else "its [batchnorm] sections"


def folded_cfg(model: Model) -> Iterator[Candidate]:
    """Yield the same network with batch normalisation in all layers except the last and those before heads, or all."""
    layers = model.network.layers
    bare = [layer for layer in layers if layer.section.knows("batch_normalize") and not layer.batch_normalize]
    heads = {layer.index - 1 for layer in layers if TYPES[layer.type].is_head} | {len(layers) - 1}
    more = (model.nbytes or 0) - model.layout.nbytes
    for chosen in ([layer for layer in bare if layer.index not in heads], bare):
        if more > 0 and sum(_change(_row(model, layer, fewer=False)) for layer in chosen) == more:
            yield Candidate(layout=_switched(model, chosen), finding=_lost(model, chosen))
            return


def some_sections(model: Model, evidence: Evidence) -> Iterator[Candidate]:
    """Yield each set of sections that, with batch normalisation or without it, gives the file's size.

    In each set, all rolling variances of the plan that follows are plausible.
    """
    fewer = model.layout.nbytes > (model.nbytes or 0)
    rows = [_row(model, layer, fewer) for layer in model.network.layers]
    for chosen in _sets(rows, model, evidence):
        layers = [model.network.layers[index] for index in chosen]
        finding = _fits_without(layers) if fewer else _lost(model, layers)
        nats = SETTING + ONE_OF_MANY * len(chosen)
        yield Candidate(layout=_switched(model, layers), finding=finding, edits=len(chosen), nats=nats)


# --- the sets of sections ---------------------------------------------------------------------------------------------


class _Stored(NamedTuple):
    """The stored bytes of a layer: their size, and offset and number of each array of rolling variances."""

    nbytes: int
    variances: tuple[tuple[int, int], ...]


class _Row(NamedTuple):
    """A layer as in the cfg, and with its batch normalisation turned on or off, if that is possible."""

    given: _Stored
    other: _Stored | None


class _State(NamedTuple):
    """A search at a layer: where it begins in the file, the sections chosen before it, the bytes still to explain."""

    layer: int
    offset: int
    chosen: tuple[int, ...]
    rest: int


def _row(model: Model, layer: Layer, fewer: bool) -> _Row:
    given = _stored(model, layer)
    other = None
    if layer.batch_normalize == fewer and layer.section.knows("batch_normalize") and not layer.section.flag("dontload"):
        other = _stored(model, _other(layer))
    return _Row(given=given, other=other if other != given else None)


def _other(layer: Layer) -> Layer:
    """Return the layer with its batch normalisation turned on or off."""
    return replace(layer, parts=tuple(part._replace(batch_normalize=not layer.batch_normalize) for part in layer.parts))


def _change(row: _Row) -> int:
    """Return how many more bytes the other form stores."""
    return row.other.nbytes - row.given.nbytes if row.other else 0


def _switched(model: Model, chosen: Sequence[Layer]) -> Layout:
    """Return the plan with the other form of these layers."""
    layers = list(model.network.layers)
    for layer in chosen:
        layers[layer.index] = _other(layer)
    return plan(replace(model.network, layers=tuple(layers)), model.header)


def _stored(model: Model, layer: Layer) -> _Stored:
    offset, variances = 0, []
    for array in arrays_of(layer, model.dialect, model.header.transposed):
        if array.field == "rolling_variance":
            variances.append((offset, array.size))
        offset += FLOAT * array.size
    return _Stored(nbytes=offset, variances=tuple(variances))


def _sets(rows: Sequence[_Row], model: Model, evidence: Evidence) -> Iterator[tuple[int, ...]]:
    """Yield sets of layers whose other form gives the file's size and plausible variances throughout.

    Layer by layer: a form whose own variances are misread ends a branch, so that wrong sets are left early. The branch
    without an edit is followed first where it is plausible, so that small sets come first.
    """
    rest = (model.nbytes or 0) - model.layout.nbytes
    states = [_State(layer=0, offset=model.header.nbytes, chosen=(), rest=rest)]
    steps = proposed = 0
    while states and steps < STEPS and proposed < MOST:
        state = states.pop()
        steps += 1
        if state.layer == len(rows):
            if state.offset == model.nbytes:
                proposed += 1
                steps += PLANNED * len(rows)
                yield state.chosen
            continue
        given, other = rows[state.layer]
        change = _change(rows[state.layer])
        if other and abs(change) <= abs(state.rest) and _plausible(other, state.offset, evidence):
            chosen = (*state.chosen, state.layer)
            states.append(
                _State(
                    layer=state.layer + 1, offset=state.offset + other.nbytes, chosen=chosen, rest=state.rest - change
                )
            )
        if _plausible(given, state.offset, evidence):
            states.append(state._replace(layer=state.layer + 1, offset=state.offset + given.nbytes))


def _plausible(stored: _Stored, offset: int, evidence: Evidence) -> bool:
    return not any(evidence.misread(offset + start, count) for start, count in stored.variances)


# --- their texts ------------------------------------------------------------------------------------------------------


def _switches(section: Section) -> list[cfg.Option]:
    """Return the options that turn batch normalisation on."""
    return [option for option in section.options if option.key in SWITCHES and section.knows(option.key)]


def _fits_without(layers: Sequence[Layer]) -> Finding:
    """Return the finding that the file fits if these layers do not normalise."""
    message = f"fits without batch_normalize in the {_sections(layers)}"
    lines = [option.line for layer in layers for option in _switches(layer.section)]
    cause = f"trained without it there, or folded: delete {_lines(lines)}"
    line = layers[0].section.line
    return make_finding("weights-folded", message, line=line, layer=layers[0].index, cause=cause)


def _lost(model: Model, layers: Sequence[Layer]) -> Finding:
    """Return the finding that the file fits if these layers normalise."""
    message = f"fits with batch_normalize=1 in the {_sections(layers)}"
    some = any(layer.batch_normalize for layer in model.network.layers)
    why = "these lines were lost" if some else "the cfg has been folded, or its lines were lost"
    one = len(layers) == 1
    where = "this section" if one else "each of these sections"
    cause = f"{why}: add batch_normalize=1 to {where}"
    line = layers[0].section.line
    return make_finding("weights-unfolded", message, line=line, layer=layers[0].index, cause=cause)


def _sections(layers: Sequence[Layer]) -> str:
    lines = [layer.section.line for layer in layers]
    return f"section{'s' * (len(lines) > 1)} of {_lines(lines)}"


def _lines(lines: Sequence[int]) -> str:
    """Return the numbers of the lines as text; if there are many, only the first."""
    more = f" and {len(lines) - NAMED} others" * (len(lines) > NAMED)
    return f"line{'s' * (len(lines) > 1)} {', '.join(map(str, lines[:NAMED]))}{more}"
