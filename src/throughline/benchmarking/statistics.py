"""From request records to throughput and latency percentiles with bootstrap intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from throughline.contracts.benchmark import CellResult, Estimate, RequestRecord

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PERCENTILES = (50, 95, 99)
BOOTSTRAP_SAMPLES = 500


def throughput(records: Sequence[RequestRecord]) -> float:
    """Returns completed output tokens per second between the first start and the last end."""
    done = [record for record in records if record.ok]
    if not done:
        return 0.0
    seconds = max(record.end for record in done) - min(record.start for record in done)
    return sum(record.completion_tokens for record in done) / seconds if seconds > 0 else 0.0


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
        gpu: NVML readings, where there is a GPU.
        seed: Seed of the bootstrap.
    """
    records = [record for repeat in repeats for record in repeat]
    done = [record for record in records if record.ok]
    tokens = sum(record.completion_tokens for record in done)
    rates = [throughput(repeat) for repeat in repeats]
    gaps = [record.inter_token_latency for record in done]
    return CellResult(
        target=target,
        concurrency=concurrency,
        tokens_per_second=mean_estimate(rates),
        time_to_first_token=percentiles([record.time_to_first_token for record in done], seed=seed),
        inter_token_latency=percentiles([gap for gap in gaps if gap is not None], seed=seed),
        e2e_latency=percentiles([record.end - record.start for record in done], seed=seed),
        requests=len(records),
        failed=len(records) - len(done),
        per_repeat_tokens_per_second=rates,
        memory_bytes=memory_bytes,
        cpu_seconds_per_token=cpu_seconds / tokens if cpu_seconds is not None and tokens else None,
        gpu=gpu,
    )


def ratio(cells: Sequence[CellResult], over: str, under: str, concurrency: int) -> Estimate:
    """Returns tokens/s of `over` ÷ `under` repeat by repeat: mean, smallest, largest.

    Pairing repeats of one round cancels what the machine was doing in that round.
    """
    by_target = {cell.target: cell for cell in cells if cell.concurrency == concurrency}
    if over not in by_target or under not in by_target:
        return mean_estimate([])
    pairs = zip(
        by_target[over].per_repeat_tokens_per_second, by_target[under].per_repeat_tokens_per_second, strict=False
    )
    return mean_estimate([first / second for first, second in pairs if second > 0])
