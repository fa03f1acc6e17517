"""The proof of a load's shape: loads that are as asked pass, and each way to miss it is found."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from throughline.benchmarking.arrivals import due_times
from throughline.benchmarking.lengths import Lengths
from throughline.benchmarking.proof import prove, require_valid
from throughline.benchmarking.summary import summarise_load, window_of
from throughline.benchmarking.targets import Driven
from throughline.benchmarking.workload import Requests
from throughline.contracts.benchmark import BenchRequest, Load, RequestRecord
from throughline.contracts.errors import MeasurementError
from throughline.contracts.measurement import EngineReadings, LoadProof, MachineReadings, Measurement
from throughline.contracts.slo import SloSpec
from throughline.contracts.workload import Workload

SECONDS, RATE = 60.0, 10.0
Change = Callable[[RequestRecord, int], RequestRecord]


def workload(**more: Any) -> Workload:
    values: dict[str, Any] = {
        "input_tokens": 200,
        "output_tokens": 40,
        "longest_input_tokens": 1000,
        "longest_output_tokens": 200,
        "input_cv": 0.8,
        "output_cv": 0.5,
        "arrivals": {"process": "poisson", "requests_per_second": RATE},
        "cancelled_share": 0.1,
        "tenants": {"a": 0.8, "b": 0.2},
    }
    return Workload(**{**values, **more})


def run(spec: Workload, change: Change = lambda record, index: record) -> tuple[Requests, Load, Driven]:
    """A load that a perfect generator sent to a server with a second for each request, and what a test does to it."""
    rng = np.random.default_rng(1)
    due = due_times(spec.arrivals, SECONDS, 1)
    assert due is not None
    inputs, outputs = Lengths(200, spec.input_cv, 1000), Lengths(40, spec.output_cv, 200)
    sessions, records = [], []
    for index, at in enumerate(due):
        tokens, answer = int(inputs.draw(1, rng)[0]), int(outputs.draw(1, rng)[0])
        leaves, tenant = index % 10 == 0, "b" if index % 5 == 0 else "a"
        sessions.append([BenchRequest("synthetic", [], [], (0,) * tokens, answer, tenant, int(leaves))])
        begin = 100 + float(at)
        record = RequestRecord(
            "synthetic",
            begin + 0.0002,
            begin + 0.1,
            begin + 1.0,
            0 if leaves else tokens,
            1 if leaves else answer,
            due=begin,
            gaps=(0.3, 0.3, 0.3),
            tenant=tenant,
            cancelled=leaves,
            session=index,
        )
        records.append(change(record, index))
    return Requests(sessions, inputs, outputs), Load(sessions, due=due.tolist()), Driven(100.0, records)


def proof(spec: Workload, change: Change = lambda record, index: record) -> LoadProof:
    requests, load, driven = run(spec, change)
    return prove(spec, requests, load, driven, seconds=SECONDS, generator_cores=0.1)


def missed(found: LoadProof) -> set[str]:
    return {test.name for test in found.tests if not test.passed}


def test_a_load_as_asked_passes() -> None:
    found = proof(workload())
    assert found.valid, found.tests
    names = {test.name for test in found.tests}
    assert names == {"rate", "arrivals", "input_tokens", "output_tokens", "cancelled", "tenants"}
    rate = next(test for test in found.tests if test.name == "rate")
    assert rate.asked == RATE
    assert rate.achieved == pytest.approx(RATE, rel=0.001)
    assert found.lag_seconds["p99"].value == pytest.approx(0.0002)


def late(record: RequestRecord, index: int) -> RequestRecord:
    """A generator that sends at nine tenths of the rate."""
    assert record.due is not None
    return dataclasses.replace(record, start=100 + (record.due - 100) / 0.9)


def even(record: RequestRecord, index: int) -> RequestRecord:
    """A generator that spreads a Poisson process evenly."""
    return dataclasses.replace(record, start=100 + (index + 0.5) / RATE)


def longer(record: RequestRecord, index: int) -> RequestRecord:
    """A server that counts a template of five tokens more."""
    return dataclasses.replace(record, prompt_tokens=record.prompt_tokens + 5)


def stopping(record: RequestRecord, index: int) -> RequestRecord:
    """A server that ends answers at 30 tokens."""
    return dataclasses.replace(record, completion_tokens=min(30, record.completion_tokens))


def staying(record: RequestRecord, index: int) -> RequestRecord:
    """Clients of which half do not leave."""
    return dataclasses.replace(record, cancelled=record.cancelled and index % 20 == 0)


def one_tenant(record: RequestRecord, index: int) -> RequestRecord:
    return dataclasses.replace(record, tenant="a")


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (late, {"rate"}),
        (even, {"arrivals"}),
        (longer, {"input_tokens"}),
        (stopping, {"output_tokens"}),
        (one_tenant, {"tenants"}),
    ],
)
def test_a_load_that_missed_its_shape_is_found(change: Change, names: set[str]) -> None:
    assert missed(proof(workload(), change)) == names


def test_who_does_not_leave_is_found() -> None:
    assert "cancelled" in missed(proof(workload(), staying))


def test_users_that_are_not_all_busy_are_found() -> None:
    """Four users of whom each waits half of the time for the generator."""
    spec = workload(arrivals={"process": "closed", "users": 4}, cancelled_share=0, tenants={}, input_cv=0, output_cv=0)

    def closed(pause: float) -> LoadProof:
        records = [
            RequestRecord("s", at, at + 0.1, at + 1.0, 200, 40, session=0)
            for user in range(4)
            for at in np.arange(100 + user / 10, 160, 1.0 + pause)
        ]
        load = Load([[BenchRequest("s", [], [], (0,) * 200, 40)]], users=4, seconds=SECONDS)
        requests = Requests(load.sessions, Lengths(200, 0, 1000), Lengths(40, 0, 200))
        return prove(spec, requests, load, Driven(100.0, records), seconds=SECONDS, generator_cores=None)

    assert closed(0.005).valid
    assert missed(closed(1.0)) == {"concurrency"}


def measured(change: Change = lambda record, index: record, slo: SloSpec | None = None) -> Measurement:
    spec = workload()
    requests, load, driven = run(spec, change)
    return summarise_load(
        "gateway",
        driven,
        window_of(driven, load, SECONDS, offline=False),
        prove(spec, requests, load, driven, seconds=SECONDS, generator_cores=0.1),
        settings={},
        workload=spec.model_dump(mode="json"),
        slo=slo,
        engine=EngineReadings(),
        machine=MachineReadings(cores=2),
    )


def test_a_run_that_missed_its_shape_enters_no_comparison() -> None:
    require_valid(measured())
    with pytest.raises(MeasurementError, match=r"did not have the shape.*gateway.*seen: rate: asked 10, got 9 "):
        require_valid(measured(late))


def test_figures_of_a_run() -> None:
    found = measured(slo=SloSpec(ttft_seconds=0.2))
    assert found.steady
    assert found.warm_up_seconds + found.seconds == pytest.approx(SECONDS)
    assert found.warm_up_seconds < SECONDS / 3
    assert found.ttft["p50"].value == pytest.approx(0.1)
    assert found.e2e["p99"].value == pytest.approx(1.0)
    assert found.itl["p50"].value == pytest.approx(0.3)
    assert found.requests == pytest.approx(RATE * found.seconds, rel=0.1)
    assert found.requests_per_second.value == pytest.approx(RATE, rel=0.1)
    # A request whose client left is none that kept its limits.
    assert found.goodput is not None
    assert found.goodput.value == pytest.approx(0.9 * found.requests / found.seconds, rel=0.02)
    assert found.tokens_per_second.value == pytest.approx(0.9 * RATE * 40, rel=0.1)


def test_errors_are_counted_by_type_and_the_slow_are_no_goodput() -> None:
    def change(record: RequestRecord, index: int) -> RequestRecord:
        if index % 4 == 1:
            return dataclasses.replace(record, ok=False, error="HTTP 429: full", error_type="rate_limit_exceeded")
        if index % 4 == 2:
            return dataclasses.replace(record, first_token=record.begin + 0.9)
        return record

    found = measured(change, SloSpec(ttft_seconds=0.2))
    assert set(found.errors) == {"rate_limit_exceeded"}
    assert found.error_rate == pytest.approx(0.25, abs=0.01)
    assert found.over(SloSpec(ttft_seconds=0.2))["error_rate"] == pytest.approx(25, abs=1)
    assert found.goodput is not None
    assert found.goodput.value < 0.55 * RATE


def test_a_service_that_is_gone_has_no_figures() -> None:
    def gone(record: RequestRecord, index: int) -> RequestRecord:
        return dataclasses.replace(record, ok=False, error_type="ConnectionRefusedError")

    with pytest.raises(MeasurementError, match=r"too few requests ended well.*0 of \d+; errors: \{'ConnectionRef"):
        measured(gone)
