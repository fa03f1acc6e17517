"""Tables of measured workloads, the same in the terminal and on the page."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from throughline.contracts.benchmark import Estimate
from throughline.contracts.errors import MeasurementError
from throughline.contracts.measurement import PHASES, Measurement
from throughline.contracts.price import PriceSpec, joules
from throughline.contracts.report import Column, Judged, Table
from throughline.contracts.slo import SloSpec

_PERCENTILES = ("p50", "p90", "p95", "p99", "mean")
LATENCIES = {
    "ttft": "time to first token",
    "itl": "inter-token latency",
    "tpot": "time per output token",
    "e2e": "end to end",
}
_Value = Callable[[Measurement], float]
_INTERVALS = "95 % intervals by a block bootstrap over the requests in their order in time"


def named(found: Sequence[Measurement]) -> dict[str, Measurement]:
    """Returns measurements by their names in tables: the target, and its round where there are several."""
    counts: dict[str, int] = {}
    names = {}
    several = len({item.target for item in found}) < len(found)
    for item in found:
        counts[item.target] = counts.get(item.target, 0) + 1
        names[f"{item.target} {counts[item.target]}" if several else item.target] = item
    return names


def rates_table(found: Sequence[Measurement], price: PriceSpec | None) -> Table:
    """Returns a row a run: what was sent, what came back, what it cost."""
    columns = [
        Column("target", align="left"),
        Column("load", align="left"),
        Column("requests"),
        Column("failed"),
        Column("throughput", "requests/s"),
        Column("output", "tokens/s"),
        Column("goodput", "requests/s"),
        Column("warm-up", "s"),
        Column("energy", "J/1k tokens"),
        Column(f"cost, {price.currency if price else '-'}", "per 1M tokens"),
    ]
    rows: list[list[object]] = []
    for name, item in named(found).items():
        rows.append(
            [
                name,
                Judged("as asked", "good") if item.load.valid else Judged("missed", "bad"),
                item.requests,
                _failed(item),
                item.requests_per_second,
                item.tokens_per_second,
                item.goodput,
                item.warm_up_seconds if item.steady else Judged(f"{item.warm_up_seconds:.1f}, not steady", "unclear"),
                _energy(item),
                price.per_million_tokens(item) if price else None,
            ]
        )
    return Table("Load", columns, rows, note=f"{_INTERVALS}; energy and cost only where they can be read")


def latency_table(found: Sequence[Measurement]) -> Table:
    """Returns percentiles of each latency, in milliseconds."""
    rows: list[list[object]] = []
    for field, label in LATENCIES.items():
        for name, item in named(found).items():
            values = getattr(item, field)
            rows.append([f"{label}, {name}", *(_scaled(values.get(p), 1e3) for p in _PERCENTILES)])
    columns = [Column("latency", align="left"), *(Column(p, "ms") for p in _PERCENTILES)]
    note = f"{_INTERVALS}; of an open loop from when a request was due, not from when it was sent"
    return Table("Latency", columns, rows, note=note)


def slo_table(found: Sequence[Measurement], slo: SloSpec) -> Table:
    """Returns each limit beside what was measured at its percentile."""
    rows: list[list[object]] = []
    for name, limit in slo.latencies().items():
        if limit is None:
            continue
        for target, item in named(found).items():
            seen = getattr(item, name.removesuffix("_seconds")).get(f"p{slo.percentile}")
            kept = name not in item.over(slo)
            rows.append(
                [f"{target}: {name.removesuffix('_seconds')} p{slo.percentile}", limit * 1e3, _judged(seen, kept)]
            )
    columns = [Column("limit", align="left"), Column("limit", "ms"), Column("measured", "ms")]
    return Table("Service level objective", columns, rows)


def comparison(found: Sequence[Measurement]) -> Iterator[Table]:
    """Yields every target's figures as ratios to the first one's; a run whose load missed its shape is left out."""
    from throughline.benchmarking.proof import require_valid

    by_target: dict[str, list[Measurement]] = {}
    refused = []
    for item in found:
        try:
            require_valid(item)
        except MeasurementError as fault:
            refused.append(str(fault))
            continue
        by_target.setdefault(item.target, []).append(item)
    first = found[0].target if found else ""
    if len({item.target for item in found}) < 2 or first not in by_target:
        return
    rows: list[list[object]] = [
        [target, *(_ratio(items, by_target[first], value) for value in _COMPARED.values())]
        for target, items in by_target.items()
        if target != first
    ]
    columns = [Column(f"against {first}", align="left"), *(Column(name) for name in _COMPARED)]
    note = "ratio of rounds, with Student's 95 % interval where there are several"
    if refused:
        note += "; left out: " + "; ".join(refused)
    yield Table("Comparison", columns, rows, note=note)


_COMPARED: Mapping[str, _Value] = {
    "tokens/s": lambda item: item.tokens_per_second.value,
    "TTFT p50": lambda item: item.ttft["p50"].value,
    "TTFT p95": lambda item: item.ttft["p95"].value,
    "ITL p50": lambda item: item.itl["p50"].value,
    "e2e p95": lambda item: item.e2e["p95"].value,
}


def phase_table(found: Sequence[Measurement]) -> Table | None:
    """Returns the mean time of each part of a request; None where no target knows them."""
    known = {name: item for name, item in named(found).items() if item.phases}
    if not known:
        return None
    rows: list[list[object]] = [
        [
            name,
            *(_milliseconds(item.phases.get(phase)) for phase in PHASES),
            1e3 * sum(item.phases.values()),
            1e3 * item.e2e["mean"].value,
        ]
        for name, item in known.items()
    ]
    columns = [
        Column("target", align="left"),
        *(Column(phase, "ms") for phase in PHASES),
        Column("sum", "ms"),
        Column("end to end", "ms"),
    ]
    note = (
        "means; gateway: reading, checking, admission; queue: until the engine begins; detokenize: from the engine's "
        "last token to its text in the client's stream; network: both ways, by the client's clock"
    )
    return Table("Where a request's time goes", columns, rows, note=note)


def proof_table(name: str, item: Measurement) -> Table:
    """Returns every property of the load, asked and achieved."""
    rows: list[list[object]] = [
        [
            test.name,
            test.asked,
            test.achieved,
            test.test,
            test.p_value,
            Judged("yes", "good") if test.passed else Judged("no", "bad"),
        ]
        for test in item.load.tests
    ]
    columns = [
        Column("property", align="left"),
        Column("asked"),
        Column("achieved"),
        Column("test", align="left"),
        Column("p"),
        Column("holds"),
    ]
    late = item.load.lag_seconds.get("p99")
    cores = item.load.generator_cores
    notes = [
        f"requests left {1e3 * late.value:.2f} ms late (p99)" if late else "",
        f"the load generator took {cores:.2f} cores" if cores is not None else "",
    ]
    return Table(f"Load as asked and as sent: {name}", columns, rows, note="; ".join(filter(None, notes)))


def machine_table(found: Sequence[Measurement]) -> Table:
    """Returns what the machine did."""
    from throughline.reporting import format as fmt

    groups = list(dict.fromkeys(group for item in found for group in item.machine.busy_cores))
    columns = [
        Column("target", align="left"),
        *(Column(group, "cores") for group in groups),
        Column("memory"),
        Column("memory read", "GB/s"),
        Column("at most", "GB/s"),
        Column("KV cache", "%"),
        Column("sequences in a step"),
    ]
    rows: list[list[object]] = []
    for name, item in named(found).items():
        machine, engine = item.machine, item.engine
        rows.append(
            [
                name,
                *(machine.busy_cores.get(group) for group in groups),
                fmt.bytes_(machine.memory_bytes) if machine.memory_bytes else None,
                machine.bandwidth / 1e9 if machine.bandwidth else None,
                machine.bandwidth_bound / 1e9 if machine.bandwidth_bound else None,
                100 * engine.kv_cache_usage if engine.kv_cache_usage is not None else None,
                engine.scheduled,
            ]
        )
    note = "memory read: weights and KV cache, by arithmetic; at most: measured right after the run"
    return Table("Machine", columns, rows, note=note)


def gpu_table(found: Sequence[Measurement]) -> Table | None:
    """Returns what the GPUs did; None without one."""
    from throughline.reporting import format as fmt

    rows: list[list[object]] = [
        [
            f"{name}, {gpu.name}",
            100 * gpu.utilisation,
            fmt.bytes_(gpu.memory_bytes),
            gpu.power_watts,
            gpu.sm_clock_hertz / 1e6,
            ", ".join(f"{reason} {share:.0%}" for reason, share in gpu.throttled.items() if share) or "no",
        ]
        for name, item in named(found).items()
        for gpu in item.machine.gpus
    ]
    if not rows:
        return None
    columns = [
        Column("GPU", align="left"),
        Column("busy", "%"),
        Column("memory"),
        Column("power", "W"),
        Column("SM clock", "MHz"),
        Column("throttled", align="left"),
    ]
    return Table("GPUs", columns, rows)


def _ratio(
    over: Sequence[Measurement], under: Sequence[Measurement], value: Callable[[Measurement], float]
) -> str | None:
    from throughline.benchmarking.statistics import paired_ratio
    from throughline.reporting import format as fmt

    pairs = list(zip(over, under, strict=False))
    found = paired_ratio([value(a) for a, _ in pairs], [value(b) for _, b in pairs])
    if not found.n:
        return None
    return fmt.ratio(found.value, found.low, found.high) if found.n > 1 else fmt.ratio(found.value)


def _failed(item: Measurement) -> object:
    total = sum(item.errors.values())
    if not total:
        return 0
    return Judged(f"{total} ({', '.join(f'{kind} {count}' for kind, count in item.errors.items())})", "bad")


def _energy(item: Measurement) -> float | None:
    used = joules(item.machine)
    tokens = item.tokens_per_second.value * item.seconds
    return used / tokens * 1000 if used is not None and tokens else None


def _scaled(value: Estimate | None, scale: float) -> Estimate | None:
    if value is None or not value.n:
        return None
    return Estimate(value.value * scale, value.low * scale, value.high * scale, value.n)


def _judged(value: Estimate | None, kept: bool) -> object:
    return Judged(_scaled(value, 1e3), "good" if kept else "bad")


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else 1e3 * seconds
