"""One of cfg and weights has been folded, the other has not."""

from __future__ import annotations

from collections.abc import Iterator

from bnorm.checks.findings import Finding, make_finding
from bnorm.checks.misfit.candidate import Candidate, edited
from bnorm.darknet import cfg
from bnorm.darknet.cfg import CfgText
from bnorm.darknet.edit import Value
from bnorm.darknet.layout import Layout, plan
from bnorm.darknet.model import Model
from bnorm.darknet.network import Layer, build
from bnorm.darknet.section_types import TYPES
from bnorm.errors import BnormError
from bnorm.folding.plan import plan_folds, without_normalisation

NAMED = 3  # lines that a message lists


def folded_weights(model: Model) -> Iterator[Candidate]:
    """Yield the same network without batch normalisation, as `bnorm fold` writes it."""
    network = model.network
    data = without_normalisation(network, plan_folds(network, {}))
    layout = _planned(cfg.parse(network.text.path, data), model)
    if layout.nbytes == model.nbytes:
        message = "fits the cfg that `bnorm fold` writes with it"
        cause = "its batch normalisation has been folded away"
        yield Candidate(layout=layout, finding=make_finding("weights-folded", message, cause=cause))


def folded_cfg(model: Model) -> Iterator[Candidate]:
    """Yield the same network with batch normalisation in all layers except the last and those before heads, or all."""
    layers = model.network.layers
    bare = [layer for layer in layers if layer.section.knows("batch_normalize") and not layer.batch_normalize]
    heads = {layer.index - 1 for layer in layers if TYPES[layer.type].is_head} | {len(layers) - 1}
    for chosen in ([layer for layer in bare if layer.index not in heads], bare):
        try:
            text = edited(model.network.text, [Value(layer.section, "batch_normalize", 1) for layer in chosen])
            layout = _planned(text, model)
        except BnormError:
            return  # the cfg has more lines now than are allowed
        if chosen and layout.nbytes == model.nbytes:
            yield Candidate(layout=layout, finding=_lost(model, chosen))
            return


def _planned(text: CfgText, model: Model) -> Layout:
    """Return the plan of another cfg with the file's header."""
    return plan(build(text, model.dialect), model.header)


def _lost(model: Model, layers: list[Layer]) -> Finding:
    """Return what it means that the file fits if these layers normalise."""
    lines = [str(layer.section.line) for layer in layers]
    named = ", ".join(lines[:NAMED]) + f" and {len(lines) - NAMED} more" * (len(lines) > NAMED)
    plural = "s" * (len(lines) > 1)
    message = f"fits with batch_normalize=1 in the section{plural} of line{plural} {named}"
    some = any(layer.batch_normalize for layer in model.network.layers)
    cause = "these lines were lost, or folded away" if some else "the cfg has been folded, the weights have not"
    return make_finding("weights-unfolded", message, layer=layers[0].index, cause=cause)
