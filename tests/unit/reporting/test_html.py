"""The page: complete, self-contained, escaped, accessible; the same numbers as JSON, written whole."""

from __future__ import annotations

import json
import math
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from throughline.contracts.benchmark import Estimate
from throughline.contracts.report import Column, Highlight, Judged, Plot, Report, Section, Series, Table
from throughline.reporting import html
from throughline.reporting.html import render_html, write_report

VOID = {"meta", "link", "br", "img", "input", "hr"}


class Page(HTMLParser):
    """Reads a page as a browser would: elements with their attributes, visible text, and whether tags match."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.stack: list[str] = []
        self.text: dict[str, list[str]] = {}
        self.feed(source)
        self.close()
        assert not self.stack, self.stack

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.stack and data.strip():
            self.text.setdefault(self.stack[-1], []).append(" ".join(data.split()))

    def tags(self) -> list[str]:
        return [tag for tag, _ in self.elements]


def report(**more: object) -> Report:
    table = Table(
        "Acceptance set",
        [Column("model", align="left"), Column("exact match"), Column("speed", "tok/s"), Column("p95", "ms")],
        [
            ["base", "2.1 % [1.2, 3.6]", Estimate(402.1, 391.0, 411.0, 12), None],
            ["int8", "86.8 % [82.6, 90.1]", Estimate(848.2, 831.0, 866.0, 12), np.float64(31.25)],
        ],
        note="Greedy, `max_tokens=128`.",
    )
    plot = Plot("Loss", "Step", "Loss (nats)", [Series("train", [0, 1], [2.5, math.nan])], note="One seed.")
    values: dict[str, object] = {
        "title": "Lifecycle of lab",
        "verdict": "GO: int8 keeps its quality",
        "verdict_kind": "good",
        "summary": ["86.8 % [82.6, 90.1] exact match", "run `make run`"],
        "sections": [Section("Quality", "First.\n\nSecond.", [table], [plot, plot])],
        "environment": {"python": "3.11.2"},
        "command": "python -m recipes.lifecycle profile=laptop",
    }
    return Report(**(values | more))  # type: ignore[arg-type]


def test_the_parts_come_in_their_order() -> None:
    source = render_html(report())
    wanted = [
        "Lifecycle of lab</h1>",
        "GO: int8 keeps its quality</span>",
        "exact match</li>",
        "Quality</h2>",
        "<p>First.</p>",
        "<p>Second.</p>",
        "<caption>Acceptance set",
        "<figcaption>Loss",
        "Environment</h2>",
        "<dd>3.11.2",
        "<code>python -m recipes.lifecycle profile=laptop</code>",
    ]
    body = source[source.index("<body>") :]
    assert [text for text in wanted if text not in body] == []
    assert [body.index(text) for text in wanted] == sorted(body.index(text) for text in wanted)


def test_an_opening_and_highlights_come_before_the_evidence() -> None:
    table = Table(
        "Answers", [Column("field", align="left"), Column("int4", align="left")], [["gpu", Judged("L4", "bad")]]
    )
    opening = Section("One ticket", "The first.", [table], quote="Dear desk,\n  <b>help</b>")
    source = render_html(report(opening=opening, highlights=[Highlight("Exact match", "95 %", "0 % before")]))
    body = source[source.index("<body>") :]
    wanted = [
        "keeps its quality</span>",
        "One ticket</h2>",
        "Dear desk,\n  &lt;b&gt;help",
        "✕\u00a0L4",
        "95 %",
        "0 % before",
    ]
    wanted += ["exact match</li>", "Quality</h2>"]
    assert [body.index(text) for text in wanted] == sorted(body.index(text) for text in wanted)
    cells = [attributes["class"] for tag, attributes in Page(source).elements if tag == "td" and "class" in attributes]
    assert "left bad" in cells


def test_cells_have_values_units_and_intervals() -> None:
    page = Page(render_html(report()))
    assert page.text["caption"] == ["Acceptance set"]
    assert {"402", "848", "–", "31.2", "2.1 %", "86.8 %"} <= set(page.text["td"])
    assert {"tok/s", "ms", "[391, 411]", "[82.6, 90.1]"} <= set(page.text["span"])
    assert {"make run", "max_tokens=128"} <= set(page.text["code"])


def test_the_page_is_accessible() -> None:
    page = Page(render_html(report()))
    by_tag = dict(page.elements)
    assert by_tag["html"]["lang"] == "en"
    assert page.tags().count("h1") == 1 and page.tags().count("main") == 1
    assert all(attributes.get("scope") in {"col", "row"} for tag, attributes in page.elements if tag == "th")
    plots = [attributes for tag, attributes in page.elements if tag == "svg"]
    assert len(plots) == 2
    assert all(each["role"] == "img" and "Loss (nats)" in str(each["aria-label"]) for each in plots)
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert "Good" in " ".join(page.text["span"])


def test_the_page_needs_nothing_else() -> None:
    source = render_html(report())
    page = Page(source)
    assert not {"script", "iframe", "object", "embed", "img", "base", "form"} & set(page.tags())
    for tag, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href", "xlink:href"):
            assert str(attributes.get(name) or "#").startswith(("#", "data:,")), (tag, attributes)
    assert "default-src 'none'" in source and "@import" not in source
    assert "url(" not in source.replace("url(#", "")


def test_light_dark_and_print_are_styled() -> None:
    source = render_html(report())
    assert "@media (prefers-color-scheme: dark)" in source and "@media print" in source
    assert source.count("--series-6:") == 3


def test_sections_are_linked_once_there_are_several() -> None:
    many = Page(render_html(report(sections=[Section("One"), Section("Two"), Section("Three")])))
    targets = {attributes["id"] for _, attributes in many.elements if "id" in attributes}
    links = {str(attributes["href"])[1:] for tag, attributes in many.elements if tag == "a"}
    assert links == targets and len(links) == 4
    assert "nav" not in Page(render_html(report())).tags()


def test_a_report_of_nothing_still_has_its_verdict() -> None:
    page = Page(render_html(report(sections=[], summary=[], environment={}, verdict_kind="unclear")))
    assert "GO: int8 keeps its quality" in page.text["span"] and "Unclear:" in page.text["span"]
    empty = Page(render_html(report(sections=[Section("s", tables=[Table("t", [Column("a")], [])])])))
    assert page.tags().count("table") == 0 and "no rows" in empty.text["td"]


EVIL = st.one_of(
    st.text(max_size=20),
    st.sampled_from(
        [
            "<script>alert(1)</script>",
            "</title><script src=//x>",
            "</style><ScRiPt>",
            "`<script>`",
            '" onload="alert(1)',
            "<!--<script>",
            "]]><script>",
            "{{ 7 * 7 }}{% raw %}",
            "</svg><script>",
            "[<b>, 2]",
            "</code></pre><script>\x00\ud800",
        ]
    ),
)


@settings(max_examples=30, deadline=None)
@given(st.lists(EVIL, min_size=10, max_size=10))
def test_text_never_becomes_markup(texts: list[str]) -> None:
    """The same elements come out whatever the texts are; only what backquotes set as code may be added."""

    def page(t: list[str]) -> tuple[str, Page]:
        table = Table(t[0], [Column(t[1], t[2], "left"), Column(t[3])], [[t[4], t[5]]], note=t[6])
        value = report(
            title=t[7],
            verdict=t[8],
            summary=[t[9]],
            sections=[Section(t[0], t[1], [table]), Section(t[2]), Section(t[3])],
            environment={t[2]: t[3]},
            command=t[4],
        )
        source = render_html(value)
        return source, Page(source)

    source, found = page(texts)
    assert "<script" not in source.lower()
    assert not any(name.startswith("on") for _, attributes in found.elements for name in attributes)
    # Parts that are empty are left out, so the comparison is with letters where there was text.
    _, plain = page(["a" if text else "" for text in texts])
    ignored = {"code", "span", "p"}
    assert [tag for tag in found.tags() if tag not in ignored] == [tag for tag in plain.tags() if tag not in ignored]


def test_text_in_plots_never_becomes_markup() -> None:
    evil = "</text></svg><script>alert(1)</script>"
    series = [Series(evil, [1, 2], [1, 2]), Series('" onload="x', [1, 2], [2, 1])]
    bars = Plot(evil, evil, evil, [Series(evil, [evil, "b"], [1, 2]), Series("b", [evil], [2])], "bar", note=evil)
    source = render_html(report(sections=[Section("s", plots=[Plot(evil, evil, evil, series), bars])]))
    page = Page(source)
    assert "script" not in page.tags() and "<script" not in source
    assert not any("onload" in attributes for _, attributes in page.elements)
    assert source.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 8


def test_template_syntax_in_data_is_text() -> None:
    assert "{{ 7 * 7 }}" in render_html(report(title="{{ 7 * 7 }}"))


def test_json_holds_the_same_numbers(tmp_path: Path) -> None:
    html_path, json_path = write_report(report(), tmp_path / "new" / "folder")
    assert (html_path.name, json_path.name) == ("report.html", "report.json")
    assert html_path.read_text(encoding="utf-8") == render_html(report())
    found = json.loads(json_path.read_text(encoding="utf-8"))
    assert found["format"] == 1 and found["verdict_kind"] == "good"
    table, plot = found["sections"][0]["tables"][0], found["sections"][0]["plots"][0]
    assert table["columns"][2] == {"name": "speed", "unit": "tok/s", "align": "right"}
    assert table["rows"][1][2:] == [{"value": 848.2, "low": 831.0, "high": 866.0, "n": 12}, 31.25]
    assert table["rows"][0][3] is None
    assert plot["series"][0] == {"name": "train", "x": [0, 1], "y": [2.5, None], "low": None, "high": None}


def test_series_may_be_arrays(tmp_path: Path) -> None:
    plot = Plot("t", "x", "y", [Series("a", np.arange(3), np.array([0.5, 1.5, 2.5]))])  # type: ignore[arg-type]
    _, path = write_report(report(sections=[Section("s", plots=[plot])]), tmp_path)
    assert json.loads(path.read_text())["sections"][0]["plots"][0]["series"][0]["y"] == [0.5, 1.5, 2.5]


def test_a_failed_write_leaves_the_old_pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = write_report(report(), tmp_path)
    before = [path.read_bytes() for path in paths]
    real = Path.write_text

    def full_disk(self: Path, data: str, *args: object, **more: object) -> int:
        if "json" in self.name:
            raise OSError(28, "No space left on device")
        return real(self, data, *args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "write_text", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_report(report(title="new"), tmp_path)
    assert [path.read_bytes() for path in paths] == before
    assert sorted(path.name for path in tmp_path.iterdir()) == [html.HTML_NAME, html.JSON_NAME]


def test_the_same_report_gives_the_same_bytes() -> None:
    assert render_html(report()) == render_html(report())
