"""Recipes that take a tuned preset: `tuned=<name>` puts its settings over those of engine, serve and gateway."""

from __future__ import annotations

from typing import Any

from pydantic import model_validator

from recipes.config import RecipeConfig
from throughline.tuning.evidence import LAYERS, TunedSpec


class Tunable(RecipeConfig):
    """A recipe's config with a tuned preset.

    Attributes:
        tuned: Its settings stand over the presets of the layers that the recipe has; to change one of them, override
            it where it stands: `tuned.engine.max_num_tokens=128`.
    """

    tuned: TunedSpec = TunedSpec()

    @model_validator(mode="before")
    @classmethod
    def _over_the_presets(cls, values: Any) -> Any:
        tuned = values.get("tuned") if isinstance(values, dict) else None
        if not isinstance(tuned, dict):
            return values
        changed = {
            layer: merged(values[layer], tuned[layer])
            for layer in LAYERS
            if isinstance(values.get(layer), dict) and isinstance(tuned.get(layer), dict)
        }
        return values | changed


def merged(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Returns values with changes over them; sections are merged, one that is null on either side is replaced."""
    found = dict(values)
    for key, value in changes.items():
        old = found.get(key)
        found[key] = merged(old, value) if isinstance(value, dict) and isinstance(old, dict) else value
    return found
