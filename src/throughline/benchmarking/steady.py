"""Where a run's warm-up ends: MSER-5, which cuts what makes the mean of the rest least certain.

White, Simulation 69 (6), 1997, 323-334; batches of five: White, Cobb and Spratt, Winter Simulation Conference 2000.
"""

from __future__ import annotations

from collections.abc import Sequence

_BATCH = 5
# With fewer batches than this the standard errors of short rests say nothing.
_LEAST_BATCHES = 20
_LEAST_REST = 5


def warm_up(series: Sequence[float]) -> int | None:
    """Returns how many values of a series belong to its warm-up; None if it does not come to rest in its first half.

    Args:
        series: One value a request, in the order of their times.
    """
    import numpy as np

    size = _BATCH if len(series) >= _BATCH * _LEAST_BATCHES else 1
    count = len(series) // size
    if count < 2 * _LEAST_REST:
        return 0
    means = np.asarray(series[: count * size], dtype=np.float64).reshape(count, size).mean(axis=1)
    if float(np.ptp(means)) <= 1e-9 * float(np.abs(means).max()):
        return 0
    errors = [
        float(np.sum((means[cut:] - means[cut:].mean()) ** 2)) / (count - cut) ** 2
        for cut in range(count - _LEAST_REST)
    ]
    cut = int(np.argmin(errors))
    return cut * size if cut <= count // 2 else None
