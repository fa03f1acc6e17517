"""Uncertainty: Wilson's interval of a proportion, percentile-bootstrap intervals of weighted means."""

from __future__ import annotations

import math
from collections.abc import Iterator
from statistics import NormalDist
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

# Draws held at once: 4 Mi indices of 8 bytes.
_BLOCK = 2**22


def wilson(successes: int, n: int, confidence: float) -> tuple[float, float]:
    """Returns Wilson's score interval of a proportion (Wilson 1927), two-sided, within [0, 1].

    Args:
        successes: From 0 to `n`.
        n: At least 1.
        confidence: E.g. 0.95.
    """
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    p = successes / n
    scale = 1 + z * z / n
    centre = (p + z * z / (2 * n)) / scale
    half = z / scale * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    # At both ends the bound is exact, which rounding would miss.
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == n else min(1.0, centre + half)
    return low, high


def mean_interval(
    values: Floats, weights: Floats, *, confidence: float, samples: int, seed: int
) -> tuple[float, float]:
    """Returns the percentile-bootstrap interval of the weighted mean.

    Args:
        values: Shape [n], n ≥ 1.
        weights: Shape [n], not negative.
        confidence: Two-sided.
        samples: Resamples of the n pairs.
        seed: Seed of the resampling.
    """
    import numpy as np

    total = values * weights
    means = np.concatenate([_ratio(total[draw], weights[draw]) for draw in _draws(values.size, samples, seed)])
    return _percentiles(means, confidence)


def paired_interval(
    reference: tuple[Floats, Floats],
    candidate: tuple[Floats, Floats],
    *,
    confidence: float,
    samples: int,
    seed: int,
) -> tuple[float, float]:
    """Returns the percentile-bootstrap interval of the difference of weighted means, candidate − reference.

    Whole pairs are resampled, so that what both models find hard cancels.

    Args:
        reference: Values and weights, each of shape [n], n ≥ 1.
        candidate: The same for the same questions in the same order.
        confidence, samples, seed: As in `mean_interval`.
    """
    import numpy as np

    (a, a_weights), (b, b_weights) = reference, candidate
    a_total, b_total = a * a_weights, b * b_weights
    differences = np.concatenate(
        [
            _ratio(b_total[draw], b_weights[draw]) - _ratio(a_total[draw], a_weights[draw])
            for draw in _draws(a.size, samples, seed)
        ]
    )
    return _percentiles(differences, confidence)


def _draws(n: int, samples: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """Index arrays of shape [≤ samples, n]; the blocks' sizes depend on n alone."""
    import numpy as np

    rng = np.random.default_rng(seed)
    rows = max(1, _BLOCK // n)
    for start in range(0, samples, rows):
        yield rng.integers(0, n, size=(min(rows, samples - start), n))


def _ratio(totals: Floats, weights: Floats) -> Floats:
    """Weighted means of rows; 0 where a row has no weight, as of a model that never gave a field."""
    import numpy as np

    mass = weights.sum(axis=1)
    result: Floats = np.divide(totals.sum(axis=1), mass, out=np.zeros(mass.shape), where=mass > 0)
    return result


def _percentiles(values: Floats, confidence: float) -> tuple[float, float]:
    import numpy as np

    tail = 50 * (1 - confidence)
    low, high = np.percentile(values, (tail, 100 - tail))
    return float(low), float(high)
