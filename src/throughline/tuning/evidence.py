"""The preset of what won: settings by layer, and what the choice rests on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml
from pydantic import Field

from throughline.contracts.benchmark import Estimate
from throughline.contracts.config import StrictModel
from throughline.contracts.errors import ConfigError
from throughline.contracts.slo import SloSpec
from throughline.tuning.limits import Objective

LAYERS = ("engine", "serve", "gateway")


class Evidence(StrictModel):
    """Why these settings: what was measured where, on what, and what they beat.

    Attributes:
        date: UTC, ISO 8601.
        machine: Processor, cores, memory, GPUs.
        model: Digest of the checkpoint, or name of the engine, that was tuned.
        engines: Digests of the engines that were probed, by precision.
        workload: The load as composed.
        slo: The limits.
        objective: What was wanted.
        value: Its mean over the race's rounds, with the least and the most.
        probe_seconds: Load in each of them.
        noise: Standard deviation of a probe's logarithm, from probes of the same settings.
        noise_probes: How many of those.
        beat: Settings of the incumbent.
        ratio: Over the incumbent's, side by side; above 1 is better.
        reason: In a sentence.
        probes: Points that were measured.
        refused: Points that the linter refused.
        space: Name and number of points of what was searched.
        command: Makes it again.
        gate: Verdict on the tuned engine's answers, by the gate's name; empty before it was asked.
        digests: Of the tuned engine, its evaluation, the reference's and the decision.
    """

    date: str
    machine: dict[str, Any]
    model: str
    engines: dict[str, str] = Field(default_factory=dict)
    workload: dict[str, Any]
    slo: SloSpec
    objective: Objective
    value: Estimate
    probe_seconds: float
    noise: float
    noise_probes: int
    beat: dict[str, Any]
    ratio: Estimate | None = None
    reason: str
    probes: int
    refused: int = 0
    space: str
    command: str
    gate: dict[str, str] = Field(default_factory=dict)
    digests: dict[str, str] = Field(default_factory=dict)


class TunedSpec(StrictModel):
    """Settings that a search chose; the presets of the group `tuned`.

    Attributes:
        name: The preset's name, `none` for nothing tuned.
        engine: Settings of `EngineSpec`.
        serve: Settings of `ServeSpec`.
        gateway: Settings of the gateway.
        evidence: What the choice rests on.
    """

    name: str = "none"
    engine: dict[str, Any] = Field(default_factory=dict)
    serve: dict[str, Any] = Field(default_factory=dict)
    gateway: dict[str, Any] = Field(default_factory=dict)
    evidence: Evidence | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """The settings by dotted key, as a space has them."""
        found: dict[str, Any] = {}
        for layer in LAYERS:
            _flatten(getattr(self, layer), layer, found)
        return found


def by_layer(settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Returns settings by dotted key as nested ones by layer.

    A section whose kind is null is null as a whole: `engine.speculative_config.decoding_type: null` is no speculation.

    Raises:
        ConfigError: If a key belongs to no layer.
    """
    found: dict[str, dict[str, Any]] = {layer: {} for layer in LAYERS}
    for key, value in settings.items():
        layer, *path = key.split(".")
        if layer not in found:
            raise ConfigError("setting belongs to no layer", where=key, fix=f"begin it with {', '.join(LAYERS)}")
        section: dict[str, Any] = found[layer]
        for part in path[:-1]:
            section = section.setdefault(part, {})
        section[path[-1]] = value
    return {layer: _without_null_sections(values) for layer, values in found.items()}


def to_yaml(preset: TunedSpec) -> str:
    """Returns the preset's file, which opens with the command that uses it."""
    values = preset.model_dump(mode="json", exclude_none=True)
    shown = {key: value for key, value in values.items() if value != {}}
    lead = (
        f"# python -m recipes.build tuned={preset.name}\n# Chosen by `python -m recipes.tune`; its evidence is below.\n"
    )
    return lead + yaml.safe_dump(shown, sort_keys=False, allow_unicode=True, width=120)


def _flatten(values: Mapping[str, Any], prefix: str, found: dict[str, Any]) -> None:
    for key, value in values.items():
        if isinstance(value, Mapping):
            _flatten(value, f"{prefix}.{key}", found)
        else:
            found[f"{prefix}.{key}"] = value


def _without_null_sections(values: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            kinds = [item for name, item in value.items() if name.endswith("type")]
            found[key] = None if kinds and kinds[0] is None else _without_null_sections(value)
        else:
            found[key] = value
    return found
