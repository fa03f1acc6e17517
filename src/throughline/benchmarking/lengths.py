"""Lengths of requests in tokens: log-normal around a mean, cut off at the longest."""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Lengths:
    """A log-normal distribution between `least` and `longest` whose mean, cut off as it is, is `mean`.

    Args:
        mean: Mean of the draws.
        cv: Standard deviation over mean before the cut; 0 gives `mean` always.
        longest: Upper bound.
        least: Lower bound.
    """

    def __init__(self, mean: float, cv: float, longest: int, least: int = 1) -> None:
        self.mean = min(max(mean, least), longest)
        self.cv = cv if least < self.mean < longest else 0.0
        self._low, self._high = least - 0.5, longest + 0.5
        self._sigma = math.sqrt(math.log1p(self.cv**2))

    def draw(self, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Returns so many lengths."""
        import numpy as np

        if not self.cv:
            return np.full(count, round(self.mean), dtype=np.int64)
        return np.rint(self._quantile(rng.uniform(size=count))).astype(np.int64)

    def cdf(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Returns the share of draws, before they are rounded, up to each value."""
        import numpy as np

        found: NDArray[np.float64] = self._logarithms.cdf(np.log(np.clip(values, self._low, self._high)))
        return found

    def _quantile(self, shares: NDArray[np.float64]) -> NDArray[np.float64]:
        import numpy as np

        found: NDArray[np.float64] = np.exp(self._logarithms.ppf(shares))
        return found

    @functools.cached_property
    def _logarithms(self) -> Any:
        from scipy.stats import truncnorm

        location = self._location()
        return truncnorm(*self._bounds(location), loc=location, scale=self._sigma)

    def _bounds(self, location: float) -> tuple[float, float]:
        return (math.log(self._low) - location) / self._sigma, (math.log(self._high) - location) / self._sigma

    def _location(self) -> float:
        """Mean of the logarithms before the cut, so that the mean behind it is the one that is asked for."""
        from scipy.optimize import brentq

        # A mean close to an end wants the centre far beyond it.
        spread = 64 * self._sigma
        bracket = math.log(self._low) - spread, math.log(self._high) + spread
        return float(brentq(lambda at: self._cut_mean(at) - self.mean, *bracket))

    def _cut_mean(self, location: float) -> float:
        """Mean of the log-normal between its bounds, in closed form."""
        low, high = self._bounds(location)
        shifted = _log_mass(low - self._sigma, high - self._sigma)
        return math.exp(location + self._sigma**2 / 2 + shifted - _log_mass(low, high))


def _log_mass(low: float, high: float) -> float:
    """Logarithm of the standard normal's probability between two values, also far out in a tail."""
    from scipy.stats import norm

    if low > 0:
        low, high = -high, -low
    outer, inner = float(norm.logcdf(high)), float(norm.logcdf(low))
    return outer + math.log1p(-math.exp(inner - outer))
