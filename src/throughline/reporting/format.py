"""Numbers as people read them: seconds, bytes, percentages, ratios; intervals follow in brackets."""

from __future__ import annotations

import math
import re

MISSING = "–"
_MINUS = "−"
_BYTE_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
# C0 without tab and newline, DEL, C1, bidirectional overrides, lone surrogates, and the two that XML forbids.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")


def clean(text: str) -> str:
    """Returns text that terminals, XML and HTML can show: each control character becomes U+FFFD."""
    return _UNPRINTABLE.sub("�", text)


def number(x: float | None, digits: int | None = None) -> str:
    """Returns a number with thousands separators; None and NaN as a dash.

    Args:
        x: Any real number.
        digits: Decimals; by default none for whole numbers of type int, else what three digits need.
    """
    if x is None or math.isnan(x):
        return MISSING
    if math.isinf(x):
        return "∞" if x > 0 else f"{_MINUS}∞"
    if digits is None:
        if isinstance(x, int):
            digits = 0
        elif x and (abs(x) < 1e-4 or abs(x) >= 1e12):
            return f"{x:.2e}".replace("-", _MINUS)
        else:
            digits = decimals(x)
    text = f"{x:,.{digits}f}"
    if text.startswith("-"):
        text = text[1:] if float(text.replace(",", "")) == 0 else _MINUS + text[1:]
    return text


def decimals(x: float, significant: int = 3) -> int:
    """Returns how many decimals show `x` with that many significant digits, none for large numbers."""
    if not x or not math.isfinite(x):
        return significant - 1
    exponent = int(f"{abs(x):.{significant - 1}e}".partition("e")[2])
    return max(0, significant - 1 - exponent)


def seconds(x: float | None) -> str:
    """Returns a duration given in seconds: `840 µs`, `12.3 ms`, `4.20 s`, `1 min 15 s`, `2 h 5 min`."""
    if x is None or not math.isfinite(x):
        return number(x)
    sign, size = (_MINUS, -x) if x < 0 else ("", x)
    if size == 0:
        return "0 s"
    for factor, unit in ((1e6, "µs"), (1e3, "ms"), (1.0, "s")):
        if float(f"{size * factor:.2e}") < (60 if unit == "s" else 1000):
            return f"{sign}{number(float(size * factor))} {unit}"
    for small, small_unit, large_unit, limit in (
        (1, "s", "min", 3600),
        (60, "min", "h", 86400),
        (3600, "h", "d", math.inf),
    ):
        whole = round(size / small)
        if whole * small < limit:
            base = 24 if large_unit == "d" else 60
            return f"{sign}{whole // base:,} {large_unit} {whole % base} {small_unit}"
    return number(x)


def eta(x: float | None) -> str:
    """Returns a time still to come in whole seconds, since an estimate has no decimals to show: `8 s`, `4 min 29 s`."""
    if x is None or not math.isfinite(x):
        return number(x)
    whole = max(0, round(x))
    return seconds(whole) if whole >= 60 else f"{whole} s"


def milliseconds(x: float | None, low: float | None = None, high: float | None = None) -> str:
    """Returns seconds as milliseconds, with their interval if given: 0.0123 → `12.3 ms [11.9, 12.8]`."""
    if x is None or math.isnan(x):
        return MISSING
    digits = min(decimals(x * 1e3), 3)
    return f"{number(x * 1e3, digits)} ms" + _interval(low, high, 1e3, digits)


def bytes_(n: float | None) -> str:
    """Returns a size in bytes with a binary prefix: `512 B`, `1.50 KiB`, `3.21 GiB`."""
    if n is None or not math.isfinite(n):
        return number(n)
    if abs(n) < 1024:
        return f"{number(round(n))} B"
    size, unit = float(n), 0
    while float(f"{abs(size):.2e}" if abs(size) < 1000 else f"{abs(size):.0f}") >= 1024:
        if unit == len(_BYTE_UNITS) - 1:
            break
        size, unit = size / 1024, unit + 1
    return f"{number(size)} {_BYTE_UNITS[unit]}"


def percent(value: float | None, low: float | None = None, high: float | None = None) -> str:
    """Returns a fraction as a percentage, with its interval if given: 0.873 → `87.3 % [83.1, 90.6]`."""
    if value is None or math.isnan(value):
        return MISSING
    return f"{number(value * 100, 1)} %" + _interval(low, high, 100, 1)


def points(value: float | None, low: float | None = None, high: float | None = None) -> str:
    """Returns a difference of fractions in percentage points with its sign: 0.95 → `+95.0 points [90.1, 97.9]`."""
    if value is None or math.isnan(value):
        return MISSING
    text = number(value * 100, 1)
    return f"{'' if text.startswith(_MINUS) else '+'}{text} points" + _interval(low, high, 100, 1)


def interval(low: float, high: float, factor: float = 1.0, digits: int = 1) -> str:
    """Returns an interval alone, its ends times `factor`: `[90.1, 97.9]`."""
    return _interval(low, high, factor, digits).strip()


def ratio(value: float | None, low: float | None = None, high: float | None = None) -> str:
    """Returns a quotient, with its interval if given: `0.93× [0.91, 0.95]`."""
    if value is None or math.isnan(value):
        return MISSING
    digits = min(2, decimals(value))
    return f"{number(value, digits)}×" + _interval(low, high, 1, digits)


def estimate(value: float | None, low: float | None, high: float | None, digits: int | None = None) -> str:
    """Returns a plain number with its interval, all with the same decimals: `412 [398, 427]`."""
    if value is None or math.isnan(value):
        return MISSING
    digits = decimals(value) if digits is None else digits
    return number(value, digits) + _interval(low, high, 1, digits)


def _interval(low: float | None, high: float | None, factor: float, digits: int) -> str:
    if low is None or high is None or math.isnan(low) or math.isnan(high):
        return ""
    return f" [{number(low * factor, digits)}, {number(high * factor, digits)}]"
