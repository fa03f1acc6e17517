"""How an engine of TensorRT-LLM is served on Triton, in the names of TensorRT-LLM's own repositories (1.2.x)."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from throughline.contracts.config import StrictModel

# What a shell, a systemd unit and a compose file take as it is.
_PATH = r"^/[^\s:'\"$%\\]*$"


class GpuServeSpec(StrictModel):
    """Settings of the GPU layouts; those that are None or 0 come from the engine.

    The names are those of `tools/fill_template.py` and of `tensorrt_llm/config.pbtxt`. Paths are those of the
    serving machine; its container has the same.

    Attributes:
        engine_dir: Folder of `config.json` and `rank{N}.engine`: `gpt_model_path`.
        checkpoint_dir: Folder of the checkpoint: the tokenizer of pre- and postprocessing and BLS, and what `LLM()`
            loads in the `llmapi` layout.
        deployment_dir: Folder that what was rendered for one layout is copied to: `repository`, `start.sh`.
        container: Image of Triton with TensorRT-LLM; an engine runs in the release that built it.
        batching_strategy: `gpt_model_type`. `V1` waits for a whole batch to end.
        batch_scheduler_policy: `guaranteed_no_evict` starts a request when its longest answer fits the KV cache;
            `max_utilization` starts more and pauses some of them when the cache is full.
        kv_cache_free_gpu_mem_fraction: Share of the memory that is free after the engine is loaded.
        kv_cache_host_memory_bytes: KV blocks that are kept in the host's memory.
        enable_chunked_context: Cut long prompts; the engine's own setting if None.
        enable_kv_cache_reuse: Share KV blocks of equal prefixes; the engine's own setting if None.
        decoupled: Whether answers can be streamed.
        max_queue_delay_microseconds: Longest time that Triton holds a request to put a batch together.
        preprocessing_instance_count: Processes; 0 for one, which takes a batch at a time.
        postprocessing_instance_count: As before.
        bls_instance_count: Processes, each of which holds one request until it ends; 0 for the engine's batch size.
        add_special_tokens: Whether the tokenizer puts its own tokens around a prompt; off, since a chat template
            has them already.
        skip_special_tokens: Whether control tokens are left out of the text.
        cancellation_check_period_ms: Time between two looks at whether a request's client has gone.
        stats_check_period_ms: Time between two updates of the engine's metrics.
        lora_cache_optimal_adapter_size: Rank that pages of the adapter cache are cut for; 0 for the engine's rank.
        lora_cache_max_adapter_size: Largest rank that the cache takes; 0 for the engine's rank.
        lora_cache_gpu_memory_fraction: Share of what the KV cache leaves.
        lora_cache_host_memory_bytes: Adapters that are kept in the host's memory.
        guided_decoding_backend: `xgrammar` for answers that match a JSON schema, a regular expression or a grammar.
        xgrammar_tokenizer_info_path: What xgrammar knows of the tokenizer; None writes it beside the model, from the
            checkpoint of the build job.
        warm_up: A request before the model counts as ready; engines of one GPU alone, since other ranks take none.
        version_policy: `specific` serves version 1 alone, `latest` the newest that is there.
    """

    engine_dir: str = Field(default="/engines/model", pattern=_PATH)
    checkpoint_dir: str = Field(default="/checkpoints/model", pattern=_PATH)
    deployment_dir: str = Field(default="/deployments/model", pattern=_PATH)
    container: str = Field(default="nvcr.io/nvidia/tritonserver:26.07-trtllm-python-py3", pattern=r"^[\w./:@-]+$")
    batching_strategy: Literal["inflight_fused_batching", "inflight_batching", "V1"] = "inflight_fused_batching"
    batch_scheduler_policy: Literal["guaranteed_no_evict", "max_utilization"] = "guaranteed_no_evict"
    kv_cache_free_gpu_mem_fraction: float = Field(default=0.9, gt=0, lt=1)
    kv_cache_host_memory_bytes: int = Field(default=0, ge=0)
    enable_chunked_context: bool | None = None
    enable_kv_cache_reuse: bool | None = None
    decoupled: bool = True
    max_queue_delay_microseconds: int = Field(default=0, ge=0)
    preprocessing_instance_count: int = Field(default=0, ge=0)
    postprocessing_instance_count: int = Field(default=0, ge=0)
    bls_instance_count: int = Field(default=0, ge=0)
    add_special_tokens: bool = False
    skip_special_tokens: bool = True
    cancellation_check_period_ms: int = Field(default=100, ge=1)
    stats_check_period_ms: int = Field(default=100, ge=1)
    lora_cache_optimal_adapter_size: int = Field(default=0, ge=0)
    lora_cache_max_adapter_size: int = Field(default=0, ge=0)
    lora_cache_gpu_memory_fraction: float = Field(default=0.05, gt=0, lt=1)
    lora_cache_host_memory_bytes: int = Field(default=2**30, ge=2**20)
    guided_decoding_backend: Literal["xgrammar"] | None = None
    xgrammar_tokenizer_info_path: str | None = Field(default=None, pattern=_PATH)
    warm_up: bool = True
    version_policy: Literal["specific", "latest"] = "specific"

    @model_validator(mode="after")
    def _settings_agree(self) -> Self:
        if self.batching_strategy == "V1":
            if self.batch_scheduler_policy == "max_utilization":
                raise ValueError(
                    "batch_scheduler_policy=max_utilization is of in-flight batching: "
                    "set batching_strategy=inflight_fused_batching"
                )
            if self.decoupled:
                raise ValueError(
                    "decoupled=true streams, which batching_strategy=V1 does not: set "
                    "batching_strategy=inflight_fused_batching, or decoupled=false"
                )
            if self.enable_chunked_context:
                raise ValueError(
                    "enable_chunked_context=true puts pieces of prompts beside running requests, which "
                    "batching_strategy=V1 does not: set batching_strategy=inflight_fused_batching"
                )
        if self.xgrammar_tokenizer_info_path and not self.guided_decoding_backend:
            raise ValueError(
                "xgrammar_tokenizer_info_path goes with guided_decoding_backend=xgrammar: set both or none"
            )
        if 0 < self.lora_cache_max_adapter_size < self.lora_cache_optimal_adapter_size:
            raise ValueError(
                f"lora_cache_optimal_adapter_size={self.lora_cache_optimal_adapter_size} is more than "
                f"lora_cache_max_adapter_size={self.lora_cache_max_adapter_size}: lower it"
            )
        return self
