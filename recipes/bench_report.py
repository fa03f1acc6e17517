"""What a measured workload looks like: the terminal's tables, and the page with all of them and plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from recipes.bench_tables import (
    LATENCIES,
    comparison,
    gpu_table,
    latency_table,
    machine_table,
    named,
    phase_table,
    proof_table,
    rates_table,
    slo_table,
)
from throughline.contracts.benchmark import Estimate
from throughline.contracts.measurement import Measurement
from throughline.contracts.price import PriceSpec
from throughline.contracts.report import Plot, Report, Section, Series, VerdictKind


def show(found: Sequence[Measurement], price: PriceSpec | None) -> None:
    """Prints the tables that a person wants first."""
    from throughline.reporting.terminal import print_table

    for table in (rates_table(found, price), latency_table(found), *comparison(found)):
        print_table(table)
    for name, measurement in named(found).items():
        for test in measurement.load.tests:
            if not test.passed:
                print_table(proof_table(name, measurement))
                break


def latency_plot(found: Sequence[Measurement], field: str) -> Plot:
    """Returns a latency's percentiles, a line a run, with intervals."""
    places = {"p50": 50.0, "p90": 90.0, "p95": 95.0, "p99": 99.0}
    series = []
    for name, item in named(found).items():
        values: Mapping[str, Estimate] = getattr(item, field)
        points = [values[p] for p in places]
        series.append(
            Series(
                name,
                list(places.values()),
                [1e3 * point.value for point in points],
                [1e3 * point.low for point in points],
                [1e3 * point.high for point in points],
            )
        )
    label = LATENCIES[field]
    return Plot(f"{label[0].upper()}{label[1:]}", "percentile", "ms", series)


def build(found: Sequence[Measurement], price: PriceSpec | None, *, engine: str, command: str) -> Report:
    """Returns the page's content."""
    from throughline.artifacts import describe_environment

    environment = describe_environment()
    text, kind = verdict(found)
    slo = found[0].slo
    phases, gpus = phase_table(found), gpu_table(found)
    return Report(
        title=f"Benchmark of {engine}",
        verdict=text,
        verdict_kind=kind,
        summary=[_described(found[0])],
        sections=[
            Section("Load", tables=[rates_table(found, price), *comparison(found)]),
            Section(
                "Latency",
                tables=[latency_table(found), *([slo_table(found, slo)] if slo is not None else [])],
                plots=[latency_plot(found, field) for field in LATENCIES if all(getattr(x, field) for x in found)],
            ),
            *([Section("Phases", tables=[phases])] if phases is not None else []),
            Section("Proof of the load", tables=[proof_table(name, item) for name, item in named(found).items()]),
            Section("Machine", tables=[machine_table(found), *([gpus] if gpus is not None else [])]),
        ],
        environment={
            "processor": f"{environment['machine']['processor']}, {environment['machine']['cores']} cores",
            "system": str(environment["machine"]["system"]),
            "commit": str(environment["git_commit"]),
            **{name: str(version) for name, version in environment["packages"].items()},
        },
        command=command,
    )


def verdict(found: Sequence[Measurement]) -> tuple[str, VerdictKind]:
    """Returns the one line to take away, and whether it is good news."""
    missed = [name for name, item in named(found).items() if not item.load.valid]
    if missed:
        return f"The load of {', '.join(missed)} did not have its shape: these runs compare with none", "unclear"
    last = found[-1]
    rate = (
        f"{last.target}: {last.tokens_per_second.value:.1f} tokens/s, {last.requests_per_second.value:.2f} requests/s"
    )
    if last.slo is None:
        return rate, "good"
    over = last.over(last.slo)
    if not over:
        return f"{rate}, every limit kept", "good"
    worst = max(over, key=lambda name: over[name])
    return f"{rate}; {worst} is {over[worst]:.1f} times its limit", "bad"


def _described(item: Measurement) -> str:
    workload = item.workload
    arrivals = workload["arrivals"]
    how = {
        "closed": f"{arrivals['users']} users, each with one request at a time",
        "offline": f"{arrivals['offline_requests']} requests at once",
        "trace": f"the times of {workload['trace']}",
    }.get(arrivals["process"], f"{arrivals['requests_per_second']} requests a second, {arrivals['process']}")
    return (
        f"{item.input_tokens:.0f} tokens in and {item.output_tokens:.0f} out on average; {how}; {item.seconds:.0f} s "
        f"measured after {item.warm_up_seconds:.1f} s of warm-up."
    )
