from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from throughline.benchmarking.statistics import percentiles, ratio, summarise, throughput
from throughline.contracts.benchmark import RequestRecord


def record(start: float, first: float, end: float, tokens: int, *, ok: bool = True) -> RequestRecord:
    return RequestRecord("triage", start, first, end, 10, tokens, ok=ok, error="" if ok else "boom")


def test_throughput_counts_finished_tokens_between_first_start_and_last_end() -> None:
    records = [record(0.0, 0.1, 1.0, 30), record(0.5, 0.6, 2.0, 50), record(0.0, 0.1, 9.0, 99, ok=False)]
    assert throughput(records) == pytest.approx(80 / 2.0)
    assert throughput([]) == 0.0


def test_inter_token_latency_is_the_mean_gap_after_the_first_token() -> None:
    assert record(0.0, 1.0, 3.0, 5).inter_token_latency == pytest.approx(0.5)
    assert record(0.0, 1.0, 1.0, 1).inter_token_latency is None


@given(st.lists(st.floats(0.001, 100), min_size=1, max_size=60))
def test_percentiles_agree_with_numpy_and_their_interval_stays_inside_the_data(values: list[float]) -> None:
    found = percentiles(values)
    for name, q in (("p50", 50), ("p95", 95), ("p99", 99)):
        assert found[name].value == pytest.approx(float(np.percentile(values, q)))
        assert min(values) - 1e-9 <= found[name].low <= found[name].high <= max(values) + 1e-9
        assert found[name].n == len(values)


def test_the_median_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    hits = 0
    for trial in range(100):
        estimate = percentiles(list(rng.exponential(1.0, 80)), seed=trial)["p50"]
        hits += estimate.low <= math.log(2) <= estimate.high
    assert 85 <= hits <= 100


def test_a_cell_reports_failures_and_cpu_per_token() -> None:
    cell = summarise(
        "raw",
        8,
        [[record(0, 0.1, 1, 10), record(0, 0.1, 1, 10, ok=False)], [record(0, 0.2, 2, 10)]],
        cpu_seconds=1.0,
    )
    assert (cell.requests, cell.failed) == (3, 1)
    assert cell.cpu_seconds_per_token == pytest.approx(1.0 / 20)
    assert cell.per_repeat_tokens_per_second == [10.0, 5.0]


def test_the_ratio_pairs_repeats_of_one_round() -> None:
    fast = summarise("raw", 8, [[record(0, 0, 1, 100)], [record(0, 0, 1, 50)]])
    slow = summarise("gateway", 8, [[record(0, 0, 1, 90)], [record(0, 0, 1, 40)]])
    estimate = ratio([fast, slow], "gateway", "raw", 8)
    assert (estimate.low, estimate.high, estimate.n) == (0.8, 0.9, 2)
    assert estimate.value == pytest.approx(0.85)
