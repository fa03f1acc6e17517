"""Each rule: named where its fault is plain and not where it is not, and never silenced by more of it."""

from __future__ import annotations

import functools
import importlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipes import app
from tests.unit.diagnosis.faulty import FAULTS
from tests.unit.diagnosis.runs import SLO, run, times
from throughline.contracts.benchmark import Estimate
from throughline.contracts.diagnosis import FINDINGS
from throughline.contracts.errors import ThroughlineError
from throughline.contracts.measurement import Measurement
from throughline.contracts.slo import SloSpec
from throughline.diagnosis import RULES, diagnose

# Recipes that compose what a lever changes.
COMPOSERS = ("build", "serve", "plan", "diagnose")


def test_every_rule_has_a_constructed_fault() -> None:
    assert {rule.name for rule in RULES} == set(FAULTS) <= set(FINDINGS)


def test_a_healthy_run_has_no_finding() -> None:
    found = diagnose(run())
    assert found.healthy, found
    assert not found.undecided


@pytest.mark.parametrize("name", FAULTS)
def test_a_plain_fault_is_named_first(name: str) -> None:
    assert diagnose(FAULTS[name](1.0)).names[0] == name


@pytest.mark.parametrize("name", FAULTS)
@given(more=st.floats(1.0, 8.0))
def test_more_of_a_fault_never_silences_its_rule(name: str, more: float) -> None:
    assert name in diagnose(FAULTS[name](more)).names


@pytest.mark.parametrize("name", FAULTS)
@given(more=st.floats(1.0, 4.0), further=st.floats(1.0, 2.0))
def test_more_of_a_fault_costs_no_less(name: str, more: float, further: float) -> None:
    first, second = (
        next(finding for finding in diagnose(FAULTS[name](amount)).findings if finding.name == name)
        for amount in (more, more * further)
    )
    assert second.severity >= first.severity - 1e-9


@pytest.mark.parametrize("name", FAULTS)
def test_a_finding_shows_its_evidence(name: str) -> None:
    finding = diagnose(FAULTS[name](1.0)).findings[0]
    assert finding.levers
    assert any(each.limit is not None and each.source for each in finding.evidence)
    assert "%" in finding.arithmetic
    assert finding.severity > 0.04


@pytest.mark.parametrize("name", ["queueing", "prefill-bound", "chunk-interference", "decode-bandwidth-bound"])
def test_a_bottleneck_within_the_limits_is_none(name: str) -> None:
    loose = SloSpec(ttft_seconds=60, itl_seconds=60, e2e_seconds=600)
    assert name not in diagnose(FAULTS[name](1.0).model_copy(update={"slo": loose})).names


@pytest.mark.parametrize("name", [rule.name for rule in RULES])
def test_a_rule_without_its_readings_says_so(name: str) -> None:
    fault = FAULTS[name](1.0)
    blank = fault.model_copy(
        update={
            "phases": {},
            "engine": type(fault.engine)(),
            "machine": type(fault.machine)(cores=2),
            "settings": {},
            "load": type(fault.load)(tests=()),
            "itl": {},
            "slo": None,
        }
    )
    found = diagnose(blank)
    assert name in {each.name for each in found.undecided}
    assert name not in found.names


@pytest.mark.parametrize("name", FAULTS)
def test_levers_can_be_typed(name: str) -> None:
    """Hydra composes every override of every lever, in one recipe or another."""
    for finding in diagnose(FAULTS[name](1.0)).findings:
        for lever in finding.levers:
            for override in lever.overrides:
                assert any(composes(recipe, override) for recipe in COMPOSERS), override


@functools.cache
def composes(recipe: str, override: str) -> bool:
    if override.startswith(("workload.", "load.")):
        # Of the benchmark of a workload.
        return bool(override.partition("=")[2])
    try:
        config = app.compose(recipe, [override, *FILL.get(recipe, [])])
        app.to_schema(config, importlib.import_module(f"recipes.{recipe}").Config)
    except ThroughlineError:
        return False
    return True


FILL = {"plan": ["config=/models/example/config.json"], "serve": ["serve.gpu.decoupled=true"]}


def test_the_chunk_that_is_advised_keeps_the_limit() -> None:
    """By the rule's own line through the two measured gaps: 0.02 s for none, 0.5 s for 1024 prompt tokens."""
    (finding,) = diagnose(FAULTS["chunk-interference"](1.0)).findings
    tokens = int(finding.levers[0].overrides[0].partition("=")[2])
    assert tokens % 32 == 0
    assert 0.02 + (0.5 - 0.02) * tokens / 1024 <= (SLO.itl_seconds or 0)


def test_paused_requests_are_not_guessed_where_they_are_counted() -> None:
    """A long gap alone is no thrash if the engine says that it paused nobody."""
    engine = {"kv_cache_usage_max": 1.0, "paused_requests": 0}
    assert "kv-cache-thrash" not in diagnose(run(engine=engine, itl=times(0.05, 0.4, 0.2))).names


def test_an_uncounted_pause_is_told_by_a_gap_beyond_every_step() -> None:
    engine = {"kv_cache_usage_max": 1.0, "paused_requests": None}
    assert "kv-cache-thrash" in diagnose(run(engine=engine, itl=times(0.05, 0.4, 0.2))).names


def test_an_engine_alone_has_no_client() -> None:
    """Its loop sends between steps, so that a long one makes requests late."""
    assert not diagnose(run(target="raw", load={"lag_seconds": times(0.4)})).findings


def test_a_client_bound_run_leads_whatever_else_it_shows() -> None:
    both = FAULTS["queueing"](3.0).model_copy(update={"load": FAULTS["client-bound"](1.0).load})
    assert diagnose(both).names[:2] == ("client-bound", "queueing")


def test_a_slower_clock_than_the_baselines_is_throttling() -> None:
    slow = run(machine={"clock_hertz": 2.4e9})
    (finding,) = diagnose(slow, baseline=run()).findings
    assert (finding.name, round(finding.severity, 2)) == ("throttling", 0.2)
    assert not diagnose(slow).findings


def test_answers_longer_than_the_baselines_are_named() -> None:
    long = run(phases={"decode": 4.0}, output_tokens=200.0, slo=None, machine={"bandwidth": None})
    assert "long-outputs" in diagnose(long, baseline=run()).names


def test_a_broken_limit_without_evidence_is_not_healthy() -> None:
    slow = run(itl=times(0.15), machine={"bandwidth": 5e9})
    found = diagnose(slow)
    assert not found.findings
    assert not found.healthy
    assert found.over


def on_h100(name: str) -> Measurement:
    """A healthy run with what NVML said of an H100 under `benchmarks/gpu_service.py`."""
    found = json.loads((Path(__file__).parent / "recorded" / "h100.json").read_text())[name]
    return run(machine={"gpus": (found["gpu"],), "busy_cores": found["busy_cores"]})


@pytest.mark.parametrize("name", ["alone", "many"])
def test_an_interpreter_that_a_gpu_waits_for_is_named(name: str) -> None:
    """One Python process at one core, the GPU busy a tenth of the time."""
    assert diagnose(on_h100(name)).names == ("host-bound",)


def test_matrix_products_beside_a_service_take_its_power() -> None:
    before, after = on_h100("many"), on_h100("beside")
    (finding,) = diagnose(after, baseline=before).findings
    assert finding.name == "throttling"
    assert finding.severity == pytest.approx(1 - 1698 / 1980, abs=0.001)


def test_a_gpu_without_requests_may_rest() -> None:
    few = run(machine=on_h100("many").machine.model_dump(), requests_per_second=Estimate(0.1, 0.1, 0.1, 6))
    assert "host-bound" not in diagnose(few).names
