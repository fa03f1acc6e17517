"""Measurements and limits: what counts as broken, and that a file of one reads back as it was."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from throughline.contracts.benchmark import Estimate
from throughline.contracts.measurement import LoadProof, MachineReadings, Measurement, ShapeTest
from throughline.contracts.slo import SloSpec


def estimate(value: float) -> Estimate:
    return Estimate(value, value * 0.9, value * 1.1, 100)


def measurement(*, p95: float = 0.5, requests: int = 100, errors: dict[str, int] | None = None) -> Measurement:
    latencies = {"p50": estimate(p95 / 2), "p95": estimate(p95)}
    return Measurement(
        target="raw",
        load=LoadProof(tests=(ShapeTest(name="rate", asked=2, achieved=2.001, test="relative error", passed=True),)),
        started_at=1.0,
        warm_up_seconds=1.0,
        seconds=10.0,
        requests=requests,
        errors=errors or {},
        requests_per_second=estimate(2.0),
        tokens_per_second=estimate(20.0),
        ttft=latencies,
        itl=latencies,
        tpot=latencies,
        e2e=latencies,
        input_tokens=10,
        output_tokens=10,
        machine=MachineReadings(cores=2),
    )


def test_a_limit_is_broken_at_its_percentile_by_how_many_times() -> None:
    found = measurement(p95=0.5)
    assert found.over(SloSpec(ttft_seconds=0.25, percentile=95)) == {"ttft_seconds": 2.0}
    assert found.over(SloSpec(ttft_seconds=0.25, percentile=50)) == {}
    # Nobody measured it, so nobody may say that it holds.
    assert found.over(SloSpec(e2e_seconds=9.0, percentile=99)) == {"e2e_seconds": float("inf")}


def test_a_latency_that_is_not_a_number_breaks_its_limit() -> None:
    assert "ttft_seconds" in measurement(p95=float("nan")).over(SloSpec(ttft_seconds=1.0))


def test_errors_break_a_limit_of_their_own() -> None:
    found = measurement(requests=100, errors={"rate_limit_exceeded": 2, "timeout": 1})
    assert found.error_rate == 0.03
    assert found.over(SloSpec(ttft_seconds=1.0, error_rate=0.01)) == {"error_rate": pytest.approx(3.0)}
    assert found.over(SloSpec(ttft_seconds=1.0, error_rate=0.05)) == {}


def test_an_slo_without_a_limit_is_refused() -> None:
    with pytest.raises(ValidationError, match="without a limit of latency"):
        SloSpec(error_rate=0.1)


def test_a_measurement_reads_back_as_it_was() -> None:
    found = measurement(errors={"timeout": 1})
    assert Measurement.model_validate_json(found.model_dump_json()) == found


def test_one_property_that_missed_its_shape_makes_the_load_invalid() -> None:
    missed = ShapeTest(name="rate", asked=10, achieved=7, test="relative error", passed=False)
    assert not LoadProof(tests=(*measurement().load.tests, missed)).valid
