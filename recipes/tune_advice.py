"""From a diagnosis to points of a space: what the doctor would change is measured first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from recipes.tune_config import Config
from throughline.contracts.measurement import Measurement
from throughline.diagnosis import diagnose
from throughline.tuning import SpaceSpec


@dataclass(frozen=True)
class Advice:
    """What the diagnosis comes to.

    Attributes:
        finding: Name and summary of the costliest finding, or "" for a healthy run.
        points: Settings that its levers change, by dotted key; one a lever.
    """

    finding: str
    points: tuple[dict[str, Any], ...]


def advise(found: Measurement, config: Config) -> Advice:
    """Diagnoses a measurement; levers beyond the space are left out."""
    diagnosis = diagnose(found)
    if not diagnosis.findings:
        return Advice("", ())
    levers = [lever.overrides for finding in diagnosis.findings for lever in finding.levers]
    first = diagnosis.findings[0]
    points = tuple(point for overrides in levers if (point := changes(overrides, config.space)))
    return Advice(f"{first.name}: {first.summary}", points)


def changes(overrides: Sequence[str], space: SpaceSpec) -> dict[str, Any]:
    """Returns a lever's overrides as settings of a space; empty if one of them is not the space's to change."""
    found: dict[str, Any] = {}
    keys = {each.key: each for each in space.dimensions}
    for override in overrides:
        key, _, text = override.partition("=")
        # A preset of quantisation is an engine's precision here.
        key = "engine.precision" if key == "quant" else key
        value = yaml.safe_load(text)
        if key not in keys or (keys[key].kind == "categorical" and value not in keys[key].values):
            return {}
        found[key] = value
    return found
