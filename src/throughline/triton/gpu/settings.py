"""The settings that `tensorrt_llm` is rendered with: what was asked for, what the engine decides, what contradicts."""

from __future__ import annotations

from dataclasses import dataclass

from throughline.contracts.errors import DeployError
from throughline.contracts.serving import ServeSpec
from throughline.triton.gpu.engine import ServedEngine


@dataclass(frozen=True)
class Settings:
    """What is left open in a `GpuServeSpec`, filled in from the engine.

    Attributes:
        enable_chunked_context: Cut long prompts.
        enable_kv_cache_reuse: Share KV blocks of equal prefixes.
        lora_cache: Parameters `lora_cache_*`; empty without adapters.
        preprocessing_instances: Processes of preprocessing.
        postprocessing_instances: Processes of postprocessing.
        bls_instances: Processes of BLS.
        warm_up: Whether models ask themselves once before they are ready.
    """

    enable_chunked_context: bool
    enable_kv_cache_reuse: bool
    lora_cache: dict[str, str]
    preprocessing_instances: int
    postprocessing_instances: int
    bls_instances: int
    warm_up: bool


def settle(spec: ServeSpec, engine: ServedEngine) -> Settings:
    """Fills in what the engine decides.

    Raises:
        DeployError: If a setting needs what the engine does not have.
    """
    gpu = spec.gpu
    in_flight = gpu.batching_strategy != "V1"
    chunked = engine.enable_chunked_context and in_flight
    chunked = chunked if gpu.enable_chunked_context is None else gpu.enable_chunked_context
    reuse = engine.enable_kv_cache_reuse if gpu.enable_kv_cache_reuse is None else gpu.enable_kv_cache_reuse
    for name, on in (("enable_chunked_context", chunked), ("enable_kv_cache_reuse", reuse)):
        if on and not engine.paged_context_fmha:
            raise DeployError(
                f"{name} needs use_paged_context_fmha in the engine",
                where=f"serve.gpu.{name}",
                seen=f"{engine.name} was built without it",
                fix="build with engine.enable_block_reuse=true or engine.enable_chunked_context=true, "
                f"or set serve.gpu.{name}=false",
            )
    return Settings(
        enable_chunked_context=chunked,
        enable_kv_cache_reuse=reuse,
        lora_cache=_lora_cache(spec, engine),
        preprocessing_instances=gpu.preprocessing_instance_count or 1,
        postprocessing_instances=gpu.postprocessing_instance_count or 1,
        bls_instances=gpu.bls_instance_count or engine.max_batch_size,
        warm_up=gpu.warm_up and engine.world_size == 1,
    )


def _lora_cache(spec: ServeSpec, engine: ServedEngine) -> dict[str, str]:
    gpu, rank = spec.gpu, engine.max_lora_rank
    size = gpu.lora_cache_max_adapter_size
    if not rank:
        if size or gpu.lora_cache_optimal_adapter_size:
            raise DeployError(
                "an adapter cache needs lora_plugin in the engine",
                where="serve.gpu.lora_cache_max_adapter_size",
                seen=f"{engine.name} was built without adapters",
                fix="build with engine.max_lora_rank=…, or leave the cache's sizes at 0",
            )
        return {}
    if size and size < rank:
        raise DeployError(
            "the adapter cache does not take the engine's adapters",
            where="serve.gpu.lora_cache_max_adapter_size",
            seen=f"{size}, the engine takes adapters of rank {rank}",
            fix=f"set it to {rank}, or to 0",
        )
    return {
        "lora_cache_optimal_adapter_size": str(gpu.lora_cache_optimal_adapter_size or rank),
        "lora_cache_max_adapter_size": str(size or rank),
        "lora_cache_gpu_memory_fraction": f"{gpu.lora_cache_gpu_memory_fraction:g}",
        "lora_cache_host_memory_bytes": str(gpu.lora_cache_host_memory_bytes),
    }
