"""The colours of plots, light and dark; told apart with any common colour blindness, and readable as text."""

from __future__ import annotations

from dataclasses import dataclass

# Blue, brick, green, purple, ochre, slate. Found by search: at least 4.5:1 against the card of their mode
# (WCAG 2.2, 1.4.3), and no two nearer than CIE76 ΔE 12 under full deuteranopia, protanopia or tritanopia
# (Machado et al. 2009); tests/unit/reporting/test_palette.py measures both.
LIGHT = ("#145fb8", "#9f3c17", "#0f7d4e", "#6d3a79", "#9d6e05", "#323a47")
DARK = ("#328df7", "#ef6f3c", "#25e995", "#cd78b8", "#f5d031", "#dfe1e8")
CARD_LIGHT = "#ffffff"
CARD_DARK = "#161b22"

# Stand-ins that no one would draw with: `inline` turns them into the page's colours.
INK = "#010203"
MUTED = "#010204"
GRID = "#010205"

# Redundant with colour, so that prints in grey can be read.
MARKERS = ("o", "s", "^", "D", "v", "P")
DASHES: tuple[tuple[float, ...], ...] = ((), (5, 1.6), (1.6, 1.4), (6, 1.5, 1.5, 1.5), (3, 1.2), (8, 2))


@dataclass(frozen=True)
class Style:
    """How one series is drawn; `dashes` is empty for a solid line."""

    colour: str
    marker: str
    dashes: tuple[float, ...]


def series_style(index: int) -> Style:
    """Returns the style of the n-th series; colours repeat after six, then with other markers and dashes."""
    shift = index + index // len(LIGHT)
    return Style(LIGHT[index % len(LIGHT)], MARKERS[shift % len(MARKERS)], DASHES[shift % len(DASHES)])


def css_colours() -> dict[str, str]:
    """Returns the CSS value that stands for each colour used in plots, by its lower-case hex code.

    Inside a page the variables follow the mode; a lone SVG falls back to the light colours.
    """
    values = {
        INK: "currentColor",
        MUTED: "var(--muted, #57606a)",
        GRID: "var(--grid, #d9dee4)",
        CARD_LIGHT: f"var(--card, {CARD_LIGHT})",
    }
    return values | {colour: f"var(--series-{i}, {colour})" for i, colour in enumerate(LIGHT, start=1)}
