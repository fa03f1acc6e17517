"""A report as one HTML file that needs nothing else, and as JSON with the same numbers."""

from __future__ import annotations

import json
import math
import numbers
import os
import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from throughline.contracts.report import Report, Section, Table, VerdictKind
from throughline.reporting import palette
from throughline.reporting.cells import MARKS, table_cells
from throughline.reporting.format import clean

HTML_NAME = "report.html"
JSON_NAME = "report.json"
# Raised when a field of report.json changes its meaning.
FORMAT_VERSION = 1

_SPOKEN: Mapping[VerdictKind, str] = {"good": "Good", "bad": "Bad", "unclear": "Unclear"}
# A row's name wraps on phones when longer than this, so that there is room for a number beside it.
_NAME_CH = 17
# Columns with intervals that fit on a page with the intervals beside their values.
_WIDEST = 4
_CODE = re.compile(r"`([^`\n]+)`")


def render_html(report: Report) -> str:
    """Returns the page: verdict, summary, sections, environment, command; without scripts or references.

    Every text of the report is escaped; a content security policy forbids scripts and requests besides.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=lambda value: clean(value) if type(value) is str else value,
    )
    environment.filters["code"] = _code
    style = environment.get_template("style.css.jinja").render(
        light=palette.LIGHT, dark=palette.DARK, card_light=palette.CARD_LIGHT, card_dark=palette.CARD_DARK
    )
    return environment.get_template("page.html.jinja").render(
        report=report,
        style=_trusted(style),
        mark=MARKS[report.verdict_kind],
        spoken=_SPOKEN[report.verdict_kind],
        opening=_section(report.opening, 0) if report.opening is not None else None,
        sections=[_section(section, index) for index, section in enumerate(report.sections, start=1)],
    )


def write_report(report: Report, directory: str | Path) -> tuple[Path, Path]:
    """Writes `report.html` and `report.json`, replacing older ones whole.

    Args:
        report: What to write.
        directory: Made if it is not there.

    Returns:
        The paths of the HTML and the JSON file.
    """
    folder = Path(directory)
    texts = {folder / HTML_NAME: render_html(report), folder / JSON_NAME: render_json(report)}
    folder.mkdir(parents=True, exist_ok=True)
    # Both are written before either is renamed: a full disk leaves the old pair.
    staged = {path: path.with_name(f".{path.name}.{os.getpid()}.tmp") for path in texts}
    try:
        for path, text in texts.items():
            staged[path].write_text(text, encoding="utf-8", newline="\n")
        for path in texts:
            staged[path].replace(path)
    finally:
        for path in staged.values():
            path.unlink(missing_ok=True)
    return folder / HTML_NAME, folder / JSON_NAME


def render_json(report: Report) -> str:
    """Returns the report's fields as JSON; NaN and infinity become null, which JSON has no other word for."""
    return json.dumps({"format": FORMAT_VERSION, **_plain(report)}, indent=1, allow_nan=False) + "\n"


def _section(section: Section, index: int) -> dict[str, Any]:
    from throughline.reporting.plots import svg

    return {
        "id": f"section-{index}",
        "title": section.title,
        "quote": section.quote,
        "folded": [{"line": each.line, "text": each.text} for each in section.folded],
        "paragraphs": [part.strip() for part in re.split(r"\n\s*\n", section.text) if part.strip()],
        "tables": [_table(table) for table in section.tables],
        # Numbered, so that one plot may stand on a page twice.
        "plots": [
            {"title": plot.title, "note": plot.note, "svg": svg(plot, prefix=f"s{index}p{number}")}
            for number, plot in enumerate(section.plots, start=1)
        ],
    }


def _table(table: Table) -> dict[str, Any]:
    rows = table_cells(table)
    columns = [
        {
            "name": column.name,
            "unit": column.unit,
            "align": column.align,
            "name_ch": min(_NAME_CH, max((len(row[index].value) + 3 for row in rows), default=0)),
            "interval_ch": max((_digit_widths(row[index].interval) for row in rows), default=0.0),
        }
        for index, column in enumerate(table.columns)
    ]
    # Side by side, values with intervals of so many columns would run out of the page.
    wide = sum(bool(column["interval_ch"]) for column in columns) > _WIDEST
    return {"title": table.title, "note": table.note, "columns": columns, "rows": rows, "wide": wide}


def _digit_widths(interval: str) -> float:
    """How wide an interval is in CSS `ch`: brackets, points, commas and spaces are about half a digit."""
    digits = sum(character.isdigit() or character in "−∞" for character in interval)
    return round(digits + 0.55 * (len(interval) - digits), 1)


def _code(text: str) -> Any:
    """Escapes text and sets what stands in backquotes as code."""
    from markupsafe import escape

    return _trusted(_CODE.sub(r"<code>\1</code>", str(escape(clean(text)))))


def _trusted(markup: str) -> Any:
    from markupsafe import Markup

    return Markup(markup)  # noqa: S704 - only our own template and text that was escaped


def _plain(value: object) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value) if math.isfinite(value) else None
    tolist = getattr(value, "tolist", None)
    if callable(tolist):
        return _plain(tolist())
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return str(value)
