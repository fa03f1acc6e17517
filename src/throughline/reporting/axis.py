"""What all plots share: numbers for matplotlib, the texts at ticks, the legend."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from throughline.contracts.report import Series
from throughline.reporting import format as fmt
from throughline.reporting import palette

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.container import ErrorbarContainer

# Of a plot's width, in characters; the second is what a legend's handle and gap take of it.
_LEGEND_CHARACTERS = 68
_LEGEND_HANDLE = 7
_LEGEND_LONGEST = 36
ROW_INCHES = 0.19
# Beyond it, and below its inverse, margins and ratios leave the range of a double.
_LARGEST = 1e100


def floats(values: Sequence[float] | Sequence[str] | None) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Returns float64 numbers; None, infinities and what no axis can span become NaN, the tiniest zero."""
    given = [] if values is None else values
    found = np.array([math.nan if value is None else float(value) for value in given], dtype=np.float64)
    found[~(np.abs(found) < _LARGEST)] = math.nan
    found[np.abs(found) < 1 / _LARGEST] = 0.0
    return found


def write_ticks(axis: Axis, *, shared: bool) -> None:
    """Writes ticks as the tables write numbers; on a linear axis all with the same decimals."""
    from matplotlib.ticker import Formatter

    class Ticks(Formatter):
        def __call__(self, value: float, _position: int | None = None) -> str:
            return tick_text(value)

        def format_ticks(self, values: Sequence[float]) -> list[str]:
            digits = max((len(tick_text(value).partition(".")[2]) for value in values), default=0)
            plain = shared and not any("e" in tick_text(value) for value in values)
            return [fmt.number(value, digits) if plain else tick_text(value) for value in values]

    axis.set_major_formatter(Ticks())


def tick_text(value: float) -> str:
    """Returns a number as short as it can be: whole ones without decimals, others with six digits at most."""
    whole = float(value).is_integer() and abs(value) < 1e12
    return fmt.number(int(value)) if whole else f"{value:,.6g}".replace("-", "−")


def add_legend(axes: Axes, series: list[Series]) -> None:
    """Sets names above the axes, where they cover no data, in as many columns as fit."""
    names = [shorten(one_line(each.name), _LEGEND_LONGEST) for each in series]
    lengths = [text_width(name) + _LEGEND_HANDLE for name in names]
    columns = len(series)
    while columns > 1 and _legend_width(lengths, columns) > _LEGEND_CHARACTERS:
        columns -= 1
    legend = axes.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=columns,
        frameon=False,
        labelcolor=palette.INK,
        handlelength=2.2,
        columnspacing=1.4,
        borderaxespad=0.4,
        borderpad=0.2,
    )
    add_rows(axes, math.ceil(len(series) / columns) - 1)
    # Set afterwards: matplotlib hides labels that begin with an underscore.
    for text in legend.get_texts():
        text.set_text(names[int(text.get_text())])


def _legend_width(lengths: list[int], columns: int) -> int:
    """Characters of a row when the names fill columns from top to bottom, as matplotlib does it."""
    rows = math.ceil(len(lengths) / columns)
    return sum(max(lengths[start : start + rows]) for start in range(0, len(lengths), rows))


def one_line(text: str) -> str:
    """Returns text that can be shown, with each run of white space as one blank."""
    return " ".join(fmt.clean(text).split())


def text_width(text: str) -> int:
    """Returns at most how many common letters are as wide; letters of far scripts count two or three times."""
    return sum(
        3 if character > "\uffff" else 2 if character in "MW@%" or character > "\u1000" else 1 for character in text
    )


def shorten(text: str, width: int) -> str:
    """Returns the text, cut with an ellipsis if wider."""
    if text_width(text) <= width:
        return text
    while text and text_width(text) > width - 1:
        text = text[:-1]
    return text.rstrip() + "…"


def add_rows(axes: Axes, rows: int) -> None:
    """Makes the figure higher by so many lines of text, none if negative."""
    figure = axes.get_figure(root=True)
    if figure is not None:
        figure.set_figheight(figure.get_figheight() + max(0, rows) * ROW_INCHES)


def set_cap_colour(bars: ErrorbarContainer, colour: str) -> None:
    """Colours the ends of error bars throughout; left alone they keep a fill from matplotlib's cycle."""
    for cap in bars[1]:
        cap.set_markerfacecolor(colour)
