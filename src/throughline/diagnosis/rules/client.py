"""The client: a load generator, or a reader, that is slower than the server."""

from __future__ import annotations

from throughline.contracts.diagnosis import Evidence, Finding, Lever
from throughline.contracts.measurement import ShapeTest
from throughline.diagnosis import thresholds as t
from throughline.diagnosis.readings import Seen, at, ms, pct
from throughline.diagnosis.rule import Rule


def _client(seen: Seen) -> Finding | None:
    if seen.run.target == "raw":
        # One thread asks and steps: what is late there is late by a step of the engine, and no client's fault.
        return None
    load = seen.run.load
    busy, late = load.generator_cores, at(load.lag_seconds, "p95")
    costs: list[tuple[float, str]] = []
    evidence: list[Evidence] = []
    if busy is not None and busy >= t.BUSY_PROCESS:
        cost = min(1.0, busy) - t.BUSY_PROCESS + t.LATE_LOAD
        costs.append((cost, f"a process at {pct(min(1.0, busy))} of a core has nothing to spare"))
        source = "one process of one interpreter can use one core"
        evidence.append(Evidence(name="load generator", value=busy, unit="cores", limit=t.BUSY_PROCESS, source=source))
    behind = _behind(load.tests)
    lags = late is not None and late > t.LEAST_COST * (at(seen.run.e2e, "mean") or seen.e2e)
    if behind is not None and (lags or (busy is not None and busy >= t.BUSY_PROCESS)):
        costs.append((behind, f"the load is {pct(behind)} behind what was asked for"))
        source = "the test of the load's shape"
        evidence.append(Evidence(name="load not sent", value=behind, unit="share", limit=t.LATE_LOAD, source=source))
    if late is not None and lags:
        e2e = at(seen.run.e2e, "mean") or seen.e2e
        mean = at(load.lag_seconds, "mean") or late
        cost = mean / (mean + e2e)
        costs.append((cost, f"mean lag {ms(mean)} / (lag + mean request {ms(e2e)}) = {pct(cost)}"))
        source = "a tenth of a mean request"
        evidence.append(
            Evidence(name="p95 behind schedule", value=late, unit="s", limit=t.LEAST_COST * e2e, source=source)
        )
    unread = seen.share("network")
    gateway = seen.run.machine.busy_cores.get("gateway")
    if unread >= 2 * t.LEAST_COST and gateway is not None and gateway < t.BUSY_PROCESS:
        costs.append((unread, f"network and reading {ms(seen.phase('network'))} of a request = {pct(unread)}"))
        source = "the gateway has processor time left, so the reader is what is waited for"
        evidence.append(
            Evidence(name="answer not yet read", value=unread, unit="share", limit=2 * t.LEAST_COST, source=source)
        )
    if not costs:
        return None
    severity, arithmetic = max(costs)
    return Finding(
        name=CLIENT.name,
        kind="waste",
        summary="The client is slower than the server: this run says little about the server.",
        severity=severity,
        cost="throughput",
        arithmetic=arithmetic,
        evidence=tuple(evidence),
        levers=(Lever(overrides=_more_generators(seen), why="more load generators, on a machine of their own"),),
        contradicted_by="a second load generator beside it changes neither rate nor latencies",
    )


def _behind(tests: tuple[ShapeTest, ...]) -> float | None:
    """How much of the asked rate or concurrency was not reached, if a test says that it was not."""
    shares = [
        1 - test.achieved / test.asked
        for test in tests
        if test.name in ("rate", "concurrency") and not test.passed and test.asked > 0
    ]
    worst = max(shares, default=0.0)
    return worst if worst > t.LATE_LOAD else None


def _more_generators(seen: Seen) -> tuple[str, ...]:
    processes = seen.number("load.processes")
    return (f"load.processes={2 * processes}",) if processes is not None else ()


CLIENT = Rule(
    "client-bound",
    "the load generator or the reader is slower than the server",
    ("load.generator_cores|load.lag_seconds|phases.network",),
    _client,
)
