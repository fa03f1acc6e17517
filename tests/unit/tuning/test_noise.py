"""Noise from probes of the same settings, and ratios that do not claim more than it allows."""

from __future__ import annotations

import math
import random

import pytest
from scipy.stats import t

from tests.unit.tuning.surface import DEFAULT, LIMITS, made
from throughline.contracts.errors import MeasurementError
from throughline.tuning.noise import Noise, estimate, of_probes, paired


def test_the_estimate_comes_near_what_was_put_in() -> None:
    rng = random.Random(1)
    found = estimate([math.exp(rng.gauss(1.0, 0.05)) for _ in range(2000)])
    assert found.sigma == pytest.approx(0.05, rel=0.06)
    assert found.relative == pytest.approx(math.expm1(1.96 * math.sqrt(2) * 0.05), rel=0.1)


@pytest.mark.parametrize("rates", [[], [3.0], [3.0, 0.0]])
def test_too_little_is_refused(rates: list[float]) -> None:
    with pytest.raises(MeasurementError, match="noise cannot be told"):
        estimate(rates)


def test_goodput_beyond_a_limit_lends_its_noise_from_the_tokens() -> None:
    """Of a hundred requests one or four were within the limit: that is no spread of anything."""
    few = [made(DEFAULT, rate=rate, goodput=good, ttft=1, itl=0.5) for rate, good in ((2.0, 0.02), (2.1, 0.08))]
    assert of_probes(few, LIMITS, "goodput").sigma == pytest.approx(estimate([2.0, 2.1]).sigma)
    kept = [made(DEFAULT, rate=2.0, goodput=good, ttft=1, itl=0.2) for good in (1.8, 2.0)]
    assert of_probes(kept, LIMITS, "goodput").sigma == pytest.approx(estimate([1.8, 2.0]).sigma)
    assert of_probes(few, LIMITS, "ttft").sigma == 0


def test_two_rounds_that_agree_by_chance_prove_nothing() -> None:
    over, under = [1.04, 1.04], [1.0, 1.0]
    assert paired(over, under).low == pytest.approx(1.04)
    held = paired(over, under, Noise(0.05, 4))
    half = t.ppf(0.975, 4) * 0.05
    assert (held.low, held.high) == pytest.approx((1.04 * math.exp(-half), 1.04 * math.exp(half)))


def test_one_round_alone_says_nothing() -> None:
    assert paired([2.0], [1.0]).low == 0.0
    assert paired([2.0], [1.0]).high == math.inf


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = random.Random(2)
    covered = 0
    for _ in range(1000):
        over = [1.1 * math.exp(rng.gauss(0, 0.05)) for _ in range(5)]
        under = [math.exp(rng.gauss(0, 0.05)) for _ in range(5)]
        found = paired(over, under)
        covered += found.low <= 1.1 <= found.high
    assert covered >= 930
