"""Whether a load had the shape that was asked for; a run whose load had not is worth nothing in a comparison."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from throughline.benchmarking.blocks import latencies
from throughline.benchmarking.lengths import Lengths
from throughline.benchmarking.targets import Driven
from throughline.benchmarking.workload import Requests
from throughline.contracts.benchmark import Load, RequestRecord
from throughline.contracts.errors import MeasurementError
from throughline.contracts.measurement import LoadProof, Measurement, ShapeTest
from throughline.contracts.workload import Workload

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# A rate, a length or a schedule may miss what was asked by so much.
TOLERANCE = 0.01
# Requests in flight come and go within a round trip of the generator.
_CONCURRENCY_TOLERANCE = 0.05
# Of a true shape one test in a thousand fails.
SIGNIFICANCE = 0.001


def prove(
    workload: Workload, requests: Requests, load: Load, driven: Driven, *, seconds: float, generator_cores: float | None
) -> LoadProof:
    """Tests everything that a workload asks for against what was sent and served.

    Args:
        workload: What was asked for.
        requests: What was made of it.
        load: How it was sent.
        driven: What came of it.
        seconds: Length of the run.
        generator_cores: Processor seconds that the load generator used in a second.
    """
    proof = _Proof(workload, requests, load, driven, seconds)
    late = [[record.start - record.due] for record in driven.records if record.due is not None]
    lag = latencies(late, length=1) if late else {}
    return LoadProof(tests=tuple(proof.tests()), generator_cores=generator_cores, lag_seconds=lag)


def require_valid(measurement: Measurement) -> None:
    """Refuses a measurement for comparison if its load missed its shape.

    Raises:
        MeasurementError: Naming the properties.
    """
    missed = [test for test in measurement.load.tests if not test.passed]
    if missed:
        raise MeasurementError(
            "the load did not have the shape that was asked for, so that this run compares with none",
            where=measurement.target,
            seen="; ".join(
                f"{test.name}: asked {test.asked:g}, got {test.achieved:g} ({test.test})" for test in missed
            ),
            fix="give the load generator a core of its own, ask for a lower rate, or run longer",
        )


class _Proof:
    def __init__(self, workload: Workload, requests: Requests, load: Load, driven: Driven, seconds: float) -> None:
        self._workload, self._requests, self._load, self._driven = workload, requests, load, driven
        self._seconds = seconds
        self._records = driven.records
        self._first = sorted((item for item in driven.records if not item.turn), key=lambda item: item.begin)

    def tests(self) -> Iterator[ShapeTest]:
        if self._load.due is None:
            yield self._concurrency()
        elif self._workload.arrivals.process == "offline":
            yield self._at_once()
        else:
            yield self._rate(self._load.due)
            yield self._arrivals(self._load.due)
        served = [item for item in self._records if item.ok and not item.cancelled]
        if served:
            yield from self._inputs(served)
            if self._load.ignore_eos:
                yield from self._outputs(served)
        yield from self._shares()

    def _rate(self, due: Sequence[float]) -> ShapeTest:
        """What was sent in the time that its schedule took, against what was asked for in the run."""
        asked = self._workload.arrivals.mean_rate or len(due) / max(due[-1] - due[0], 1e-9)
        sent = [item.start for item in self._first]
        span = max(sent) - min(sent) if sent else 0.0
        achieved = len(sent) / len(due) * asked * (due[-1] - due[0]) / span if span > 0 else 0.0
        return _relative("rate", asked, achieved)

    def _arrivals(self, due: Sequence[float]) -> ShapeTest:
        import numpy as np
        from scipy import stats

        starts = np.sort(np.asarray([item.start - self._driven.began for item in self._first]))
        gaps = np.diff(starts)
        spec = self._workload.arrivals
        asked, achieved = float(np.mean(np.diff(due))), float(gaps.mean()) if gaps.size else 0.0
        if gaps.size and spec.process in {"poisson", "gamma"}:
            shape = spec.burstiness if spec.process == "gamma" else 1.0
            found = stats.kstest(gaps, stats.gamma(shape, scale=asked / shape).cdf)
            return _fit("arrivals", asked, achieved, "Kolmogorov-Smirnov against the process", found.pvalue)
        if len(starts) != len(due):
            return ShapeTest(name="arrivals", asked=len(due), achieved=len(starts), test="all were sent", passed=False)
        # A schedule that is no renewal process is held by being kept: every request near its time.
        late = float(np.quantile(starts - np.sort(due), 0.99))
        limit = max(TOLERANCE * self._seconds, 0.01)
        return ShapeTest(name="arrivals", asked=0.0, achieved=late, test="p99 of lateness (s)", passed=late <= limit)

    def _at_once(self) -> ShapeTest:
        starts = [item.start for item in self._records]
        spread = max(starts) - min(starts)
        took = max(item.end for item in self._records) - self._driven.began
        return ShapeTest(
            name="arrivals", asked=0.0, achieved=spread, test="spread of the starts (s)", passed=spread <= 0.05 * took
        )

    def _concurrency(self) -> ShapeTest:
        """Requests in flight while users had something to send; those that think are none."""
        began = self._driven.began
        end = min(began + self._seconds, max(item.begin for item in self._records))
        flight = sum(max(0.0, min(item.end, end) - max(item.start, began)) for item in self._records)
        mean_e2e = sum(item.e2e_latency for item in self._records) / len(self._records)
        asked = self._load.users * mean_e2e / (mean_e2e + self._load.think_seconds)
        achieved = flight / (end - began) if end > began else float(self._load.users)
        return _relative("concurrency", asked, achieved, _CONCURRENCY_TOLERANCE)

    def _inputs(self, served: Sequence[RequestRecord]) -> Iterator[ShapeTest]:
        sent = [len(self._load.sessions[item.session][item.turn].prompt_token_ids) for item in served]
        counted = [item.prompt_tokens for item in served]
        # The server's own count, so that a template that it applies otherwise does not pass unseen.
        yield _relative("input_tokens", sum(sent) / len(sent), sum(counted) / len(counted))
        first = [item.prompt_tokens for item in served if not item.turn]
        if self._requests.inputs is not None and first:
            yield _lengths("input_tokens", self._requests.inputs, first)

    def _outputs(self, served: Sequence[RequestRecord]) -> Iterator[ShapeTest]:
        asked = [self._load.sessions[item.session][item.turn].max_tokens for item in served]
        counted = [item.completion_tokens for item in served]
        yield _relative("output_tokens", sum(asked) / len(asked), sum(counted) / len(counted))
        if self._requests.outputs is not None and self._workload.turns == 1:
            yield _lengths("output_tokens", self._requests.outputs, counted)

    def _shares(self) -> Iterator[ShapeTest]:
        workload = self._workload
        if workload.cancelled_share:
            # A request that failed had no answer to leave.
            tried = [item for item in self._records if item.ok]
            yield _share("cancelled", workload.cancelled_share, sum(item.cancelled for item in tried), len(tried))
        counts = Counter(item.tenant for item in self._first)
        for name, share in workload.tenants.items():
            yield _share("tenants", share, counts[name], len(self._first), tests=len(workload.tenants))


def _relative(name: str, asked: float, achieved: float, tolerance: float = TOLERANCE) -> ShapeTest:
    return ShapeTest(
        name=name,
        asked=asked,
        achieved=achieved,
        test=f"relative error ≤ {tolerance:.0%}",
        passed=abs(achieved - asked) <= tolerance * asked,
    )


def _fit(name: str, asked: float, achieved: float, test: str, p_value: float) -> ShapeTest:
    return ShapeTest(
        name=name, asked=asked, achieved=achieved, test=test, p_value=float(p_value), passed=p_value >= SIGNIFICANCE
    )


def _lengths(name: str, asked: Lengths, seen: Sequence[int]) -> ShapeTest:
    """Lengths are rounded draws: spread evenly over their unit again they have the distribution that was asked for."""
    import numpy as np
    from scipy import stats

    counts: NDArray[np.float64] = np.asarray(seen, dtype=np.float64)
    if not asked.cv:
        return _relative(name, asked.mean, float(counts.mean()))
    spread = counts + np.random.default_rng(0).uniform(-0.5, 0.5, counts.size)
    found = stats.kstest(spread, asked.cdf)
    return _fit(name, asked.mean, float(counts.mean()), "Kolmogorov-Smirnov against the distribution", found.pvalue)


def _share(name: str, asked: float, count: int, of: int, *, tests: int = 1) -> ShapeTest:
    from scipy import stats

    if not of:
        return ShapeTest(name=name, asked=asked, achieved=0.0, test="binomial", passed=False)
    p_value = min(1.0, tests * float(stats.binomtest(count, of, asked).pvalue))
    return _fit(name, asked, count / of, "binomial", p_value)
