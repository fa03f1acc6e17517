"""Where a run's warm-up ends, and whether what is left has come to rest.

The cut is MSER-5, which leaves the mean of the rest least uncertain: White, Simulation 69 (6), 1997, 323-334; batches
of five: White, Cobb and Spratt, Winter Simulation Conference 2000. Behind it values that still grow are found by Mann
and Kendall's test of a trend: Mann, Econometrica 13 (3), 1945, 245-259.
"""

from __future__ import annotations

from collections.abc import Sequence

_BATCH = 5
# With fewer batches than this they say less than single values.
_LEAST_BATCHES = 20
_LEAST_VALUES = 10
# One run at rest in a thousand seems to grow.
_SIGNIFICANCE = 0.001


def warm_up(series: Sequence[float]) -> tuple[int, bool]:
    """Returns how many values belong to the warm-up, half of them at most, and whether the rest has stopped growing.

    Args:
        series: One value a request, in the order of their times.
    """
    import numpy as np
    from scipy.stats import kendalltau

    size = _BATCH if len(series) >= _BATCH * _LEAST_BATCHES else 1
    count = len(series) // size
    if count < _LEAST_VALUES:
        return 0, True
    means = np.asarray(series[: count * size], dtype=np.float64).reshape(count, size).mean(axis=1)
    if float(np.ptp(means)) <= 1e-9 * float(np.abs(means).max()):
        return 0, True
    rests = [means[cut:] for cut in range(count // 2 + 1)]
    errors = [float(np.sum((rest - rest.mean()) ** 2)) / len(rest) ** 2 for rest in rests]
    cut = int(np.argmin(errors))
    trend = kendalltau(np.arange(count - cut), means[cut:])
    return cut * size, not (trend.statistic > 0 and trend.pvalue < _SIGNIFICANCE)
