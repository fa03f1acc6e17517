"""How fast an engine can be: prefill by arithmetic, decoding by memory traffic, whichever is slower.

Assumptions: every request has the workload's mean lengths, requests come as fast as they are taken (closed loop),
prompts share nothing, matrix products reach `compute_efficiency` of the peak and decoding `bandwidth_efficiency` of the
bandwidth, the host takes `host_seconds` for each sequence of an iteration; tensor parallelism costs no time of its own.
Quantised weights that the tensor cores do not take are unpacked first, which costs arithmetic and saves traffic.

The three constants were fitted to NVIDIA's table for Llama 3.1 8B in FP8 (TensorRT-LLM 1.0, ten pairs of lengths, H100
and H200) and are within 15 % of every row of it; what unpacking costs is a guess that gives the right sign at batch 1,
8 and 64 of ModelOpt's table (H200, TensorRT-LLM 0.15). Neither says anything about other models or versions.
"""

from __future__ import annotations

from dataclasses import dataclass

from throughline.contracts.planning import GpuSpec, PlanSpec
from throughline.contracts.workload import Workload
from throughline.planning.memory import Memory, sequences
from throughline.planning.shape import ModelShape


@dataclass(frozen=True)
class Estimate:
    """What a request and the engine as a whole can expect.

    Attributes:
        concurrency: Requests in flight.
        ttft: Seconds of one prompt alone; a queue comes on top.
        tpot: Seconds between two tokens of a request.
        tokens_per_second: Output tokens of all requests, prefill time included.
        bound: What limits decoding: `bandwidth` or `compute`.
    """

    concurrency: int
    ttft: float
    tpot: float
    tokens_per_second: float
    bound: str


# Share of `compute_efficiency` that is left where weights have to be unpacked first.
_UNPACKING = {"int8": 0.8, "int4_awq": 0.5, "w4a8_awq": 0.5}


def peak(gpu: GpuSpec, precision: str) -> float:
    """Returns the operations per second that matrix products of a precision can use; 0 where the GPU has none."""
    return {
        "fp8": gpu.fp8_flops,
        "w4a8_awq": gpu.fp8_flops,
        "int8_sq": gpu.int8_ops,
        "nvfp4": gpu.fp4_flops,
    }.get(precision, gpu.bf16_flops)


def estimate(
    shape: ModelShape, gpu: GpuSpec, plan: PlanSpec, workload: Workload, found: Memory, concurrency: int = 0
) -> Estimate | None:
    """Returns the estimate at a concurrency, 0 for as many requests as fit; None if none does or none can run."""
    most = sequences(found, plan, workload)
    users = min(most, concurrency) if concurrency else most
    operations = peak(gpu, plan.precision) * plan.compute_efficiency * _UNPACKING.get(plan.precision, 1.0)
    operations *= plan.tp_size * plan.pp_size
    if not users or not operations:
        return None
    bandwidth = gpu.bandwidth * plan.bandwidth_efficiency
    head = shape.vocab * shape.hidden
    # Scores and values of causal attention: half of the square.
    attention = 2 * shape.layers * shape.heads * shape.head_dim * workload.input_tokens**2
    prefill = (2 * shape.linear * workload.input_tokens + 2 * head + attention) / operations
    context = workload.input_tokens + workload.output_tokens / 2
    traffic = (found.weights + users * context * found.kv_per_token) / bandwidth
    arithmetic = users * 2 * (shape.linear + head) / operations
    step = max(traffic, arithmetic) + users * plan.host_seconds
    # While a request is decoded the GPU also reads the prompts of those that follow.
    tpot = step + users * prefill / workload.output_tokens
    return Estimate(
        concurrency=users,
        ttft=max(prefill, found.weights / bandwidth),
        tpot=tpot,
        tokens_per_second=users / tpot,
        bound="bandwidth" if traffic >= arithmetic else "compute",
    )
