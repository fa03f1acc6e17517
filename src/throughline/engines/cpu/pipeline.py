"""OpenVINO GenAI's continuous batching: the pipeline of an engine, its compute types and a request's settings."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from throughline.contracts.engine import EngineInfo, EngineSpec, SamplingParams
from throughline.engines.cpu.guided import is_guided, structured_output
from throughline.engines.cpu.lint import ComputePlan, plan_compute
from throughline.engines.cpu.openvino_env import cpu_supports, openvino_genai, processor
from throughline.engines.cpu.speculative import draft_folders

_FLOAT_BYTES = {"f32": 4, "bf16": 2, "f16": 2}


def generation_config(
    genai: Any, params: SamplingParams, eos_token_ids: Sequence[int], stop_ids: frozenset[int]
) -> Any:
    """Translates sampling parameters; stop strings stay with us, the pipeline would hold back more than needed."""
    config = genai.GenerationConfig()
    config.max_new_tokens = params.max_tokens
    config.eos_token_id = eos_token_ids[0]
    config.ignore_eos = params.ignore_eos
    if not params.ignore_eos:
        config.stop_token_ids = set(stop_ids)
        config.min_new_tokens = params.min_tokens
    if params.temperature > 0:
        config.do_sample = True
        config.temperature = params.temperature
        config.top_p = params.top_p
        if params.top_k:
            config.top_k = params.top_k
        config.rng_seed = secrets.randbits(32) if params.seed is None else params.seed
    else:
        config.do_sample = False
    config.repetition_penalty = params.repetition_penalty
    config.presence_penalty = params.presence_penalty
    config.frequency_penalty = params.frequency_penalty
    if params.logprobs:
        config.logprobs = 1
    if is_guided(params):
        config.structured_output_config = structured_output(genai, params)
    return config


def machine_plan(spec: EngineSpec) -> ComputePlan:
    """Resolves the spec's `auto` types for this processor; see `plan_compute`."""
    return plan_compute(spec, has_bf16=cpu_supports("BF16"), has_f16=cpu_supports("FP16"))


def weight_pass_bytes(info: EngineInfo, spec: EngineSpec, dtype: str | None = None) -> int:
    """Returns the bytes of weights that a step reads from memory.

    Quantised weights stay as they are stored. Floating-point weights are converted to the type of the arithmetic when
    they are loaded: without bfloat16 arithmetic BF16 takes four bytes a weight in memory, so twice its size on disk.

    Args:
        info: The engine's facts.
        spec: Its settings as it runs.
        dtype: Type of the arithmetic; this processor's by default.
    """
    stored = _FLOAT_BYTES.get(spec.precision)
    if stored is None:
        return info.weight_bytes
    return info.weight_bytes * _FLOAT_BYTES[dtype or machine_plan(spec).dtype] // stored


def machine_name(spec: EngineSpec) -> str:
    """Names what decides rounding: the processor, and the types of activations and KV cache."""
    plan = machine_plan(spec)
    if spec.embedding is not None:
        return f"{processor()}, {plan.dtype} activations"
    return f"{processor()}, {plan.dtype} activations, {plan.kv_cache_dtype} KV cache"


def pipeline_factory(
    engine_dir: Path, info: EngineInfo, spec: EngineSpec, plan: ComputePlan, blocks: int
) -> Callable[[], Any]:
    """Returns a function that loads the engine's pipeline with so many blocks of KV cache."""

    def make() -> Any:
        genai = openvino_genai()
        scheduler = genai.SchedulerConfig()
        scheduler.num_kv_blocks = blocks
        scheduler.max_num_batched_tokens = spec.max_num_tokens
        scheduler.max_num_seqs = spec.max_batch_size
        scheduler.dynamic_split_fuse = spec.enable_chunked_context
        scheduler.enable_prefix_caching = spec.enable_block_reuse
        properties: dict[str, object] = {
            "INFERENCE_PRECISION_HINT": plan.dtype,
            "KV_CACHE_PRECISION": plan.kv_cache_dtype,
            # Weight-only quantisation means what it says: activations are never quantised.
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0",
        }
        if spec.num_threads:
            properties["INFERENCE_NUM_THREADS"] = spec.num_threads
        speculation = spec.speculative_config
        if speculation is None:
            return genai.ContinuousBatchingPipeline(str(engine_dir), scheduler, "CPU", properties)
        if speculation.speculative_model_dir is None:
            return genai.ContinuousBatchingPipeline(
                str(engine_dir), scheduler, "CPU", properties | {"prompt_lookup": True}
            )
        with draft_folders(engine_dir, info, speculation.speculative_model_dir) as (target, draft):
            guess = genai.draft_model(str(draft), "CPU", **properties)
            return genai.ContinuousBatchingPipeline(str(target), scheduler, "CPU", properties | {"draft_model": guess})

    return make
