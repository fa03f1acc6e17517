"""Puts a plot on matplotlib axes: lines with intervals, cumulative steps, bars, stacks; then scales and labels."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np

from throughline.contracts.report import Plot, Series
from throughline.reporting import palette
from throughline.reporting.axis import add_legend, floats, one_line, set_cap_colour, shorten, write_ticks
from throughline.reporting.bars import draw_bars

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Few points are measurements that deserve a marker and an error bar each; many are a curve with a band.
_MARKED_POINTS = 16
_LINE_WIDTH = 1.7
# Shares of the axes' height and width; the first is a line of text.
_LABEL_GAP = 0.068
_TICK_GAP = 0.08
_LABEL_LENGTH = 22
_MAX_DIRECT_LABELS = 6
_TICKS_AT_DATA = 8


def draw(axes: Axes, plot: Plot) -> None:
    """Draws all of a plot's series, its axes and its labels on empty axes."""
    series = plot.series
    axes.set_xlabel(one_line(plot.x_label), color=palette.INK, labelpad=6)
    axes.set_ylabel(one_line(plot.y_label), color=palette.INK, labelpad=6)
    if not any(_has_data(each, plot) for each in series):
        axes.set(xticks=[], yticks=[])
        axes.text(0.5, 0.5, "no data", color=palette.MUTED, ha="center", va="center", transform=axes.transAxes)
        return
    if plot.kind == "bar":
        draw_bars(axes, series, log=plot.y_log)
        return
    if plot.kind == "cdf":
        values = [_distribution(each) for each in series]
    elif plot.kind == "stack":
        tops = np.cumsum([np.nan_to_num(floats(each.y)) for each in series], axis=0)
        values = [(floats(each.x), top) for each, top in zip(series, tops, strict=True)]
    else:
        values = [(floats(each.x), floats(each.y)) for each in series]
    _scales(axes, plot, values)
    for index, (each, (x, y)) in enumerate(zip(series, values, strict=True)):
        if plot.kind == "cdf":
            _step(axes, index, x, y)
        elif plot.kind == "stack":
            _area(axes, index, x, values[index - 1][1] if index else np.zeros_like(y), y)
        else:
            _line(axes, index, each, x, y, joined=plot.kind == "line")
    if plot.kind == "cdf":
        _cdf_axis(axes)
    _limits(axes, plot, values)
    _limit(axes, plot)
    _ticks(axes, plot, values)
    if plot.kind == "line" and 1 < len(series) <= _MAX_DIRECT_LABELS:
        _direct_labels(axes, series, values)
    elif len(series) > 1:
        add_legend(axes, series)


def _has_data(series: Series, plot: Plot) -> bool:
    if plot.kind == "cdf":
        return bool(np.any(np.isfinite(floats(series.x))))
    y = np.isfinite(floats(series.y))
    return bool(np.any(y if plot.kind == "bar" else y & np.isfinite(floats(series.x))))


def _distribution(series: Series) -> tuple[Any, Any]:
    """Values in order with their cumulative fractions; the curve starts at zero."""
    x, y = floats(series.x), floats(series.y)
    if not len(y):
        x = np.sort(x[np.isfinite(x)])
        y = np.arange(1, len(x) + 1) / max(1, len(x))
    order = np.argsort(x, kind="stable")
    x, y = x[order], y[order]
    return (np.concatenate([x[:1], x]), np.concatenate([[0.0], y])) if len(x) and y[0] > 0 else (x, y)


def _line(axes: Axes, index: int, series: Series, x: Any, y: Any, *, joined: bool) -> None:
    style = palette.series_style(index)
    marked = len(x) <= _MARKED_POINTS or not joined
    look: dict[str, Any] = {"color": style.colour, "linewidth": _LINE_WIDTH, "solid_joinstyle": "round"}
    if marked:
        look |= {"marker": style.marker, "markersize": 5, "markeredgecolor": palette.CARD_LIGHT}
        look |= {"markeredgewidth": 0.8} | ({} if joined else {"linestyle": "none", "markersize": 7})
    elif index >= len(palette.LIGHT):
        look |= {"dashes": style.dashes}
    axes.plot(x, y, label=str(index), zorder=3 + index / 100, **look)
    low, high = floats(series.low), floats(series.high)
    if not len(low):
        return
    if marked:
        spread = np.abs(np.vstack([y - low, high - y]))
        bar: dict[str, Any] = {"ecolor": style.colour, "elinewidth": 1.2, "capsize": 2.5, "capthick": 1.2}
        set_cap_colour(axes.errorbar(x, y, yerr=spread, fmt="none", zorder=2.5, **bar), style.colour)
    else:
        axes.fill_between(x, low, high, color=style.colour, alpha=0.18, linewidth=0, zorder=2)


def _step(axes: Axes, index: int, x: Any, y: Any) -> None:
    style = palette.series_style(index)
    (line,) = axes.step(x, y, where="post", color=style.colour, linewidth=_LINE_WIDTH, label=str(index))
    if style.dashes:
        line.set_dashes(style.dashes)


def _area(axes: Axes, index: int, x: Any, bottom: Any, top: Any) -> None:
    colour = palette.series_style(index).colour
    axes.fill_between(x, bottom, top, color=colour, alpha=0.75, linewidth=0, label=str(index), zorder=2)
    axes.plot(x, top, color=colour, linewidth=_LINE_WIDTH, zorder=3)


def _limit(axes: Axes, plot: Plot) -> None:
    if plot.limit is None:
        return
    bottom, top = axes.get_ylim()
    axes.set_ylim(bottom, max(top, plot.limit * 1.1))
    axes.axhline(plot.limit, color=palette.INK, linewidth=1.2, dashes=(5, 2), zorder=4)
    where: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
    name = shorten(one_line(plot.limit_name), 2 * _LABEL_LENGTH)
    axes.annotate(name, (0.01, plot.limit), xytext=(0, 3), color=palette.INK, va="bottom", **where)


def _cdf_axis(axes: Axes) -> None:
    axes.set_yticks([0, 0.25, 0.5, 0.75, 0.9, 1])
    axes.yaxis.set_major_formatter(lambda value, _: f"{value * 100:.0f} %")
    axes.set_ylim(0, 1.015)


def _scales(axes: Axes, plot: Plot, values: list[tuple[Any, Any]]) -> None:
    for name, index, wanted in (("x", 0, plot.x_log), ("y", 1, plot.y_log and plot.kind != "cdf")):
        if wanted and any(np.any(pair[index] > 0) for pair in values):
            axes.set(**{f"{name}scale": "log"})


def _limits(axes: Axes, plot: Plot, values: list[tuple[Any, Any]]) -> None:
    """Starts a linear y axis at zero where the data come anywhere near it: heights can then be compared."""
    axes.margins(x=0.03)
    for index, scale in enumerate((axes.get_xscale(), axes.get_yscale())):
        found = np.concatenate([pair[index] for pair in values])
        distinct = np.unique(found[found > 0])
        if scale == "log" and len(distinct) == 1:
            ends = (distinct[0] / 2, distinct[0] * 2)
            _ = axes.set_ylim(*ends) if index else axes.set_xlim(*ends)
    if plot.kind == "cdf" or axes.get_yscale() == "log":
        return
    bottom, top = axes.get_ylim()
    y = np.concatenate([pair[1] for pair in values])
    if np.any(np.isfinite(y)) and np.nanmin(y) >= 0 and np.nanmin(y) <= 0.6 * np.nanmax(y):
        bottom = 0.0
    axes.set_ylim(bottom, top if top > bottom else bottom + 1)


def _ticks(axes: Axes, plot: Plot, values: list[tuple[Any, Any]]) -> None:
    from matplotlib.ticker import FixedLocator, LogLocator, NullLocator

    axes.grid(axis="both" if plot.kind == "cdf" else "y", color=palette.GRID, linewidth=0.8)
    for axis, index in ((axes.xaxis, 0), (axes.yaxis, 1)):
        log = axis.get_scale() == "log"
        found = np.concatenate([pair[index] for pair in values])
        distinct = np.unique(found[found > 0] if log else found[np.isfinite(found)])
        if index == 0 and plot.kind in ("line", "stack") and _few_and_apart(np.log(distinct) if log else distinct):
            axis.set_major_locator(FixedLocator(distinct.tolist()))
        elif log and distinct[-1] < 300 * distinct[0]:
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        if log:
            axis.set_minor_locator(NullLocator())
        if index == 0 or plot.kind != "cdf":
            write_ticks(axis, shared=not log)


def _few_and_apart(places: Any) -> bool:
    """Whether each of the places can have a tick of its own without texts running together."""
    if len(places) > _TICKS_AT_DATA:
        return False
    return len(places) < 2 or float(np.min(np.diff(places))) >= _TICK_GAP * float(places[-1] - places[0])


def _direct_labels(axes: Axes, series: list[Series], values: list[tuple[Any, Any]]) -> None:
    """Writes each name at its line's right end, moved apart where ends lie close."""
    ends = []
    for index, (each, (x, y)) in enumerate(zip(series, values, strict=True)):
        finite = np.flatnonzero(np.isfinite(x) & np.isfinite(y))
        if len(finite):
            last = finite[np.argmax(x[finite])]
            at = axes.transAxes.inverted().transform(axes.transData.transform((x[last], y[last])))[1]
            ends.append((float(at), index, each.name))
    places = spread([at for at, _, _ in ends], _LABEL_GAP)
    for place, (_, index, name) in zip(places, ends, strict=True):
        axes.annotate(
            shorten(one_line(name), _LABEL_LENGTH),
            (1.0, place),
            xycoords="axes fraction",
            xytext=(6, 0),
            textcoords="offset points",
            color=palette.series_style(index).colour,
            va="center",
            annotation_clip=False,
        )


def spread(wanted: list[float], gap: float) -> list[float]:
    """Returns places at least `gap` apart within 0 to 1, in the same order and near the wanted ones.

    More places than fit are set evenly.
    """
    order = sorted(range(len(wanted)), key=lambda index: wanted[index])
    gap = min(gap, 1 / max(1, len(wanted) - 1))
    places = [min(1.0, max(0.0, value)) for value in wanted]
    for before, after in itertools.pairwise(order):
        places[after] = max(places[after], places[before] + gap)
    ceiling = 1.0
    for index in reversed(order):
        places[index] = min(places[index], ceiling)
        ceiling = places[index] - gap
    return places
