"""From request records to throughput and latency percentiles with bootstrap intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from throughline.contracts.benchmark import CellResult, Estimate, RequestRecord
from throughline.contracts.errors import MeasurementError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PERCENTILES = (50, 95, 99)
BOOTSTRAP_SAMPLES = 500


def throughput(records: Sequence[RequestRecord]) -> float:
    """Returns completed output tokens per second between the first start and the last end."""
    done = [record for record in records if record.ok]
    seconds = wall_seconds(done)
    return sum(record.completion_tokens for record in done) / seconds if seconds > 0 else 0.0


def wall_seconds(records: Sequence[RequestRecord]) -> float:
    """Returns seconds between the first start and the last end."""
    return max(item.end for item in records) - min(item.start for item in records) if records else 0.0


def percentiles(values: Sequence[float], *, seed: int = 0) -> dict[str, Estimate]:
    """Returns `p50`, `p95` and `p99` by linear interpolation with 95 % percentile-bootstrap intervals.

    Args:
        values: Samples in seconds; empty gives NaN with n = 0.
        seed: Seed of the resampling.
    """
    import numpy as np

    data: NDArray[np.float64] = np.asarray(values, dtype=np.float64)
    if data.size == 0:
        return {f"p{q}": Estimate(float("nan"), float("nan"), float("nan"), 0) for q in PERCENTILES}
    points = np.percentile(data, PERCENTILES)
    rng = np.random.default_rng(seed)
    draws = data[rng.integers(0, data.size, size=(BOOTSTRAP_SAMPLES, data.size))]
    low, high = np.percentile(np.percentile(draws, PERCENTILES, axis=1), (2.5, 97.5), axis=1)
    return {
        f"p{q}": Estimate(float(points[i]), float(low[i]), float(high[i]), int(data.size))
        for i, q in enumerate(PERCENTILES)
    }


def mean_estimate(values: Sequence[float]) -> Estimate:
    """Returns the mean of repeats with its range; with few repeats a range is all that is honest."""
    if not values:
        return Estimate(float("nan"), float("nan"), float("nan"), 0)
    return Estimate(sum(values) / len(values), min(values), max(values), len(values))


def summarise(
    target: str,
    concurrency: int,
    repeats: Sequence[Sequence[RequestRecord]],
    *,
    memory_bytes: int | None = None,
    cpu_seconds: float | None = None,
    generator_seconds: float | None = None,
    gpu: dict[str, float] | None = None,
    seed: int = 0,
) -> CellResult:
    """Summarises one cell of the benchmark matrix.

    Args:
        target: `raw`, `triton` or `gateway`.
        concurrency: Users in the cell.
        repeats: Records of each repeat.
        memory_bytes: Largest resident memory of the server processes.
        cpu_seconds: CPU time that the server processes used in all repeats.
        generator_seconds: CPU time that the load generator used in all repeats.
        gpu: NVML readings, where there is a GPU.
        seed: Seed of the bootstrap.
    """
    records = [record for repeat in repeats for record in repeat]
    done = [record for record in records if record.ok]
    tokens = sum(record.completion_tokens for record in done)
    rates = [throughput(repeat) for repeat in repeats]
    seconds = sum(wall_seconds(repeat) for repeat in repeats)
    gaps = [record.inter_token_latency for record in done]
    return CellResult(
        target=target,
        concurrency=concurrency,
        tokens_per_second=mean_estimate(rates),
        time_to_first_token=percentiles([record.time_to_first_token for record in done], seed=seed),
        inter_token_latency=percentiles([gap for gap in gaps if gap is not None], seed=seed),
        e2e_latency=percentiles([record.e2e_latency for record in done], seed=seed),
        requests=len(records),
        failed=len(records) - len(done),
        per_repeat_tokens_per_second=rates,
        memory_bytes=memory_bytes,
        cpu_seconds_per_token=cpu_seconds / tokens if cpu_seconds is not None and tokens else None,
        seconds=seconds,
        generator_cores=generator_seconds / seconds if generator_seconds is not None and seconds > 0 else None,
        gpu=gpu,
    )


def paired_ratio(over: Sequence[float], under: Sequence[float], *, confidence: float = 0.95) -> Estimate:
    """Returns the ratio of two rates measured in the same rounds, with its interval.

    Pairing the rounds cancels what the machine was doing in each. The ratio is the geometric mean of the rounds'
    ratios, the interval Student's t on their logarithms, so that of B to A is the reciprocal of that of A to B.

    Args:
        over: Rates by round.
        under: Rates of the same rounds.
        confidence: Two-sided.

    Returns:
        The estimate; one round says nothing about its spread, so its interval is 0 to infinity. Without a round in
        which both rates are positive everything is NaN.
    """
    import numpy as np
    from scipy.stats import t

    logs = np.log([a / b for a, b in zip(over, under, strict=True) if a > 0 and b > 0])
    if not logs.size:
        return mean_estimate([])
    mean = float(logs.mean())
    if logs.size == 1:
        return Estimate(math.exp(mean), 0.0, math.inf, 1)
    half = float(t.ppf((1 + confidence) / 2, logs.size - 1) * logs.std(ddof=1) / math.sqrt(logs.size))
    return Estimate(math.exp(mean), math.exp(mean - half), math.exp(mean + half), int(logs.size))


def check_layers(cells: Sequence[CellResult], below: Mapping[str, str], *, confidence: float = 0.95) -> None:
    """Refuses results in which a layer is faster than the one that it stands on by more than chance explains.

    A layer adds work, so it cannot be. What makes it look so is a measurement that is not fair: another cache, other
    requests, other cores. All comparisons together keep `confidence` (Bonferroni).

    Args:
        cells: Results of targets measured in the same rounds.
        below: Target → the layer that it stands on, `""` for the lowest one. A layer that was not measured is passed
            through to the one below it.
        confidence: Of the whole check.

    Raises:
        MeasurementError: Naming the layers and the ratio.
    """
    rates = {(cell.target, cell.concurrency): cell.per_repeat_tokens_per_second for cell in cells}
    pairs = []
    for target, users in rates:
        under = below.get(target, "")
        while under and (under, users) not in rates:
            under = below.get(under, "")
        if under:
            pairs.append((target, under, users))
    for over, under, users in pairs:
        found = paired_ratio(rates[over, users], rates[under, users], confidence=1 - (1 - confidence) / len(pairs))
        if found.low > 1:
            raise MeasurementError(
                f"{over} was faster than {under}, which it stands on",
                where=f"{users} users, {found.n} rounds",
                seen=f"{found.value:.2f} times as fast [{found.low:.2f}, {found.high:.2f}]",
                fix="end what else runs on this machine and run it again; the table is not kept",
            )
