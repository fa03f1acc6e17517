"""Colours can be read on their card and told apart with each kind of colour blindness, by the published formulas."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
import pytest

from throughline.reporting import palette

# Machado, Oliveira and Fernandes 2009, severity 1.0, on linear RGB.
VISION = {
    "normal": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}
Vector = npt.NDArray[np.float64]
SRGB_TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
D65 = np.array([0.95047, 1.0, 1.08883])
MODES = {"light": (palette.LIGHT, palette.CARD_LIGHT), "dark": (palette.DARK, palette.CARD_DARK)}


def linear(colour: str) -> Vector:
    channels = np.array([int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)])
    return np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)


def contrast(first: str, second: str) -> float:
    darker, lighter = sorted(float(linear(colour) @ SRGB_TO_XYZ[1]) for colour in (first, second))
    return (lighter + 0.05) / (darker + 0.05)


def lab(rgb: Vector) -> Vector:
    scaled = np.maximum(SRGB_TO_XYZ @ np.clip(rgb, 0, 1) / D65, 1e-9)
    f = np.where(scaled > 0.008856, np.cbrt(scaled), 7.787 * scaled + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("mode", MODES)
def test_series_colours_are_readable_as_text(mode: str) -> None:
    colours, card = MODES[mode]
    for colour in colours:
        assert contrast(colour, card) >= 4.5, colour


@pytest.mark.parametrize("vision", VISION)
@pytest.mark.parametrize("mode", MODES)
def test_series_colours_can_be_told_apart(mode: str, vision: str) -> None:
    seen = [lab(np.array(VISION[vision]) @ linear(colour)) for colour in MODES[mode][0]]
    for first, second in itertools.combinations(seen, 2):
        assert np.linalg.norm(first - second) >= 12


def test_styles_of_a_dozen_series_differ() -> None:
    styles = [palette.series_style(index) for index in range(12)]
    assert len(set(styles)) == 12
    assert len({style.colour for style in styles[:6]}) == 6
