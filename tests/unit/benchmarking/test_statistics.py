from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from throughline.benchmarking.statistics import check_layers, paired_ratio, percentiles, summarise, throughput
from throughline.contracts.benchmark import CellResult, Estimate, RequestRecord
from throughline.contracts.errors import MeasurementError


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


def test_load_and_generator_are_counted_over_all_rounds() -> None:
    cell = summarise("triton", 8, [[record(0, 0.1, 1, 10)], [record(5, 5.2, 8, 10)]], generator_seconds=1.0)
    assert cell.seconds == pytest.approx(1 + 3)
    assert cell.generator_cores == pytest.approx(0.25)


def test_a_ratio_is_the_geometric_mean_of_its_rounds_with_the_t_interval_of_their_logarithms() -> None:
    over, under = [90.0, 40.0, 33.0], [100.0, 50.0, 30.0]
    estimate = paired_ratio(over, under)
    assert estimate.value == pytest.approx((0.9 * 0.8 * 1.1) ** (1 / 3))
    oracle = stats.ttest_rel(np.log(over), np.log(under)).confidence_interval(0.95)
    assert (estimate.low, estimate.high) == pytest.approx((math.exp(oracle.low), math.exp(oracle.high)))
    turned = paired_ratio(under, over)
    assert (turned.low, turned.high) == pytest.approx((1 / estimate.high, 1 / estimate.low))
    assert paired_ratio([2.0], [1.0]) == Estimate(2.0, 0.0, math.inf, 1)
    assert paired_ratio([0.0], [1.0]).n == 0


def cells_of(rates: dict[str, list[float]]) -> list[CellResult]:
    return [
        summarise(name, 8, [[record(0, 0, 1, round(1e6 * rate))] for rate in values]) for name, values in rates.items()
    ]


BELOW = {"raw": "", "triton": "raw", "gateway": "triton"}


def test_a_layer_that_beats_the_one_below_it_is_refused() -> None:
    fair = {"raw": [100.0, 110.0, 90.0], "triton": [80.0, 85.0, 75.0], "gateway": [79.0, 86.0, 74.0]}
    check_layers(cells_of(fair), BELOW)
    with pytest.raises(MeasurementError, match=r"gateway was faster than triton.*8 users, 3 rounds.*1\.5"):
        check_layers(cells_of(fair | {"gateway": [120.0, 127.0, 113.0]}), BELOW)
    # Without Triton in the table the gateway stands on the engine.
    unfair = {"raw": [100.0, 110.0, 90.0], "gateway": [150.0, 163.0, 137.0]}
    with pytest.raises(MeasurementError, match="gateway was faster than raw"):
        check_layers(cells_of(unfair), BELOW)
    # Two engines beside each other are no layers.
    check_layers(cells_of({"int8": [200.0, 210.0], "bf16": [100.0, 105.0]}), {"int8": "", "bf16": ""})


def test_layers_of_equal_speed_are_refused_as_seldom_as_it_says() -> None:
    rng = np.random.default_rng(3)
    refused = 0
    for _ in range(400):
        drift = np.exp(0.2 * rng.standard_normal(4))
        rates = {name: list(100 * drift * np.exp(0.1 * rng.standard_normal(4))) for name in BELOW}
        try:
            check_layers(cells_of(rates), BELOW)
        except MeasurementError:
            refused += 1
    assert refused / 400 <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / 400)
