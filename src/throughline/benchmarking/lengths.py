"""Lengths of requests in tokens: log-normal around a mean, cut off at the longest."""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING

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
        from scipy.stats import norm

        inside = np.clip(values, self._low, self._high)
        low, high = self._bounds(self._location)
        standard = (np.log(inside) - self._location) / self._sigma
        found: NDArray[np.float64] = (norm.cdf(standard) - low) / (high - low)
        return found

    def _quantile(self, shares: NDArray[np.float64]) -> NDArray[np.float64]:
        import numpy as np
        from scipy.stats import norm

        low, high = self._bounds(self._location)
        found: NDArray[np.float64] = np.exp(self._location + self._sigma * norm.ppf(low + shares * (high - low)))
        return found

    def _bounds(self, location: float) -> tuple[float, float]:
        from scipy.stats import norm

        low, high = ((math.log(edge) - location) / self._sigma for edge in (self._low, self._high))
        return float(norm.cdf(low)), float(norm.cdf(high))

    @functools.cached_property
    def _location(self) -> float:
        """Mean of the logarithms before the cut, so that the mean behind it is the one that is asked for."""
        from scipy.optimize import brentq

        return float(brentq(lambda at: self._cut_mean(at) - self.mean, *self._bracket()))

    def _bracket(self) -> tuple[float, float]:
        spread = 8 * self._sigma
        return math.log(self._low) - spread, math.log(self._high) + spread

    def _cut_mean(self, location: float) -> float:
        """Mean of the log-normal between its bounds, in closed form."""
        from scipy.stats import norm

        low, high = ((math.log(edge) - location) / self._sigma for edge in (self._low, self._high))
        mass = norm.cdf(high) - norm.cdf(low)
        if mass < 1e-12:
            return self._low if location < math.log(self._low) else self._high
        part = norm.cdf(high - self._sigma) - norm.cdf(low - self._sigma)
        return float(math.exp(location + self._sigma**2 / 2) * part / mass)
