"""One figure of a model: scale, rolling variance and gain of its channels, and the ranges for quantisation.

By layer or part, from the first to the last: a light bar from the 10th to the 90th percentile of the channels, a dark
bar from the 25th to the 75th, a tick at the median, and a dot for each channel outside the light bar. The last panel
has the range of the weights of every layer, normalised or not, before and after folding. A report of one layer has a
bar for each channel instead. `plot_marks` handles values that an axis cannot show.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bnorm.batchnorm.epsilon import Vector
from bnorm.errors import OutputError
from bnorm.extras import installation
from bnorm.files import replacing
from bnorm.reports.inspect import Inspection
from bnorm.reports.plot_marks import INK, Series, draw_bars, draw_ranges, draw_spreads, legend
from bnorm.statistics.channels import Channels
from bnorm.statistics.filters import Filters
from bnorm.text import plural

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Metadata without a date, so that the same report gives the same bytes.
SUFFIXES: dict[str, dict[str, Any]] = {".png": {}, ".svg": {"Date": None}, ".pdf": {"CreationDate": None}}

WIDEST, NARROWEST, PER_SLOT = 20.0, 10.0, 0.13  # inches

PANEL_HEIGHT = 2.4  # inches

LABELS = 40  # layers, parts or channels that can be labelled on the axis

STEPS = (1, 2, 5)  # of the numbers on the axis, times a power of ten


class Panel(NamedTuple):
    """One quantity of every channel, on a logarithmic axis."""

    label: str
    values: Callable[[Channels], Vector]


PANELS = (
    Panel("|scale|", lambda channels: np.abs(channels.scale)),
    Panel("rolling variance", lambda channels: channels.variance),
    Panel("|gain|", lambda channels: np.abs(channels.gain)),
)


class Column(NamedTuple):
    """A layer or part in the figure; it has channels if it normalises, and filters if its weights were read."""

    layer: int
    part: str
    channels: Channels | None
    filters: Filters | None


def save(report: Inspection, path: Path) -> None:
    """Draw the figure into a .png, .svg or .pdf.

    ValueError for another suffix; `OutputError` if matplotlib is missing or there is nothing to draw.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"{path}, expected a name in {', '.join(SUFFIXES)}")
    if not _columns(report):
        raise OutputError(path, "has nothing to show, expected layers with weights or batch normalisation in the file")
    try:
        import matplotlib
    except ImportError:
        raise OutputError(path, "drawing needs matplotlib", cause=installation("matplotlib")) from None
    with matplotlib.rc_context({"svg.hashsalt": "bnorm", "font.size": 9}), replacing(path) as (file,):
        draw(report).savefig(file, format=suffix[1:], dpi=120, metadata=SUFFIXES[suffix])


def draw(report: Inspection) -> Figure:
    """Return the figure: a panel per quantity, from top to bottom; those without any value are left out."""
    from matplotlib.figure import Figure

    columns = _columns(report)
    by_channel = len(columns) == 1
    slots = _channel_slots(columns[0]) if by_channel else _layer_slots(columns)
    normalised = [column.channels is not None for column in columns]
    panels = PANELS if any(normalised) else ()
    has_weights = any(column.filters for column in columns)
    count = len(panels) + has_weights
    width = min(WIDEST, max(NARROWEST, PER_SLOT * slots.span + 2))
    figure = Figure(figsize=(width, PANEL_HEIGHT * count + 0.8), layout="constrained")
    axes: list[Axes] = list(figure.subplots(count, 1, sharex=True, squeeze=False)[:, 0])
    figure.suptitle(_title(report, by_channel), x=0.01, ha="left", color=INK, fontsize=12, fontweight="bold")
    for axis in axes:
        axis.set_xlim(slots.places[0] - 1, slots.places[-1] + 1)
    marks: set[str] = set()
    for axis, panel in zip(axes, panels, strict=False):
        axis.set_ylabel(panel.label, color=INK)
        marks |= _draw_panel(axis, panel, columns, slots)
    if has_weights:
        axes[-1].set_ylabel("largest |weight|" if by_channel else "range of |weights|", color=INK)
        shown = _draw_weights(axes[-1], columns, slots)
        legend(axes[-1], shown)
    if panels:
        legend(axes[0], marks)
    _number_axis(axes[-1], slots)
    return figure


def _columns(report: Inspection) -> list[Column]:
    """Return the layers and parts that have something to show."""
    return [
        Column(layer.layer.index, part, layer.channels.get(part), layer.filters.get(part))
        for layer in report.layers
        for part in dict.fromkeys((*layer.channels, *layer.filters))
    ]


def _title(report: Inspection, by_channel: bool) -> str:
    name = report.model.weights.name if report.model.weights else ""
    if by_channel:
        (column,) = _columns(report)
        layer = report.model.network.layers[column.layer]
        name = f"{name}, layer {layer.index} ({layer.type} {column.part}".rstrip() + ")"
    if not report.channels:
        return f"{name}: no normalised channels"
    layers = plural(len(report.statistics), "layer")
    return f"{name}: {report.channels:,} normalised channels in {layers}, {report.dead:,} dead"


# --- the common axis --------------------------------------------------------------------------------------------------


class Slots(NamedTuple):
    """The places on the common axis in ascending order, their names, and the title of the axis."""

    places: tuple[int, ...]
    names: tuple[str, ...]
    noun: str
    numbered: bool  # the names are the numbers of the places

    @property
    def span(self) -> int:
        """Return the number of places from the first to the last."""
        return self.places[-1] - self.places[0] + 1


def _layer_slots(columns: Sequence[Column]) -> Slots:
    """Place layers at their numbers; if there are parts, place parts and layers one after the other."""
    names = tuple(f"{column.layer} {column.part}".strip() for column in columns)
    numbered = not any(column.part for column in columns)
    places = tuple(column.layer for column in columns) if numbered else tuple(range(len(columns)))
    return Slots(places=places, names=names, noun="layer", numbered=numbered)


def _channel_slots(column: Column) -> Slots:
    vector = column.channels.scale if column.channels else column.filters.largest if column.filters else np.empty(0)
    places = tuple(range(vector.size))
    return Slots(places=places, names=tuple(map(str, places)), noun="channel", numbered=True)


def _number_axis(axis: Axes, slots: Slots) -> None:
    """Label the axis: numbers at even steps, or the names of parts."""
    if slots.numbered:
        step = _step(slots.span)
        ticks = [place for place in range(slots.places[0], slots.places[-1] + 1) if place % step == 0]
        axis.set_xticks(ticks, [str(place) for place in ticks], fontsize=7)
    else:
        step = -(-len(slots.names) // LABELS)
        axis.set_xticks(slots.places[::step], slots.names[::step], fontsize=7, rotation=60)
    axis.set_xlabel(slots.noun, color=INK)


def _step(span: int) -> int:
    """Return the smallest even step with which no more than `LABELS` numbers are on the axis."""
    steps = (step * tens for tens in (1, 10, 100, 1000, 10_000, 100_000) for step in STEPS)
    return next(step for step in steps if span <= LABELS * step)


# --- panels -----------------------------------------------------------------------------------------------------------


def _draw_panel(axis: Axes, panel: Panel, columns: Sequence[Column], slots: Slots) -> set[str]:
    """Draw one quantity of the normalised channels, and return the marks that were used."""
    if slots.noun == "channel":
        (channels,) = (column.channels for column in columns if column.channels)
        return draw_bars(axis, Series(panel.values(channels), channels.dead), slots.span)
    series = {
        place: Series(panel.values(column.channels), column.channels.dead)
        for place, column in zip(slots.places, columns, strict=True)
        if column.channels
    }
    return draw_spreads(axis, series, dict(zip(slots.places, slots.names, strict=True)), slots.span)


def _draw_weights(axis: Axes, columns: Sequence[Column], slots: Slots) -> set[str]:
    """Draw the ranges for quantisation: a range per layer, or the largest weight of each filter."""
    if slots.noun == "channel":
        (filters,) = (column.filters for column in columns if column.filters)
        return draw_bars(axis, Series(filters.folded, filters.dead), slots.span, before=filters.largest)
    ranges = {
        place: column.filters.range for place, column in zip(slots.places, columns, strict=True) if column.filters
    }
    return draw_ranges(axis, ranges, dict(zip(slots.places, slots.names, strict=True)), slots.span)
