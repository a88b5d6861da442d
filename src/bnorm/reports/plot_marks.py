"""The marks of the figure, on logarithmic axes: spreads of many channels, a bar per channel, and ranges of weights.

Dead channels are red crosses. Values that a logarithmic axis cannot show (zero, negative, infinite and NaN) are red
crosses at the bottom, and values more than a factor of `REACH` from the median are drawn at the edge. The three values
of a panel that are furthest from its median are labelled.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bnorm.batchnorm.epsilon import Vector
from bnorm.statistics.channel_state import Mask
from bnorm.statistics.filters import Range
from bnorm.statistics.quantiles import median, quantiles

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, DARK, LIGHT, DOT, RED = "#1f2933", "#2f6fb0", "#b5d0ea", "#7b8794", "#d1352b"

REACH = 1e4  # an axis ends at this factor above and below the median

NOTHING = (0.1, 10.0)  # the limits of an axis without values

EXTREMES = 3  # values of a panel that are labelled

THICKEST = 6.0  # points: the width of a bar, if there is room

POINTS = 1200.0  # points: the width of the widest figure, which all bars share


class Mark(NamedTuple):
    """A row of the legend: its name in the code, its text, and its style."""

    name: str
    label: str
    style: Mapping[str, Any]


_TICK = {"marker": "_", "linestyle": "", "color": INK}
_CROSS = {"marker": "x", "linestyle": "", "color": RED}
_TEXT = {"linestyle": "", "color": INK, "markeredgewidth": 0}

MARKS = (
    Mark("median", "median channel", _TICK),
    Mark("half", "half of the layer's channels", {"color": DARK, "linewidth": THICKEST}),
    Mark("most", "8 of 10 channels", {"color": LIGHT, "linewidth": THICKEST}),
    Mark("other", "other channels", {"marker": ".", "linestyle": "", "color": DOT}),
    Mark("channel", "each channel", {"color": DARK, "linewidth": THICKEST}),
    Mark("folded", "each channel, its gain folded in", {"color": DARK, "linewidth": THICKEST}),
    Mark("stored", "as stored", _TICK),
    Mark("range", "widest channel / narrowest", {"marker": "o", "linestyle": "", "color": DARK, "markersize": 3.5}),
    Mark("before", "from before folding to after", {"color": LIGHT, "linewidth": THICKEST}),
    Mark("infinite", "infinite: a channel of zeros", _CROSS),
    Mark("dead", "dead (at the bottom: zero, negative or NaN)", _CROSS),
    Mark("furthest in layers", "layer:channel of the extremes", _TEXT | {"marker": "$3:1$", "markersize": 10}),
    Mark("furthest", "channel of the extremes", _TEXT | {"marker": "$3$", "markersize": 5}),
    Mark("widest", "layer of the widest", _TEXT | {"marker": "$3$", "markersize": 5}),
)


class Series(NamedTuple):
    """One quantity of the channels of one layer, and which of them are dead: (C,) each."""

    values: Vector
    dead: Mask

    @property
    def living(self) -> Mask:
        """Return which channels are not dead and have a value that the axis can show."""
        return _showable(self.values) & ~self.dead


class Extreme(NamedTuple):
    """A value that is labelled: its place on the axis, and its distance from the median in orders of magnitude."""

    distance: float
    place: float
    value: float
    label: str


# --- spreads by layer -------------------------------------------------------------------------------------------------


def draw_spreads(axis: Axes, series: Mapping[int, Series], names: Mapping[int, str], span: int) -> set[str]:
    """Draw bars for the channels that are not dead, and crosses for dead channels; return the marks used."""
    low, high = _limits(np.concatenate([found.values[found.living] for found in series.values()]))
    _scale(axis, low, high)
    bars = {place: np.clip(found.values[found.living], low, high) for place, found in series.items()}
    marks = _draw_quantiles(axis, {place: values for place, values in bars.items() if values.size}, span)
    crosses = {place: _at_edge(found, low, high)[~found.living] for place, found in series.items()}
    marks |= _draw_crosses(axis, *_points(crosses))
    return marks | _label(axis, "furthest in layers", _furthest_channels(series, names, low, high))


def _draw_quantiles(axis: Axes, bars: Mapping[int, Vector], span: int) -> set[str]:
    """Draw the values at each place as two bars, a tick and dots."""
    levels = {place: quantiles({"": values})[""] for place, values in bars.items()}
    outside = {
        place: values[(values < levels[place].q10) | (values > levels[place].q90)] for place, values in bars.items()
    }
    dots = _points(outside)
    axis.plot(*dots, ".", color=DOT, markersize=2.2, alpha=0.7, rasterized=True)
    spans, width = levels.values(), _thickness(span)
    axis.vlines(
        list(bars), [found.q10 for found in spans], [found.q90 for found in spans], color=LIGHT, linewidth=width
    )
    axis.vlines(list(bars), [found.q25 for found in spans], [found.q75 for found in spans], color=DARK, linewidth=width)
    axis.plot(list(bars), [found.q50 for found in spans], "_", color=INK, markersize=width + 1, markeredgewidth=1.3)
    return ({"median", "half", "most"} if bars else set()) | ({"other"} if dots[0].size else set())


def _furthest_channels(
    series: Mapping[int, Series], names: Mapping[int, str], low: float, high: float
) -> Iterable[Extreme]:
    """Yield the channel of each layer that is furthest from the median of all layers."""
    middle = median(np.concatenate([found.values[found.living] for found in series.values()]))
    for place, found in series.items():
        if found.living.any():
            distances = np.where(found.living, np.abs(np.log10(np.where(found.living, found.values, 1) / middle)), -1)
            channel = int(distances.argmax())
            value = float(np.clip(found.values[channel], low, high))
            yield Extreme(float(distances[channel]), place, value, f"{names[place]}:{channel}")


# --- bars by channel --------------------------------------------------------------------------------------------------


def draw_bars(axis: Axes, series: Series, span: int, *, before: Vector | None = None) -> set[str]:
    """Draw a bar for each channel, a tick at its value `before` folding if given, and crosses for dead channels."""
    living = series.living
    places, values = np.flatnonzero(living).astype(np.float64), series.values[living]
    stored = before[living] if before is not None and not np.array_equal(before, series.values) else np.empty(0)
    every = np.concatenate([values, stored])
    low, high = _limits(every[_showable(every)])
    _scale(axis, low, high)
    bottom, _ = axis.get_ylim()
    shown, width = np.clip(values, low, high), _thickness(span)
    axis.vlines(places, np.full(shown.shape, bottom), shown, color=DARK, linewidth=width)
    marks = _draw_crosses(axis, np.flatnonzero(~living).astype(np.float64), _at_edge(series, low, high)[~living])
    if stored.size:
        ticks = np.clip(stored, low, high)
        axis.plot(places, ticks, "_", color=INK, markersize=width + 1, markeredgewidth=1.3)
        marks |= {"folded", "stored"}
    elif values.size:
        marks |= {"channel"}
    distances = np.abs(np.log10(values / median(values)))
    channels = zip(distances.tolist(), places.tolist(), shown.tolist(), strict=True)
    extremes = [Extreme(distance, place, value, f"{place:.0f}") for distance, place, value in channels]
    return marks | _label(axis, "furthest", extremes, above=True)


# --- ranges by layer --------------------------------------------------------------------------------------------------


def draw_ranges(axis: Axes, ranges: Mapping[int, Range], names: Mapping[int, str], span: int) -> set[str]:
    """Draw the range of each layer after folding as a dot, and a bar to it from the range before folding."""
    known = {place: found for place, found in ranges.items() if np.isfinite(found).all()}
    values = np.array([*known.values()], np.float64).reshape(-1)
    low, high = _limits(values)
    _scale(axis, low, high)
    before, after = np.clip(values.reshape(-1, 2).T, low, high)
    axis.vlines(list(known), before, after, color=LIGHT, linewidth=_thickness(span))
    axis.plot(list(known), after, "o", color=DARK, markersize=3.5)
    infinite = [place for place, found in ranges.items() if np.isinf(found.after)]
    axis.scatter(infinite, np.full(len(infinite), high), marker="x", s=22, color=RED, linewidths=1.1, zorder=5)
    changed = any(found.before != found.after for found in known.values())
    used = {"range": bool(known), "before": changed, "infinite": bool(infinite)}
    marks = {mark for mark, is_used in used.items() if is_used}
    widest = (
        Extreme(found.after, place, float(np.clip(found.after, low, high)), names[place])
        for place, found in known.items()
    )
    return marks | _label(axis, "widest", widest)


# --- shared by all panels ---------------------------------------------------------------------------------------------


def _showable(values: Vector) -> Mask:
    """Return which values a logarithmic axis can show."""
    positive: Mask = np.isfinite(values) & (values > 0)
    return positive


def _at_edge(series: Series, low: float, high: float) -> Vector:
    """Return the values within the limits; those that cannot be shown are at the bottom."""
    shown: Vector = np.clip(np.where(_showable(series.values), series.values, low), low, high)
    return shown


def _limits(values: Vector) -> tuple[float, float]:
    """Return the smallest and largest value, limited by `REACH`: without it, an outlier would squeeze all others."""
    if not values.size:
        return NOTHING
    middle = median(values)
    return max(float(values.min()), middle / REACH), min(float(values.max()), middle * REACH)


def _scale(axis: Axes, low: float, high: float) -> None:
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

    margin = max(high / low, 10) ** 0.06
    axis.set_yscale("log")
    axis.set_ylim(low / margin, high * margin)
    few = high < 10 * low  # less than a decade: equal steps, because a logarithmic axis would have at most one number
    many = LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,))
    axis.yaxis.set_major_locator(MaxNLocator(5) if few else many)
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_formatter(NullFormatter())
    axis.grid(axis="y", color="#e4e7eb", linewidth=0.7)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)


def _thickness(span: int) -> float:
    """Return the width of a bar in points: narrower if there are many places."""
    return min(THICKEST, 0.8 * POINTS / span)


def _points(values: Mapping[int, Vector]) -> tuple[Vector, Vector]:
    """Return the places and the values of all points of a panel."""
    places = np.repeat(list(values), [column.size for column in values.values()])
    return places.astype(np.float64), np.concatenate([np.empty(0), *values.values()])


def _draw_crosses(axis: Axes, places: Vector, values: Vector) -> set[str]:
    axis.scatter(places, values, marker="x", s=22, color=RED, linewidths=1.1, zorder=5)
    return {"dead"} if places.size else set()


def _label(axis: Axes, mark: str, candidates: Iterable[Extreme], *, above: bool = False) -> set[str]:
    """Label the furthest values above or beside their marks, towards the middle; return the mark if used."""
    middle = sum(axis.get_xlim()) / 2
    chosen = sorted(candidates, reverse=True)[:EXTREMES]
    for extreme in chosen:
        beside = ((5, 0), "left", "center") if extreme.place < middle else ((-5, 0), "right", "center")
        offset, across, along = ((0, 2), "center", "bottom") if above else beside
        axis.annotate(
            extreme.label,
            (extreme.place, extreme.value),
            xytext=offset,
            textcoords="offset points",
            ha=across,
            va=along,
            fontsize=7,
            color=INK,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5, "alpha": 1},
            zorder=6,
        )
    return {mark} if chosen else set()


def legend(axis: Axes, marks: set[str]) -> None:
    """Explain the marks that were used, above the panel."""
    from matplotlib.lines import Line2D

    lines = [Line2D([], [], label=mark.label, **mark.style) for mark in MARKS if mark.name in marks]
    axis.legend(handles=lines, ncols=len(lines), loc="lower left", bbox_to_anchor=(0, 1), frameon=False, fontsize=8)
