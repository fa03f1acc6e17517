"""Whether what was tuned still holds: the same settings measured again, against what they measured then."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from throughline.contracts.errors import MeasurementError
from throughline.contracts.measurement import Measurement
from throughline.tuning.evidence import Evidence
from throughline.tuning.limits import MAXIMISED, Limits


@dataclass(frozen=True)
class Drift:
    """What was found.

    Attributes:
        holds: Whether the tuning may be kept.
        change: The objective now over then, above 1 where it is better.
        band: Relative change that noise explains once in twenty times at most.
        broken: Limits that are exceeded now, with how many times.
        elsewhere: What is not as it was: machine or workload, in words.
    """

    holds: bool
    change: float
    band: float
    broken: dict[str, float]
    elsewhere: tuple[str, ...]

    @property
    def reason(self) -> str:
        """Why, in a sentence."""
        parts = list(self.elsewhere)
        parts += [f"{name} is exceeded {value:.2f} times" for name, value in self.broken.items()]
        within = abs(math.log(self.change)) <= math.log1p(self.band)
        text = "within" if within else "beyond"
        parts.append(f"{self.change:.2f} of what it was, {text} the {100 * self.band:.0f} % that noise explains")
        return "; ".join(parts)


def check(
    evidence: Evidence,
    found: Sequence[Measurement],
    *,
    machine: Mapping[str, Any],
    workload: Mapping[str, Any],
) -> Drift:
    """Compares measurements of the incumbent with its evidence.

    The change is judged by the noise of the evidence: then and now are means over so many probes each. Worse than that
    is drift; better is none, and worth a new search all the same where the workload is another.

    Args:
        evidence: Of the preset.
        found: The settings measured again, probes as long as those of the evidence.
        machine: This machine, as `Evidence.machine` has it.
        workload: The load now.

    Raises:
        MeasurementError: If nothing was measured.
    """
    from scipy.stats import t

    if not found:
        raise MeasurementError("nothing was measured again", where="check", fix="give probes of at least 1")
    limits, objective = Limits(evidence.slo), evidence.objective
    values = [limits.value(each, objective) for each in found]
    now, then = sum(values) / len(values), evidence.value.value
    change = (now / then if objective in MAXIMISED else then / now) if now > 0 and then > 0 else 1e-9
    spread = evidence.noise * math.sqrt(1 / len(values) + 1 / max(1, evidence.value.n))
    band = math.expm1(float(t.ppf(0.975, max(1, evidence.noise_probes - 1))) * spread)
    pressures = [limits.pressure(each) for each in found]
    broken = {name: sorted(each[name] for each in pressures)[len(pressures) // 2] for name in pressures[0]}
    broken = {name: value for name, value in broken.items() if value > 1}
    elsewhere = []
    different = sorted(key for key in evidence.machine.keys() & machine.keys() if evidence.machine[key] != machine[key])
    if different:
        was = ", ".join(f"{key} was {evidence.machine[key]}, is {machine[key]}" for key in different)
        elsewhere.append(f"another machine ({was})")
    if dict(evidence.workload) != dict(workload):
        elsewhere.append("another workload")
    fell = math.log(change) < -math.log1p(band)
    return Drift(not broken and not fell and not elsewhere, change, band, broken, tuple(elsewhere))
