"""Runs of the fault library on SmolLM2-135M in INT8 (two cores, other work beside), as `recipes.faults` measured them.

`<fault>.fault.json` is the run with the fault, `<fault>.lever.json` the one with the first lever that the doctor named.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from recipes import faults
from tests.unit.diagnosis.test_faults import spec
from throughline.contracts.measurement import Measurement
from throughline.diagnosis import diagnose

FOLDER = Path(__file__).parent / "recorded"
FAULTS = sorted(path.name.partition(".")[0] for path in FOLDER.glob("*.fault.json"))
LEVERS = sorted(path.name.partition(".")[0] for path in FOLDER.glob("*.lever.json"))


def recorded(name: str) -> Measurement:
    return Measurement.model_validate_json((FOLDER / f"{name}.json").read_text())


def test_there_are_runs() -> None:
    assert len(FAULTS) >= 2


@pytest.mark.parametrize("name", FAULTS)
def test_the_fault_is_named_first(name: str) -> None:
    assert diagnose(recorded(f"{name}.fault")).names[0] == spec(name).names


@pytest.mark.parametrize("name", LEVERS)
def test_the_lever_helped_and_the_finding_is_gone_or_less(name: str) -> None:
    before, after = recorded(f"{name}.fault"), recorded(f"{name}.lever")
    assert spec(name).gain(before, after) > 1.1
    costs = [
        sum(finding.severity for finding in diagnose(run).findings if finding.name == spec(name).names)
        for run in (before, after)
    ]
    assert costs[1] < costs[0]


def grid() -> dict[tuple[object, ...], Measurement]:
    """Points of a grid of settings, each measured alone on the machine (SmolLM2-135M, four users)."""
    rows = json.loads((FOLDER / "grid.json").read_text())
    return {tuple(row["settings"].values()): Measurement.model_validate(row["measurement"]) for row in rows}


def pulled() -> list[tuple[tuple[object, ...], tuple[object, ...]]]:
    """Points whose first lever leads to another point that was measured."""
    points = grid()
    keys = list(json.loads((FOLDER / "grid.json").read_text())[0]["settings"])
    found = []
    for point, run in points.items():
        changed = dict(zip(keys, point, strict=True))
        for override in faults.typed(diagnose(run).findings[0]).overrides:
            key, _, text = override.partition("=")
            changed[key] = faults.literal(text)
        if len(changed) == len(keys) and (there := tuple(changed.values())) in points:
            found.append((point, there))
    return found


def test_there_are_points_to_compare() -> None:
    assert len(pulled()) >= 6


@pytest.mark.parametrize(("before", "after"), pulled())
def test_the_lever_betters_the_limit_that_was_broken(before: tuple[object, ...], after: tuple[object, ...]) -> None:
    """The other point was measured by a search over all settings, which knows nothing of the doctor."""
    first, second = grid()[before], grid()[after]
    assert first.slo is not None
    broken = max(first.over(first.slo).items(), key=lambda item: item[1])[0].removesuffix("_seconds")
    at = f"p{first.slo.percentile}"
    assert getattr(second, broken)[at].value < getattr(first, broken)[at].value
