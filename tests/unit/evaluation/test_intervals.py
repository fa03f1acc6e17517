"""Intervals against scipy, brute-force binomials and closed forms."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize, stats

from throughline.evaluation.intervals import effective_size, mean_interval, tango, wilson


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


def single(count: int) -> list[str]:
    """Every value a group of its own."""
    return [str(number) for number in range(count)]


def test_a_mean_of_groups_is_as_uncertain_as_the_mean_of_their_means() -> None:
    rng = np.random.default_rng(0)
    means = rng.normal(3.0, 2.0, 200)
    groups = [str(number // 4) for number in range(800)]
    low, high = mean_interval(np.repeat(means, 4), np.ones(800), groups, confidence=0.95, samples=4000, seed=1)
    half = 1.96 * means.std() / math.sqrt(200)
    assert (low, high) == pytest.approx((means.mean() - half, means.mean() + half), abs=0.04)


def test_copies_of_a_question_count_once_and_strangers_in_a_group_for_themselves() -> None:
    rng = np.random.default_rng(1)
    right = (rng.random(300) < 0.8).astype(float)
    copies, groups = list(np.repeat(right, 3)), [str(number // 3) for number in range(900)]
    assert effective_size(copies, groups, 0.95) == pytest.approx(300, rel=0.02)
    assert effective_size(list(right), single(300), 0.95) == 300
    # Of a group whose members have nothing in common each counts, but for noise.
    strangers = [
        effective_size(list(rng.permutation(right)), [str(n // 3) for n in range(300)], 0.95) for _ in range(50)
    ]
    assert 255 < np.mean(strangers) <= 300
    # Nothing can be told from answers that are all right: 30 lines asked 4 times each are 30 questions.
    assert effective_size([1.0] * 120, [str(n // 4) for n in range(120)], 0.95) == 30
    assert effective_size([1.0, 0.0], ["a", "a"], 0.95) == 1


def beta_binomial(rng: np.random.Generator, share: float, common: float, sizes: Sequence[int]) -> list[float]:
    """Answers of groups whose members have `common` as their correlation."""
    a, b = share * (1 / common - 1), (1 - share) * (1 / common - 1)
    return [
        float(rng.random() < chance)
        for size, chance in zip(sizes, rng.beta(a, b, len(sizes)), strict=True)
        for _ in range(size)
    ]


@pytest.mark.parametrize(("share", "common"), [(0.85, 0.6), (0.85, 0.2), (0.95, 0.6), (0.5, 0.9)])
def test_a_floor_at_the_true_share_is_seldom_passed_by_questions_in_groups(share: float, common: float) -> None:
    """120 questions from 31 lines, as a set of refusals was: taken for independent a bad model passed too often."""
    rng = np.random.default_rng(4)
    sizes = [4] * 27 + [3] * 4
    groups = [str(group) for group, size in enumerate(sizes) for _ in range(size)]
    passed = naive = 0
    for _ in range(1500):
        values = beta_binomial(rng, share, common, sizes)
        size = effective_size(values, groups, 0.9)
        passed += wilson(sum(values) / 120 * size, size, 0.9)[0] >= share
        naive += wilson(sum(values), 120, 0.9)[0] >= share
    # One-sided 5 %, and what 31 groups leave to chance.
    assert passed / 1500 <= 0.08
    assert naive > 1.4 * passed


def test_bootstrap_of_a_mean_is_near_the_normal_interval() -> None:
    values = np.random.default_rng(0).normal(3.0, 2.0, 400)
    low, high = mean_interval(values, np.ones(400), single(400), confidence=0.95, samples=4000, seed=1)
    half = 1.96 * values.std() / 20
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.03)


def test_the_weighted_mean_of_resamples_is_what_all_resamples_say() -> None:
    values, weights = np.array([0.0, 1.0, 0.5, 0.25]), np.array([1.0, 2.0, 3.0, 4.0])
    every = [
        sum(values[i] * weights[i] for i in draw) / sum(weights[i] for i in draw)
        for draw in itertools.product(range(4), repeat=4)
    ]
    found = mean_interval(values, weights, single(4), confidence=0.8, samples=20_000, seed=7)
    assert found == pytest.approx(tuple(np.percentile(every, (10, 90))), abs=0.03)
    options = {"confidence": 0.8, "samples": 500, "seed": 7}
    assert mean_interval(values, weights, single(4), **options) == mean_interval(values, weights, single(4), **options)


def test_a_mean_of_one_value_or_without_weight_has_an_interval() -> None:
    assert mean_interval(np.array([0.5]), np.ones(1), single(1), confidence=0.9, samples=100, seed=0) == (0.5, 0.5)
    assert mean_interval(np.ones(3), np.zeros(3), single(3), confidence=0.9, samples=100, seed=0) == (0.0, 0.0)


def likelihood_deviation(b: int, c: int, n: int, difference: float) -> float:
    """The score's deviation by maximising the multinomial likelihood numerically; `c` only the candidate's."""

    def minus_log(lost: float) -> float:
        won = lost + difference
        rest = 1 - lost - won
        terms = ((b, lost), (c, won), (n - b - c, rest))
        return -sum(count * math.log(max(share, 1e-300)) for count, share in terms if count)

    low, high = max(0.0, -difference), (1 - difference) / 2
    found = optimize.minimize_scalar(minus_log, bounds=(low, high), method="bounded", options={"xatol": 1e-12})
    lost = min((low, high, float(found.x)), key=minus_log)
    return math.sqrt(max(0.0, 2 * lost + difference - difference**2) / n)


@pytest.mark.parametrize(("b", "c", "n"), [(0, 0, 50), (3, 1, 40), (1, 0, 120), (0, 4, 30), (12, 12, 60), (7, 0, 7)])
def test_tango_ends_where_the_score_test_of_the_likelihood_ends(b: int, c: int, n: int) -> None:
    z = stats.norm.ppf(0.95)
    low, high = tango(b, c, n, 0.9)
    for end, side in ((low, z), (high, -z)):
        if abs(end) < 1:
            assert (c - b) / n - end == pytest.approx(side * likelihood_deviation(b, c, n, end), abs=1e-5)
    assert -1 <= low <= (c - b) / n <= high <= 1
    assert tango(c, b, n, 0.9) == pytest.approx((-high, -low))


def test_pairs_that_never_differ_are_not_certainty() -> None:
    # The bootstrap's [0, 0], and Newcombe's at one half; the closed form is z²/(n + z²).
    z = stats.norm.ppf(0.95)
    assert tango(0, 0, 50, 0.9) == pytest.approx((-(z**2) / (50 + z**2), z**2 / (50 + z**2)))


def tables(n: int, lost: float, won: float) -> list[tuple[int, int, float]]:
    """Every (only reference, only candidate) of `n` pairs that is not negligible, with its probability."""
    found = []
    for b in range(n + 1):
        mass = stats.binom.pmf(b, n, lost)
        if mass < 1e-7:
            continue
        for c in range(n - b + 1):
            chance = mass * stats.binom.pmf(c, n - b, won / (1 - lost))
            if chance > 1e-7:
                found.append((b, c, float(chance)))
    return found


@pytest.mark.parametrize(("lost", "won"), [(0.03, 0.0), (0.04, 0.01), (0.06, 0.03), (0.05, 0.05), (0.2, 0.1)])
def test_tango_covers_about_as_often_as_it_says(lost: float, won: float) -> None:
    chances = {(b, c): (chance, tango(b, c, 60, 0.9)) for b, c, chance in tables(60, lost, won)}
    covered = sum(chance for chance, (low, high) in chances.values() if low <= won - lost <= high)
    assert 0.86 < covered <= 1


@pytest.mark.parametrize("n", [50, 120, 220])
@pytest.mark.parametrize(("limit", "won"), [(0.03, 0.0), (0.03, 0.02), (0.05, 0.01), (0.05, 0.1)])
def test_a_drop_at_the_limit_seldom_passes(n: int, limit: float, won: float) -> None:
    # One-sided 5 %; the score test is approximate, and its worst case here is 6.9 %.
    passed = sum(chance for b, c, chance in tables(n, limit + won, won) if -tango(b, c, n, 0.9)[0] < limit)
    assert passed < 0.07
    # What it replaces let every run pass in which no pair differed: a fifth of them at 3 points and 50 pairs.
    if (n, won) == (50, 0.0):
        assert (1 - limit) ** n > 0.07
