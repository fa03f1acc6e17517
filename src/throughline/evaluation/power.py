"""Whether a suite has enough questions for a gate's limits: exact power of each check, and the n that it needs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import Literal

from throughline.contracts.evaluation import METRIC_STRATA, GatePolicy
from throughline.evaluation.intervals import score_deviation

# The usual target of a sample size: a model that is as good as assumed passes four times in five.
TARGET = 0.8
# No suite is larger; a check that needs more gets this figure plus one.
MOST = 2000
# Counts rarer than this do not change a power that is read to two digits.
_RARE = 1e-9


@dataclass(frozen=True)
class CheckPower:
    """What one check of a gate can tell with a suite's questions.

    Attributes:
        kind: `min` and `max` for a metric's floor and ceiling, `drop` for one against the reference.
        metric: The metric.
        precision: Which one's drop, else empty.
        limit: The policy's.
        assumed: What is taken to be true of a model worth promoting, in words.
        questions: Questions that bear on the metric.
        power: Probability that such a model passes the check.
        needed: Fewest questions from which on the power stays at or above `TARGET`.
    """

    kind: Literal["min", "max", "drop"]
    metric: str
    precision: str
    limit: float
    assumed: str
    questions: int
    power: float
    needed: int

    @property
    def decides(self) -> bool:
        """Whether the questions suffice."""
        return self.questions >= self.needed


def check_powers(policy: GatePolicy, counts: Mapping[str, int]) -> list[CheckPower]:
    """Returns the power of every check whose true value `policy` assumes.

    Args:
        policy: Limits, with `assumed` and `assumed_changes`.
        counts: Stratum → questions that the suite asks.
    """
    return [*_shares(policy, counts), *_drops(policy, counts)]


def questions_of(metric: str, counts: Mapping[str, int]) -> int:
    """Returns how many questions bear on a metric; on one that is not of a stratum, all of them."""
    strata = METRIC_STRATA.get(metric, tuple(counts))
    return sum(counts.get(stratum, 0) for stratum in strata)


def floor_power(n: int, floor: float, true: float, confidence: float) -> float:
    """Returns the probability that Wilson's lower bound of `n` questions keeps the floor, at a true share.

    The bound is the score test turned round, so the least count that keeps it has a closed form.
    """
    from scipy.stats import binom

    z = NormalDist().inv_cdf((1 + confidence) / 2)
    # Rounding must not ask for one more where the floor is met exactly.
    least = math.ceil(n * floor + z * math.sqrt(n * floor * (1 - floor)) - 1e-9)
    return float(binom.sf(least - 1, n, true))


def drop_power(n: int, limit: float, lost: float, won: float, confidence: float) -> float:
    """Returns the probability that Tango's upper bound of the drop over `n` pairs keeps the limit.

    Args:
        n: Pairs.
        limit: Largest tolerated drop, a fraction.
        lost: True share of questions that the reference alone gets right.
        won: True share that the candidate alone gets right.
        confidence: Two-sided.
    """
    import numpy as np
    from scipy.stats import binom

    z = NormalDist().inv_cdf((1 + confidence) / 2)
    b = np.arange(int(binom.isf(_RARE, n, lost)) + 2)[:, None]
    c = np.arange(int(binom.isf(_RARE, n, won)) + 2)[None, :]
    kept = (c - b) / n + limit >= z * score_deviation(b, c, n, -limit) - 1e-9
    # A multinomial as two binomials: the lost ones, and the won ones among the rest.
    mass = binom.pmf(b, n, lost) * binom.pmf(c, np.maximum(n - b, 0), won / (1 - lost))
    return float(mass[kept].sum())


@lru_cache
def _floor_needs(floor: float, true: float, confidence: float) -> int:
    weak = [n for n in range(1, MOST + 1) if floor_power(n, floor, true, confidence) < TARGET]
    return max(weak, default=0) + 1


@lru_cache
def _drop_needs(limit: float, lost: float, won: float, confidence: float) -> int:
    weak = [n for n in range(1, MOST + 1) if drop_power(n, limit, lost, won, confidence) < TARGET]
    return max(weak, default=0) + 1


def _shares(policy: GatePolicy, counts: Mapping[str, int]) -> Iterator[CheckPower]:
    limits = [("min", name, limit) for name, limit in policy.min.items()]
    limits += [("max", name, limit) for name, limit in policy.max.items()]
    for kind, metric, limit in limits:
        true = policy.assumed.get(metric)
        if true is None:
            continue
        n = questions_of(metric, counts)
        # A ceiling of a share is a floor of its complement.
        floor, share = (limit, true) if kind == "min" else (1 - limit, 1 - true)
        power = floor_power(n, floor, share, policy.confidence) if n >= policy.min_questions else 0.0
        needed = max(policy.min_questions, _floor_needs(floor, share, policy.confidence))
        yield CheckPower("min" if kind == "min" else "max", metric, "", limit, f"{true:g}", n, power, needed)


def _drops(policy: GatePolicy, counts: Mapping[str, int]) -> Iterator[CheckPower]:
    for precision, (lost, won) in policy.assumed_changes.items():
        limit = policy.max_drop.get(precision, policy.default_max_drop)
        for metric in policy.drop_metrics:
            n = questions_of(metric, counts)
            power = drop_power(n, limit, lost, won, policy.confidence) if n >= policy.min_questions else 0.0
            needed = max(policy.min_questions, _drop_needs(limit, lost, won, policy.confidence))
            assumed = f"{lost:g} lost, {won:g} won"
            yield CheckPower("drop", metric, precision, limit, assumed, n, power, needed)
