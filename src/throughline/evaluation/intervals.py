"""Uncertainty: Wilson's interval of a proportion, Tango's of a paired difference, a bootstrap one of a mean."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

# Draws held at once: 4 Mi indices of 8 bytes.
_BLOCK = 2**22
# Differences nearer than this are equal.
_APART = 1e-9


def effective_size(values: Sequence[float], groups: Sequence[str], confidence: float) -> float:
    """Returns how many independent questions would give a mean as certain as these do.

    n over the design effect: the variance of the mean between groups (Liang & Zeger 1986, with their G/(G − 1)) over
    that of independent questions, at least 1. As in Korn & Graubard (1998), fewer groups than 30 or so count less by
    the square of z over Student's t with G − 1 degrees of freedom. Where all values are equal nothing can be told of
    how much groups have in common, so each counts as one question: Kish's n² / Σ mᵍ².

    Args:
        values: One a question, n ≥ 1.
        groups: The group of each.
        confidence: Two-sided, of the interval that it is for.
    """
    from scipy.stats import t

    n = len(values)
    sizes = Counter(groups)
    if len(sizes) == n:
        return float(n)
    mean = sum(values) / n
    variance = sum((value - mean) ** 2 for value in values) / n
    if not variance:
        return n * n / sum(size * size for size in sizes.values())
    if len(sizes) == 1:
        return 1.0
    sums = dict.fromkeys(sizes, 0.0)
    for value, group in zip(values, groups, strict=True):
        sums[group] += value - mean
    between = len(sizes) / (len(sizes) - 1) * sum(total * total for total in sums.values()) / n**2
    tail = (1 + confidence) / 2
    fewer = (NormalDist().inv_cdf(tail) / float(t.ppf(tail, len(sizes) - 1))) ** 2
    return max(1.0, n / max(1.0, between / (variance / n)) * fewer)


def wilson(successes: float, n: float, confidence: float) -> tuple[float, float]:
    """Returns Wilson's score interval of a proportion (Wilson 1927), two-sided, within [0, 1].

    Args:
        successes: From 0 to `n`; with an effective size the share of it.
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


def tango(only_reference: float, only_candidate: float, n: float, confidence: float) -> tuple[float, float]:
    """Returns Tango's score interval of the difference of two paired proportions, candidate − reference.

    Tango 1998, Statistics in Medicine 17, 891–908: the differences that a score test of the discordant pairs
    does not reject. A resampling of pairs that never differ has no width, and Newcombe's hybrid (1998,
    method 10) has none at a proportion of one half; this one is ±z²/(n + z²) there, so that few questions
    cannot pass for certainty. Neither scipy nor a released statsmodels has it.

    Args:
        only_reference: Pairs where the reference alone succeeds.
        only_candidate: Pairs where the candidate alone does.
        n: All pairs, at least 1; with an effective size the counts are their shares of it.
        confidence: Two-sided.
    """
    from scipy.optimize import brentq

    z = NormalDist().inv_cdf((1 + confidence) / 2)
    seen = (only_candidate - only_reference) / n

    def beyond(difference: float, bound: float) -> float:
        """How far what was seen lies from `difference`, less `bound` deviations: 0 where the interval ends."""
        return seen - difference - bound * float(score_deviation(only_reference, only_candidate, n, difference))

    # What was seen itself is a root too where the pairs never differ, or all in one direction.
    low = -1.0 if seen <= -1 else brentq(lambda d: beyond(d, z), -1.0, seen - _APART, xtol=_APART)
    high = 1.0 if seen >= 1 else brentq(lambda d: beyond(d, -z), seen + _APART, 1.0, xtol=_APART)
    return float(low), float(high)


def score_deviation(only_reference: Any, only_candidate: Any, n: float, difference: float) -> Any:
    """Returns the standard deviation of the observed difference of `n` pairs if the true one is `difference`.

    The share of pairs that the reference alone gets right is at its most likely value under that difference
    (Tango's restricted estimate, a root of a quadratic). Counts may be arrays that broadcast.
    """
    import numpy as np

    b = (2 * n - only_candidate + only_reference) * difference - only_candidate - only_reference
    c = -only_reference * difference * (1 - difference)
    share = (np.sqrt(np.maximum(0.0, b * b - 8 * n * c)) - b) / (4 * n)
    return np.sqrt(np.maximum(0.0, 2 * share + difference * (1 - difference)) / n)


def mean_interval(
    values: Floats, weights: Floats, groups: Sequence[str], *, confidence: float, samples: int, seed: int
) -> tuple[float, float]:
    """Returns the percentile-bootstrap interval of the weighted mean, by scipy, resampling whole groups.

    Args:
        values: Shape [n], n ≥ 1.
        weights: Shape [n], not negative.
        groups: The group of each.
        confidence: Two-sided.
        samples: Resamples of the groups.
        seed: Seed of the resampling.
    """
    import numpy as np
    from scipy.stats import bootstrap

    def mean(total: Floats, mass: Floats, axis: int = -1) -> Floats:
        weight = mass.sum(axis=axis)
        # A resample without any weight, as of a model that never gave a field, has the mean 0.
        found: Floats = np.divide(total.sum(axis=axis), weight, out=np.zeros_like(weight), where=weight > 0)
        return found

    places = {group: index for index, group in enumerate(dict.fromkeys(groups))}
    of = np.array([places[group] for group in groups])
    if len(places) == 1:
        centre = float(mean(np.array([(values * weights).sum()]), np.array([weights.sum()])))
        return centre, centre
    found = bootstrap(
        (np.bincount(of, values * weights), np.bincount(of, weights)),
        mean,
        n_resamples=samples,
        batch=max(1, _BLOCK // len(places)),
        vectorized=True,
        paired=True,
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(found.low), float(found.high)
