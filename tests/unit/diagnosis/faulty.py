"""One constructed run for each finding, by how much of the fault there is (1 is where it is plain)."""

from __future__ import annotations

from collections.abc import Callable

from tests.unit.diagnosis.runs import run, times
from throughline.contracts.measurement import Measurement

GPU = {
    "name": "NVIDIA H100 80GB HBM3",
    "utilisation": 0.95,
    "memory_bytes": 70 * 2**30,
    "power_watts": 690.0,
    "energy_joules": 41_400.0,
    "sm_clock_hertz": 1.98e9,
    "sm_clock_max_hertz": 1.98e9,
}


def client(more: float) -> Measurement:
    """A generator that has no processor time left and falls behind its schedule."""
    lag = 0.5 * more
    test = {"name": "rate", "asked": 20.0, "achieved": 20.0 / (1 + more), "test": "relative error", "passed": False}
    return run(load={"tests": (test,), "generator_cores": 0.99, "lag_seconds": times(lag)})


def queue(more: float) -> Measurement:
    """A full batch of two and a queue before it."""
    engine = {"max_batch_size": 2, "scheduled": 2.0, "waiting": 5.0 * more}
    return run(phases={"queue": 2.0 * more}, engine=engine, settings={"engine.max_batch_size": 2})


def pressure(more: float) -> Measurement:
    """A KV cache that is full with places free."""
    engine = {"scheduled": 3.0, "waiting": 5.0 * more, "kv_cache_usage_max": 0.98}
    return run(phases={"queue": 2.0 * more}, engine=engine)


def thrash(more: float) -> Measurement:
    """A KV cache that is full under `max_utilization`, with requests put back and gaps far beyond a step."""
    engine = {"scheduled": 3.0, "kv_cache_usage_max": 1.0, "paused_requests": round(40 * more), "decoding_share": 0.6}
    settings = {"engine.capacity_scheduler_policy": "max_utilization"}
    return run(phases={"decode": 1.2 + 2 * more}, engine=engine, settings=settings, itl=times(0.05, 0.4, 0.2))


def starvation(more: float) -> Measurement:
    """A queue before free places and a cache with room."""
    engine = {"scheduled": 3.0, "waiting": 5.0 * more, "kv_cache_usage_max": 0.3}
    return run(phases={"queue": 1.0 * more}, engine=engine)


def prefill(more: float) -> Measurement:
    """Long prompts in chunks of 64 tokens."""
    engine = {"decoding_share": 0.45 / more, "max_num_tokens": 64, "waiting": 0.2}
    return run(
        phases={"prefill": 1.5 * more}, engine=engine, input_tokens=900.0, settings={"engine.max_num_tokens": 64}
    )


def reuse(more: float) -> Measurement:
    """A common beginning that is read each time."""
    settings = {"engine.enable_block_reuse": False}
    workload = {"input_tokens": 800, "shared_prefix_tokens": round(400 + 150 * min(2.0, more))}
    return run(phases={"prefill": 0.5 * more}, settings=settings, workload=workload, input_tokens=800.0)


def chunks(more: float) -> Measurement:
    """Streams that wait for steps of a thousand prompt tokens."""
    engine = {"max_num_tokens": 1024, "decoding_share": 0.6, "step_seconds": times(0.06, 0.5 * more)}
    gaps = times(0.05, 0.5 * more, 0.3 * more)
    gaps["p50"] = times(0.02)["p50"]
    return run(engine=engine, itl=gaps, settings={"engine.max_num_tokens": 1024})


def bandwidth(more: float) -> Measurement:
    """Weights in bfloat16, one sequence a step, and the memory at its limit."""
    machine = {"bandwidth": 20e9 * (1 - 0.3 / more), "bandwidth_bound": 20e9}
    settings = {"engine.precision": "bf16", "engine.speculative_config": None}
    slow = {"decode": 6.0 * more}
    return run(phases=slow, machine=machine, settings=settings, engine={"scheduled": 1.0}, itl=times(0.11 * more))


def outputs(more: float) -> Measurement:
    """Answers of four hundred tokens where the limit leaves time for a hundred and fifty."""
    return run(phases={"decode": 7.6 * more}, output_tokens=400.0 * more)


def tokenizer(more: float) -> Measurement:
    """A slow tokenizer."""
    return run(phases={"tokenize": 0.5 * more})


def gateway(more: float) -> Measurement:
    """A gateway at the end of its core."""
    busy = {"engine": 0.9, "gateway": min(1.0, 0.9 + 0.05 * more), "generator": 0.1}
    return run(phases={"gateway": 0.3 * more}, machine={"busy_cores": busy})


def throttling(more: float) -> Measurement:
    """A GPU that its power limit slows down."""
    gpu = GPU | {"sm_clock_hertz": 1.98e9 / (1 + 0.3 * more), "throttled": {"sw_power_cap": min(1.0, 0.5 * more)}}
    return run(machine={"gpus": (gpu,)})


def host(more: float) -> Measurement:
    """A GPU that gets one small kernel after the other from an interpreter."""
    return run(machine={"gpus": (GPU | {"utilisation": 0.4 / more},)})


def padding(more: float) -> Measurement:
    """A batch that is padded to its longest prompt."""
    settings = {"serve.gpu.batching_strategy": "V1", "engine.backend": "tensorrt"}
    return run(engine={"padded_tokens": round(12_000 * more)}, settings=settings)


FAULTS: dict[str, Callable[[float], Measurement]] = {
    "client-bound": client,
    "queueing": queue,
    "kv-cache-pressure": pressure,
    "kv-cache-thrash": thrash,
    "batch-starvation": starvation,
    "prefill-bound": prefill,
    "prefix-reuse-miss": reuse,
    "chunk-interference": chunks,
    "decode-bandwidth-bound": bandwidth,
    "long-outputs": outputs,
    "tokenizer-cpu": tokenizer,
    "gateway-cpu": gateway,
    "throttling": throttling,
    "host-bound": host,
    "padding": padding,
}
