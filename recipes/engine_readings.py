"""What an engine did in a window: from the records of its steps, or from the gauges of the server around it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from throughline.contracts.engine import EngineInfo, EngineSpec
from throughline.contracts.measurement import EngineReadings

if TYPE_CHECKING:
    from throughline.benchmarking.machine import Sampler
    from throughline.benchmarking.summary import Window
    from throughline.benchmarking.targets import Driven

_KV_BYTES = {"f32": 4.0, "f16": 2.0, "bf16": 2.0, "u8": 1.0, "fp8": 1.0, "u4": 0.5, "nvfp4": 0.5}


def step_readings(driven: Driven, window: Window) -> EngineReadings:
    """Returns the readings of an engine whose every step was seen."""
    from throughline.benchmarking.blocks import block_length, latencies

    steps = [step for step in driven.steps if window.begin <= step.ended <= window.end]
    busy = sum(step.seconds for step in steps)
    lengths = [step.seconds for step in steps]
    started = [record for record in driven.records if window.begin <= record.begin <= window.end]
    return EngineReadings(
        steps=len(steps),
        step_seconds=latencies([[each] for each in lengths], length=block_length(lengths)),
        scheduled=mean([step.scheduled for step in steps]),
        waiting=mean([step.waiting for step in steps]),
        kv_cache_usage=mean([step.kv_cache_usage for step in steps]),
        kv_cache_usage_max=max((step.kv_cache_usage for step in steps), default=None),
        prompt_tokens=sum(record.prompt_tokens for record in started),
        paused_requests=sum(step.paused for step in steps),
        decoding_share=sum(step.seconds for step in steps if not step.has_prompts) / busy if busy else None,
    )


def gauge_readings(sampler: Sampler, window: Window) -> EngineReadings:
    """Returns the readings of an engine behind a server, from its gauges and counters."""
    found = {name: sampler.gauge(name, window.begin, window.end) for name in ("scheduled", "waiting", "kv_cache_usage")}
    counted = {
        name: _counted(sampler.gauge(name, window.begin, window.end))
        for name in ("steps", "prompt_tokens", "reused_tokens", "paused_requests")
    }
    return EngineReadings(
        scheduled=mean(found["scheduled"]),
        waiting=mean(found["waiting"]),
        kv_cache_usage=mean(found["kv_cache_usage"]),
        kv_cache_usage_max=max(found["kv_cache_usage"], default=None),
        **counted,
    )


def _counted(readings: Sequence[float]) -> int | None:
    """How much a counter grew; None where it was read once, or began anew in between."""
    grown = round(readings[-1] - readings[0]) if len(readings) > 1 else -1
    return grown if grown >= 0 else None


def memory_bandwidth(
    info: EngineInfo, spec: Mapping[str, Any], driven: Driven, window: Window, readings: EngineReadings
) -> float | None:
    """Returns bytes a second that the engine must have read: its weights in each step, each token's KV cache once.

    Weights count as they lie in memory (`engines.weight_pass_bytes`), a KV cache of type `auto` as one of two bytes a
    number. None if nobody counts the steps.
    """
    if readings.steps is None:
        return None
    from throughline.engines import weight_pass_bytes

    width = _KV_BYTES.get(str(spec["kv_cache_dtype"]), 2.0)
    per_token = 2 * info.num_hidden_layers * info.num_key_value_heads * info.head_dim * width
    read = float(readings.steps * weight_pass_bytes(info, EngineSpec.model_validate(spec)))
    for record in driven.records:
        if window.begin <= record.begin <= window.end and record.ok:
            tokens = record.completion_tokens
            # Token i attends to the prompt and the i tokens before it.
            read += per_token * tokens * (record.prompt_tokens + (tokens - 1) / 2)
    return read / window.seconds


def mean(values: Sequence[float]) -> float | None:
    """Returns the mean; None of nothing."""
    return sum(values) / len(values) if values else None
