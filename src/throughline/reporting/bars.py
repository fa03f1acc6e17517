"""Bar plots: groups by category, lying down where names are long; from zero, with intervals or values."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from throughline.contracts.report import Series
from throughline.reporting import format as fmt
from throughline.reporting import palette
from throughline.reporting.axis import (
    add_legend,
    add_rows,
    floats,
    one_line,
    set_cap_colour,
    shorten,
    text_width,
    tick_text,
    write_ticks,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LONG_CATEGORY = 10
_LONGEST_CATEGORY = 36
_CATEGORY_CHARACTERS = 56
_LYING_CATEGORIES = 9
# More bars than this get no value at their end.
_VALUE_LABELS = 14
_FEWEST_CATEGORIES = 3


def draw_bars(axes: Axes, series: list[Series], *, log: bool) -> None:
    """Groups of bars by category, lying down where names are long."""
    categories = list(dict.fromkeys(_name(value) for each in series for value in each.x))
    names = [shorten(name, _LONGEST_CATEGORY) for name in categories]
    widest = max(map(text_width, names))
    lying = widest > _LONG_CATEGORY or widest * len(names) > _CATEGORY_CHARACTERS
    if lying:
        add_rows(axes, len(names) - _LYING_CATEGORIES)
    places = np.arange(len(categories), dtype=np.float64)
    width = 0.8 / len(series)
    for index, each in enumerate(series):
        at: dict[str, int] = {_name(name): position for position, name in enumerate(each.x)}
        pick = [at.get(name) for name in categories]
        y, low, high = (_picked(floats(values), pick) for values in (each.y, each.low, each.high))
        offset = places + (index - (len(series) - 1) / 2) * width
        style = palette.series_style(index)
        look: dict[str, Any] = {"color": style.colour, "label": str(index), "zorder": 2}
        bars = (axes.barh if lying else axes.bar)(offset, y, width * 0.9, **look)
        if np.any(np.isfinite(low)):
            error: dict[str, Any] = {"ecolor": palette.INK, "elinewidth": 1.1, "capsize": 2.5, "zorder": 3}
            away = np.abs(np.vstack([y - low, high - y]))
            if lying:
                caps = axes.errorbar(y, offset, xerr=away, fmt="none", **error)
            else:
                caps = axes.errorbar(offset, y, yerr=away, fmt="none", **error)
            set_cap_colour(caps, palette.INK)
        elif len(categories) * len(series) <= _VALUE_LABELS:
            axes.bar_label(bars, labels=_value_texts(y), padding=3, color=palette.INK, fontsize=9)
    positive = any(np.any(floats(each.y) > 0) for each in series)
    _bar_axes(axes, names, lying=lying, log=log and positive)
    if len(series) > 1:
        add_legend(axes, series)


def _bar_axes(axes: Axes, names: list[str], *, lying: bool, log: bool) -> None:
    from matplotlib.ticker import NullLocator

    category, value = (axes.yaxis, axes.xaxis) if lying else (axes.xaxis, axes.yaxis)
    if lying:
        horizontal, vertical = axes.get_ylabel(), axes.get_xlabel()
        axes.set(xlabel=horizontal, ylabel=vertical)
        axes.spines["bottom"].set_visible(False)
        axes.spines["left"].set(visible=True, color=palette.GRID)
    category.set_ticks(list(range(len(names))), labels=names)
    category.set_tick_params(labelcolor=palette.INK)
    if log:
        axes.set(**{"xscale" if lying else "yscale": "log"})
        value.set_minor_locator(NullLocator())
    axes.grid(axis="x" if lying else "y", color=palette.GRID, linewidth=0.8)
    axes.margins(0.12)
    around = max(0.0, _FEWEST_CATEGORIES - len(names)) / 2 + 0.5
    ends = (-around, len(names) - 1 + around)
    if lying:
        axes.set_ylim(*reversed(ends))
    else:
        axes.set_xlim(*ends)
    if not log and value.get_data_interval()[0] == value.get_data_interval()[1]:
        value.set_view_interval(0, 1, ignore=True)
    write_ticks(value, shared=not log)


def _value_texts(values: Any) -> list[str]:
    """Three digits each, and the same decimals for all; nothing where there is no bar."""
    short = [tick_text(float(f"{value:.3g}")) for value in values if math.isfinite(value)]
    digits = max((len(text.partition(".")[2]) for text in short if "e" not in text), default=0)
    return [fmt.number(value, min(digits, 3)) if math.isfinite(value) else "" for value in values]


def _picked(values: Any, pick: list[int | None]) -> Any:
    if not len(values):
        return np.full(len(pick), math.nan)
    return np.array([math.nan if index is None else values[index] for index in pick])


def _name(value: object) -> str:
    return tick_text(float(value)) if isinstance(value, (int, float)) else one_line(str(value))
