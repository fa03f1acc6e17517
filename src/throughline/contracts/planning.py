"""What a plan is asked about: a GPU, and the limits of an engine or a training."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from throughline.contracts.config import StrictModel

PlannedPrecision = Literal["bf16", "fp8", "int8", "int8_sq", "int4_awq", "w4a8_awq", "nvfp4"]
PlannedKvDtype = Literal["auto", "bf16", "fp8", "int8", "nvfp4"]


class GpuSpec(StrictModel):
    """One GPU as its maker describes it; rates without sparsity.

    Attributes:
        name: Marketing name.
        compute_capability: E.g. 9.0.
        memory_bytes: Memory of the board as the driver gives it in total.
        bandwidth: Bytes per second between memory and chip.
        bf16_flops: Dense tensor operations per second in bfloat16.
        int8_ops: The same in INT8; 0 where there is none.
        fp8_flops: The same in FP8; 0 where there is none.
        fp4_flops: The same in FP4; 0 where there is none.
        other_bytes: What context, libraries, communication buffers and CUDA graphs take.
        source: Where the figures come from.
    """

    name: str
    compute_capability: float
    memory_bytes: float = Field(gt=0)
    bandwidth: float = Field(gt=0)
    bf16_flops: float = Field(gt=0)
    int8_ops: float = 0.0
    fp8_flops: float = 0.0
    fp4_flops: float = 0.0
    other_bytes: float = 3.5e9
    source: str


class PlanSpec(StrictModel):
    """The engine to plan, in TensorRT-LLM's names.

    Attributes:
        precision: Weight precision.
        kv_cache_dtype: Type of the KV cache; `auto` is FP8 beside FP8, W4A8 and NVFP4 weights, else bfloat16.
        tp_size: GPUs that share every layer.
        pp_size: GPUs that share the layers out.
        max_batch_size: Sequences in one iteration.
        max_num_tokens: Packed tokens in one iteration.
        tokens_per_block: Tokens in one KV block.
        free_gpu_memory_fraction: Share of what is left that the KV cache takes (TensorRT-LLM's default).
        compute_efficiency: Share of the peak that matrix products reach.
        bandwidth_efficiency: Share of the bandwidth that decoding reaches.
        host_seconds: Time of the host in each iteration for each running sequence: scheduling, sampling, copies.
    """

    precision: PlannedPrecision = "bf16"
    kv_cache_dtype: PlannedKvDtype = "auto"
    tp_size: int = Field(default=1, ge=1)
    pp_size: int = Field(default=1, ge=1)
    max_batch_size: int = Field(default=2048, ge=1)
    max_num_tokens: int = Field(default=8192, ge=1)
    tokens_per_block: int = Field(default=32, ge=1)
    free_gpu_memory_fraction: float = Field(default=0.9, gt=0, le=1)
    compute_efficiency: float = Field(default=0.55, gt=0, le=1)
    bandwidth_efficiency: float = Field(default=0.85, gt=0, le=1)
    host_seconds: float = Field(default=1.2e-5, ge=0)


class TrainingPlanSpec(StrictModel):
    """The training to plan on each GPU; weights and arithmetic are in bfloat16.

    Attributes:
        method: Every weight, LoRA on every projection, or LoRA on weights in NF4 with double quantisation.
        micro_batch_size: Sequences in one forward pass.
        sequence_length: Tokens in each, padding included.
        gradient_accumulation_steps: Forward passes before the optimiser's step.
        activation_checkpointing: Keep a layer's input and compute the rest again in the backward pass.
        optimizer: AdamW with moments of the trained weights' type; `adamw_8bit` with moments in blocks of 256;
            `adamw_master` as Megatron has it, with gradients, moments and a copy of the weights in float32.
        optimizer_kernel: `foreach` takes the trained weights' size once more during a step, `fused` nothing.
        loss: `cross_entropy` on whole logits, or `linear_cross_entropy`, which never holds them.
        lora_rank: Rank of the adapters.
        lora_dtype: Type of the adapters, their gradients and moments.
        memory_efficient_lora: NeMo AutoModel's own backward pass (its default), which keeps no inner results.
        data_parallel_shards: GPUs that share weights, gradients and moments out (FSDP2).
        other_bytes: CUDA context, workspaces of libraries, and what the allocator loses; an assumption.
    """

    method: Literal["full", "lora", "qlora"] = "lora"
    micro_batch_size: int = Field(default=4, ge=1)
    sequence_length: int = Field(default=2048, ge=1)
    gradient_accumulation_steps: int = Field(default=1, ge=1)
    activation_checkpointing: bool = False
    optimizer: Literal["adamw", "adamw_8bit", "adamw_master"] = "adamw"
    optimizer_kernel: Literal["fused", "foreach"] = "fused"
    loss: Literal["cross_entropy", "linear_cross_entropy"] = "cross_entropy"
    lora_rank: int = Field(default=16, ge=1)
    lora_dtype: Literal["bf16", "fp32"] = "bf16"
    memory_efficient_lora: bool = True
    data_parallel_shards: int = Field(default=1, ge=1)
    other_bytes: float = Field(default=1e9, ge=0)
