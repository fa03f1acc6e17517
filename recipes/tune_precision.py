"""What a precision of a space means beside its name: the quantisation of the preset `quant=<precision>`."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from recipes import app
from recipes.tuned import merged
from throughline.contracts.engine import EngineSpec

# Of `EngineSpec`: what the presets of the group `quant` set.
FIELDS = ("group_size", "symmetric", "calibration", "int4_ratio", "calib_size", "calib_max_seq_length")


def over(spec: EngineSpec, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the values of a spec with changes over it.

    With another precision the old one's quantisation does not stay: an engine of calibrated INT4 becomes plain INT8,
    and INT8 becomes calibrated INT4, unless the changes say otherwise.
    """
    precision = changes.get("precision", spec.precision)
    values = spec.model_dump()
    if precision != spec.precision:
        values |= _preset(str(precision))
    return merged(values, dict(changes))


def quantisation(spec: EngineSpec, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the changes, and where they choose a precision its quantisation too, so that a build needs no more."""
    if "precision" not in changes:
        return dict(changes)
    values = over(spec, changes)
    return {"precision": changes["precision"], **{name: values[name] for name in FIELDS}, **changes}


@functools.cache
def _preset(precision: str) -> dict[str, Any]:
    neutral = {name: EngineSpec.model_fields[name].default for name in FIELDS}
    if not (app.CONF / "quant" / f"{precision}.yaml").is_file():
        return neutral
    engine = app.compose("build", [f"quant={precision}"])["engine"]
    return neutral | {name: engine[name] for name in FIELDS if name in engine}
