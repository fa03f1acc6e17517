"""Tables for the terminal: aligned, never wider than it, never a digit lost, and plain where nobody watches."""

from __future__ import annotations

import io
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from throughline.contracts.benchmark import Estimate
from throughline.contracts.errors import InternalError
from throughline.contracts.report import Column, Judged, Table
from throughline.reporting.terminal import print_table

ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("COLUMNS", "NO_COLOR", "FORCE_COLOR", "CLICOLOR_FORCE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")


def table() -> Table:
    return Table(
        "Quality",
        [Column("model", align="left"), Column("exact match"), Column("speed", "tok/s"), Column("n")],
        [
            ["base", "2.1 % [1.2, 3.6]", Estimate(402.14, 391.0, 411.0, 12), 800],
            ["tuned int8", "86.8 % [82.6, 90.1]", Estimate(1848.2, 1831.0, 1866.0, 12), 12800],
            ["int4", None, None, 0],
        ],
        note="Intervals are 95 %.",
    )


def printed(value: Table, stream: io.StringIO | None = None) -> str:
    stream = stream or io.StringIO()
    print_table(value, stream)
    return stream.getvalue()


def test_columns_are_aligned() -> None:
    assert printed(table()) == (
        "Quality\n"
        "model                exact match                  speed        n\n"
        "                                                  tok/s\n"
        "────────────────────────────────────────────────────────────────\n"
        "base          2.1 % [1.2, 3.6]       402 [391, 411]          800\n"
        "tuned int8   86.8 % [82.6, 90.1]   1,848 [1,831, 1,866]   12,800\n"
        "int4              –                    –                       0\n"
        "Intervals are 95 %.\n"
    )


def test_numbers_of_a_column_share_their_decimals() -> None:
    rows: list[list[object]] = [[0.25], [1], [np.float32(12.5)], [True], [float("nan")]]
    lines = printed(Table("t", [Column("loss")], rows)).split()
    assert lines[-5:] == ["0.250", "1.000", "12.500", "yes", "–"]


def test_numbers_too_unlike_keep_their_own_decimals() -> None:
    lines = printed(Table("t", [Column("x")], [[0.000123], [98765.4]])).split()
    assert lines[-2:] == ["0.000123", "98,765"]


@given(
    width=st.integers(30, 140),
    rows=st.lists(st.tuples(st.text(max_size=60), st.floats(), st.integers(0, 10**9)), max_size=4),
)
def test_a_terminal_table_fits_and_keeps_its_numbers(width: int, rows: list[tuple[str, float, int]]) -> None:
    columns = [Column("what it is", align="left"), Column("share", "%"), Column("size", "B")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", str(width))
        text = printed(Table("t", columns, [list(row) for row in rows]))
    lines = text.splitlines()
    for _, _, size in rows:
        assert f"{size:,}" in text
    if any("──" in line for line in lines):
        assert max(map(cell_len, lines)) <= width
    assert not ANSI.search(text)


def test_a_table_too_wide_for_its_numbers_becomes_a_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    assert "• model        tuned int8\n  exact match  86.8 % [82.6, 90.1]\n" in printed(table())
    assert "  speed        1,848 [1,831, 1,866] tok/s\n" in printed(table())


def test_text_is_shown_as_it_is() -> None:
    text = printed(Table("[bold]t", [Column("[red]a", align="left")], [["[link=x]y[/link] :smile: \x1b[31m\nz"]]))
    assert "[bold]t" in text and "[red]a" in text
    assert "[link=x]y[/link] :smile: �[31m z" in text


@pytest.mark.parametrize(
    ("stream", "no_color", "coloured"),
    [(Terminal(), "", True), (Terminal(), "1", False), (io.StringIO(), "", False)],
)
def test_styles_only_on_a_terminal_that_wants_them(
    stream: io.StringIO, no_color: str, coloured: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", no_color)
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert bool(ANSI.search(printed(table(), stream))) is coloured


def test_a_stream_without_unicode_gets_question_marks_instead_of_a_crash() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    print_table(Table("t", [Column("a")], [["0.93× [0.91, 0.95]"]]), stream)
    assert b"0.93? [0.91, 0.95]" in raw.getvalue()


def test_judged_cells_have_their_mark_and_on_a_terminal_their_colour() -> None:
    value = Table("t", [Column("gate", align="left"), Column("n")], [[Judged("GO", "good"), Judged(3, "bad")]])
    assert "✓\u00a0GO   ✕\u00a03" in printed(value)
    assert "\x1b[32m✓\u00a0GO" in printed(value, Terminal())


def test_a_table_without_rows_prints_its_header() -> None:
    assert "model" in printed(Table("t", [Column("model"), Column("n")], []))


def test_a_ragged_row_is_refused() -> None:
    with pytest.raises(InternalError, match=r"table 't', row 2 — seen: 1 cells for 2 columns"):
        Table("t", [Column("a"), Column("b")], [[1, 2], [3]])
