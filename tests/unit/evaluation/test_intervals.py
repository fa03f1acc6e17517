"""Intervals against scipy, brute-force binomials and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from throughline.evaluation.intervals import mean_interval, paired_interval, wilson


@given(st.integers(1, 3000), st.floats(0, 1), st.sampled_from([0.8, 0.9, 0.95, 0.99]))
def test_wilson_is_scipys(n: int, share: float, confidence: float) -> None:
    k = round(share * n)
    low, high = wilson(k, n, confidence)
    oracle = stats.binomtest(k, n).proportion_ci(confidence, method="wilson")
    assert (low, high) == pytest.approx((oracle.low, oracle.high), abs=1e-9)
    assert 0 <= low <= k / n <= high <= 1


@pytest.mark.parametrize("n", [20, 60, 120])
def test_wilson_covers_about_as_often_as_it_says(n: int) -> None:
    bounds = [wilson(k, n, 0.95) for k in range(n + 1)]
    covered = []
    for p in np.linspace(0.02, 0.98, 97):
        mass = [math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1)]
        covered.append(sum(m for m, (low, high) in zip(mass, bounds, strict=True) if low <= p <= high))
    assert np.mean(covered) == pytest.approx(0.95, abs=0.01)
    assert min(covered) > 0.82


def test_bootstrap_of_a_mean_is_near_the_normal_interval() -> None:
    values = np.random.default_rng(0).normal(3.0, 2.0, 400)
    low, high = mean_interval(values, np.ones(400), confidence=0.95, samples=4000, seed=1)
    half = 1.96 * values.std() / 20
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.03)


def test_bootstrap_equals_a_slow_twin() -> None:
    values, weights = np.array([0.0, 1.0, 0.5, 1.0, 0.25]), np.array([1.0, 2.0, 3.0, 1.0, 4.0])
    draws = np.random.default_rng(7).integers(0, 5, size=(300, 5))
    means = []
    for draw in draws:
        means.append(sum(values[i] * weights[i] for i in draw) / sum(weights[i] for i in draw))
    expected = np.percentile(means, (5, 95))
    found = mean_interval(values, weights, confidence=0.9, samples=300, seed=7)
    assert found == pytest.approx(tuple(expected))


def test_pairing_cancels_what_is_common() -> None:
    hard = np.random.default_rng(2).random(300).round()
    other = hard.copy()
    other[:3] = 1 - other[:3]
    ones = np.ones(300)
    paired = paired_interval((hard, ones), (other, ones), confidence=0.95, samples=2000, seed=0)
    alone = mean_interval(hard, ones, confidence=0.95, samples=2000, seed=0)
    assert paired[1] - paired[0] < (alone[1] - alone[0]) / 3
    same = paired_interval((hard, ones), (hard, ones), confidence=0.95, samples=200, seed=0)
    assert same == (0.0, 0.0)


def test_blocks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    values, ones = np.random.default_rng(3).random(50), np.ones(50)
    whole = mean_interval(values, ones, confidence=0.95, samples=1000, seed=5)
    monkeypatch.setattr("throughline.evaluation.intervals._BLOCK", 50 * 7)
    assert mean_interval(values, ones, confidence=0.95, samples=1000, seed=5) == pytest.approx(whole)
