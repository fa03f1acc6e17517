"""Bytes of a training step on one GPU, term by term, and when they are needed at once.

What autograd keeps is counted from transformers' Llama, Mistral, Qwen2 and Qwen3 with `sdpa` attention: float32 copies
in norms, queries, keys, values and the attention's output, the MLP's inner results. Tests compare it with what the
allocator of PyTorch reports on a CPU, and on an H100 with bitsandbytes' NF4 and 8-bit AdamW. The sharded terms were
never compared with a run.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from throughline.contracts.planning import GpuSpec, TrainingPlanSpec
from throughline.planning.search import Change, cheapest
from throughline.planning.shape import ModelShape

_HALF = 2.0
_SINGLE = 4.0
# NF4 in blocks of 64 whose scales are themselves 8 bits in blocks of 256 (Dettmers et al. 2023, QLoRA).
_NF4 = 0.5 + 1 / 64 + 4 / (64 * 256)
# Two moments of a byte each, and a float32 scale for 256 of either (bitsandbytes).
_EIGHT_BIT_MOMENTS = 2 * (1 + 4 / 256)
# Float32 log-probabilities that the loss keeps and bfloat16 logits that the step holds, beside the two float32
# gradients at the moment when the backward pass begins.
_LOGITS_KEPT, _LOGITS_GRADIENTS = 4.0 + 2.0, 4.0 + 4.0
_MOST_GPUS = 8


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes on each GPU.

    Attributes:
        weights: Weights and adapters.
        gradients: Gradients of all trained weights.
        optimizer: Moments, and the float32 copy where there is one.
        activations: What the layers keep for the backward pass.
        logits: Logits, log-probabilities and their gradients at the worst moment.
        recomputed: One layer's activations, where they are computed again.
        gathered: Weights and gradients of other shards that are there for a while.
        other: Context, workspaces, what the allocator loses.
        moment: When most is needed: `loss`, `head`, `layer`, `embedding` or `step`.
        total: Bytes at that moment.
    """

    weights: float
    gradients: float
    optimizer: float
    activations: float
    logits: float
    recomputed: float
    gathered: float
    other: float
    moment: str
    total: float


def kept_per_token(shape: ModelShape, plan: TrainingPlanSpec) -> float:
    """Returns the bytes that one layer keeps of one token for the backward pass."""
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    lora = plan.method != "full"
    # Two norms: a float32 copy and its scale, the normalised values where the norm is trained, and the output.
    kept = 2 * (_SINGLE * shape.hidden + _SINGLE + (0 if lora else _HALF * shape.hidden) + _HALF * shape.hidden)
    # Queries and output, keys and values, and the softmax's normaliser.
    kept += 2 * _HALF * queries + 2 * _HALF * keys + _SINGLE * shape.heads
    if shape.family == "qwen3":
        kept += (_SINGLE + (0 if lora else _HALF)) * (queries + keys) + _SINGLE * (shape.heads + shape.kv_heads)
    if shape.window is not None and plan.sequence_length >= shape.window:
        # With a mask of its own attention takes keys and values for every query head, and the mask in 16 bits.
        kept += 2 * _HALF * (queries - keys) + _HALF * plan.sequence_length
    if _own_backward(plan):
        return kept + 2 * _HALF * shape.intermediate
    if lora:
        kept += 7 * plan.lora_rank * (_HALF if plan.lora_dtype == "bf16" else _SINGLE)
    return kept + 4 * _HALF * shape.intermediate


def _own_backward(plan: TrainingPlanSpec) -> bool:
    """Returns whether NeMo AutoModel's backward pass takes the MLP's place; it does not on quantised weights."""
    return plan.method == "lora" and plan.memory_efficient_lora


def adapter_parameters(shape: ModelShape, rank: int) -> int:
    """Returns the weights of LoRA on every projection: `rank · (inputs + outputs)` of each."""
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    inputs = 3 * shape.hidden + queries + 2 * shape.hidden + shape.intermediate
    outputs = queries + 2 * keys + shape.hidden + 2 * shape.intermediate + shape.hidden
    return shape.layers * rank * (inputs + outputs)


def training_memory(shape: ModelShape, plan: TrainingPlanSpec) -> TrainingMemory:
    """Returns every term, and the total at the worst moment of a step."""
    tokens, lora = plan.micro_batch_size * plan.sequence_length, plan.method != "full"
    trained = adapter_parameters(shape, plan.lora_rank) if lora else shape.parameters
    each = _SINGLE if lora and plan.lora_dtype == "fp32" else _HALF
    shards = plan.data_parallel_shards
    weights = (shape.linear * (_NF4 if plan.method == "qlora" else _HALF)) + (shape.embedding + shape.small) * _HALF
    weights = (weights + (trained * each if lora else 0)) / shards
    master = plan.optimizer == "adamw_master"
    gradients = trained * (_SINGLE if master else each) / shards
    moments = {"adamw": 2 * each, "adamw_8bit": _EIGHT_BIT_MOMENTS, "adamw_master": 3 * _SINGLE}[plan.optimizer]
    optimizer = trained * moments / shards
    layer = tokens * kept_per_token(shape, plan)
    first_norm = tokens * (_SINGLE * shape.hidden + _SINGLE) if lora and not plan.activation_checkpointing else 0.0
    checkpoint = tokens * _HALF * shape.hidden
    last_norm = tokens * (_SINGLE * shape.hidden + _SINGLE + (0 if lora else 2 * _HALF * shape.hidden))
    activations = shape.layers * (checkpoint if plan.activation_checkpointing else layer) + last_norm - first_norm
    # While a layer is on its way back: the gradient that passes through it, what the MLP makes, and the gradient of one
    # of its weights. NeMo's own backward pass computes the activation again, partly in float32.
    working = 7 * _HALF if _own_backward(plan) else 2 * _HALF
    passing = tokens * ((1 if lora else 2) * _HALF * shape.hidden + working * shape.intermediate)
    passing += 0 if lora else _HALF * shape.intermediate * shape.hidden
    recomputed = (layer if plan.activation_checkpointing else 0.0) + passing
    whole = plan.loss == "cross_entropy"
    logits = tokens * shape.vocab * (_LOGITS_KEPT + _LOGITS_GRADIENTS) if whole else 0.0
    head = 0.0 if lora else shape.vocab * shape.hidden * (_SINGLE if master else _HALF)
    per_layer = shape.linear / shape.layers
    last_gradients = 0.0 if lora else (per_layer + (0 if shape.tied else head / each)) * (_SINGLE if master else each)
    unpacked = _HALF * shape.intermediate * shape.hidden if plan.method == "qlora" else 0.0
    gathered = (2 * per_layer + shape.embedding) * _HALF + (0 if lora else per_layer * _SINGLE) if shards > 1 else 0.0
    gathered += unpacked
    held = gradients if plan.gradient_accumulation_steps > 1 else 0.0
    step = trained * each / shards if plan.optimizer_kernel == "foreach" and plan.optimizer == "adamw" else 0.0
    bf16_logits = tokens * shape.vocab * _HALF if whole else 0.0
    moments_of_step = {
        "loss": held + activations + logits,
        "head": held + activations + 2 * bf16_logits + head + checkpoint,
        # The uppermost layer, when all activations are there, or the lowest, when its gradients alone are missing.
        "layer": bf16_logits + recomputed + max(held + head + activations - last_norm, gradients - last_gradients),
        # A tied embedding has a gradient from each of its ends, which autograd adds into a third.
        "embedding": gradients + bf16_logits + checkpoint + (2 * head if shape.tied else 0.0) if not lora else 0.0,
        "step": gradients + step,
    }
    moment = max(moments_of_step, key=lambda name: moments_of_step[name])
    return TrainingMemory(
        weights=weights,
        gradients=gradients,
        optimizer=optimizer,
        activations=activations,
        logits=logits,
        recomputed=recomputed,
        gathered=gathered,
        other=plan.other_bytes,
        moment=moment,
        total=weights + optimizer + gathered + plan.other_bytes + moments_of_step[moment],
    )


def training_fits(found: TrainingMemory, gpu: GpuSpec) -> bool:
    """Returns whether a step fits."""
    return found.total <= gpu.memory_bytes


def training_changes(shape: ModelShape, gpu: GpuSpec, plan: TrainingPlanSpec, count: int = 3) -> list[Change]:
    """Returns the cheapest changes that make a training fit, in the order of transformers' guide to memory.

    First what leaves the result as it is (smaller passes with accumulation, checkpointing, a loss without logits), then
    the optimiser, then fewer trained weights, then more GPUs, and shorter sequences last, because they lose data.
    """

    def fit(settings: Mapping[str, Any]) -> bool:
        return training_fits(training_memory(shape, plan.model_copy(update=settings)), gpu)

    return cheapest(list(_single(plan)), fit, count)


def _single(plan: TrainingPlanSpec) -> Iterator[Change]:
    if plan.micro_batch_size > 1:
        passes = plan.gradient_accumulation_steps * plan.micro_batch_size
        yield Change(
            {"micro_batch_size": 1, "gradient_accumulation_steps": passes}, "the same gradients in smaller passes"
        )
    if not plan.activation_checkpointing:
        yield Change({"activation_checkpointing": True}, "about a third more arithmetic")
    if plan.loss == "cross_entropy":
        yield Change({"loss": "linear_cross_entropy"}, "needs a fused kernel such as Cut Cross-Entropy")
    if plan.method == "full":
        if plan.optimizer != "adamw_8bit":
            yield Change({"optimizer": "adamw_8bit"}, "moments in 8 bits: watch the loss")
        yield Change({"method": "lora"}, "trains adapters instead of every weight")
    if plan.method != "qlora":
        yield Change({"method": "qlora"}, "trains adapters on 4-bit weights: measure quality")
    shards = plan.data_parallel_shards * 2
    while shards <= _MOST_GPUS:
        yield Change({"data_parallel_shards": shards}, f"{shards} GPUs")
        shards *= 2
    shorter = 2 ** math.floor(math.log2(plan.sequence_length)) // 2
    if shorter >= 1:
        yield Change({"sequence_length": shorter}, "longer records are cut or left out")
