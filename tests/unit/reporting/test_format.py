"""Numbers for people: exact examples, and values read back from the text stay near what went in."""

from __future__ import annotations

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from throughline.reporting import format as fmt

SECONDS = {"µs": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
BYTES = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40, "PiB": 2**50}


def read(text: str, units: dict[str, float] | dict[str, int]) -> float:
    """Sums the `number unit` pairs of a text."""
    parts = re.findall(r"(−?[\d,.]+) (\S+)", text)
    assert parts, text
    sign = -1 if text.startswith("−") else 1
    return sign * sum(float(value.strip("−").replace(",", "")) * units[unit] for value, unit in parts)


@pytest.mark.parametrize(
    ("x", "text"),
    [
        (0, "0 s"),
        (8.4e-4, "840 µs"),
        (0.0123, "12.3 ms"),
        (0.9996, "1.00 s"),
        (4.2, "4.20 s"),
        (59.94, "59.9 s"),
        (59.99, "1 min 0 s"),
        (75, "1 min 15 s"),
        (3599.7, "1 h 0 min"),
        (7530, "2 h 6 min"),
        (270000, "3 d 3 h"),
        (-3, "−3.00 s"),
        (None, "–"),
        (math.nan, "–"),
        (math.inf, "∞"),
    ],
)
def test_seconds(x: float | None, text: str) -> None:
    assert fmt.seconds(x) == text


@given(st.floats(1e-6, 1e7))
def test_seconds_keep_their_value(x: float) -> None:
    text = fmt.seconds(x)
    assert read(text, SECONDS) == pytest.approx(x, rel=0.021), text
    assert " 60 s" not in text and " 60 min" not in text and " 24 h" not in text


@pytest.mark.parametrize(
    ("n", "text"),
    [
        (0, "0 B"),
        (1023, "1,023 B"),
        (1024, "1.00 KiB"),
        (1536, "1.50 KiB"),
        (1024**2 - 1, "1.00 MiB"),
        (123_456_789, "118 MiB"),
        (3e9, "2.79 GiB"),
        (-2048, "−2.00 KiB"),
        (None, "–"),
    ],
)
def test_bytes(n: float | None, text: str) -> None:
    assert fmt.bytes_(n) == text


@given(st.integers(0, 2**60))
def test_bytes_keep_their_value(n: int) -> None:
    assert read(fmt.bytes_(n), BYTES) == pytest.approx(n, rel=0.006)


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (12345, None, "12,345"),
        (1234.5, None, "1,234"),
        (99.96, None, "100"),
        (12.34, None, "12.3"),
        (0.00123, None, "0.00123"),
        (0.0, None, "0.00"),
        (2e-6, None, "2.00e−06"),
        (-0.001, 2, "0.00"),
        (-1234.5, 1, "−1,234.5"),
        (-math.inf, None, "−∞"),
        (math.nan, 3, "–"),
    ],
)
def test_number(value: float, digits: int | None, text: str) -> None:
    assert fmt.number(value, digits) == text


@given(st.floats(-1e307, 1e307))
def test_number_has_three_right_digits(x: float) -> None:
    text = fmt.number(x).replace(",", "").replace("−", "-")
    assert float(text) == pytest.approx(x, rel=0.0051)


def test_values_with_intervals() -> None:
    assert fmt.percent(0.873, 0.831, 0.906) == "87.3 % [83.1, 90.6]"
    assert fmt.percent(0.873) == "87.3 %"
    assert fmt.percent(-0.021, -0.04, 0.002) == "−2.1 % [−4.0, 0.2]"
    assert fmt.percent(None) == "–"
    assert fmt.ratio(0.93, 0.91, 0.95) == "0.93× [0.91, 0.95]"
    assert fmt.ratio(12.34, 12.0, 12.6) == "12.3× [12.0, 12.6]"
    assert fmt.ratio(math.nan) == "–"
    assert fmt.milliseconds(0.0123, 0.0119, 0.0128) == "12.3 ms [11.9, 12.8]"
    assert fmt.milliseconds(1.5) == "1,500 ms"
    assert fmt.estimate(412.3, 398.2, 427.9) == "412 [398, 428]"
    assert fmt.percent(0.5, math.nan, 0.6) == "50.0 %"


@given(st.text())
def test_clean_text_moves_no_cursor_and_encodes(text: str) -> None:
    cleaned = fmt.clean(text)
    assert len(cleaned) == len(text)
    assert not any(character in cleaned for character in "\x1b\r\x07\x00\u202e")
    cleaned.encode()
