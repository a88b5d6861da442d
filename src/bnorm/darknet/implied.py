"""Values that one fork implies and another fork needs in the cfg, by section type."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from bnorm.darknet.cfg import Section
from bnorm.darknet.dialects import Dialect
from bnorm.darknet.network import Layer
from bnorm.darknet.section_types import SECTIONS
from bnorm.darknet.shapes import strides

Implied = Callable[[Layer, Dialect], dict[str, object]]


def _knows(layer: Layer, dialect: Dialect, key: str) -> bool:
    return replace(layer.section, dialect=dialect).knows(key)


def _strides(layer: Layer, target: Dialect) -> dict[str, object]:
    """Return `stride` for a fork that knows only one stride, if both strides are equal."""
    across, down = strides(layer.section)
    if not layer.section.knows("stride_x") or _knows(layer, target, "stride_x") or across != down:
        return {}
    return {} if across == layer.section.integer("stride", 1) else {"stride": across}


def _hidden(layer: Layer, target: Dialect) -> dict[str, object]:
    """Return `hidden`: pjreddie's [rnn] has as many hidden values as outputs, other forks have 1 by default."""
    if layer.section.knows("hidden") or not _knows(layer, target, "hidden"):
        return {}
    return {"hidden": layer.output.outputs}


def _crnn_filters(layer: Layer, target: Dialect) -> dict[str, object]:
    """Return filters and padding: pjreddie's [crnn] has other keys for its filters, and always pads by 1."""
    if layer.section.knows("output") == _knows(layer, target, "output"):
        return {}
    output, hidden = layer.output.channels, layer.parts[0].channels
    if _knows(layer, target, "output"):
        return {"pad": 1, "size": 3, "output": output, "hidden": hidden}
    return {"output_filters": output, "hidden_filters": hidden}


def _added(layer: Layer, target: Dialect) -> dict[str, object]:
    """Return `from` and `weights_type`: pjreddie reads the first layer only; hank lacks `per_layer`, an alias."""
    numbers, told = layer.section.integers("from") or [], dict[str, object]()
    if len(numbers) > 1 == len(layer.reads) and layer.type not in target.reads_first_only:
        told["from"] = numbers[0]
    if layer.section.text("weights_type") == "per_layer" and "per_layer" not in target.weights_types:
        told["weights_type"] = "per_feature"
    return told


IMPLIED: dict[str, Implied] = {
    "convolutional": _strides,
    "maxpool": _strides,
    "rnn": _hidden,
    "crnn": _crnn_filters,
    "shortcut": _added,
}


def can_be_told(section: Section, key: str, target: Dialect) -> bool:
    """Return whether the target can express a key in another way, or derives its value from the layer's shapes."""
    if key in ("stride_x", "stride_y"):
        across, down = strides(section)
        return across == down
    ways = {"rnn": {"hidden"}, "crnn": {"output", "hidden", "padding", "output_filters", "hidden_filters"}}
    return key in ways.get(section.type, ()) and section.type in SECTIONS[target.name].values()


def implied(layer: Layer, target: Dialect) -> dict[str, object]:
    """Return the values of a layer that the target needs in the cfg."""
    rule = IMPLIED.get(layer.type)
    return rule(layer, target) if rule else {}
