"""The finalists beside the incumbent: longer probes in shared rounds, ended as soon as the outcome is plain."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import Field

from throughline.contracts.benchmark import Estimate
from throughline.contracts.config import StrictModel
from throughline.contracts.measurement import Measurement
from throughline.tuning.limits import MAXIMISED, Limits, Objective
from throughline.tuning.noise import Noise, paired
from throughline.tuning.probe import Probe, Settings
from throughline.tuning.space import identity

Verdict = Literal["better", "worse", "tie", "infeasible"]
OnRound = Callable[[int, Sequence["Runner"]], None]


class RaceSpec(StrictModel):
    """Sizes of a race.

    Attributes:
        finalists: Most points that run against the incumbent.
        rounds: Most rounds; each measures the incumbent and every finalist that is still in.
        least_rounds: Rounds before anyone is judged.
        seconds: Load of each probe.
        confidence: Of all judgements of a race together.
        worth: Relative gain below which a difference does not matter: an interval within it is a tie.
    """

    finalists: int = Field(default=3, ge=1)
    rounds: int = Field(default=5, ge=1)
    least_rounds: int = Field(default=2, ge=1)
    seconds: float = Field(default=20.0, gt=0)
    confidence: float = Field(default=0.95, gt=0, lt=1)
    worth: float = Field(default=0.02, ge=0)


@dataclass
class Runner:
    """A point of the race.

    Attributes:
        settings: The point.
        measurements: By round.
        ratio: Its objective over the incumbent's in the same rounds, above 1 where it is better.
        verdict: None while it is open.
    """

    settings: dict[str, Any]
    measurements: list[Measurement] = field(default_factory=list)
    ratio: Estimate | None = None
    verdict: Verdict | None = None

    def pressure(self, limits: Limits) -> dict[str, float]:
        """Returns how many times each limit is used: the median of the rounds."""
        rounds = [limits.pressure(each) for each in self.measurements]
        return {name: statistics.median(each[name] for each in rounds) for name in rounds[0]} if rounds else {}

    def feasible(self, limits: Limits) -> bool:
        """Whether it keeps every limit."""
        return bool(self.measurements) and all(value <= 1 for value in self.pressure(limits).values())


@dataclass(frozen=True)
class Race:
    """What came of it.

    Attributes:
        incumbent: What was to beat.
        runners: The finalists, best first.
        winner: The best of those that are better and keep the SLO, or that keep it where the incumbent does not.
        reason: Why, in a sentence.
    """

    incumbent: Runner
    runners: tuple[Runner, ...]
    winner: Runner | None
    reason: str


def race(
    probe: Probe,
    incumbent: Settings,
    finalists: Sequence[Settings],
    spec: RaceSpec,
    limits: Limits,
    objective: Objective,
    noise: Noise | None,
    *,
    seed: int = 0,
    on_round: OnRound = lambda number, runners: None,
) -> Race:
    """Runs the finalists against the incumbent.

    In a round all get the same requests, one after another in an order that changes. After `least_rounds` a finalist
    leaves when its interval excludes 1, or is so narrow that the difference does not matter. Every look at every
    finalist has its share of the error (Bonferroni), so that looking often makes no winner.

    Raises:
        UserError: If a target dies.
    """
    rng = random.Random(seed)
    first = Runner(dict(incumbent))
    runners = [Runner(dict(each)) for each in finalists if identity(each) != identity(incumbent)]
    looks = max(1, spec.rounds - spec.least_rounds + 1) * max(1, len(runners))
    confidence = 1 - (1 - spec.confidence) / looks
    for number in range(spec.rounds):
        open_ones = [each for each in runners if each.verdict is None]
        if not open_ones:
            break
        order = [first, *open_ones]
        rng.shuffle(order)
        for each in order:
            each.measurements.append(probe(each.settings, seconds=spec.seconds, seed=seed + number))
        for each in open_ones:
            _judge(each, first, spec, limits, objective, noise, confidence, last=number + 1 == spec.rounds)
        on_round(number, runners)
    runners.sort(key=lambda each: each.ratio.value if each.ratio else 0.0, reverse=True)
    return _outcome(first, runners, limits, objective, noise)


def _judge(
    runner: Runner,
    first: Runner,
    spec: RaceSpec,
    limits: Limits,
    objective: Objective,
    noise: Noise | None,
    confidence: float,
    *,
    last: bool,
) -> None:
    count = len(runner.measurements)
    over = [_rate(each, limits, objective) for each in runner.measurements]
    under = [_rate(each, limits, objective) for each in first.measurements[:count]]
    runner.ratio = found = paired(over, under, noise, confidence=confidence)
    if count < spec.least_rounds and not last:
        return
    if not runner.feasible(limits) and (last or found.high < 1 or first.feasible(limits)):
        runner.verdict = "infeasible"
    elif found.low > 1:
        runner.verdict = "better"
    elif found.high < 1:
        runner.verdict = "worse"
    elif last or (found.low > 1 - spec.worth and found.high < 1 + spec.worth):
        runner.verdict = "tie"


def _rate(measurement: Measurement, limits: Limits, objective: Objective) -> float:
    """The objective as something of which more is better and none is not 0: half a request of the window at least."""
    value = limits.value(measurement, objective)
    if objective in MAXIMISED:
        return max(value, 0.5 / measurement.seconds)
    return 1 / max(value, 1e-12)


def _outcome(
    first: Runner, runners: Sequence[Runner], limits: Limits, objective: Objective, noise: Noise | None
) -> Race:
    kept = [each for each in runners if each.feasible(limits)]
    better = [each for each in kept if each.verdict == "better"]
    if better:
        return Race(first, tuple(runners), better[0], f"{gain(better[0].ratio, objective)} the incumbent's")
    # An incumbent that is beyond a limit by no more than noise has not lost to one that is within it by as much.
    margin = math.exp(noise.half_width(len(first.measurements))) if noise and first.measurements else 1.0
    broken = {name: value for name, value in first.pressure(limits).items() if value > margin}
    if kept and broken:
        worst = max(broken, key=lambda name: broken[name])
        reason = f"keeps the SLO; the incumbent exceeds {worst} {broken[worst]:.2f} times"
        return Race(first, tuple(runners), kept[0], reason)
    if not runners:
        return Race(first, (), None, "no point but the incumbent keeps the SLO")
    ties = [each for each in kept if each.verdict == "tie"]
    if ties:
        return Race(
            first, tuple(runners), None, f"a tie within noise: {gain(ties[0].ratio, objective)} the incumbent's"
        )
    return Race(first, tuple(runners), None, "no finalist is better than the incumbent and keeps the SLO")


def gain(ratio: Estimate | None, objective: Objective) -> str:
    """Returns a ratio as text: so many times as good in the objective."""
    name = objective.replace("_", " ")
    return f"{name} {times(ratio)}" if objective in MAXIMISED else f"{name} better {times(ratio)}"


def times(ratio: Estimate | None) -> str:
    """Returns a ratio with its interval as text."""
    return f"{ratio.value:.2f} [{ratio.low:.2f}, {ratio.high:.2f}] times" if ratio else "not measured,"
