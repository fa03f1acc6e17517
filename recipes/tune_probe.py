"""What the tuner probes here: an engine alone under run-time overrides, or a served stack of an engine built for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from recipes import app, build, measuring
from recipes.tune_precision import FIELDS, over
from throughline.artifacts import Artifact, ArtifactStore
from throughline.contracts.engine import EngineInfo, EngineSpec
from throughline.contracts.errors import MeasurementError
from throughline.contracts.measurement import Measurement, Target
from throughline.contracts.slo import SloSpec
from throughline.contracts.workload import Workload
from throughline.tuning import Settings
from throughline.tuning.evidence import by_layer

# What an engine takes when it is loaded is not built anew for; see `engines.cpu.lint.RUNTIME_FIELDS`.
BUILT = ("precision", *FIELDS)
# From the measured settings of a layer to the engine that has them.
EngineOf = Callable[[Mapping[str, Any]], Artifact]


@dataclass
class StackProbe:
    """A `Probe` of engines of this machine.

    Attributes:
        target: `raw` loads the engine with its settings as overrides; the layers above it serve an engine that was
            built with them.
        workload: What is sent.
        slo: What goodput counts by.
        store: Where servers keep their state.
        engine_of: Finds or builds an engine.
        dataset: Whose questions are asked, where the workload asks for a dataset's.
    """

    target: Target
    workload: Workload
    slo: SloSpec
    store: ArtifactStore
    engine_of: EngineOf
    dataset: Artifact | None = None

    def __call__(self, settings: Settings, *, seconds: float, seed: int) -> Measurement:
        """See `Probe.__call__`.

        Raises:
            MeasurementError: If the load did not have its shape: such a run enters no comparison.
        """
        layers = by_layer(settings)
        engine = layers.pop("engine")
        built = engine if self.target != "raw" else {key: engine[key] for key in BUILT if key in engine}
        given = {key: value for key, value in engine.items() if key not in built}
        flat = {f"{layer}.{key}": value for layer, values in layers.items() for key, value in _leaves(values)}
        found = measuring.measure(
            self.target,
            self.workload,
            store=self.store,
            engine=self.engine_of(built),
            settings={f"engine.{key}": value for key, value in given.items()} | flat,
            slo=self.slo,
            seconds=seconds,
            seed=seed,
            dataset=self.dataset,
        )
        if not found.load.valid:
            failed = [test for test in found.load.tests if not test.passed]
            raise MeasurementError(
                "the load did not have the shape that was asked for",
                where=f"workload, {', '.join(test.name for test in failed)}",
                seen=", ".join(f"{test.achieved:g} in place of {test.asked:g}" for test in failed),
                fix="end what else runs on this machine, or measure for longer",
            )
        return found


@dataclass
class Engines:
    """Engines of one checkpoint that differ in settings; the incumbent is there, others are built when asked for.

    Attributes:
        incumbent: What is tuned.
        config: The recipe's, for the build's own composition.
        used: Every engine that was asked for, by its settings as text.
    """

    incumbent: Artifact
    config: app.RecipeConfig
    used: dict[str, Artifact] = field(default_factory=dict)

    def __call__(self, changes: Mapping[str, Any]) -> Artifact:
        """Returns the engine whose spec is the incumbent's with changes; another precision brings its quantisation.

        Raises:
            EngineError: If it cannot be built.
        """
        spec = EngineInfo.read(self.incumbent.path).spec
        wanted = EngineSpec.model_validate(over(spec, changes))
        name = ", ".join(f"{key}={value}" for key, value in sorted(changes.items())) or "as it is"
        if name not in self.used:
            self.used[name] = self.incumbent if wanted == spec else self._build(wanted)
        return self.used[name]

    def _build(self, spec: EngineSpec) -> Artifact:
        manifest = self.incumbent.manifest
        source = manifest.inputs.get("checkpoint") or str(manifest.config.get("source", ""))
        config = self.config
        shared = [f"profile={config.profile}", f"seed={config.seed}", f"paths.home={config.paths.home}"]
        composed = app.compose("build", [*shared, f"checkpoint={source}"])
        composed["engine"] = spec.model_dump(mode="json")
        model = getattr(config, "model", None)
        if model is not None:
            composed["model"] = model.model_dump(mode="json")
        return build.make(app.to_schema(composed, build.Config))


def _leaves(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in values.items():
        found += _leaves(value, f"{prefix}{key}.") if isinstance(value, Mapping) else [(f"{prefix}{key}", value)]
    return found
