"""The search: which point to measure next, within a budget of probes and minutes, from what was measured so far."""

from __future__ import annotations

import itertools
import json
import math
import random
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from throughline.contracts.config import StrictModel
from throughline.contracts.errors import TuningError, UserError
from throughline.tuning import history
from throughline.tuning.history import Trial
from throughline.tuning.limits import MAXIMISED, Limits, Objective, constraint
from throughline.tuning.probe import Probe, Screened, Settings
from throughline.tuning.space import MOST_POINTS, SpaceSpec, encode, identity
from throughline.tuning.surrogate import Surrogate

if TYPE_CHECKING:
    from optuna.trial import Trial as OptunaTrial

# Returns the id of the rule that refuses a point and what it says, or None.
Lint = Callable[[Settings], tuple[str, str] | None]
OnTrial = Callable[[Trial], None]
# A sampler that comes back to points it knows has nothing better to propose: after so many a neighbour is taken.
_REPEATS = 2
# Behind the spread of points at the start every second one is a neighbour of the best: a sampler comes near an optimum,
# and a step in one setting gets there.
_LOCAL_EVERY = 2
# Points that are ranked for one probe, a fraction of a second.
_MOST_RANKED = 4096
# Of so many of the best all neighbours are among them.
_BESIDE = 8
# Promises that differ by less are alike, and one of them is drawn.
_EQUAL = 1e-9
# A limit that is exceeded threefold is as good as one that is exceeded tenfold: hopeless.
_MOST_EXCESS = 2.0
# A target that died may have died of something else: its point gets a second chance.
_ATTEMPTS = 2


class StudySpec(StrictModel):
    """A search's budget and method.

    Attributes:
        minutes: Of probes, those of earlier runs of the same study counted.
        probes: Most points to measure.
        probe_seconds: Load on each.
        screen_seconds: Load after which a hopeless point is given up; 0 for none.
        hopeless: How many times a limit has to be exceeded to be hopeless.
        objectives: What is wanted; the first one chooses the winner, several make a front.
        sampler: `gp-ucb` ranks all points by a Gaussian process of given length scales (`surrogate`); Optuna's `tpe`
            fits Parzen estimators, which several objectives get in any case, and its `gp` Gaussian processes that
            learn the scales and need torch. Every second point of these two is a neighbour of the best.
        startup: Points spread over the space before a model is asked, those of the start counted.
        failures: Targets that die one after another before the search stops.
        seed: Of the sampler.
    """

    minutes: float = Field(default=20.0, gt=0)
    probes: int = Field(default=40, ge=1)
    probe_seconds: float = Field(default=12.0, gt=0)
    screen_seconds: float = Field(default=0.0, ge=0)
    hopeless: float = Field(default=3.0, gt=1)
    objectives: tuple[Objective, ...] = Field(default=("goodput",), min_length=1)
    sampler: Literal["gp-ucb", "tpe", "gp"] = "gp-ucb"
    startup: int = Field(default=4, ge=0)
    failures: int = Field(default=3, ge=1)
    seed: int = 0


class Study:
    """A search over a space; what it measures is kept, so that a later one with the same path goes on.

    Args:
        space: What may be tried.
        spec: Budget and method.
        limits: The SLO.
        path: Journal file; None keeps nothing.
        lint: Refuses points before they run.
    """

    def __init__(
        self, space: SpaceSpec, spec: StudySpec, limits: Limits, path: Path | None = None, lint: Lint | None = None
    ) -> None:
        self.space = space
        self.spec = spec
        self.limits = limits
        self._lint = lint or (lambda settings: None)
        self._study = history.open_study(path, spec.objectives, None)
        self._known: dict[int, Trial] = {}
        self._rng = random.Random(spec.seed)
        self._surrogate = Surrogate(space)
        known = len(self._study.get_trials(deepcopy=False))
        # Another seed for each sitting, or it would draw the same points again.
        self._study.sampler = _sampler(spec, spec.seed + known)

    @property
    def trials(self) -> list[Trial]:
        """Every point that was looked at, in order."""
        return history.read(self._study, self.limits, self._known)

    @property
    def measured(self) -> list[Trial]:
        """Those with a measurement."""
        return [trial for trial in self.trials if trial.measurement is not None]

    def value(self, trial: Trial) -> float:
        """Returns the first objective's value of a measured point."""
        if trial.measurement is None:
            raise ValueError("a point without a measurement has no value")
        return self.limits.value(trial.measurement, self.spec.objectives[0])

    def best(self) -> Trial | None:
        """Returns the feasible point with the best first objective."""
        return next(iter(self.ranked()), None)

    def ranked(self) -> list[Trial]:
        """Returns the feasible points, best first."""
        sign = -1 if self.spec.objectives[0] in MAXIMISED else 1
        return sorted((trial for trial in self.measured if trial.feasible), key=lambda each: sign * self.value(each))

    def nearest(self) -> Trial | None:
        """Returns the measured point whose worst limit is exceeded least."""
        found = self.measured
        return min(found, key=lambda each: max(each.pressure.values(), default=0.0)) if found else None

    def run(self, probe: Probe, start: Sequence[Settings] = (), on_trial: OnTrial = lambda trial: None) -> None:
        """Measures points until the budget is spent or none is left.

        Args:
            probe: Measures one.
            start: Points to begin with, e.g. the incumbent and what a planner proposes.
            on_trial: Hears of each.

        Raises:
            TuningError: If targets die one after another; what was measured is kept.
        """
        if self.spec.screen_seconds:
            probe = Screened(probe, self.limits, self.spec.screen_seconds, self.spec.hopeless)
        died: list[Trial] = []
        while self._within_budget():
            settings = self._next([self.space.clean(point, where="start") for point in start])
            if settings is None:
                return
            trial = self._measure(probe, settings)
            on_trial(trial)
            died = [*died, trial] if trial.error else died
            if trial.measurement is not None:
                died = []
            if len(died) >= self.spec.failures:
                raise TuningError(
                    f"the target died {len(died)} times one after another",
                    where=encode(died[-1].settings),
                    seen=died[-1].error,
                    fix=f"the {len(self.measured)} finished probes are kept: mend it and run the same command to go on",
                )

    def _within_budget(self) -> bool:
        trials = self.trials
        spent = sum(trial.seconds for trial in trials)
        return spent < 60 * self.spec.minutes and sum(trial.measurement is not None for trial in trials) < (
            self.spec.probes
        )

    def _next(self, start: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
        """Opens a trial at the next point, refused ones recorded on the way; None if all were looked at."""
        while True:
            settings = self._open(start)
            if settings is None:
                return None
            refused = self._lint(settings)
            if refused is None:
                return settings
            self._refuse(settings, *refused)

    def _open(self, start: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
        seen = self._seen()
        wanted = next((point for point in start if identity(point) not in seen), None)
        count = len(seen)
        if wanted is None and self._ranks:
            wanted = self._promising(seen) if count >= self.spec.startup else None
        elif wanted is None and count > self.spec.startup and count % _LOCAL_EVERY:
            wanted = self._fallback(seen)
        repeats = 0
        while wanted is None and repeats < _REPEATS:
            self._trial = self._study.ask()
            settings = self._draw(self._trial)
            if identity(settings) not in seen:
                return settings
            repeats += 1
            self._repeat(settings)
        wanted = wanted or self._fallback(seen)
        if wanted is None:
            return None
        self._study.enqueue_trial(history.parameters(self.space.dimensions, wanted))
        self._trial = self._study.ask()
        self._draw(self._trial)
        return wanted

    @property
    def _ranks(self) -> bool:
        return self.spec.sampler == "gp-ucb" and len(self.spec.objectives) == 1

    def _promising(self, seen: set[str]) -> dict[str, Any] | None:
        """The point that may be worth most of those that are not known yet."""
        left, measured = self._candidates(seen), self.measured
        if not left or not measured:
            return None
        known = [trial.settings for trial in measured]
        promise = self._surrogate.promise(known, self._utilities(measured), left)
        best = promise.max()
        return left[self._rng.choice([index for index, value in enumerate(promise) if value >= best - _EQUAL])]

    def _candidates(self, seen: set[str]) -> list[dict[str, Any]]:
        """All points that are not known; of a large space some that are drawn, and those beside the best."""
        points: Iterable[dict[str, Any]] = itertools.islice(self.space.points(), _MOST_RANKED + 1)
        found = {identity(point): point for point in points}
        if len(found) > _MOST_RANKED:
            beside = [point for trial in self._in_order()[:_BESIDE] for point in self.space.neighbours(trial.settings)]
            drawn = (self.space.draw(self._rng) for _ in range(_MOST_RANKED))
            found = {identity(point): point for point in itertools.chain(beside, drawn)}
        return [point for key, point in found.items() if key not in seen]

    def _in_order(self) -> list[Trial]:
        """Measured points, feasible ones by their value, then all by the worst limit."""
        return [*self.ranked(), *sorted(self.measured, key=lambda each: max(each.pressure.values(), default=0.0))]

    def _utilities(self, measured: Sequence[Trial]) -> list[float]:
        """What points are worth to the ranking: a limit exceeded twofold costs half of the largest value seen."""
        sign = 1 if self.spec.objectives[0] in MAXIMISED else -1
        values = [sign * self.value(trial) for trial in measured]
        largest = max((abs(value) for value in values if math.isfinite(value)), default=0.0) or 1.0
        found = []
        for trial, value in zip(measured, values, strict=True):
            excess = max(0.0, max(trial.pressure.values(), default=0.0) - 1)
            # A cost of no tokens is infinite.
            found.append(max(-1.0, value / largest) - 0.5 * min(_MOST_EXCESS, excess))
        return found

    def _draw(self, trial: OptunaTrial) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for each in self.space.dimensions:
            if not each.active(found):
                continue
            if each.kind == "ordered":
                found[each.key] = each.values[trial.suggest_int(each.key, 0, len(each.values) - 1)]
            else:
                texts = [encode(value) for value in each.values]
                found[each.key] = json.loads(trial.suggest_categorical(each.key, texts))
        return found

    def _seen(self) -> set[str]:
        attempts = Counter(trial.identity for trial in self.trials if trial.error)
        done = {trial.identity for trial in self.trials if not trial.error}
        return done | {point for point, count in attempts.items() if count >= _ATTEMPTS}

    def _fallback(self, seen: set[str]) -> dict[str, Any] | None:
        """A point next to the best ones that is not known yet, else any."""
        for trial in self._in_order():
            near = [point for point in self.space.neighbours(trial.settings) if identity(point) not in seen]
            if near:
                return self._rng.choice(near)
        left = [point for point in self._all() if identity(point) not in seen]
        return self._rng.choice(left) if left else None

    def _all(self) -> Iterator[dict[str, Any]]:
        for index, point in enumerate(self.space.points()):
            if index == MOST_POINTS:
                return
            yield point

    def _measure(self, probe: Probe, settings: dict[str, Any]) -> Trial:
        trial = self._trial
        trial.set_user_attr("settings", settings)
        started = time.monotonic()
        try:
            # The same requests for every point: what differs is the settings.
            found = probe(settings, seconds=self.spec.probe_seconds, seed=self.spec.seed)
        except UserError as error:
            trial.set_user_attr("error", str(error))
            trial.set_user_attr("seconds", time.monotonic() - started)
            self._study.tell(trial, state=_fail())
        else:
            trial.set_user_attr("measurement", found.model_dump(mode="json"))
            trial.set_user_attr("seconds", time.monotonic() - started)
            pressure = self.limits.pressure(found)
            self._tell([self.limits.value(found, each) for each in self.spec.objectives], pressure, refused=False)
        return self.trials[-1]

    def _refuse(self, settings: dict[str, Any], rule: str, text: str) -> None:
        self._trial.set_user_attr("settings", settings)
        self._trial.set_user_attr("refused", rule)
        self._trial.set_user_attr("why", text)
        self._tell(self._worst(), {}, refused=True)

    def _repeat(self, settings: dict[str, Any]) -> None:
        """Tells the sampler again what a point that it came back to is worth."""
        known = next((each for each in self.trials if each.identity == identity(settings)), None)
        self._trial.set_user_attr("settings", settings)
        self._trial.set_user_attr("repeats", known.number if known else -1)
        if known is None or known.error:
            self._study.tell(self._trial, state=_fail())
        elif known.measurement is None:
            self._tell(self._worst(), {}, refused=True)
        else:
            values = [self.limits.value(known.measurement, each) for each in self.spec.objectives]
            self._tell(values, known.pressure, refused=False)

    def _tell(self, values: Sequence[float], pressure: dict[str, float], *, refused: bool) -> None:
        # One constraint, the worst limit: a Gaussian process for each of them takes seconds a point.
        worst = float("inf") if refused else max(pressure.values(), default=0.0)
        self._trial.set_constraint("slo", constraint(worst))
        self._study.tell(self._trial, list(values))

    def _worst(self) -> list[float]:
        """Values of a point that cannot run: nothing of what is wanted, the most seen of what is not."""
        found = []
        for each in self.spec.objectives:
            seen = [self.limits.value(trial.measurement, each) for trial in self.trials if trial.measurement]
            found.append(0.0 if each in MAXIMISED else max(seen, default=0.0))
        return found


def _sampler(spec: StudySpec, seed: int) -> Any:
    from optuna.samplers import GPSampler, TPESampler

    with warnings.catch_warnings():
        # That `group`, which conditional settings need, is experimental.
        warnings.simplefilter("ignore")
        if spec.sampler != "gp":
            return TPESampler(seed=seed, n_startup_trials=spec.startup, multivariate=True, group=True)
        return GPSampler(seed=seed, n_startup_trials=spec.startup)


def _fail() -> Any:
    from optuna.trial import TrialState

    return TrialState.FAIL
