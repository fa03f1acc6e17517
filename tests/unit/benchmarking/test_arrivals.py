"""Send times and lengths against the distributions that they are drawn from."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import integrate, stats

from throughline.benchmarking.arrivals import due_times
from throughline.benchmarking.lengths import Lengths
from throughline.contracts.errors import ConfigError
from throughline.contracts.workload import ArrivalSpec


def times(process: str, seconds: float = 500.0, **more: float) -> np.ndarray:
    found = due_times(ArrivalSpec(process=process, **{"requests_per_second": 4.0, **more}), seconds, seed=7)
    assert found is not None
    return found


@pytest.mark.parametrize("process", ["constant", "poisson", "gamma", "burst"])
def test_a_run_has_just_the_rate_that_is_asked_for(process: str) -> None:
    found = times(process, burstiness=0.5)
    assert len(found) == 2000
    assert (np.diff(found) >= 0).all()
    assert found[0] >= 0
    assert found[-1] <= 500


def test_gaps_are_of_the_process() -> None:
    assert np.diff(times("constant")) == pytest.approx(0.25)
    assert stats.kstest(np.diff(times("poisson")), stats.expon(scale=0.25).cdf).pvalue > 0.01
    gaps = np.diff(times("gamma", burstiness=0.5))
    assert stats.kstest(gaps, stats.gamma(0.5, scale=0.5).cdf).pvalue > 0.01
    assert stats.kstest(gaps, stats.expon(scale=0.25).cdf).pvalue < 1e-6


def test_a_ramp_grows_evenly() -> None:
    found = times("ramp", ramp_to=12.0)
    assert len(found) == 4000
    # 4·t + 8·t²/1000 requests until t, of 4000.
    assert np.searchsorted(found, 250) == pytest.approx(1500, rel=0.05)
    assert stats.kstest(found, lambda t: (4 * t + 8 * t**2 / 1000) / 4000).pvalue > 0.01


def test_bursts_leave_together() -> None:
    found = times("burst", burst_size=10)
    assert len(np.unique(found)) == 200


def test_the_seed_decides_and_a_closed_loop_has_no_times() -> None:
    spec = ArrivalSpec(process="poisson", requests_per_second=4.0)
    first, again, other = (due_times(spec, 50, seed) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert due_times(ArrivalSpec(), 50, 1) is None


def test_a_run_without_requests_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"too short for its rate.*seen: 0\.1 requests a second for 5 s.*20"):
        due_times(ArrivalSpec(process="poisson", requests_per_second=0.1), 5, 0)


@pytest.mark.parametrize(
    ("mean", "cv", "longest", "least"), [(500, 1.0, 4096, 30), (60, 0.5, 64, 1), (40, 3.0, 1000, 35)]
)
def test_lengths_keep_their_mean_whatever_is_cut_off(mean: float, cv: float, longest: int, least: int) -> None:
    lengths = Lengths(mean, cv, longest, least)
    drawn = lengths.draw(50_000, np.random.default_rng(3))
    assert drawn.mean() == pytest.approx(mean, rel=0.02)
    assert drawn.min() >= least
    assert drawn.max() <= longest
    # The distribution function is that of the draws: its mean by quadrature, and a test of fit.
    upto = integrate.quad(lambda x: 1 - float(lengths.cdf(np.asarray([x]))[0]), least - 0.5, longest + 0.5, limit=200)[
        0
    ]
    assert least - 0.5 + upto == pytest.approx(mean, rel=0.02)
    spread = drawn[:3000] + np.random.default_rng(4).uniform(-0.5, 0.5, 3000)
    assert stats.kstest(spread, lengths.cdf).pvalue > 0.01


def test_lengths_without_spread_are_alike() -> None:
    assert set(Lengths(100, 0.0, 200).draw(10, np.random.default_rng(0))) == {100}
