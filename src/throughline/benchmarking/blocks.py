"""Intervals of figures from requests that depend on one another: a block bootstrap over their order in time.

Requests that run at the same time share the engine's steps, so that drawing them one by one gives intervals that are
too short. Blocks of neighbours keep what they share (Künsch 1989); they wrap around the end, so that all are drawn
equally often (Politis and Romano 1992).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from throughline.contracts.benchmark import Estimate

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

SAMPLES = 300
PERCENTILES = (50, 90, 95, 99)
_NOTHING = Estimate(float("nan"), float("nan"), float("nan"), 0)


def block_length(series: Sequence[float]) -> int:
    """Returns the block length that suits a series, by Politis and White (2004), corrected by Patton et al. (2009).

    Econometric Reviews 23 (1), 53-70, and 28 (4), 372-375; constants as there: c = 2, K = max(5, sqrt(log10 n)).
    """
    import numpy as np

    data = np.asarray(series, dtype=np.float64)
    size = data.size
    if size < 8 or not float(np.var(data)) > 0:
        return 1
    most = math.ceil(min(3 * math.sqrt(size), size / 3))
    lags = min(size - 1, most + max(5, math.ceil(math.sqrt(math.log10(size)))) + math.ceil(math.sqrt(size)))
    centred = data - data.mean()
    covariances = np.asarray([float(centred[: size - k] @ centred[k:]) / size for k in range(lags + 1)])
    width = 2 * _last_correlated(covariances / covariances[0], size)
    if not width:
        return 1
    at = np.arange(-min(width, lags), min(width, lags) + 1)
    weighted = _flat_top(at / width) * covariances[np.abs(at)]
    spread, density = float(np.sum(np.abs(at) * weighted)), float(np.sum(weighted))
    if density <= 0:
        return most
    found = (2 * spread**2 / (4 / 3 * density**2)) ** (1 / 3) * size ** (1 / 3)
    return int(min(max(1, round(found)), most))


def latencies(groups: Sequence[Sequence[float]], *, length: int, seed: int = 0) -> dict[str, Estimate]:
    """Returns `p50` to `p99` and `mean` of all values, by linear interpolation, with 95 % intervals.

    Args:
        groups: Values of each request, in the order of the requests' times.
        length: Requests in a block.
        seed: Seed of the draws.
    """
    import numpy as np

    names = [*(f"p{q}" for q in PERCENTILES), "mean"]
    values = np.asarray([value for group in groups for value in group], dtype=np.float64)
    if not values.size:
        return dict.fromkeys(names, _NOTHING)
    owners = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
    order = np.argsort(values, kind="stable")
    values, owners = values[order], owners[order]
    draws = [_figures(values, weights[owners]) for weights in _draws(len(groups), length, seed)]
    low, high = np.nanpercentile(np.asarray(draws), (2.5, 97.5), axis=0)
    points = _figures(values, np.ones(values.size, dtype=np.int64))
    return {
        name: Estimate(float(points[i]), float(low[i]), float(high[i]), int(values.size))
        for i, name in enumerate(names)
    }


def rate(times: Sequence[float], weights: Sequence[float], begin: float, end: float, *, seed: int = 0) -> Estimate:
    """Returns the weight a second of what happened between two times, with its 95 % interval.

    Args:
        times: When; what lies outside counts nothing.
        weights: How much.
        begin: Of the window.
        end: Of the window.
        seed: Seed of the draws.
    """
    import numpy as np

    seconds = end - begin
    inside = [begin <= time <= end for time in times]
    count = sum(inside)
    bins = int(min(100, max(10, count // 4)))
    per_bin, _ = np.histogram(np.asarray(times), bins=bins, range=(begin, end), weights=np.asarray(weights))
    series = per_bin / (seconds / bins)
    draws = [float(series @ drawn) / bins for drawn in _draws(bins, block_length(series.tolist()), seed)]
    low, high = np.percentile(draws, (2.5, 97.5))
    return Estimate(float(series.mean()), float(low), float(high), count)


def _draws(size: int, length: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """How often each of `size` neighbours is drawn, sample by sample."""
    import numpy as np

    rng = np.random.default_rng(seed)
    for _ in range(SAMPLES):
        starts = rng.integers(0, size, math.ceil(size / length))
        places = (starts[:, None] + np.arange(length)).ravel()[:size] % size
        yield np.bincount(places, minlength=size)


def _figures(values: Floats, weights: NDArray[np.int64]) -> Floats:
    """Percentiles and mean of sorted values that count several times, as `numpy.percentile` of the repeated ones."""
    import numpy as np

    upto = np.cumsum(weights)
    total = int(upto[-1])
    if not total:
        return np.full(len(PERCENTILES) + 1, np.nan)
    places = np.asarray(PERCENTILES) / 100 * (total - 1)
    below = np.floor(places).astype(np.int64)
    left = values[np.searchsorted(upto, below, side="right")]
    right = values[np.searchsorted(upto, np.minimum(below + 1, total - 1), side="right")]
    found: Floats = np.append(left + (places - below) * (right - left), float(values @ weights) / total)
    return found


def _last_correlated(correlations: Floats, size: int) -> int:
    """The smallest lag behind which a run of correlations is no more than noise."""
    import numpy as np

    run = max(5, math.ceil(math.sqrt(math.log10(size))))
    bound = 2 * math.sqrt(math.log10(size) / size)
    small = np.abs(correlations[1:]) < bound
    for lag in range(len(small) - run + 1):
        if small[lag : lag + run].all():
            return lag
    large = np.flatnonzero(~small)
    return int(large[-1]) + 1 if large.size else 0


def _flat_top(at: Floats) -> Floats:
    """The trapezoid of Politis and Romano (1995)."""
    import numpy as np

    found: Floats = np.clip(2 * (1 - np.abs(at)), 0, 1)
    return found
