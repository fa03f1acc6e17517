"""What a measurement is worth under an SLO."""

from __future__ import annotations

import math

import pytest

from tests.unit.tuning.surface import DEFAULT, LIMITS, made
from throughline.contracts.price import PriceSpec
from throughline.contracts.slo import SloSpec
from throughline.tuning import Limits
from throughline.tuning.limits import constraint


def test_pressure_is_the_share_of_each_limit_that_is_used() -> None:
    found = made(DEFAULT, rate=3.0, goodput=2.0, ttft=1.0, itl=0.6, errors=2)
    assert LIMITS.pressure(found) == pytest.approx({"ttft_seconds": 0.5, "itl_seconds": 2.0, "error_rate": 2.0})
    assert set(LIMITS.violations(found)) == set(found.over(LIMITS.slo)) == {"itl_seconds", "error_rate"}


def test_a_limit_on_cost_counts_like_the_others() -> None:
    limits = Limits(SloSpec(ttft_seconds=2.0, cost_per_million_tokens=10.0), PriceSpec(cpu_hour=1.8))
    found = made(DEFAULT, rate=1.0, goodput=1.0, ttft=1.0, itl=0.1)
    # 40 tokens a second: a million takes 25,000 s, two processors cost 0.001 a second.
    assert limits.cost(found) == pytest.approx(25.0)
    assert limits.violations(found) == pytest.approx({"cost_per_million_tokens": 2.5})


def test_nothing_answered_is_infinitely_bad_and_still_a_number_for_samplers() -> None:
    found = made(DEFAULT, rate=0.0, goodput=0.0, ttft=math.nan, itl=math.nan)
    assert LIMITS.pressure(found)["ttft_seconds"] == math.inf
    assert constraint(math.inf) == pytest.approx(math.log(100))
    assert constraint(0.0) == pytest.approx(-math.log(100))
    assert constraint(1.0) == 0
