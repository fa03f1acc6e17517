"""Plots as SVG: well-formed, deterministic, self-contained, and drawn where the data are."""

from __future__ import annotations

import itertools
import math
import re
from xml.etree import ElementTree

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from throughline.contracts.errors import InternalError
from throughline.contracts.report import Plot, PlotKind, Series
from throughline.reporting import palette
from throughline.reporting.draw import spread
from throughline.reporting.plots import svg

SVG = "{http://www.w3.org/2000/svg}"
ID = re.compile(r'\bid="([^"]+)"')
REFERENCE = re.compile(r'(?:href="#|url\(#)([^")]+)')
USERS = [1, 2, 4, 8]


def parse(source: str) -> ElementTree.Element:
    return ElementTree.fromstring(source)  # noqa: S314 - what `svg` just made


def throughput(**more: object) -> Plot:
    series = [
        Series("bf16", USERS, [150, 270, 430, 610], [140, 250, 410, 580], [155, 285, 450, 640]),
        Series("int8", USERS, [200, 360, 590, 860]),
    ]
    options: dict[str, object] = {"x_log": True} | more
    return Plot("Throughput", "Users", "Tokens per second", series, **options)  # type: ignore[arg-type]


def texts(source: str) -> list[str]:
    return ["".join(element.itertext()) for element in parse(source).iter(f"{SVG}text")]


def line_points(source: str, colour_number: int) -> list[tuple[float, float]]:
    """The vertices of the longest path in a series' colour."""
    paths = [
        element.attrib["d"]
        for element in parse(source).iter(f"{SVG}path")
        if f"stroke: var(--series-{colour_number}," in element.attrib.get("style", "")
        and "fill: none" in element.attrib["style"]
    ]
    longest = max(paths, key=len)
    return [(float(x), float(y)) for x, y in re.findall(r"[ML] ([-\d.]+) ([-\d.]+)", longest)]


def test_labels_ticks_and_names_are_text() -> None:
    found = texts(svg(throughput()))
    for wanted in ("Users", "Tokens per second", "bf16", "int8", "1", "2", "4", "8"):
        assert wanted in found


def test_the_same_plot_gives_the_same_bytes() -> None:
    assert svg(throughput()) == svg(throughput())


def test_plots_on_one_page_share_no_ids_and_refer_only_to_their_own() -> None:
    plots = [svg(throughput()), svg(throughput(y_log=True)), svg(throughput(), prefix="other")]
    ids = [set(ID.findall(text)) for text in plots]
    assert all(ids)
    assert len(set.union(*ids)) == sum(map(len, ids))
    for text, known in zip(plots, ids, strict=True):
        assert set(REFERENCE.findall(text)) <= known


def test_colours_and_fonts_come_from_the_page() -> None:
    text = svg(throughput())
    styles = " ".join(re.findall(r'style="([^"]*)"', text))
    bare = re.sub(r"var\([^)]*\)", "", styles)
    assert not re.search(r"#[0-9a-f]{3,6}", bare)
    assert "font:" not in styles and "DejaVu" not in styles
    assert "currentColor" in styles and "var(--series-1, " + palette.LIGHT[0] in styles
    assert not any(stand_in in text for stand_in in (palette.INK, palette.MUTED, palette.GRID))


def test_nothing_is_loaded_or_dated() -> None:
    text = svg(throughput())
    assert "<metadata" not in text and "<image" not in text and "<!DOCTYPE" not in text
    assert re.findall(r"https?://[^\"' ]+", text) == ["http://www.w3.org/2000/svg"]


def test_a_line_goes_through_its_points() -> None:
    points = line_points(svg(Plot("t", "x", "y", [Series("a", [0, 1, 2, 4], [0, 10, 20, 40])])), 1)
    (x0, y0), (x1, y1), (x2, y2), (x3, y3) = points
    assert (x1 - x0) * 4 == pytest.approx(x3 - x0, rel=1e-3)
    assert (y1 - y0) * 4 == pytest.approx(y3 - y0, rel=1e-3)
    assert (x2 - x0) * 2 == pytest.approx(x3 - x0, rel=1e-3)
    assert y3 < y2 < y0


def test_a_cdf_counts_its_values() -> None:
    values = [5.0, 1.0, 2.0, 2.0, math.nan]
    counted = svg(Plot("t", "ms", "share", [Series("a", values, [])], "cdf"), prefix="p")
    given_ = svg(Plot("t", "ms", "share", [Series("a", [1, 2, 5], [0.25, 0.75, 1])], "cdf"), prefix="p")
    assert line_points(counted, 1)[-1] == line_points(given_, 1)[-1]
    assert {round(y, 2) for _, y in line_points(counted, 1)} >= {round(y, 2) for _, y in line_points(given_, 1)}
    assert "90 %" in texts(counted)


def test_bars_with_long_names_lie_down_and_show_their_values() -> None:
    short = Plot("t", "Term", "MiB", [Series("a", ["kv", "code"], [3.25, 12.5])], "bar")
    long = Plot("t", "Term", "MiB", [Series("a", ["key-value cache", "code"], [3.25, 12.5])], "bar")
    assert texts(svg(short)).index("kv") < texts(svg(short)).index("MiB")
    for plot in (short, long):
        assert {"3.25", "12.50", "Term", "MiB"} <= set(texts(svg(plot)))


def test_category_names_are_matched_across_series() -> None:
    plot = Plot("t", "x", "y", [Series("a", ["p", "q"], [1, 2]), Series("b", ["q", "r"], [3, 4])], "bar")
    found = texts(svg(plot))
    assert [name for name in found if name in "pqr"] == ["p", "q", "r"]
    assert {"a", "b", "1", "2", "3", "4"} <= set(found)


def test_the_accessible_name_tells_what_is_shown() -> None:
    root = parse(svg(throughput()))
    assert root.attrib["role"] == "img"
    assert root.attrib["aria-label"] == (
        "Throughput: line plot of Tokens per second against Users. bf16: 150 to 610. int8: 200 to 860."
    )


def test_a_hostile_matplotlibrc_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    import matplotlib as mpl

    before = svg(throughput())
    with mpl.rc_context({"svg.fonttype": "path", "axes.facecolor": "red", "font.size": 30.0, "text.color": "red"}):
        assert svg(throughput()) == before
        assert mpl.rcParams["svg.fonttype"] == "path"


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "plot",
    [
        Plot("nothing", "x", "y", []),
        Plot("empty", "x", "y", [Series("a", [], [])]),
        Plot("nan", "x", "y", [Series("a", [1, 2], [math.nan, math.nan])]),
        Plot("no bar", "x", "y", [Series("a", ["b"], [math.nan])], "bar"),
    ],
    ids=lambda plot: plot.title,
)
def test_a_plot_without_data_says_so(plot: Plot) -> None:
    assert "no data" in texts(svg(plot))


NUMBERS = st.one_of(st.floats(-1e9, 1e9), st.sampled_from([math.nan, math.inf, 0.0, 1e-12, 1e15]))
NAMES = st.text(max_size=30)


@st.composite
def any_plot(draw: st.DrawFn) -> Plot:
    kind: PlotKind = draw(st.sampled_from(["line", "cdf", "bar", "stack"]))
    series: list[Series] = []
    for _ in range(draw(st.integers(0, 8))):
        size = draw(st.integers(0, 4))
        x: list[float] | list[str] = draw(st.lists(NUMBERS, min_size=size, max_size=size))
        if kind == "stack" and series:
            x, size = list(series[0].x), len(series[0].x)  # type: ignore[assignment]
        if kind == "bar" and draw(st.booleans()):
            x = draw(st.lists(NAMES, min_size=size, max_size=size))
        y = draw(st.lists(NUMBERS, min_size=size, max_size=size))
        ends = (y, y) if draw(st.booleans()) else (None, None)
        series.append(Series(draw(NAMES), x, y, *ends))
    limit = draw(st.none() | st.floats(0, 1e9))
    logs = (draw(st.booleans()), draw(st.booleans()))
    return Plot(draw(NAMES), draw(NAMES), draw(NAMES), series, kind, *logs, limit=limit, limit_name=draw(NAMES))


@pytest.mark.filterwarnings("error")
# Not shrunk: at tens of milliseconds a plot that would take minutes.
@settings(max_examples=15, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(any_plot())
def test_any_data_and_any_text_make_a_well_formed_plot(plot: Plot) -> None:
    root = parse(svg(plot))
    assert root.tag == f"{SVG}svg"
    allowed = {"svg", "g", "defs", "style", "path", "use", "text", "tspan", "clipPath", "rect"}
    assert {element.tag.removeprefix(SVG) for element in root.iter()} <= allowed


def test_a_stack_ends_at_the_sum_and_shows_its_limit() -> None:
    parts = {"weights": [10.0, 10.0, 10.0], "KV cache": [0.0, 20.0, 40.0]}
    plot = Plot("Memory", "tokens", "GiB", [Series(name, [0, 1, 2], y) for name, y in parts.items()], kind="stack")
    stacked = Plot(**(vars(plot) | {"limit": 30.0, "limit_name": "80 GB"}))
    low, high = line_points(svg(stacked), 1), line_points(svg(stacked), 2)
    assert [point[0] for point in low] == [point[0] for point in high]
    # The second stands on the first: 10, 30, 50 above an axis at which 10 is drawn three times.
    assert high[0][1] == pytest.approx(low[0][1])
    unit = low[0][1] - high[1][1]
    assert high[2][1] == pytest.approx(low[0][1] - 2 * unit, abs=0.01)
    assert "80 GB" in texts(svg(stacked)) and "80 GB" not in texts(svg(plot))
    with pytest.raises(InternalError, match=r"different places.*'b'"):
        Plot("", "", "", [Series("a", [1, 2], [1, 2]), Series("b", [1, 3], [1, 2])], kind="stack")


@given(st.lists(st.floats(-2, 3), max_size=8), st.floats(0.01, 0.5))
def test_direct_labels_keep_their_order_and_distance(wanted: list[float], gap: float) -> None:
    places = spread(wanted, gap)
    least = min(gap, 1 / max(1, len(wanted) - 1))
    order = sorted(range(len(wanted)), key=lambda index: wanted[index])
    in_order = [places[index] for index in order]
    assert all(-1e-9 <= place <= 1 + 1e-9 for place in places)
    assert all(after - before >= least - 1e-9 for before, after in itertools.pairwise(in_order))


def test_series_of_unequal_lengths_are_refused() -> None:
    with pytest.raises(InternalError, match=r"series 'a' — seen: x: 2, y: 1 —"):
        Series("a", [1, 2], [1])
    with pytest.raises(InternalError, match="give y, and low with high"):
        Series("a", [1], [1], low=[0])
    with pytest.raises(InternalError, match="only a cdf can be counted from x alone"):
        Plot("t", "x", "y", [Series("a", [1, 2], [])])
