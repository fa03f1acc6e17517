"""Bytes of an engine on one GPU, term by term, and what is left for the KV cache."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from throughline.contracts.planning import GpuSpec, PlanSpec
from throughline.contracts.workload import Workload
from throughline.planning.shape import ModelShape


class _Weights(NamedTuple):
    """Bytes of a linear weight, of scales for each output channel, and for each weight of a group."""

    each: float
    by_channel: float
    by_weight: float


# ModelOpt's formats as TensorRT-LLM reads them. The output head stays in 16 bits in all of them, as the embedding
# does. AWQ: groups of 128 with a 16-bit scale, and a 16-bit scale for each input channel, which is too little to count.
# NVFP4: groups of 16 with an FP8 scale. FP8: one float32 scale a tensor.
_WEIGHTS = {
    "bf16": _Weights(2.0, 0.0, 0.0),
    "fp8": _Weights(1.0, 0.0, 0.0),
    "int8": _Weights(1.0, 2.0, 0.0),
    "int8_sq": _Weights(1.0, 4.0, 0.0),
    "int4_awq": _Weights(0.5, 0.0, 2.0 / 128),
    "w4a8_awq": _Weights(0.5, 0.0, 2.0 / 128),
    "nvfp4": _Weights(0.5, 0.0, 1.0 / 16),
}
_KV_BYTES = {"bf16": 2.0, "fp8": 1.0, "int8": 1.0, "nvfp4": 0.5 + 1.0 / 16}
_HALF = 2.0


@dataclass(frozen=True)
class Memory:
    """Bytes on the fullest GPU.

    Attributes:
        weights: Weights and their scales.
        activations: Live tensors of one layer at `max_num_tokens`.
        logits: Float32 logits of a whole batch, and the sampler's copy.
        lora: Adapters that stay loaded, and their buffers.
        other: Context, libraries, communication, CUDA graphs.
        kv_per_token: Keys and values of one token.
        kv_capacity: Tokens that the KV cache holds, whole blocks.
        total: All of it with the KV cache.
        free: What the GPU has beyond it; negative if even an empty cache does not fit.
    """

    weights: float
    activations: float
    logits: float
    lora: float
    other: float
    kv_per_token: float
    kv_capacity: int
    total: float
    free: float

    @property
    def fixed(self) -> float:
        """Bytes that are taken before the first token is cached."""
        return self.weights + self.activations + self.logits + self.lora + self.other


def kv_dtype(plan: PlanSpec) -> str:
    """Returns the type of the KV cache that `auto` comes to."""
    if plan.kv_cache_dtype != "auto":
        return plan.kv_cache_dtype
    return "fp8" if plan.precision in ("fp8", "w4a8_awq", "nvfp4") else "bf16"


def weight_bytes(shape: ModelShape, plan: PlanSpec) -> float:
    """Returns the bytes of the weights on one GPU; the embedding is on each, as TensorRT-LLM leaves it."""
    kind = _WEIGHTS[plan.precision]
    linear = shape.linear * (kind.each + kind.by_weight) + shape.linear_rows * kind.by_channel
    head = 0 if shape.tied else shape.vocab * shape.hidden
    return (
        linear / (plan.tp_size * plan.pp_size)
        + shape.vocab * shape.hidden * _HALF
        + head * _HALF / plan.tp_size
        + shape.small * _HALF / plan.pp_size
    )


def kv_bytes_per_token(shape: ModelShape, plan: PlanSpec) -> float:
    """Returns the bytes of a token's keys and values on one GPU; a head is never cut."""
    heads = max(1, math.ceil(shape.kv_heads / plan.tp_size))
    layers = math.ceil(shape.layers / plan.pp_size)
    return 2 * layers * heads * shape.head_dim * _KV_BYTES[kv_dtype(plan)]


def activation_bytes(shape: ModelShape, plan: PlanSpec) -> float:
    """Returns the bytes of what is live at once in a layer: residual, its norm, and attention or MLP."""
    attention = shape.head_dim * (2 * shape.heads + 2 * shape.kv_heads) / plan.tp_size
    mlp = 3 * shape.intermediate / plan.tp_size
    return plan.max_num_tokens * _HALF * (2 * shape.hidden + max(attention, mlp))


def lora_bytes(shape: ModelShape, plan: PlanSpec, workload: Workload) -> float:
    """Returns the bytes of the adapters: A and B of every projection in 16 bits."""
    inputs = shape.hidden * 3 + shape.heads * shape.head_dim + shape.hidden * 2 + shape.intermediate
    outputs = shape.head_dim * (shape.heads + 2 * shape.kv_heads) + shape.hidden + 2 * shape.intermediate + shape.hidden
    per_adapter = shape.layers * workload.lora_rank * (inputs + outputs) * _HALF
    return workload.lora_adapters * per_adapter / (plan.tp_size * plan.pp_size)


def memory(shape: ModelShape, gpu: GpuSpec, plan: PlanSpec, workload: Workload) -> Memory:
    """Returns every term; what is left goes to the KV cache by `free_gpu_memory_fraction`."""
    weights, activations = weight_bytes(shape, plan), activation_bytes(shape, plan)
    logits = 2 * plan.max_batch_size * shape.vocab * 4.0
    lora = lora_bytes(shape, plan, workload)
    left = gpu.memory_bytes - weights - activations - logits - lora - gpu.other_bytes
    per_token = kv_bytes_per_token(shape, plan)
    blocks = max(0, math.floor(left * plan.free_gpu_memory_fraction / (per_token * plan.tokens_per_block)))
    capacity = blocks * plan.tokens_per_block
    return Memory(
        weights=weights,
        activations=activations,
        logits=logits,
        lora=lora,
        other=gpu.other_bytes,
        kv_per_token=per_token,
        kv_capacity=capacity,
        total=gpu.memory_bytes - left + capacity * per_token,
        free=left - capacity * per_token,
    )


def sequences(found: Memory, plan: PlanSpec, workload: Workload) -> int:
    """Returns how many mean requests are in flight at a time without one having to be put back."""
    blocks = math.ceil((workload.input_tokens + workload.output_tokens) / plan.tokens_per_block)
    return min(plan.max_batch_size, found.kv_capacity // (blocks * plan.tokens_per_block))
