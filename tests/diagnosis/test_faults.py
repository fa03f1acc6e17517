"""The fault library on a real engine: each is named, its lever helps; twenty healthy runs get no finding.

python -m pytest tests/diagnosis -m slow

About 15 minutes on two cores with nothing beside.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from recipes import app, faults
from recipes.measuring import measuring
from tests.diagnosis.conftest import Record
from throughline.artifacts import Artifact, ArtifactStore
from throughline.contracts.config import parse
from throughline.contracts.slo import SloSpec
from throughline.contracts.workload import Workload
from throughline.diagnosis import diagnose

FAULTS = sorted(path.stem for path in (app.CONF / "fault").glob("*.yaml"))
# Less than that and it did not help: twice the spread of two runs of the same settings.
LEAST_GAIN = 1.1
HEALTHY = 20
SLO = SloSpec(ttft_seconds=2.0, itl_seconds=0.5, percentile=95)


def spec(name: str) -> faults.FaultSpec:
    path: Path = app.CONF / "fault" / f"{name}.yaml"
    return parse(faults.FaultSpec, yaml.safe_load(path.read_text()), where=name)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_named_and_its_lever_helps(
    name: str, store: ArtifactStore, engines: dict[str, Artifact], record: Record
) -> None:
    found = faults.cause(spec(name), store=store, engines=engines)
    lever = " ".join(faults.typed(found.finding).overrides) if found.finding else "-"
    gain = f"{found.gain:.2f}×" if found.gain is not None else "-"
    record(name, {"named": found.rank, "gain": gain, "lever": lever, "said": ",".join(found.diagnosis.names)})
    assert found.rank == 1, found.diagnosis
    assert found.gain is not None
    assert found.gain >= LEAST_GAIN


@pytest.mark.slow
def test_healthy_runs_get_no_finding(store: ArtifactStore, engines: dict[str, Artifact], record: Record) -> None:
    alarms = {}
    with measuring("raw", store=store, engine=engines["int8"]) as ready:
        for seed in range(HEALTHY):
            load = healthy(seed)
            found = diagnose(ready.measure(load, slo=SLO, seconds=12, seed=seed))
            record(f"healthy {seed}", {"said": ",".join(found.names) or "-", "over": found.over})
            if not found.healthy:
                alarms[seed] = found
    assert not alarms


def healthy(seed: int) -> Workload:
    """A load that the engine carries: lengths and arrivals of many kinds, a third of what it can do."""
    arrivals = (
        {"process": "closed", "users": 1 + seed % 2},
        {"process": "poisson", "requests_per_second": 0.8},
        {"process": "constant", "requests_per_second": 0.8},
        {"process": "gamma", "requests_per_second": 0.8, "burstiness": 0.7},
    )[seed % 4]
    tokens = (48, 96, 160, 64, 128)[seed % 5]
    return Workload.model_validate(
        {
            "input_tokens": tokens,
            "output_tokens": 16 + 8 * (seed % 3),
            "longest_input_tokens": 2 * tokens,
            "longest_output_tokens": 80,
            "input_cv": 0.3 * (seed % 2),
            "output_cv": 0.3,
            # A beginning and the chat template need room.
            "shared_prefix_tokens": 32 if seed % 3 == 0 and tokens >= 96 else 0,
            "arrivals": arrivals,
        }
    )
