"""The `llmapi` layout (TensorRT-LLM 1.2.x and later): one `config.pbtxt`, and the `model.yaml` of `LLM()`."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from throughline.contracts.errors import DeployError
from throughline.contracts.serving import ServeSpec
from throughline.triton import llmapi
from throughline.triton.gpu.engine import ServedEngine
from throughline.triton.gpu.inflight_batcher import ENGINE_MODEL, add_instances, add_tensors, new_config
from throughline.triton.gpu.settings import Settings
from throughline.triton.text.tensors import Tensor

# NVIDIA's own model of this layout; it is not ours to hand on.
MODEL_FOLDER = "/app/all_models/llmapi/tensorrt_llm/1"
_MORE_INPUTS = (Tensor("sampling_param_return_perf_metrics", "BOOL"),)
_MORE_OUTPUTS = (
    *(Tensor(f"kv_cache_{name}", "INT32", (-1,)) for name in ("reused_block", "missed_block")),
    *(Tensor(f"kv_cache_alloc_{name}_blocks", "INT32", (-1,)) for name in ("new", "total")),
    Tensor("kv_cache_hit_rate", "FP32", (-1,)),
    *(Tensor(f"{name}_time_ns", "INT64") for name in ("arrival", "first_scheduled", "first_token", "last_token")),
    Tensor("acceptance_rate", "FP32"),
    Tensor("total_accepted_draft_tokens", "INT32"),
    Tensor("total_draft_tokens", "INT32"),
)


def render(spec: ServeSpec) -> Any:
    """Returns the `ModelConfig`: `LLM()` batches by itself, so that Triton's batch size is 0."""
    config = new_config(ENGINE_MODEL, spec, batch=0, backend="python")
    config.model_transaction_policy.decoupled = spec.gpu.decoupled
    inputs = [_tensor(*found, optional=found[0] != "text_input") for found in llmapi.INPUTS]
    add_tensors(config.input, (*inputs, *_MORE_INPUTS), inputs=True)
    add_tensors(config.output, (*(_tensor(*found) for found in llmapi.OUTPUTS), *_MORE_OUTPUTS), inputs=False)
    add_instances(config, 1)
    return config


def model_yaml(engine: ServedEngine, spec: ServeSpec, settings: Settings, options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns `model.yaml`: the options of the build with what serving decides, each setting once.

    Args:
        engine: What is served.
        spec: How.
        settings: What the engine decided of it.
        options: Arguments of `LLM()` that the build decides.

    Raises:
        DeployError: If a setting is of the other layout.
    """
    gpu = spec.gpu
    if gpu.batching_strategy == "V1":
        raise DeployError(
            "LLM() batches in flight always",
            where="serve.gpu.batching_strategy",
            seen="V1",
            fix="leave it at inflight_fused_batching for the llmapi layout",
        )
    values: dict[str, Any] = copy.deepcopy(dict(options))
    values["enable_chunked_prefill"] = settings.enable_chunked_context
    values["kv_cache_config"] = values.get("kv_cache_config", {}) | {
        "enable_block_reuse": settings.enable_kv_cache_reuse,
        "free_gpu_memory_fraction": gpu.kv_cache_free_gpu_mem_fraction,
    }
    if gpu.kv_cache_host_memory_bytes:
        values["kv_cache_config"]["host_cache_size"] = gpu.kv_cache_host_memory_bytes
    values["scheduler_config"] = {"capacity_scheduler_policy": gpu.batch_scheduler_policy.upper()}
    if gpu.guided_decoding_backend:
        values["guided_decoding_backend"] = gpu.guided_decoding_backend
    if engine.max_lora_rank:
        values["peft_cache_config"] = {
            "optimal_adapter_size": int(settings.lora_cache["lora_cache_optimal_adapter_size"]),
            "max_adapter_size": int(settings.lora_cache["lora_cache_max_adapter_size"]),
            "device_cache_percent": gpu.lora_cache_gpu_memory_fraction,
            "host_cache_size": gpu.lora_cache_host_memory_bytes,
        }
    values["triton_config"] = {
        "max_batch_size": 0,
        "decoupled": gpu.decoupled,
        "cancellation_check_period_ms": gpu.cancellation_check_period_ms,
    }
    return values


def _tensor(name: str, kind: str, size: int, *, optional: bool = True) -> Tensor:
    return Tensor(name, kind.removeprefix("TYPE_"), (size,), optional=optional)
