"""One figure of a model's batch normalisation: scale, rolling variance and gain, layer by layer.

For each layer or part: a light bar from the 10th to the 90th percentile of its channels, a dark bar from the 25th to
the 75th, a tick at the median, and a dot for each channel outside the light bar. Dead channels are red crosses. Values
that a logarithmic axis cannot show (zero, negative, infinite and NaN) are red crosses at the bottom, and values more
than a factor of `REACH` from the median are drawn at the edge.
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
from bnorm.statistics.quantiles import median, quantiles
from bnorm.text import plural

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Metadata without a date, so that the same report gives the same bytes.
SUFFIXES: dict[str, dict[str, Any]] = {".png": {}, ".svg": {"Date": None}, ".pdf": {"CreationDate": None}}

INK, DARK, LIGHT, DOT, RED = "#1f2933", "#2f6fb0", "#b5d0ea", "#7b8794", "#d1352b"

WIDEST, NARROWEST, PER_LAYER = 20.0, 10.0, 0.13  # inches

REACH = 1e4  # an axis ends at this factor above and below the median channel

LABELS = 40  # layers that can be labelled on the axis

NOTHING = (0.1, 10.0)  # the limits of an axis without values


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
    """Draw the figure into a .png, .svg or .pdf.

    ValueError for another suffix; an `OutputError` where matplotlib is missing or nothing normalises.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"{path}, expected a name in {', '.join(SUFFIXES)}")
    if not report.channels:
        raise OutputError(path, "has nothing to show, expected layers with batch normalisation in the weights file")
    try:
        import matplotlib
    except ImportError:
        raise OutputError(path, "drawing needs matplotlib", cause="pip install matplotlib") from None
    with matplotlib.rc_context({"svg.hashsalt": "bnorm", "font.size": 9}), replacing(path) as (file,):
        draw(report).savefig(file, format=suffix[1:], dpi=120, metadata=SUFFIXES[suffix])


def draw(report: Inspection) -> Figure:
    """Return the figure: a panel per quantity, from top to bottom, with a column per layer or part."""
    from matplotlib.figure import Figure

    columns = {
        f"{layer.layer.index} {part}".strip(): channels
        for layer in report.layers
        for part, channels in layer.channels.items()
    }
    width = min(WIDEST, max(NARROWEST, PER_LAYER * len(columns) + 2))
    figure = Figure(figsize=(width, 7.5), layout="constrained")
    axes = figure.subplots(len(PANELS), 1, sharex=True)
    figure.suptitle(_title(report), x=0.01, ha="left", color=INK, fontsize=12, fontweight="bold")
    for axis, panel in zip(axes, PANELS, strict=True):
        _draw_panel(axis, panel, list(columns.values()))
    _legend(axes[0])
    _name_layers(axes[-1], list(columns))
    return figure


def _title(report: Inspection) -> str:
    name = report.model.weights.name if report.model.weights else ""
    layers = plural(len(report.statistics), "layer")
    return f"{name}: {report.channels:,} normalised channels in {layers}, {report.dead:,} dead"


def _draw_panel(axis: Axes, panel: Panel, layers: list[Channels]) -> None:
    """Draw bars for the channels that are not dead, and crosses for the others."""
    columns = [panel.values(channels) for channels in layers]  # (C,) each
    living = [_showable(column) & ~channels.dead for column, channels in zip(columns, layers, strict=True)]
    low, high = _limits(np.concatenate([column[mask] for column, mask in zip(columns, living, strict=True)]))
    _scale(axis, panel.label, low, high)
    bars, crosses = {}, {}
    for position, (column, mask) in enumerate(zip(columns, living, strict=True)):
        if mask.any():
            bars[position] = np.clip(column[mask], low, high)
        crosses[position] = np.clip(np.where(_showable(column), column, low)[~mask], low, high)
    _draw_bars(axis, bars)
    axis.scatter(*_points(crosses), marker="x", s=22, color=RED, linewidths=1.1, zorder=5)


def _showable(values: Vector) -> Mask:
    """Return which values a logarithmic axis can show."""
    positive: Mask = np.isfinite(values) & (values > 0)
    return positive


def _limits(values: Vector) -> tuple[float, float]:
    """Return the smallest and largest value, limited by `REACH`: without it, an outlier would squeeze all others."""
    if not values.size:
        return NOTHING
    middle = median(values)
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


def _draw_bars(axis: Axes, bars: dict[int, Vector]) -> None:
    """Draw the values at each position as two bars, a tick and dots."""
    levels = {position: quantiles({"": values})[""] for position, values in bars.items()}
    outside = {
        position: values[(values < levels[position].q10) | (values > levels[position].q90)]
        for position, values in bars.items()
    }
    axis.plot(*_points(outside), ".", color=DOT, markersize=2.2, alpha=0.7, rasterized=True)
    spans = levels.values()
    axis.vlines(list(bars), [span.q10 for span in spans], [span.q90 for span in spans], color=LIGHT, linewidth=6)
    axis.vlines(list(bars), [span.q25 for span in spans], [span.q75 for span in spans], color=DARK, linewidth=6)
    axis.plot(list(bars), [span.q50 for span in spans], "_", color=INK, markersize=7, markeredgewidth=1.3)


def _points(values: dict[int, Vector]) -> tuple[Vector, Vector]:
    """Return the positions and the values of all points of a panel."""
    positions = np.repeat(list(values), [column.size for column in values.values()])
    return positions.astype(np.float64), np.concatenate([np.empty(0), *values.values()])


def _legend(axis: Axes) -> None:
    from matplotlib.lines import Line2D

    lines = [
        Line2D([], [], color=INK, marker="_", linestyle="", label="median channel"),
        Line2D([], [], color=DARK, linewidth=6, label="half of the layer's channels"),
        Line2D([], [], color=LIGHT, linewidth=6, label="8 of 10 channels"),
        Line2D([], [], color=DOT, marker=".", linestyle="", label="other channels"),
        Line2D([], [], color=RED, marker="x", linestyle="", label="dead (at the bottom: zero, negative or NaN)"),
    ]
    axis.legend(handles=lines, ncols=len(lines), loc="lower left", bbox_to_anchor=(0, 1), frameon=False, fontsize=8)


def _name_layers(axis: Axes, names: list[str]) -> None:
    step = -(-len(names) // LABELS)
    axis.set_xticks(range(0, len(names), step), names[::step], fontsize=7)
    if any(" " in name for name in names):
        axis.tick_params(axis="x", rotation=60)
    axis.set_xlim(-1, len(names))
    axis.set_xlabel("layer", color=INK)
