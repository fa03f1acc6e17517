"""What a measurement is worth under an SLO: the objective's value, and how much of each limit is used."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from throughline.contracts.measurement import Measurement
from throughline.contracts.price import PriceSpec
from throughline.contracts.slo import SloSpec

Objective = Literal["goodput", "tokens_per_second", "ttft", "itl", "e2e", "memory", "cost"]
MAXIMISED: frozenset[Objective] = frozenset({"goodput", "tokens_per_second"})
# A limit that is exceeded a hundredfold or kept a hundredfold tells a sampler no more than that.
_FARTHEST = 100.0


@dataclass(frozen=True)
class Limits:
    """An SLO, and what machines cost.

    Attributes:
        slo: The limits.
        price: Prices, in the currency of `slo.cost_per_million_tokens`.
    """

    slo: SloSpec
    price: PriceSpec = field(default_factory=PriceSpec)

    def cost(self, measurement: Measurement) -> float:
        """Returns the cost of a million output tokens; infinite without any, or without a price."""
        cost = self.price.per_million_tokens(measurement)
        return math.inf if cost is None else cost

    def pressure(self, measurement: Measurement) -> dict[str, float]:
        """Returns how many times each limit is used, by its name: 1 is just kept, 2 is exceeded twofold."""
        found: dict[str, float] = {}
        for name, limit in self.slo.latencies().items():
            if limit is not None:
                seen = getattr(measurement, name.removesuffix("_seconds")).get(f"p{self.slo.percentile}")
                found[name] = seen.value / limit if seen is not None and seen.n else math.inf
        found["error_rate"] = _ratio(measurement.error_rate, self.slo.error_rate)
        if self.slo.cost_per_million_tokens is not None:
            found["cost_per_million_tokens"] = self.cost(measurement) / self.slo.cost_per_million_tokens
        return {name: math.inf if math.isnan(value) else value for name, value in found.items()}

    def violations(self, measurement: Measurement) -> dict[str, float]:
        """Returns the limits that are exceeded, with how many times."""
        return {name: value for name, value in self.pressure(measurement).items() if value > 1}

    def keeps(self, measurement: Measurement) -> bool:
        """Whether every limit is kept."""
        return not self.violations(measurement)

    def value(self, measurement: Measurement, objective: Objective) -> float:
        """Returns an objective's value: 1/s, tokens/s, seconds at the SLO's percentile, bytes or currency."""
        if objective == "goodput":
            return measurement.goodput.value if measurement.goodput is not None else 0.0
        if objective == "tokens_per_second":
            return measurement.tokens_per_second.value
        if objective == "memory":
            return float(measurement.machine.memory_bytes or 0)
        if objective == "cost":
            return self.cost(measurement)
        latencies: Mapping[str, object] = getattr(measurement, objective)
        found = latencies.get(f"p{self.slo.percentile}")
        return float(getattr(found, "value", math.inf))


def constraint(pressure: float) -> float:
    """Returns a pressure on the scale of samplers: 0 and below is kept, equal ratios are equal distances."""
    return math.log(min(max(pressure, 1 / _FARTHEST), _FARTHEST))


def _ratio(value: float, limit: float) -> float:
    if limit:
        return value / limit
    return math.inf if value else 0.0
