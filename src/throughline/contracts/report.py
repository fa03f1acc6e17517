"""What a report says: tables, plots and sections as plain values; how they look is `reporting`'s affair."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from throughline.contracts.errors import InternalError

Align = Literal["left", "right"]
PlotKind = Literal["line", "points", "cdf", "bar", "stack"]
VerdictKind = Literal["good", "bad", "unclear"]


@dataclass(frozen=True)
class Column:
    """A table's column; `unit` is that of its numbers and stands under its name."""

    name: str
    unit: str = ""
    align: Align = "right"


@dataclass(frozen=True)
class Judged:
    """A cell with a judgement, shown in its colour and with its mark."""

    value: object
    kind: VerdictKind


@dataclass(frozen=True)
class Highlight:
    """One figure to take away: what it is, its value in large type, and what it is compared with."""

    label: str
    value: str
    detail: str = ""


@dataclass(frozen=True)
class Table:
    """Rows under named columns.

    A cell is a number in its column's unit, a `contracts.benchmark.Estimate` in that unit, text that is
    shown as it is (the place for values of `reporting.format`, which bring their unit), a bool, None for what
    was not measured, or one of these inside `Judged`.

    Raises:
        InternalError: If a row has more or fewer cells than there are columns.
    """

    title: str
    columns: list[Column]
    rows: list[list[object]]
    note: str = ""

    def __post_init__(self) -> None:
        for number, row in enumerate(self.rows, start=1):
            if len(row) != len(self.columns):
                raise InternalError(
                    "table row does not match its columns",
                    where=f"table '{self.title}', row {number}",
                    seen=f"{len(row)} cells for {len(self.columns)} columns",
                    fix="give every row one cell per column, None for what is missing",
                )


@dataclass(frozen=True)
class Series:
    """One line, distribution or set of bars.

    Attributes:
        name: Label beside the line or in the legend.
        x: Positions; in a bar plot also names of categories; in a CDF the values.
        y: Heights; in a CDF the cumulative fractions 0 to 1, or empty to count the values in `x`.
        low: Lower ends of the 95 % intervals of `y`.
        high: Upper ends; given with `low` or not at all.

    Raises:
        InternalError: If the lengths differ.
    """

    name: str
    x: Sequence[float] | Sequence[str]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None

    def __post_init__(self) -> None:
        lengths = {"x": len(self.x)}
        if len(self.y) or not len(self.x):
            lengths["y"] = len(self.y)
        if (self.low is None) != (self.high is None):
            lengths["low or high alone"] = -1
        if self.low is not None and self.high is not None:
            lengths |= {"low": len(self.low), "high": len(self.high)}
        if len(set(lengths.values())) > 1:
            raise InternalError(
                "series has lists of different lengths",
                where=f"series '{self.name}'",
                seen=", ".join(f"{name}: {length}" for name, length in lengths.items() if length >= 0),
                fix="give y, and low with high if there are intervals, one value per x",
            )


@dataclass(frozen=True)
class Plot:
    """A figure; the labels name the unit, e.g. `Time to first token (ms)`.

    Attributes:
        kind: `line` (with error bars, or a band where points are dense), `points` (nothing between them), `cdf`
            (steps), `bar` (from 0) or `stack` (areas on one another, the first at the bottom; series of one x).
        x_log: Logarithmic x axis; left linear when no value is positive.
        y_log: The same for y.
        note: A sentence under the figure, e.g. what the interval means.
        limit: A height that must not be passed, drawn as a line with `limit_name` on it.
        limit_name: What the limit is.

    Raises:
        InternalError: If a series without `y` stands in anything but a CDF, or a stack's series differ in `x`.
    """

    title: str
    x_label: str
    y_label: str
    series: list[Series]
    kind: PlotKind = "line"
    x_log: bool = False
    y_log: bool = False
    note: str = ""
    limit: float | None = None
    limit_name: str = ""

    def __post_init__(self) -> None:
        for each in self.series:
            if self.kind == "stack" and list(each.x) != list(self.series[0].x):
                raise InternalError(
                    "a stack's series stand at different places",
                    where=f"plot '{self.title}', series '{each.name}'",
                    seen=f"x of '{self.series[0].name}' and of '{each.name}'",
                    fix="give all of them the same x",
                )
            if self.kind != "cdf" and len(each.x) != len(each.y):
                raise InternalError(
                    "series has no y values",
                    where=f"plot '{self.title}', series '{each.name}'",
                    seen=f"kind={self.kind}",
                    fix="only a cdf can be counted from x alone",
                )


@dataclass(frozen=True)
class Folded:
    """A line that opens to text, which is shown word for word, line breaks included."""

    line: str
    text: str


@dataclass(frozen=True)
class Section:
    """Text, a quotation, tables, plots, folded texts under one heading; a blank line in `text` parts paragraphs.

    `quote` is shown word for word, line breaks included.
    """

    title: str
    text: str = ""
    tables: list[Table] = field(default_factory=list)
    plots: list[Plot] = field(default_factory=list)
    quote: str = ""
    folded: list[Folded] = field(default_factory=list)


@dataclass(frozen=True)
class Report:
    """A whole page.

    Attributes:
        title: What was examined.
        verdict: The one line to take away.
        verdict_kind: Whether that is good news, bad news, or cannot be told from the evidence.
        summary: The few facts behind the verdict, most important first.
        sections: The evidence.
        environment: Versions and hardware by name.
        command: The command that makes this report again.
        opening: An example that stands before everything else.
        highlights: The few figures that stand below it.

    Text in backquotes is set as code in `summary`, in `Section.text` and in notes.
    """

    title: str
    verdict: str
    verdict_kind: VerdictKind
    summary: list[str]
    sections: list[Section]
    environment: dict[str, str]
    command: str
    opening: Section | None = None
    highlights: list[Highlight] = field(default_factory=list)
