"""How much a rate differs between two probes of the same settings, and what a difference must exceed to be one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from throughline.contracts.benchmark import Estimate
from throughline.contracts.errors import MeasurementError
from throughline.contracts.measurement import Measurement
from throughline.tuning.limits import Limits, Objective


@dataclass(frozen=True)
class Noise:
    """Of one probe of some length, from probes of the same settings (A-A).

    Attributes:
        sigma: Standard deviation of the rate's natural logarithm, so about its relative one.
        n: Probes behind it.
    """

    sigma: float
    n: int

    @property
    def relative(self) -> float:
        """The relative difference that two single probes of the same settings exceed once in twenty times."""
        return math.expm1(self.half_width(1))

    def half_width(self, pairs: int, confidence: float = 0.95) -> float:
        """Half the interval of the mean logarithm of a ratio over so many pairs, if noise is all there is."""
        from scipy.stats import t

        return float(t.ppf((1 + confidence) / 2, self.n - 1) * math.sqrt(2 / pairs) * self.sigma)


def estimate(rates: Sequence[float]) -> Noise:
    """Returns the noise of probes of the same settings.

    Args:
        rates: At least two, above 0.

    Raises:
        MeasurementError: If there are fewer, or one is not above 0: then no ratio means anything.
    """
    if len(rates) < 2 or min(rates) <= 0:
        raise MeasurementError(
            "noise cannot be told from these probes",
            where="noise.probes",
            seen=", ".join(f"{rate:g}" for rate in rates) or "none",
            fix="take at least two, of settings that answer requests",
        )
    logs = [math.log(rate) for rate in rates]
    mean = sum(logs) / len(logs)
    return Noise(math.sqrt(sum((value - mean) ** 2 for value in logs) / (len(logs) - 1)), len(logs))


def of_probes(found: Sequence[Measurement], limits: Limits, objective: Objective) -> Noise:
    """Returns the noise of an objective from measurements of the same settings.

    Goodput beyond a limit counts the few requests within it: it says how few they are, not what the goodput of settings
    that keep the limit would spread like. The noise is that of tokens per second then.

    Raises:
        MeasurementError: If there are fewer than two, or no token was made.
    """
    values = [limits.value(each, objective) for each in found]
    broken = objective == "goodput" and not all(limits.keeps(each) for each in found)
    if broken or min(values, default=0.0) <= 0:
        values = [limits.value(each, "tokens_per_second") for each in found]
    return estimate(values)


def paired(
    over: Sequence[float], under: Sequence[float], noise: Noise | None = None, *, confidence: float = 0.95
) -> Estimate:
    """Returns the ratio of rates measured side by side in the same rounds, with its interval.

    The geometric mean of the rounds' ratios with Student's interval. The spread is pooled from the rounds and the
    noise, and is never less than the noise: two rounds that happen to agree prove nothing.

    Args:
        over: Rates by round, above 0.
        under: Rates of the same rounds, above 0.
        noise: Of one probe; None leaves the rounds alone, which say nothing after the first.
        confidence: Two-sided.
    """
    from scipy.stats import t

    logs = [math.log(a / b) for a, b in zip(over, under, strict=True)]
    count, mean = len(logs), sum(logs) / len(logs)
    squares = sum((value - mean) ** 2 for value in logs)
    freedom = count - 1
    if noise is not None:
        squares += (noise.n - 1) * 2 * noise.sigma**2
        freedom += noise.n - 1
    half = math.inf
    if freedom:
        variance = max(squares / freedom, 2 * noise.sigma**2 if noise else 0.0)
        half = float(t.ppf((1 + confidence) / 2, freedom)) * math.sqrt(variance / count)
    return Estimate(
        math.exp(mean), math.exp(mean - half), math.exp(mean + half) if half < math.inf else math.inf, count
    )
