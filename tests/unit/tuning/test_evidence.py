"""The winner's preset: settings by layer, evidence beside them, and a check that it still holds."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from tests.unit.tuning.surface import DEFAULT, SLO, made, measurement
from throughline.contracts.benchmark import Estimate
from throughline.contracts.config import parse
from throughline.contracts.errors import ConfigError
from throughline.tuning.drift import check
from throughline.tuning.evidence import Evidence, TunedSpec, by_layer, to_yaml

MACHINE = {"processor": "a processor", "cores": 2}
WORKLOAD = {"concurrency": 32, "input_tokens": 300}


def evidence(value: float = 2.0, **changes: Any) -> Evidence:
    return Evidence(
        **{
            "date": "2026-11-26T20:00:00+00:00",
            "machine": MACHINE,
            "model": "abc",
            "workload": WORKLOAD,
            "slo": SLO,
            "objective": "goodput",
            "value": Estimate(value, value, value, 4),
            "probe_seconds": 12.0,
            "noise": 0.03,
            "noise_probes": 4,
            "beat": DEFAULT,
            "ratio": Estimate(1.4, 1.3, 1.5, 4),
            "reason": "1.40 [1.30, 1.50] times the incumbent's",
            "probes": 24,
            "space": "paper, 96 points",
            "command": "python -m recipes.tune",
        }
        | changes
    )


def test_settings_go_to_their_layers_and_back() -> None:
    settings = {
        "engine.max_num_tokens": 128,
        "engine.speculative_config.decoding_type": "NGram",
        "engine.speculative_config.max_draft_len": 4,
        "serve.flush_interval_ms": 50,
        "gateway.limits.max_active_requests": 64,
    }
    layers = by_layer(settings)
    assert layers["engine"]["speculative_config"] == {"decoding_type": "NGram", "max_draft_len": 4}
    assert TunedSpec(name="x", **layers).settings == settings
    with pytest.raises(ConfigError, match="belongs to no layer"):
        by_layer({"engines.max_num_tokens": 1})


def test_no_speculation_is_no_section() -> None:
    assert by_layer({"engine.speculative_config.decoding_type": None})["engine"] == {"speculative_config": None}


def test_the_file_reads_as_what_was_written_and_opens_with_its_command() -> None:
    preset = TunedSpec(name="quick", **by_layer({"engine.max_num_tokens": 128}), evidence=evidence())
    text = to_yaml(preset)
    assert text.startswith("# python -m recipes.build tuned=quick\n")
    assert parse(TunedSpec, yaml.safe_load(text), where="tuned") == preset


def again(goodput: float, ttft: float = 1.0) -> list[Any]:
    return [made(DEFAULT, rate=3.0, goodput=goodput, ttft=ttft, itl=0.1)] * 3


def test_what_measures_the_same_holds() -> None:
    found = check(evidence(), again(1.97), machine=MACHINE, workload=WORKLOAD)
    assert found.holds and found.change == pytest.approx(0.985)
    assert "within" in found.reason


def test_what_fell_by_more_than_noise_does_not() -> None:
    found = check(evidence(), again(1.5), machine=MACHINE, workload=WORKLOAD)
    assert not found.holds and found.change == pytest.approx(0.75)
    assert "0.75 of what it was, beyond" in found.reason


def test_better_is_no_drift_and_a_broken_limit_is() -> None:
    assert check(evidence(), again(3.0), machine=MACHINE, workload=WORKLOAD).holds
    found = check(evidence(), again(2.0, ttft=3.0), machine=MACHINE, workload=WORKLOAD)
    assert not found.holds and "ttft_seconds is exceeded 1.50 times" in found.reason


def test_another_machine_or_workload_is_said() -> None:
    found = check(evidence(), again(2.0), machine=MACHINE | {"cores": 8}, workload=WORKLOAD | {"concurrency": 8})
    assert not found.holds
    assert "another machine (cores was 2, is 8); another workload" in found.reason


def test_the_paper_service_agrees_with_itself() -> None:
    value = measurement(DEFAULT).goodput
    assert value is not None
    ours = evidence(value.value)
    assert check(ours, [measurement(DEFAULT)], machine=MACHINE, workload=WORKLOAD).change == pytest.approx(1.0)
