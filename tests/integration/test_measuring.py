"""`measure` on the tiny engine: alone, with settings overridden, and through Triton and the gateway."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from recipes.measuring import measure
from throughline.artifacts import Artifact, ArtifactStore
from throughline.contracts.errors import UserError
from throughline.contracts.slo import SloSpec
from throughline.contracts.workload import Workload

LENGTHS = {"input_tokens": 80, "output_tokens": 12, "longest_input_tokens": 200, "longest_output_tokens": 40}
POISSON = {"process": "poisson", "requests_per_second": 15.0}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ArtifactStore:
    return ArtifactStore(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def engine(store: ArtifactStore, tiny_engine: Path) -> Artifact:
    with store.stage("engine", "tiny", config={}, code_version="0") as run:
        shutil.copytree(tiny_engine, run.directory, dirs_exist_ok=True)
        return run.commit(metrics={"weight_bytes": 1})


def workload(**more: Any) -> Workload:
    return Workload(**{**LENGTHS, **more})


def test_an_engine_alone_under_an_open_loop(store: ArtifactStore, engine: Artifact) -> None:
    load = workload(input_cv=0.5, output_cv=0.5, arrivals=POISSON, cancelled_share=0.1, tenants={"a": 0.75, "b": 0.25})
    found = measure("raw", load, store=store, engine=engine, slo=SloSpec(ttft_seconds=30.0), seconds=6, seed=3)
    print(found.model_dump_json(indent=1))
    assert found.load.valid, found.load.tests
    assert {test.name for test in found.load.tests} == {
        "rate",
        "arrivals",
        "input_tokens",
        "output_tokens",
        "cancelled",
        "tenants",
    }
    assert not found.errors
    assert found.goodput is not None
    assert found.engine.steps
    assert sum(found.phases.values()) == pytest.approx(found.e2e["mean"].value, rel=0.02)
    assert found.settings["engine.max_seq_len"] == 512


def test_settings_reach_the_engine(store: ArtifactStore, engine: Artifact) -> None:
    load = workload(arrivals={"process": "closed", "users": 4})
    settings = {"engine.max_batch_size": 2, "engine.enable_block_reuse": False}
    found = measure("raw", load, store=store, engine=engine, settings=settings, seconds=3)
    assert found.load.valid, found.load.tests
    assert found.engine.max_batch_size == 2
    assert found.engine.scheduled is not None
    assert found.engine.scheduled <= 2
    assert found.settings["engine.enable_block_reuse"] is False
    with pytest.raises(UserError, match="fixed when the engine is built"):
        measure("raw", load, store=store, engine=engine, settings={"engine.precision": "int8"}, seconds=3)


def test_through_triton_and_the_gateway(store: ArtifactStore, engine: Artifact) -> None:
    load = workload(
        arrivals={"process": "constant", "requests_per_second": 8.0},
        shared_prefix_tokens=30,
        turns=2,
        turn_tokens=20,
        input_tokens=100,
    )
    for target in ("triton", "gateway"):
        found = measure(target, load, store=store, engine=engine, seconds=5)
        assert found.load.valid, found.load.tests
        assert not found.errors
        assert found.requests_per_second.value > 0
        assert found.machine.busy_cores["engine"] > 0
        print(target, found.model_dump_json(indent=1))
