"""What rules read from a measurement: phases as shares, percentiles, settings, and whether a limit is broken."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

from throughline.contracts.diagnosis import Bound
from throughline.contracts.measurement import Latencies, Measurement


@dataclass(frozen=True)
class Seen:
    """What a rule looks at.

    Attributes:
        run: The measurement.
        baseline: A former run of the same workload to compare with, if there is one.
        bound: What the machine could do, if it is known.
    """

    run: Measurement
    baseline: Measurement | None = None
    bound: Bound | None = None

    @functools.cached_property
    def phases(self) -> dict[str, float]:
        """Mean seconds of a request's parts.

        An engine that is asked from outside does not say when a request left its queue: by Little's law a mean one
        waits as long as requests that wait, over requests a second. What that is more than the measured queue is
        taken from the prefill, which it was counted with.
        """
        found = dict(self.run.phases)
        waiting, rate = self.run.engine.waiting, self.run.requests / self.run.seconds if self.run.seconds else 0.0
        if "prefill" in found and waiting is not None and rate:
            hidden = max(0.0, waiting / rate - found.get("queue", 0.0))
            moved = min(hidden, found["prefill"])
            found["queue"] = found.get("queue", 0.0) + moved
            found["prefill"] -= moved
        return found

    def phase(self, *names: str) -> float:
        """Mean seconds of some phases together; 0 where they were not measured."""
        return sum(self.phases.get(name, 0.0) for name in names)

    def share(self, *names: str) -> float:
        """The same as a share of a mean request's time."""
        whole = sum(self.phases.values())
        return self.phase(*names) / whole if whole > 0 else 0.0

    @property
    def e2e(self) -> float:
        """Mean seconds of a request, by its phases."""
        return sum(self.phases.values())

    def setting(self, key: str) -> Any:
        """A setting by its dotted key, None if it is not known."""
        return self.run.settings.get(key)

    def number(self, key: str) -> int | None:
        """A whole number among the settings, None if it is not known or no such number."""
        value = self.setting(key)
        return int(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None

    def presses(self, *limits: str) -> bool:
        """Whether one of these limits is broken; without limits any time counts.

        Args:
            limits: Fields of `SloSpec`, without `_seconds`.
        """
        if self.run.slo is None:
            return True
        return any(f"{name}_seconds" in self.run.over(self.run.slo) for name in limits)

    @property
    def max_batch_size(self) -> int | None:
        """Places of the batch, by the engine or by the settings."""
        return self.run.engine.max_batch_size or self.number("engine.max_batch_size")

    @property
    def max_num_tokens(self) -> int | None:
        """Tokens of a step, by the engine or by the settings."""
        return self.run.engine.max_num_tokens or self.number("engine.max_num_tokens")

    @property
    def fill(self) -> float | None:
        """Mean share of the batch's places that are taken."""
        scheduled, places = self.run.engine.scheduled, self.max_batch_size
        return min(1.0, scheduled / places) if scheduled is not None and places else None

    @property
    def prompt_steps(self) -> float | None:
        """Share of the steps' time with prompt tokens in the step."""
        decoding = self.run.engine.decoding_share
        return None if decoding is None else 1.0 - decoding

    @property
    def threads(self) -> int | None:
        """Threads of a CPU engine that were left unused, None if none were."""
        asked = self.number("engine.num_threads")
        return asked if asked and asked < self.run.machine.cores else None


def at(latencies: Latencies, name: str) -> float | None:
    """A percentile or the mean, None if it was not measured."""
    found = latencies.get(name)
    return found.value if found is not None else None


def ms(seconds: float) -> str:
    """Seconds as people read them."""
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"


def pct(share: float) -> str:
    """A share as people read it."""
    return f"{share * 100:.0f} %"
