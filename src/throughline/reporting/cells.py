"""A table's cells as text, the same for terminal and page; numbers of one column share their decimals."""

from __future__ import annotations

import math
import numbers
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from throughline.contracts.benchmark import Estimate
from throughline.contracts.report import Judged, Table, VerdictKind
from throughline.reporting import format as fmt

MARKS: Mapping[VerdictKind, str] = {"good": "✓", "bad": "✕", "unclear": "?"}
# What `reporting.format` appends; told apart from other brackets by the two numbers inside.
_INTERVAL = re.compile(r"^(.+) (\[[−∞\d.,]+, [−∞\d.,]+\])$")
# Beyond this spread one column needs different decimals, or its small values would lose their digits.
_SHARED_DECIMALS_SPREAD = 1e4


@dataclass(frozen=True)
class Cell:
    """What stands in a cell; `interval` is its part in brackets, set apart because it is shown quieter.

    A judged cell has a `kind`, and begins with its mark, so that colour is not all that tells.
    """

    value: str
    interval: str = ""
    kind: VerdictKind | None = None

    @property
    def text(self) -> str:
        """Both parts."""
        return f"{self.value} {self.interval}" if self.interval else self.value


def table_cells(table: Table) -> list[list[Cell]]:
    """Returns the cells of every row."""
    columns = [_column([row[index] for row in table.rows]) if table.rows else [] for index in range(len(table.columns))]
    return [list(row) for row in zip(*columns, strict=True)]


def interval_widths(rows: Sequence[Sequence[Cell]]) -> list[int]:
    """Returns the characters of each column's longest interval, 0 where there is none."""
    return [max(len(cell.interval) for cell in column) for column in zip(*rows, strict=True)]


def _column(values: Sequence[object]) -> list[Cell]:
    digits = _shared_decimals(values)
    return [_cell(value, digits) for value in values]


def _cell(value: object, digits: int | None) -> Cell:
    if isinstance(value, Judged):
        inner = _cell(value.value, digits)
        # A no-break space: the mark stays with its value.
        return Cell(f"{MARKS[value.kind]}\u00a0{inner.value}", inner.interval, value.kind)
    if value is None:
        return Cell(fmt.MISSING)
    if isinstance(value, bool):
        return Cell("yes" if value else "no")
    if isinstance(value, Estimate):
        value = fmt.estimate(value.value, value.low, value.high, digits)
    elif isinstance(value, numbers.Integral) and digits is None:
        return Cell(fmt.number(int(value)))
    elif isinstance(value, numbers.Real):
        return Cell(fmt.number(float(value), digits))
    text = " ".join(fmt.clean(str(value)).split())
    found = _INTERVAL.match(text)
    return Cell(found[1], found[2]) if found else Cell(text)


def _shared_decimals(values: Sequence[object]) -> int | None:
    """Decimals that give the smallest value three digits; None if all are whole or their sizes too unlike."""
    values = [item.value if isinstance(item, Judged) else item for item in values]
    found = [item.value if isinstance(item, Estimate) else item for item in values]
    real = [float(item) for item in found if isinstance(item, numbers.Real) and not isinstance(item, bool)]
    sizes = [abs(item) for item in real if item and math.isfinite(item)]
    whole = all(isinstance(item, numbers.Integral) or not isinstance(item, (numbers.Real, Estimate)) for item in values)
    if whole or not sizes or max(sizes) / min(sizes) > _SHARED_DECIMALS_SPREAD or min(sizes) < 1e-4:
        return None
    return fmt.decimals(min(sizes))
