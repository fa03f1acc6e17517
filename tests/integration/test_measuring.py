"""`measure` on the tiny engine: alone, with settings overridden, and through Triton and the gateway."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from recipes.bench_run import Run, read, run_workload
from recipes.endpoint import Endpoint
from recipes.measuring import Measuring, measure
from recipes.opening import Opened
from tests.conftest import RunningTriton
from throughline.artifacts import Artifact, ArtifactStore
from throughline.benchmarking.spans import SpanReceiver
from throughline.benchmarking.targets import LocustTarget, TritonTarget
from throughline.contracts.engine import EngineInfo
from throughline.contracts.errors import MeasurementError, UserError
from throughline.contracts.gateway import GatewaySpec
from throughline.contracts.measurement import PHASES, Measurement, Target
from throughline.contracts.price import PriceSpec
from throughline.contracts.slo import SloSpec
from throughline.contracts.tracing import GatewayTracing
from throughline.contracts.workload import Workload
from throughline.gateway import GatewayProcess
from throughline.triton.metrics_page import engine_gauges, fetch

pytestmark = pytest.mark.integration
LENGTHS = {"input_tokens": 80, "output_tokens": 12, "longest_input_tokens": 200, "longest_output_tokens": 40}
# Properties of the load that a busy machine does not keep.
TIMED = {"rate", "arrivals", "concurrency"}
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
    assert_shaped(found)
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
    assert_shaped(found)
    assert found.engine.max_batch_size == 2
    assert found.engine.scheduled is not None
    assert found.engine.scheduled <= 2
    assert found.settings["engine.enable_block_reuse"] is False
    with pytest.raises(UserError, match="fixed when the engine is built"):
        measure("raw", load, store=store, engine=engine, settings={"engine.precision": "int8"}, seconds=3)


def served(engine: Artifact, name: Target, target: Any, server: RunningTriton, spans: SpanReceiver | None) -> Measuring:
    spec = EngineInfo.read(engine.path).spec.model_dump(mode="json")

    def gauges() -> Mapping[str, float]:
        return engine_gauges(fetch("127.0.0.1", server.metrics_port), server.model)

    return Measuring(Opened(name, target, {}, gauges, spec, {}, engine.path, engine=engine, spans=spans), 60.0)


def assert_shaped(found: Measurement) -> None:
    """Lengths and shares are as asked; how well the times were kept hangs on what else this machine does."""
    assert found.load.tests
    assert [test for test in found.load.tests if test.name not in TIMED and not test.passed] == []


def test_turns_through_triton(engine: Artifact, triton_server: RunningTriton) -> None:
    load = workload(
        arrivals={"process": "closed", "users": 2},
        shared_prefix_tokens=30,
        turns=2,
        turn_tokens=20,
        input_tokens=100,
        think_seconds=0.05,
    )
    url = f"127.0.0.1:{triton_server.grpc_port}"
    target = TritonTarget(url, triton_server.model, server_pid=os.getpid(), ignore_eos=True, timeout_seconds=60)
    found = served(engine, "triton", target, triton_server, None).measure(load, seconds=4)
    assert_shaped(found)
    assert not found.errors
    assert found.input_tokens == pytest.approx(100, rel=0.05)
    assert sum(found.phases.values()) == pytest.approx(found.e2e["mean"].value, rel=0.02)
    assert set(found.phases) == {"queue", "prefill", "decode", "network"}
    assert found.engine.steps
    assert found.engine.kv_cache_usage_max is not None


def test_where_a_request_s_time_goes_behind_the_gateway(engine: Artifact, triton_server: RunningTriton) -> None:
    """The parts are measured by three processes' clocks, and sum to what the client saw."""
    load = workload(arrivals={"process": "constant", "requests_per_second": 12.0}, cancelled_share=0.1)
    route = triton_server.route("lab")
    with SpanReceiver() as spans:
        tracing = GatewayTracing(endpoint=spans.endpoint, sample_ratio=0.0)
        spec = GatewaySpec(port=0, models=(route,), tracing=tracing)
        with (
            GatewayProcess(spec) as gateway,
            LocustTarget(gateway.url, "lab", ignore_eos=True, timeout_seconds=60) as target,
        ):
            found = served(engine, "gateway", target, triton_server, spans).measure(load, seconds=4)
    assert_shaped(found)
    assert set(found.phases) == set(PHASES)
    assert all(seconds > 0 for seconds in found.phases.values()), found.phases
    assert sum(found.phases.values()) == pytest.approx(found.e2e["mean"].value, rel=0.02)


def test_bad_settings_are_refused_before_anything_starts(store: ArtifactStore, engine: Artifact) -> None:
    for target, key, message in (
        ("raw", "gateway.workers", r"none of the target 'raw'.*raw takes engine"),
        ("gateway", "engine.max_num_tokens", r"Triton loads an engine as it was built"),
    ):
        with pytest.raises(UserError, match=message):
            measure(target, workload(), store=store, engine=engine, settings={key: 2}, seconds=3)
    with pytest.raises(UserError, match="longer than the engine's context"):
        measure("raw", workload(longest_input_tokens=600), store=store, engine=engine, seconds=3)


@pytest.mark.slow
def test_a_gateway_is_started_measured_and_stopped(store: ArtifactStore, engine: Artifact) -> None:
    load = workload(arrivals={"process": "constant", "requests_per_second": 8.0})
    settings = {"gateway.limits.max_concurrent_requests": 64, "serve.stream_interval_tokens": 4}
    found = measure("gateway", load, store=store, engine=engine, settings=settings, seconds=5)
    assert_shaped(found)
    assert set(found.machine.busy_cores) == {"engine", "triton", "gateway", "generator", "other"}
    assert found.machine.busy_cores["engine"] > 0
    assert found.settings["serve.stream_interval_tokens"] == 4


def run_of(store: ArtifactStore, engine: Artifact | None, **more: Any) -> Run:
    values: dict[str, Any] = {
        "endpoint": None,
        "dataset": None,
        "workload": workload(arrivals=POISSON),
        "slo": SloSpec(ttft_seconds=30.0, tpot_seconds=30.0),
        "price": PriceSpec(cpu_hour=0.05),
        "targets": ("raw",),
        "seconds": 3.0,
        "rounds": 1,
        "settings": {},
        "timeout_seconds": 60.0,
        "seed": 1,
        "web_port": None,
        "command": "python -m recipes.bench",
    }
    return Run(store=store, engine=engine, **{**values, **more})


def test_a_benchmark_is_an_artifact_with_a_page(store: ArtifactStore, engine: Artifact) -> None:
    made = run_workload(run_of(store, engine))
    [found] = read(made.path)
    assert_shaped(found)
    page = (made.path / "report.html").read_text()
    assert "every limit kept" in page
    assert "Proof of the load" in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert run_workload(run_of(store, engine)).digest == made.digest


def test_a_service_that_runs_already_is_measured_by_its_address(
    store: ArtifactStore, engine: Artifact, triton_server: RunningTriton
) -> None:
    """Model, context and gauges are what it says itself; each time is a benchmark of its own."""
    route = triton_server.route("lab")
    with GatewayProcess(GatewaySpec(port=0, models=(route,))) as gateway:
        url = gateway.url
        endpoint = Endpoint(url=f"{url}/v1", tokenizer=engine.path)
        made, again = (run_workload(run_of(store, None, endpoint=endpoint, targets=("gateway",))) for _ in range(2))
        with pytest.raises(UserError, match=r"longer than .* context"):
            long = workload(longest_input_tokens=600)
            run_workload(run_of(store, None, endpoint=endpoint, targets=("gateway",), workload=long))
    assert made.digest != again.digest
    [found] = read(made.path)
    assert_shaped(found)
    assert not found.errors
    assert found.settings == {"endpoint.url": url, "endpoint.model": "lab", "endpoint.body": {}}
    assert (found.target, found.engine_digest, found.machine.bandwidth) == ("gateway", "", None)
    assert set(found.machine.busy_cores) == {"server", "generator", "other"}
    assert found.machine.busy_cores["server"] > 0
    assert found.engine.scheduled is not None
    assert url in (made.path / "report.html").read_text()


def test_what_was_measured_stays_when_a_target_fails(store: ArtifactStore, engine: Artifact) -> None:
    run = run_of(store, engine, targets=("raw", "triton"), settings={"serve.no_such_setting": 1}, seed=2)
    with pytest.raises(MeasurementError, match=r"1 of 2 targets could not be measured.*no_such_setting") as caught:
        run_workload(run)
    kept = Path(caught.value.where)
    assert [item["target"] for item in json.loads(kept.read_text())] == ["raw"]
    assert (kept.parent / "report.html").is_file()
    assert not [item for item in store.all("benchmark") if item.manifest.seed == 2]
