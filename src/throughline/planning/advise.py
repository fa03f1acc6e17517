"""What to choose: a precision for the load, limits for the engine, and changes that make one fit that does not."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from throughline.contracts.planning import GpuSpec, PlannedPrecision, PlanSpec
from throughline.contracts.workload import Workload
from throughline.planning.memory import Memory, kv_dtype, memory, sequences
from throughline.planning.roofline import Estimate, estimate, peak
from throughline.planning.search import Change, cheapest
from throughline.planning.shape import ModelShape

# Compute capability from which on TensorRT-LLM has kernels for it (ModelOpt's and TensorRT-LLM's hardware tables).
LEAST_CAPABILITY: Mapping[PlannedPrecision, float] = {
    "bf16": 8.0,
    "fp8": 8.9,
    "int8": 8.0,
    "int8_sq": 8.0,
    "int4_awq": 8.0,
    "w4a8_awq": 8.9,
    "nvfp4": 10.0,
}
_FP8_KV_CAPABILITY = 8.9
_LEAST_TOKENS = 1024
_MOST_GPUS = 8


@dataclass(frozen=True)
class Option:
    """One precision on one GPU."""

    precision: PlannedPrecision
    memory: Memory
    estimate: Estimate | None


def supported(gpu: GpuSpec) -> list[PlannedPrecision]:
    """Returns the precisions that a GPU computes in."""
    return [name for name, least in LEAST_CAPABILITY.items() if gpu.compute_capability >= least and peak(gpu, name) > 0]


def fits(found: Memory, plan: PlanSpec, workload: Workload) -> bool:
    """Returns whether the longest request fits, and the wanted number of mean ones."""
    longest = workload.longest_input_tokens + workload.longest_output_tokens
    mean = math.ceil((workload.input_tokens + workload.output_tokens) / plan.tokens_per_block) * plan.tokens_per_block
    wanted = max(longest, mean * max(1, workload.concurrency))
    return found.free >= 0 and found.kv_capacity >= wanted and workload.concurrency <= plan.max_batch_size


def options(shape: ModelShape, gpu: GpuSpec, plan: PlanSpec, workload: Workload) -> list[Option]:
    """Returns every precision that the GPU has, the one planned first."""
    names = sorted(supported(gpu), key=lambda name: name != plan.precision)
    found = []
    for name in names:
        each = plan.model_copy(update={"precision": name})
        taken = memory(shape, gpu, each, workload)
        speed = estimate(shape, gpu, each, workload, taken, workload.concurrency)
        found.append(Option(name, taken, speed if fits(taken, each, workload) else None))
    return found


def first_limit(found: Memory, plan: PlanSpec, workload: Workload, positions: int) -> str:
    """Returns what gives out first as requests or their context grow, in words."""
    fit = sequences(found, plan, workload)
    longest = workload.longest_input_tokens + workload.longest_output_tokens
    if found.kv_capacity < longest:
        return f"one request of {longest:,} tokens: the KV cache holds {found.kv_capacity:,}"
    if longest > positions:
        return f"context: the longest request has {longest:,} tokens, the model was made for {positions:,}"
    mean = workload.input_tokens + workload.output_tokens
    if fit >= plan.max_batch_size:
        grown = found.kv_capacity // plan.max_batch_size
        return f"max_batch_size={plan.max_batch_size} requests; the KV cache holds as many of {grown:,} tokens each"
    return f"the KV cache, at {fit:,} requests of {mean:,} tokens, or {fit // 2:,} of twice as many"


def recommended(found: list[Option], plan: PlanSpec, workload: Workload) -> dict[str, Any] | None:
    """Returns limits and the fastest precision of those that fit, None if none does."""
    able = [option for option in found if option.estimate is not None]
    if not able:
        return None
    best = max(able, key=lambda option: option.estimate.tokens_per_second if option.estimate else 0.0)
    users = best.estimate.concurrency if best.estimate else 1
    longest = workload.longest_input_tokens + workload.longest_output_tokens
    batch = min(plan.max_batch_size, 2 ** math.ceil(math.log2(max(1, users))))
    return {
        "precision": best.precision,
        "max_batch_size": batch,
        # A chunk of prompt beside a token of every running sequence.
        "max_num_tokens": max(_LEAST_TOKENS, min(plan.max_num_tokens, 2 ** math.ceil(math.log2(batch + longest)))),
        "max_seq_len": math.ceil(longest / plan.tokens_per_block) * plan.tokens_per_block,
    }


def changes(shape: ModelShape, gpu: GpuSpec, plan: PlanSpec, workload: Workload, count: int = 3) -> list[Change]:
    """Returns the cheapest changes that make a plan fit: fewer of them first, then in the order of what they cost."""

    def fit(settings: Mapping[str, Any]) -> bool:
        changed = plan.model_copy(update=settings)
        return fits(memory(shape, gpu, changed, workload), changed, workload)

    return cheapest(list(_single(gpu, plan, workload)), fit, count)


def _single(gpu: GpuSpec, plan: PlanSpec, workload: Workload) -> Iterator[Change]:
    if plan.max_num_tokens > _LEAST_TOKENS:
        yield Change({"max_num_tokens": _LEAST_TOKENS}, "prompts are read in more chunks")
    least = max(8, workload.concurrency)
    if plan.max_batch_size > least:
        yield Change({"max_batch_size": least}, "no more sequences at a time")
    if kv_dtype(plan) == "bf16" and gpu.compute_capability >= _FP8_KV_CAPABILITY:
        yield Change({"kv_cache_dtype": "fp8"}, "keys and values in 8 bits: measure quality")
    for name, cost in (
        ("fp8", "weights in 8 bits: measure quality"),
        ("int8", "weights in 8 bits: measure quality"),
        ("int4_awq", "weights in 4 bits: measure quality, slower at large batches"),
        ("nvfp4", "weights in 4 bits: measure quality"),
    ):
        if name in supported(gpu) and name != plan.precision:
            yield Change({"precision": name}, cost)
    size = plan.tp_size * 2
    while size <= _MOST_GPUS:
        yield Change({"tp_size": size}, f"{size} GPUs")
        size *= 2
