"""One figure of a model's batch normalisation: scale, rolling variance and gain, layer by layer.

For each layer a light bar from the 10th to the 90th percentile of its channels, a dark one from the 25th to the 75th,
a tick at the median, and a dot for each channel beyond. Dead channels are red crosses, and so is, at the foot, what has
no place on a logarithmic axis: zero, negative and not a number. What lies far beyond the others stands at the edge.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bnorm.batchnorm.epsilon import Vector
from bnorm.errors import OutputError
from bnorm.files import replacing
from bnorm.reports.inspect import Inspection
from bnorm.statistics.channel_state import Mask
from bnorm.statistics.channels import Channels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# The metadata that leaves the date out: the same report gives the same bytes.
SUFFIXES: dict[str, dict[str, Any]] = {".png": {}, ".svg": {"Date": None}, ".pdf": {"CreationDate": None}}

INK, DARK, LIGHT, DOT, RED = "#1f2933", "#2f6fb0", "#b5d0ea", "#7b8794", "#d1352b"

WIDEST, NARROWEST, PER_LAYER = 20.0, 10.0, 0.13  # inches

REACH = 1e4  # how far from the median channel an axis goes

LABELS = 40  # layers that can be labelled on the axis


class Panel(NamedTuple):
    """One quantity of every channel, on a logarithmic axis."""

    label: str
    values: Callable[[Channels], Vector]


PANELS = (
    Panel("|scale|", lambda channels: np.abs(channels.scale)),
    Panel("rolling variance", lambda channels: channels.variance),
    Panel("|gain|", lambda channels: np.abs(channels.gain)),
)


def save(report: Inspection, path: Path) -> None:
    """Draw the figure into a .png, .svg or .pdf; an `OutputError` where matplotlib is missing or nothing normalises."""
    channels = {
        f"{layer.layer.index} {part}".strip(): found
        for layer in report.layers
        for part, found in layer.channels.items()
    }
    if not channels:
        raise OutputError(path, "has nothing to show, expected layers with batch normalisation in the weights file")
    try:
        import matplotlib
    except ImportError:
        raise OutputError(path, "drawing needs matplotlib: install bnorm[plot]") from None
    suffix = path.suffix.lower()
    with matplotlib.rc_context({"svg.hashsalt": "bnorm", "font.size": 9}), replacing(path) as (file,):
        _figure(channels, report).savefig(file, format=suffix[1:], dpi=120, metadata=SUFFIXES[suffix])


def _figure(channels: dict[str, Channels], report: Inspection) -> Figure:
    from matplotlib.figure import Figure

    width = min(WIDEST, max(NARROWEST, PER_LAYER * len(channels) + 2))
    figure = Figure(figsize=(width, 7.5), layout="constrained")
    axes = figure.subplots(len(PANELS), 1, sharex=True)
    figure.suptitle(_title(report), x=0.01, ha="left", color=INK, fontsize=12, fontweight="bold")
    for axis, panel in zip(axes, PANELS, strict=True):
        _draw(axis, panel, list(channels.values()))
    _legend(axes[0])
    _name_layers(axes[-1], list(channels))
    return figure


def _title(report: Inspection) -> str:
    found = [layer.statistics for layer in report.layers if layer.statistics]
    total, dead = (sum(getattr(each, name) for each in found) for name in ("channels", "dead"))
    name = report.model.weights.name if report.model.weights else ""
    return f"{name}: {total:,} normalised channels in {len(found)} layer{'s' * (len(found) != 1)}, {dead:,} dead"


def _draw(axis: Axes, panel: Panel, channels: list[Channels]) -> None:
    """Bars of the channels that live; crosses for the others."""
    columns = [panel.values(found) for found in channels]
    shown = [_positive(column) & ~found.dead for column, found in zip(columns, channels, strict=True)]
    low, high = _limits(np.concatenate([column[mask] for column, mask in zip(columns, shown, strict=True)]))
    _scale(axis, panel.label, low, high)
    for place, (column, mask) in enumerate(zip(columns, shown, strict=True)):
        if mask.any():
            _bar(axis, place, np.clip(column[mask], low, high))
        crosses = np.clip(np.where(_positive(column), column, low)[~mask], low, high)
        axis.scatter(np.full(crosses.size, place), crosses, marker="x", s=22, color=RED, linewidths=1.1, zorder=5)


def _positive(values: Vector) -> Mask:
    """What a logarithmic axis can show."""
    positive: Mask = np.isfinite(values) & (values > 0)
    return positive


def _limits(values: Vector) -> tuple[float, float]:
    """From the smallest value to the largest, but no further than `REACH` from the median, which all would shrink to.

    What lies beyond stands at the edge.
    """
    if not values.size:
        return 0.1, 10
    middle = float(np.median(values))
    return max(float(values.min()), middle / REACH), min(float(values.max()), middle * REACH)


def _scale(axis: Axes, label: str, low: float, high: float) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter

    margin = max(high / low, 10) ** 0.04
    axis.set_yscale("log")
    axis.set_ylim(low / margin, high * margin)
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,)))
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_formatter(NullFormatter())
    axis.set_ylabel(label, color=INK)
    axis.grid(axis="y", color="#e4e7eb", linewidth=0.7)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)


def _bar(axis: Axes, place: int, values: Vector) -> None:
    low, lower, middle, upper, high = np.quantile(values, (0.1, 0.25, 0.5, 0.75, 0.9), method="lower")
    beyond = values[(values < low) | (values > high)]
    axis.plot(np.full(beyond.size, place), beyond, ".", color=DOT, markersize=2.2, alpha=0.7, rasterized=True)
    axis.vlines(place, low, high, color=LIGHT, linewidth=6)
    axis.vlines(place, lower, upper, color=DARK, linewidth=6)
    axis.plot(place, middle, "_", color=INK, markersize=7, markeredgewidth=1.3)


def _legend(axis: Axes) -> None:
    from matplotlib.lines import Line2D

    lines = [
        Line2D([], [], color=INK, marker="_", linestyle="", label="median channel"),
        Line2D([], [], color=DARK, linewidth=6, label="half of the layer's channels"),
        Line2D([], [], color=LIGHT, linewidth=6, label="8 of 10"),
        Line2D([], [], color=DOT, marker=".", linestyle="", label="the others"),
        Line2D([], [], color=RED, marker="x", linestyle="", label="dead; at the foot: 0, negative, no number"),
    ]
    axis.legend(handles=lines, ncols=len(lines), loc="lower left", bbox_to_anchor=(0, 1), frameon=False, fontsize=8)


def _name_layers(axis: Axes, names: list[str]) -> None:
    step = -(-len(names) // LABELS)
    places = range(0, len(names), step)
    axis.set_xticks(list(places), [names[place] for place in places], fontsize=7)
    if any(" " in name for name in names):
        axis.tick_params(axis="x", rotation=60)
    axis.set_xlim(-1, len(names))
    axis.set_xlabel("layer", color=INK)
