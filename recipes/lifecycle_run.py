"""One run of the line: its settings, and what its stages made or found."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydantic import Field

from recipes import app, stage_seconds
from recipes.lifecycle_round import Round
from throughline.artifacts import Artifact, Line
from throughline.contracts.config import StrictModel
from throughline.contracts.evaluation import Evaluation, GatePolicy
from throughline.reporting.stages import StageTable

T = TypeVar("T")


class StagesSpec(StrictModel):
    """Overrides for each stage's own recipe."""

    convert: tuple[str, ...] = ()
    data: tuple[str, ...] = ()
    train: tuple[str, ...] = ()
    build: tuple[str, ...] = ()
    evaluate: tuple[str, ...] = ()
    compare: tuple[str, ...] = ()
    deploy: tuple[str, ...] = ()
    bench: tuple[str, ...] = ()
    tune: tuple[str, ...] = ()


class LoopSpec(StrictModel):
    """The closed loop after the line.

    Attributes:
        rounds: Most rounds of measuring, tuning, judging and deploying; it ends earlier where nothing better passes.
        name: Name of the preset that a round writes.
    """

    rounds: int = Field(default=0, ge=0)
    name: str = "loop"


class Config(app.RecipeConfig):
    """Settings of `recipes.lifecycle`."""

    model: app.ModelSpec
    gate: GatePolicy
    debug: str = "none"
    stages: StagesSpec = StagesSpec()
    loop: LoopSpec = LoopSpec()
    precisions: tuple[str, ...] = Field(default=("bf16", "int8", "int4", "int4_rtn"), min_length=1)
    compare_concurrency: int = Field(default=8, ge=1)
    allow_unpromoted: bool = False

    @property
    def line(self) -> Line:
        """The runs whose promoted engine this one may replace, and whose stages take about as long."""
        return Line(self.model.name, self.profile, self.debug)


@dataclass
class Stage:
    """A stage of this run: its artifacts, wall seconds now and when they were made, and whether all were found."""

    name: str
    artifacts: list[Artifact] = field(default_factory=list)
    seconds_now: float = 0.0
    found: bool = False

    @property
    def seconds(self) -> float:
        """Seconds that making the artifacts took, in this run or an earlier one."""
        return sum(item.manifest.seconds for item in self.artifacts)


@dataclass
class Run:
    """Everything that a run made or found; `table` shows how far it is."""

    config: Config
    table: StageTable
    stages: list[Stage] = field(default_factory=list)
    dataset: Artifact | None = None
    adapter: Artifact | None = None
    engines: dict[str, Artifact] = field(default_factory=dict)
    evaluated: dict[str, Artifact] = field(default_factory=dict)
    sets: dict[str, dict[str, Evaluation]] = field(default_factory=dict)
    comparison: Artifact | None = None
    decision: dict[str, Any] = field(default_factory=dict)
    serving: Artifact | None = None
    rounds: list[Round] = field(default_factory=list)

    def raw_cells(self) -> dict[str, dict[str, Any]]:
        """Returns the benchmark cell of each precision's engine alone."""
        if self.comparison is None:
            return {}
        found = self.comparison.manifest.metrics
        by_digest = {found["engines"][cell["target"]]: cell for cell in found["cells"]}
        return {name: by_digest[self.engines[name].digest] for name in self.config.precisions}

    def stage(self, name: str, work: Callable[[], T], artifacts: Callable[[T], Sequence[Artifact]]) -> T:
        """Runs a stage, times it and shows what came out."""
        store = self.config.store()
        known = {item.digest for item in store.all()}
        with self.table.stage(name) as row:
            result = work()
            made = list(artifacts(result))
            row.found = all(item.digest in known for item in made)
            row.text = ", ".join(item.short for item in made)
        stage = Stage(name, made, row.seconds, row.found)
        self.stages.append(stage)
        if not stage.found:
            stage_seconds.remember(store, str(self.config.line), name, stage.seconds)
        return result

    def each(self, names: Sequence[str]) -> Iterator[str]:
        """Yields names, and tells the table how many of the stage's parts are done."""
        for done, name in enumerate(names):
            self.table.part(done, len(names))
            yield name

    def compose(self, recipe: str, schema: type[app.C], *overrides: str, last: Sequence[str] = ()) -> app.C:
        """Composes a stage's own recipe with this run's profile, model, seed and paths.

        The user's `stages.<recipe>` win over `overrides`, and `last` over both.
        """
        config = self.config
        shared = [f"profile={config.profile}", f"seed={config.seed}", f"paths.home={config.paths.home}"]
        shared += [
            f"paths.model_repository={config.paths.model_repository}",
            f"log.format={config.log.format}",
        ]
        own = getattr(config.stages, recipe, ())
        composed = app.compose(recipe, [*shared, *overrides, *own, *last])
        if "model" in schema.model_fields:
            # Not as overrides: a system prompt or path may hold what Hydra's grammar reads as its own.
            composed["model"] = config.model.model_dump(mode="json")
        return app.to_schema(composed, schema)
