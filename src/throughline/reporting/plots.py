"""Plots as SVG text in the page's fonts and colours; the same plot gives the same bytes."""

from __future__ import annotations

import hashlib
import io
import json
import math
import threading
import warnings
from typing import TYPE_CHECKING, Any

from throughline.contracts.report import Plot
from throughline.reporting import format as fmt
from throughline.reporting import palette
from throughline.reporting.inline import inline_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Points at 72 to the inch. A page shows them at about 1.3 px, a phone at 0.9, so text stays readable on both.
_WIDTH = 430.0
_HEIGHT = 262.0
_FONT_SIZE = 9.5
# Text is laid out in the widest of the page's fonts, so that it fits in the others.
# Any: the stubs know each name as a literal.
_SETTINGS: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "throughline",
    "svg.image_inline": True,
    "text.parse_math": False,
    "text.usetex": False,
    "font.family": ["DejaVu Sans"],
    "font.size": _FONT_SIZE,
    "axes.unicode_minus": True,
    "axes.formatter.use_mathtext": False,
    "path.simplify": True,
}
# matplotlib keeps these settings in a global; one figure at a time sees them.
_LOCK = threading.Lock()


def svg(plot: Plot, *, prefix: str | None = None) -> str:
    """Draws a plot.

    Args:
        plot: What to draw. An empty one says that there are no data.
        prefix: Begins the ids inside; a digest of the plot if None, so that plots differ on one page.

    Returns:
        An `<svg>` element with a transparent background, to be put into HTML as it is. It has no title of its
        own, but the plot's title, labels and series as its accessible name.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    from throughline.reporting.draw import draw

    with _LOCK, mpl.rc_context():
        # A user's matplotlibrc must not change a report.
        mpl.rcParams.update({name: mpl.rcParamsDefault[name] for name in mpl.rcParams if "backend" not in name})
        mpl.rcParams.update(_SETTINGS)
        figure = Figure(figsize=(_WIDTH / 72, _HEIGHT / 72), layout="constrained")
        FigureCanvasSVG(figure)
        figure.patch.set_alpha(0)
        axes = figure.add_subplot()
        _dress(figure, axes)
        buffer = io.StringIO()
        with warnings.catch_warnings():
            # Letters that DejaVu lacks, texts wider than the figure, values nearer than a float can tell apart:
            # matplotlib draws them all the same, and what a user brings must not end a report.
            warnings.simplefilter("ignore", UserWarning)
            draw(axes, plot)
            figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return inline_svg(buffer.getvalue(), prefix=prefix or plot_id(plot), label=describe(plot))


def plot_id(plot: Plot) -> str:
    """Returns a short id that depends on everything in the plot."""
    parts = [plot.title, plot.x_label, plot.y_label, plot.kind, plot.x_log, plot.y_log, plot.limit, plot.limit_name]
    for each in plot.series:
        parts += [each.name, *(list(map(str, values or ())) for values in _columns(each))]
    return "p" + hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:8]


def describe(plot: Plot) -> str:
    """Returns a sentence for those who do not see the plot: what against what, and where each series lies."""
    kind = {
        "line": "line plot",
        "points": "points",
        "cdf": "cumulative distribution",
        "bar": "bar plot",
        "stack": "stacked areas",
    }[plot.kind]
    text = f"{plot.title}: {kind} of {plot.y_label} against {plot.x_label}."
    for each in plot.series:
        values = each.x if plot.kind == "cdf" else each.y
        found = [float(value) for value in values if math.isfinite(float(value))]
        if found:
            text += f" {each.name}: {fmt.number(min(found))} to {fmt.number(max(found))}."
    if plot.limit is not None:
        text += f" {plot.limit_name}: {fmt.number(plot.limit)}."
    return fmt.clean(text)


def _dress(figure: Figure, axes: Axes) -> None:
    axes.patch.set_alpha(0)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, pad=5, labelcolor=palette.MUTED, labelsize=_FONT_SIZE)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set(color=palette.GRID, linewidth=1)
    figure.get_layout_engine().set(w_pad=0.04, h_pad=0.04)  # type: ignore[union-attr, call-arg]


def _columns(series: object) -> list[list[object]]:
    columns = []
    for name in ("x", "y", "low", "high"):
        values = getattr(series, name)
        columns.append([] if values is None else list(values))
    return columns
