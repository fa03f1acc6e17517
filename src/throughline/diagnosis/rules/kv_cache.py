"""A KV cache that is too small: requests wait for room, or are put back and computed again."""

from __future__ import annotations

from throughline.contracts.diagnosis import Evidence, Finding, Lever
from throughline.diagnosis import thresholds as t
from throughline.diagnosis.readings import Seen, at, ms, pct
from throughline.diagnosis.rule import Rule
from throughline.diagnosis.rules.batch import (
    is_full,
    prompts_lead,
    queue_arithmetic,
    queue_evidence,
    waits,
)

# Half the bytes of the next wider type; u8 is what the CPU engine's `auto` takes where it can.
_NARROWER = {"f32": "u8", "bf16": "u8", "f16": "u8"}


def _room(seen: Seen) -> list[Lever]:
    levers = []
    size = seen.number("engine.kv_cache_bytes")
    if size is not None:
        why = "room for twice as many tokens; the memory must be there"
        levers.append(Lever(overrides=(f"engine.kv_cache_bytes={2 * size}",), why=why))
    kind = seen.setting("engine.kv_cache_dtype")
    if kind in _NARROWER:
        why = "the same tokens in fewer bytes; check the gate's score"
        levers.append(Lever(overrides=(f"engine.kv_cache_dtype={_NARROWER[kind]}",), why=why))
    if seen.setting("engine.enable_block_reuse") is False and seen.run.workload.get("shared_prefix_tokens"):
        why = "requests that begin alike share those blocks"
        levers.append(Lever(overrides=("engine.enable_block_reuse=true",), why=why))
    return levers


def _fullest(value: float) -> Evidence:
    source = "no block is left for a request of the mean length, or soon will not be"
    return Evidence(name="KV cache at its fullest", value=value, unit="share", limit=t.KV_FULL, source=source)


def _filled(value: float) -> Evidence:
    source = "below it a request of the mean length would fit; what is booked for answers to come is not in use yet"
    return Evidence(name="KV cache at its fullest", value=value, unit="share", limit=t.KV_IDLE, source=source)


def _pressure(seen: Seen) -> Finding | None:
    fullest = seen.run.engine.kv_cache_usage_max
    if fullest is None or seen.fill is None or not (waits(seen) and fullest >= t.KV_IDLE):
        return None
    if is_full(seen) or prompts_lead(seen) or not seen.presses("ttft", "e2e"):
        return None
    return Finding(
        name=PRESSURE.name,
        kind="bottleneck",
        summary="Requests wait for room in the KV cache while the batch has places.",
        severity=seen.share("queue"),
        cost="latency",
        arithmetic=queue_arithmetic(seen),
        evidence=(*queue_evidence(seen), _filled(fullest)),
        levers=(*_room(seen), Lever(why="shorter prompts, or fewer `max_tokens`: both are booked")),
        contradicted_by="twice the cache leaves the queue as long as it was",
    )


def thrash(seen: Seen) -> Finding | None:
    """Returns the finding of a cache that requests are put back for."""
    fullest = seen.run.engine.kv_cache_usage_max
    if fullest is None or fullest < t.KV_FULL:
        return None
    gap, step = at(seen.run.itl, "p99"), at(seen.run.engine.step_seconds, "p99")
    paused = seen.run.engine.paused_requests
    share = paused / seen.run.requests if paused is not None and seen.run.requests else None
    stalled = gap is not None and step is not None and step > 0 and gap > t.GAP_OVER_STEP * step
    # Of an engine that does not count them, streams that miss steps say the same.
    if not stalled if share is None else share < t.PAUSED:
        return None
    evidence = [_fullest(fullest)]
    if share is not None:
        source = "each of them is computed again"
        evidence.append(Evidence(name="paused requests", value=share, unit="share", limit=t.PAUSED, source=source))
    if gap is not None and step is not None and stalled:
        source = "a stream in the batch gets a token a step"
        evidence.append(Evidence(name="p99 of gaps", value=gap, unit="s", limit=t.GAP_OVER_STEP * step, source=source))
    severity, arithmetic = _thrash_cost(seen)
    levers = _room(seen)
    if seen.setting("engine.capacity_scheduler_policy") == "max_utilization":
        why = "starts a request when its longest answer fits, so that none is put back; it waits instead"
        lever = Lever(overrides=("engine.capacity_scheduler_policy=guaranteed_no_evict",), why=why)
        levers = [lever, *levers]
    if seen.setting("serve.gpu.batch_scheduler_policy") == "max_utilization":
        why = "the same for TensorRT-LLM"
        levers.append(Lever(overrides=("serve.gpu.batch_scheduler_policy=guaranteed_no_evict",), why=why))
    return Finding(
        name=THRASH.name,
        kind="waste",
        summary="The KV cache is full, and running requests are put back and computed again.",
        severity=severity,
        cost="throughput",
        arithmetic=arithmetic,
        evidence=tuple(evidence),
        levers=tuple(levers),
        contradicted_by="no request is paused once the cache has twice the room, and the gaps stay",
    )


def _thrash_cost(seen: Seen) -> tuple[float, str]:
    """The engine's time for what it reads again; of an engine that does not count pauses, the streams' time outside."""
    run, paused = seen.run, seen.run.engine.paused_requests
    if paused:
        again = paused * (run.input_tokens + run.output_tokens / 2)
        # What the window did not count is what its requests brought.
        new = run.engine.prompt_tokens or run.requests * run.input_tokens
        steps = seen.prompt_steps if seen.prompt_steps is not None else seen.share("prefill")
        severity = steps * again / (again + new)
        return severity, (
            f"steps with prompts {pct(steps)} of the engine's time × {again:.0f} tokens read again (prompt and half an "
            f"answer of {paused} paused requests) / {again + new:.0f} read = {pct(severity)}"
        )
    gap, step, decode = at(run.itl, "mean"), at(run.engine.step_seconds, "mean"), seen.share("decode")
    severity = decode * max(0.0, 1 - step / gap) if gap and step else 0.0
    return severity, (
        f"decode {pct(decode)} of a request × (1 − mean step {ms(step or 0.0)} / mean gap {ms(gap or 0.0)}) = "
        f"{pct(severity)}"
    )


PRESSURE = Rule(
    "kv-cache-pressure",
    "requests wait for room in the KV cache",
    ("phases", "engine.scheduled", "engine.kv_cache_usage_max"),
    _pressure,
)
THRASH = Rule(
    "kv-cache-thrash",
    "running requests are put back for want of room and computed again",
    ("engine.kv_cache_usage_max", "engine.paused_requests|engine.step_seconds"),
    thrash,
)
