"""Tables for the terminal; plain text without colour where nobody watches."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, TextIO

from throughline.contracts.report import Table, VerdictKind
from throughline.reporting import console as person
from throughline.reporting.cells import Cell, interval_widths, table_cells
from throughline.reporting.format import MISSING, clean

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

# Files and pipes have no width: wide enough that a log keeps one line per row.
_UNBOUNDED = 240
# Blanks between columns; rich's divider is one of them.
_GAP = 3
# A column of text may shrink to this many characters before the table turns into a list.
_NARROWEST_TEXT = 12
_STYLES: Mapping[VerdictKind, str] = {"good": "green", "bad": "bold red", "unclear": "yellow"}


def make_console(stream: TextIO) -> Console:
    """Returns a console whose colour depends on the stream alone: a terminal, and NO_COLOR not set."""
    from rich.console import Console

    terminal = stream.isatty()
    colour = terminal and not os.environ.get("NO_COLOR")
    return Console(
        file=stream,
        force_terminal=terminal,
        color_system="auto" if colour else None,
        no_color=not colour,
        width=None if terminal or os.environ.get("COLUMNS") else _UNBOUNDED,
        markup=False,
        highlight=False,
        emoji=False,
        legacy_windows=False,
    )


def print_table(table: Table, stream: TextIO | None = None) -> None:
    """Prints a table that fits the terminal; one too narrow for the numbers gets a list of rows instead.

    Args:
        table: What to print.
        stream: Where to; the person's standard output if None. Its width is the terminal's, or `COLUMNS`.
    """
    stream = stream or person.out()
    console = make_console(stream)
    rows = table_cells(table)
    with console.capture() as captured:
        console.print(clean(table.title), style="bold", soft_wrap=True)
        if _narrowest(table, rows) <= console.width:
            console.print(_grid(table, rows))
        else:
            _print_list(console, table, rows)
        if table.note:
            console.print(clean(table.note), style="dim")
    lines = "\n".join(line.rstrip() for line in captured.get().splitlines()) + "\n"
    person.write(stream, lines)


def _grid(table: Table, rows: list[list[Cell]]) -> RichTable:
    from rich import box
    from rich.cells import cell_len
    from rich.table import Table as RichTable
    from rich.text import Text

    # Only the rule under the header: lines between cells would repeat what the alignment says.
    rule = box.Box("    \n    \n ── \n    \n    \n    \n    \n    \n")
    grid = RichTable(box=rule, show_edge=False, padding=(0, _GAP - 1, 0, 0), pad_edge=False, header_style="bold")
    for column in table.columns:
        header = Text(clean(column.name), justify=column.align)
        if any(each.unit for each in table.columns):
            header.append(f"\n{clean(column.unit)}", style="not bold dim")
        grid.add_column(header, justify=column.align, no_wrap=column.align == "right", overflow="fold")
    intervals = interval_widths(rows)
    values = [max(cell_len(cell.value) for cell in column) for column in zip(*rows, strict=True)]
    for row in rows:
        grid.add_row(*(_styled(cell, *widths) for cell, *widths in zip(row, values, intervals, strict=True)))
    return grid


def _print_list(console: Console, table: Table, rows: list[list[Cell]]) -> None:
    names = [clean(column.name) for column in table.columns]
    width = max((len(name) for name in names), default=0)
    for row in rows:
        for index, (name, column, cell) in enumerate(zip(names, table.columns, row, strict=True)):
            unit = f" {clean(column.unit)}" if column.unit and cell.text != MISSING else ""
            lead = "• " if index == 0 else "  "
            console.print(f"{lead}{name:<{width}}  {cell.text}{unit}", soft_wrap=True)


def _narrowest(table: Table, rows: list[list[Cell]]) -> int:
    """Characters below which a number would have to be cut."""
    from rich.cells import cell_len

    total = _GAP * max(0, len(table.columns) - 1)
    widths = interval_widths(rows) or [0] * len(table.columns)
    for index, (column, interval) in enumerate(zip(table.columns, widths, strict=True)):
        values = max((cell_len(row[index].value) for row in rows), default=0)
        widest = max(cell_len(column.name), cell_len(column.unit), values + (interval and interval + 1))
        total += widest if column.align == "right" else min(widest, _NARROWEST_TEXT)
    return total


def _styled(cell: Cell, value_width: int, interval_width: int) -> Text:
    """Value and interval, each padded to its column's width, so that values stand below one another."""
    from rich.cells import cell_len
    from rich.text import Text

    style = _STYLES[cell.kind] if cell.kind is not None else ""
    if not interval_width:
        return Text(cell.value, style=style)
    text = Text(" " * (value_width - cell_len(cell.value)), justify="left").append(cell.value, style=style)
    return text.append(f" {cell.interval:<{interval_width}}", style="dim")
