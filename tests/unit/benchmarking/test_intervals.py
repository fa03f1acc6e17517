"""Block lengths, block bootstrap and the end of the warm-up on series whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from throughline.benchmarking.blocks import block_length, latencies, rate
from throughline.benchmarking.steady import warm_up


def correlated(size: int, phi: float, seed: int) -> np.ndarray:
    """An autoregressive series of mean 10 and variance 1."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=size) * np.sqrt(1 - phi**2)
    found = np.empty(size)
    found[0] = rng.normal()
    for index in range(1, size):
        found[index] = phi * found[index - 1] + noise[index]
    return 10 + found


def test_percentiles_are_those_of_numpy() -> None:
    values = np.random.default_rng(0).exponential(size=501)
    found = latencies([[value] for value in values], length=3)
    for q in (50, 90, 95, 99):
        assert found[f"p{q}"].value == pytest.approx(float(np.percentile(values, q)))
        assert found[f"p{q}"].low <= found[f"p{q}"].value <= found[f"p{q}"].high
    assert found["mean"].value == pytest.approx(values.mean())


def test_gaps_belong_to_their_request() -> None:
    groups = [[0.1] * 50 if index % 2 else [0.3] for index in range(40)]
    found = latencies(groups, length=1)
    assert found["p50"].n == 20 * 51
    assert found["p50"].value == pytest.approx(0.1)
    assert found["mean"].value == pytest.approx((20 * 50 * 0.1 + 20 * 0.3) / (20 * 51))


def test_what_is_empty_has_no_figures() -> None:
    assert latencies([[], []], length=1)["p50"].n == 0


def test_blocks_are_as_long_as_the_series_remembers() -> None:
    for phi in (0.0, 0.5, 0.9):
        found = np.median([block_length(correlated(800, phi, seed)) for seed in range(10)])
        # Politis and White's optimum for an autoregressive series, in closed form: 1, 13 and 48 here.
        optimum = (1.5 * (2 * phi / (1 - phi**2)) ** 2) ** (1 / 3) * 800 ** (1 / 3)
        assert found == pytest.approx(max(1, optimum), rel=0.5, abs=1)
    assert block_length([1.0] * 50) == 1


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """Draws of single requests hold the mean of this series in six runs of ten."""
    held = {"blocks": 0, "single": 0}
    runs = 40
    for seed in range(runs):
        series = correlated(250, 0.7, seed)
        groups = [[value] for value in series]
        for name, length in (("blocks", block_length(series)), ("single", 1)):
            found = latencies(groups, length=length, seed=seed)["mean"]
            held[name] += found.low <= 10 <= found.high
    assert held["blocks"] >= 0.8 * runs
    assert held["single"] <= 0.75 * runs


def test_a_rate_counts_what_lies_in_the_window() -> None:
    events = np.arange(0.005, 20, 0.01)
    found = rate(events, [2.0] * len(events), 5.0, 15.0)
    assert found.value == pytest.approx(200, rel=0.01)
    assert found.low <= found.value <= found.high
    assert found.n == 1000


def test_the_warm_up_ends_where_the_transient_does() -> None:
    noise = np.random.default_rng(5).normal(size=600) * 0.1
    transient = 3 * np.exp(-np.arange(600) / 20)
    cut, steady = warm_up(1 + transient + noise)
    assert steady
    assert 40 <= cut <= 150
    assert warm_up(1 + noise)[0] < 60


def test_a_run_at_rest_seldom_seems_to_grow() -> None:
    for size in (30, 100, 300):
        found = [warm_up(np.random.default_rng(seed).exponential(size=size)) for seed in range(100)]
        assert sum(not steady for _, steady in found) <= 1
        assert np.mean([cut for cut, _ in found]) < 0.15 * size


@pytest.mark.parametrize("size", [60, 400])
def test_what_grows_to_the_end_never_comes_to_rest(size: int) -> None:
    noise = np.random.default_rng(6).exponential(size=size) * 0.4
    assert not warm_up(3 * np.arange(size) / size + noise)[1]
    # What falls to the end has a long warm-up and no queue that grows.
    assert warm_up(3 - 3 * np.arange(size) / size + noise)[1]


def test_a_few_values_have_no_warm_up() -> None:
    assert warm_up([3.0, 1.0, 1.0]) == (0, True)
