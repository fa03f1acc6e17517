"""What a tuning is asked, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from recipes import app, service
from recipes.tune_gate import Judged
from recipes.tuned import Tunable
from throughline.artifacts import Artifact, Line
from throughline.contracts.evaluation import GatePolicy, SuiteSpec
from throughline.contracts.measurement import Target
from throughline.contracts.planning import GpuSpec
from throughline.contracts.price import PriceSpec
from throughline.contracts.serving import ServeSpec
from throughline.contracts.slo import SloSpec
from throughline.contracts.workload import Workload
from throughline.tuning import Limits, SpaceSpec, Study, StudySpec
from throughline.tuning.evidence import TunedSpec
from throughline.tuning.noise import Noise
from throughline.tuning.race import Race, RaceSpec, Runner


class Config(Tunable):
    """Settings of `recipes.tune`.

    Attributes:
        model: Base model, for builds at another precision.
        workload: The load; it stays the same in every probe.
        slo: The limits.
        space: What may be tried.
        suite: Questions for the gate.
        gate: What the tuned engine's answers must reach.
        study: Budget and method of the search.
        race: Sizes of the finalists' race.
        gpu: Where a space of GPUs is planned for.
        config: Of its model, a `config.json` or a folder with one.
        line_debug: Debug preset of the line whose candidate is moved.
    """

    model: app.ModelSpec
    serve: ServeSpec
    gateway: service.GatewaySettings = service.GatewaySettings()
    workload: Workload
    slo: SloSpec
    space: SpaceSpec
    suite: SuiteSpec
    gate: GatePolicy
    study: StudySpec = StudySpec()
    race: RaceSpec = RaceSpec()
    action: Literal["search", "check", "plan"] = "search"
    gpu: GpuSpec | None = None
    config: Path | None = None
    target: str = "promoted"
    dataset: str = "latest"
    layer: Target = "raw"
    name: str = Field(default="tuned", pattern=r"^[\w.-]+$")
    price: PriceSpec = PriceSpec()
    noise_probes: int = Field(default=4, ge=3)
    regate: bool = True
    presets: Path = app.CONF / "tuned"
    line_debug: str = "none"

    @property
    def line(self) -> Line:
        """The line whose candidate a winner becomes."""
        return Line(self.model.name, self.profile, self.line_debug)

    @property
    def limits(self) -> Limits:
        """The SLO and the prices."""
        return Limits(self.slo, self.price)


@dataclass
class Outcome:
    """What a search came to.

    Attributes:
        incumbent: Settings of the space as they are.
        engine: The incumbent's engine.
        study: Every probe.
        noise: Of a probe of the study's length, on the incumbent.
        race: The finalists against the incumbent.
        judged: The gate on each winner, in the order of the race, until one passes.
        preset: Of the one that passed, or of the winner where nothing was judged.
        path: Where the preset is written.
        folder: Where probes and report lie.
        engines: Every engine that was probed.
    """

    incumbent: dict[str, Any]
    engine: Artifact
    study: Study
    noise: Noise
    race: Race
    folder: Path
    engines: dict[str, Artifact]
    judged: list[tuple[Runner, Judged]] = field(default_factory=list)
    preset: TunedSpec | None = None
    path: Path | None = None
