"""Runs of the fault library on SmolLM2-135M in INT8 (two cores, other work beside), as `recipes.faults` measured them.

`<fault>.fault.json` is the run with the fault, `<fault>.lever.json` the one with the first lever that the doctor named.
"""

from __future__ import annotations

from pathlib import Path

import pytest

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
