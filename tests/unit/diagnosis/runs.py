"""Measurements to judge: one healthy run, and what a fault makes of it."""

from __future__ import annotations

from typing import Any

from throughline.contracts.benchmark import Estimate
from throughline.contracts.measurement import Latencies, Measurement
from throughline.contracts.slo import SloSpec

SLO = SloSpec(ttft_seconds=0.5, itl_seconds=0.1, e2e_seconds=3.0, percentile=95)
SETTINGS = {
    "engine.backend": "cpu",
    "engine.precision": "int8",
    "engine.max_batch_size": 16,
    "engine.max_num_tokens": 512,
    "engine.kv_cache_bytes": 256 * 2**20,
    "engine.kv_cache_dtype": "auto",
    "engine.enable_block_reuse": True,
    "engine.enable_chunked_context": True,
    "engine.capacity_scheduler_policy": "guaranteed_no_evict",
    "engine.num_threads": 0,
    "gateway.workers": 1,
}
WORKLOAD = {
    "input_tokens": 200,
    "output_tokens": 64,
    "shared_prefix_tokens": 0,
    "arrivals": {"process": "poisson", "requests_per_second": 2.0, "users": 8},
}
PHASES = {
    "gateway": 0.003,
    "tokenize": 0.002,
    "queue": 0.01,
    "prefill": 0.12,
    "decode": 1.2,
    "detokenize": 0.001,
    "network": 0.004,
}
ENGINE = {
    "max_batch_size": 16,
    "max_num_tokens": 512,
    "steps": 1500,
    "scheduled": 3.0,
    "waiting": 0.02,
    "kv_cache_usage": 0.2,
    "kv_cache_usage_max": 0.4,
    "prompt_tokens": 12_000,
    "reused_tokens": 0,
    "paused_requests": 0,
    "decoding_share": 0.85,
    "padded_tokens": 0,
}


def times(mean: float, p99: float = 0.0, p95: float = 0.0) -> Latencies:
    """Percentiles with a mean; the others are near it where they are not given."""
    values = {"mean": mean, "p50": mean, "p90": mean, "p95": p95 or mean * 1.2, "p99": p99 or mean * 1.4}
    return {name: Estimate(value, value * 0.95, value * 1.05, 60) for name, value in values.items()}


def run(
    *,
    phases: dict[str, float] | None = None,
    engine: dict[str, Any] | None = None,
    machine: dict[str, Any] | None = None,
    settings: dict[str, Any] | None = None,
    workload: dict[str, Any] | None = None,
    load: dict[str, Any] | None = None,
    slo: SloSpec | None = SLO,
    **more: Any,
) -> Measurement:
    """A healthy run of one minute, changed where it is said."""
    found = PHASES | (phases or {})
    first = sum(value for name, value in found.items() if name not in ("decode", "network", "detokenize"))
    values: dict[str, Any] = {
        "target": "gateway",
        "settings": SETTINGS | (settings or {}),
        "workload": WORKLOAD | (workload or {}),
        "slo": slo,
        "load": {"tests": (), "generator_cores": 0.1, "lag_seconds": times(0.001)} | (load or {}),
        "started_at": 1_700_000_000.0,
        "warm_up_seconds": 5.0,
        "seconds": 60.0,
        "requests": 120,
        "requests_per_second": Estimate(2.0, 1.9, 2.1, 120),
        "tokens_per_second": Estimate(128.0, 120.0, 136.0, 120),
        "ttft": times(first),
        "itl": times(0.019),
        "tpot": times(0.019),
        "e2e": times(sum(found.values())),
        "input_tokens": 200.0,
        "output_tokens": 64.0,
        "phases": found,
        "engine": ENGINE | {"step_seconds": times(0.02)} | (engine or {}),
        "machine": {
            "cores": 2,
            "busy_cores": {"engine": 1.2, "gateway": 0.1, "generator": 0.1},
            "bandwidth": 5e9,
            "bandwidth_bound": 20e9,
            "clock_hertz": 3e9,
        }
        | (machine or {}),
    }
    return Measurement.model_validate(values | more)
