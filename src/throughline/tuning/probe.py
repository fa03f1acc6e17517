"""What the tuner asks: settings in, a measurement out; and a probe that gives hopeless settings up early."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from throughline.contracts.measurement import Measurement
from throughline.tuning.limits import Limits

# Dotted key, e.g. `engine.max_num_tokens`, to its value.
Settings = Mapping[str, Any]


class Probe(Protocol):
    """Runs the load on a target with some settings."""

    def __call__(self, settings: Settings, *, seconds: float, seed: int) -> Measurement:
        """Measures for about `seconds` of load after warming up; `seed` draws the requests.

        Raises:
            UserError: If the target cannot be started with these settings, or died.
        """
        ...


@dataclass(frozen=True)
class Screened:
    """A probe that looks for a short time first, and no longer where a limit is out of reach.

    Attributes:
        probe: What is asked.
        limits: What may be out of reach.
        seconds: Of the first look.
        factor: How many times a limit has to be exceeded to count as hopeless. A short window exaggerates percentiles,
            so this is well above 1.
    """

    probe: Probe
    limits: Limits
    seconds: float
    factor: float = 3.0

    def __call__(self, settings: Settings, *, seconds: float, seed: int) -> Measurement:
        """See `Probe.__call__`; the first look itself where it is hopeless."""
        if self.seconds >= seconds:
            return self.probe(settings, seconds=seconds, seed=seed)
        first = self.probe(settings, seconds=self.seconds, seed=seed)
        if max(self.limits.pressure(first).values(), default=0.0) > self.factor:
            return first
        return self.probe(settings, seconds=seconds, seed=seed)
