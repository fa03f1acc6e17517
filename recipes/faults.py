"""The fault library: settings and loads that cause a bottleneck on purpose, the doctor's word on it, and its lever.

python -m recipes.diagnose fault=tiny_batch target=promoted
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import yaml
from pydantic import Field

from throughline.artifacts import Artifact, ArtifactStore
from throughline.contracts.config import StrictModel
from throughline.contracts.diagnosis import Diagnosis, Finding, Lever
from throughline.contracts.errors import EngineError
from throughline.contracts.measurement import Measurement
from throughline.contracts.slo import SloSpec
from throughline.contracts.workload import Workload
from throughline.diagnosis import diagnose

Quantity = Literal["ttft", "itl", "tpot", "e2e", "tokens_per_second"]


class FaultSpec(StrictModel):
    """A fault that is caused on purpose.

    Attributes:
        names: The finding that the doctor has to give.
        target: What is loaded.
        precision: Of the engine.
        engine: Settings that the engine is loaded with.
        workload: What is sent.
        slo: Limits that the fault breaks, and a run without it keeps.
        seconds: Length of a run.
        improves: What the first lever has to make better.
        at: Which percentile of it, or `mean`.
    """

    names: str
    target: Literal["raw", "triton", "gateway"] = "raw"
    precision: str = "int8"
    engine: dict[str, Any] = Field(default_factory=dict)
    workload: Workload
    slo: SloSpec
    seconds: float = 25.0
    improves: Quantity = "ttft"
    at: str = "p50"

    def value(self, run: Measurement) -> float:
        """What the lever has to improve, as measured."""
        found = getattr(run, self.improves)
        return float(found[self.at].value if isinstance(found, dict) else found.value)

    def gain(self, before: Measurement, after: Measurement) -> float:
        """How many times better it became."""
        old, new = self.value(before), self.value(after)
        return new / old if self.improves == "tokens_per_second" else old / new


@dataclass(frozen=True)
class Outcome:
    """What came of a fault.

    Attributes:
        spec: The fault.
        run: The run with it.
        diagnosis: What the doctor said.
        after: The run with the finding's first lever, None if the fault was not named.
    """

    spec: FaultSpec
    run: Measurement
    diagnosis: Diagnosis
    after: Measurement | None

    @property
    def rank(self) -> int | None:
        """Place of the expected finding, from 1; None if it was not given."""
        names = self.diagnosis.names
        return names.index(self.spec.names) + 1 if self.spec.names in names else None

    @property
    def finding(self) -> Finding | None:
        """The expected finding."""
        return next((each for each in self.diagnosis.findings if each.name == self.spec.names), None)

    @property
    def gain(self) -> float | None:
        """How many times better it became with the lever."""
        return self.spec.gain(self.run, self.after) if self.after is not None else None


def cause(
    spec: FaultSpec,
    *,
    store: ArtifactStore,
    engines: Mapping[str, Artifact],
    seed: int = 0,
    on_run: Callable[[str, Measurement], None] = lambda name, run: None,
) -> Outcome:
    """Runs a fault, asks the doctor, pulls the first lever of its finding, and runs again.

    Args:
        spec: The fault.
        store: Where servers keep their state.
        engines: By precision, for levers that change it.
        seed: Of arrivals, lengths and words.
        on_run: Hears of both runs, `fault` and `lever`.
    """
    run = _measure(spec, store, engines, seed)
    on_run("fault", run)
    diagnosis = diagnose(run)
    outcome = Outcome(spec, run, diagnosis, None)
    finding = outcome.finding
    if finding is None:
        return outcome
    after = _measure(pulled(spec, typed(finding)), store, engines, seed)
    on_run("lever", after)
    return Outcome(spec, run, diagnosis, after)


def typed(finding: Finding) -> Lever:
    """Returns the first lever that can be typed."""
    return next(lever for lever in finding.levers if lever.overrides)


def pulled(spec: FaultSpec, lever: Lever) -> FaultSpec:
    """Returns the fault's spec with a lever's overrides.

    Raises:
        EngineError: If an override is of none of its parts.
    """
    engine, workload, precision = dict(spec.engine), spec.workload.model_dump(), spec.precision
    for override in lever.overrides:
        key, _, text = override.partition("=")
        part, _, name = key.partition(".")
        if key == "quant":
            precision = text
        elif part == "engine":
            engine[name] = literal(text)
        elif part == "workload":
            *path, last = name.split(".")
            inner = workload
            for step in path:
                inner = inner[step]
            inner[last] = literal(text)
        else:
            raise EngineError("override is of no part of a fault", where=key, seen=text, fix="engine, workload, quant")
    changed = {"engine": engine, "workload": Workload.model_validate(workload), "precision": precision}
    return spec.model_copy(update=changed)


def literal(text: str) -> Any:
    """Reads an override's value: a number, true or false, or a word."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _measure(spec: FaultSpec, store: ArtifactStore, engines: Mapping[str, Artifact], seed: int) -> Measurement:
    from recipes.measuring import measure

    if spec.precision not in engines:
        raise EngineError(
            "no engine of this precision",
            where="precision",
            seen=spec.precision,
            fix=f"build one: python -m recipes.build quant={spec.precision}",
        )
    return measure(
        spec.target,
        spec.workload,
        store=store,
        engine=engines[spec.precision],
        settings={f"engine.{name}": value for name, value in spec.engine.items()},
        slo=spec.slo,
        seconds=spec.seconds,
        seed=seed,
    )
