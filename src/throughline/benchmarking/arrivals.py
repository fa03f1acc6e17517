"""When requests leave: send times of an arrival process, from a seed.

A run of `n` requests in `seconds` has just the rate that is asked for: the gaps, the one before the first request and
the one behind the last included, are scaled to fill the run. For exponential gaps this is a Poisson process given its
count, whose times are those of `n` independent uniform draws (Karlin and Taylor, A First Course in Stochastic
Processes, 2nd edition, section 4.2).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from throughline.contracts.errors import ConfigError
from throughline.contracts.workload import ArrivalSpec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Times = NDArray[np.float64]


def due_times(spec: ArrivalSpec, seconds: float, seed: int) -> Times | None:
    """Returns when requests are due, in seconds from the begin and ascending; None for a closed loop.

    Args:
        spec: The process; neither `trace`, whose times are the trace's, nor `offline`, which has none.
        seconds: Length of the run.
        seed: Seed of the draw.

    Raises:
        ConfigError: If less than two requests fall into the run.
    """
    import numpy as np

    rate = spec.mean_rate
    if rate is None:
        return None
    count = round(rate * seconds)
    if count < 2:
        raise ConfigError(
            "run is too short for its rate",
            where="seconds",
            seen=f"{rate:g} requests a second for {seconds:g} s",
            fix=f"set it to {2 / rate:.0f} at least, or raise workload.arrivals.requests_per_second",
        )
    rng = np.random.default_rng(seed)
    if spec.process == "constant":
        return (np.arange(count) + 0.5) * (seconds / count)
    if spec.process == "burst":
        bursts = max(1, round(count / spec.burst_size))
        starts = np.sort(rng.uniform(0, seconds, bursts))
        return np.repeat(starts, -(-count // bursts))[:count]
    if spec.process == "ramp":
        return _ramp(spec, seconds, np.sort(rng.uniform(0, 1, count)))
    gaps = rng.gamma(shape=spec.burstiness if spec.process == "gamma" else 1.0, size=count + 1)
    times: Times = np.cumsum(gaps[:-1]) * (seconds / gaps.sum())
    return times


def _ramp(spec: ArrivalSpec, seconds: float, shares: Times) -> Times:
    """Times at which shares of all requests have left while the rate grows evenly."""
    import numpy as np

    low, high = spec.requests_per_second or 0.0, spec.ramp_to or 0.0
    if low == high:
        return shares * seconds
    # Requests until t are low·t + (high − low)·t²/2S; this solves it for t.
    total = (low + high) / 2 * seconds
    slope = (high - low) / seconds
    times: Times = (np.sqrt(low**2 + 2 * slope * shares * total) - low) / slope
    return times
