"""Settings of an `inflight_batcher_llm` repository and its engine, as arguments of `LLM()`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from throughline.contracts.migration import Fate, Move
from throughline.documents import Document, ModelConfigFile

_TRUE = ("true", "1")


def _integer(text: str) -> int:
    return int(float(text))


def _flag(text: str) -> bool:
    return text.lower() in _TRUE


def _integers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


# Parameter of tensorrt_llm → key of `model.yaml`, how its text is read, what changes.
_KEPT: Mapping[str, tuple[str, Callable[[str], Any], str]] = {
    "max_beam_width": ("max_beam_width", _integer, ""),
    "max_tokens_in_paged_kv_cache": ("kv_cache_config.max_tokens", _integer, ""),
    "kv_cache_free_gpu_mem_fraction": ("kv_cache_config.free_gpu_memory_fraction", float, ""),
    "kv_cache_host_memory_bytes": ("kv_cache_config.host_cache_size", _integer, ""),
    "kv_cache_onboard_blocks": ("kv_cache_config.onboard_blocks", _flag, "later releases have dropped it"),
    "enable_kv_cache_reuse": ("kv_cache_config.enable_block_reuse", _flag, ""),
    "enable_chunked_context": ("enable_chunked_prefill", _flag, ""),
    "max_attention_window_size": ("kv_cache_config.max_attention_window", _integers, ""),
    "sink_token_length": ("kv_cache_config.sink_token_length", _integer, ""),
    "batch_scheduler_policy": ("scheduler_config.capacity_scheduler_policy", str.upper, ""),
    "cancellation_check_period_ms": ("triton_config.cancellation_check_period_ms", _integer, ""),
    "iter_stats_max_iterations": ("iter_stats_max_iterations", _integer, ""),
    "request_stats_max_iterations": ("request_stats_max_iterations", _integer, ""),
    "guided_decoding_backend": ("guided_decoding_backend", str, "requests to this model cannot ask for it"),
    "lora_cache_optimal_adapter_size": ("peft_cache_config.optimal_adapter_size", _integer, ""),
    "lora_cache_max_adapter_size": ("peft_cache_config.max_adapter_size", _integer, ""),
    "lora_cache_gpu_memory_fraction": ("peft_cache_config.device_cache_percent", float, ""),
    "lora_cache_host_memory_bytes": ("peft_cache_config.host_cache_size", _integer, ""),
}
_LOST = {
    "normalize_log_probs": "there are no log-probabilities of beams",
    "stats_check_period_ms": "the model exports no nv_trt_llm_* metrics; our gateway has its own",
    "recv_poll_period_ms": "of the executor's orchestrator",
    "gpu_weights_percent": "weights are not streamed from the host",
    "medusa_choices": "Medusa is of the engine flow; PyTorch has Eagle3, MTP, NGram and draft models",
    "eagle_choices": "give speculative_config with decoding_type Eagle3 and its checkpoint",
    "lookahead_window_size": "lookahead is of the engine flow; NGram is the nearest",
    "lookahead_ngram_size": "lookahead is of the engine flow; NGram is the nearest",
    "lookahead_verification_set_size": "lookahead is of the engine flow; NGram is the nearest",
    "speculative_decoding_fast_logits": "drafts are made in the same process",
    "lora_prefetch_dir": "LLM() refuses it",
    "participant_ids": "start with trtllm-llmapi-launch instead",
    "num_nodes": "start with trtllm-llmapi-launch instead",
    "executor_worker_path": "of the C++ back end",
    "encoder_model_path": "encoder-decoder models have no PyTorch flow here",
    "cross_kv_cache_fraction": "encoder-decoder models have no PyTorch flow here",
    "enable_context_fmha_fp32_acc": "kernels are chosen by attn_backend",
    "multi_block_mode": "kernels are chosen by attn_backend",
    "enable_trt_overlap": "it was ignored already",
    "FORCE_CPU_ONLY_INPUT_TENSORS": "of the C++ back end",
}
_DECODING = {
    "top_k": "mapped",
    "top_p": "mapped",
    "top_k_top_p": "mapped",
    "beam_search": "changed",
}
_BUILD = {
    "max_batch_size": "max_batch_size",
    "max_num_tokens": "max_num_tokens",
    "max_seq_len": "max_seq_len",
    "max_input_len": "max_input_len",
}


def setting(name: str, value: object, fate: Fate, target: str = "", note: str = "") -> Move:
    """Returns what becomes of one setting."""
    return Move(kind="setting", name=name, value=str(value), fate=fate, target=target, note=note)


def put(values: dict[str, Any], key: str, value: object) -> None:
    """Sets a dotted key in nested mappings."""
    *sections, last = key.split(".")
    for section in sections:
        values = values.setdefault(section, {})
    values[last] = value


def of_model(file: ModelConfigFile, values: dict[str, Any]) -> Iterator[Move]:
    """Moves the parameters of `tensorrt_llm` into `values`; what cannot be read counts as lost."""
    for name in file.config.parameters:
        text = file.parameter(name)
        if text is None:
            continue
        if name in _KEPT:
            key, read, note = _KEPT[name]
            try:
                put(values, key, read(text))
            except ValueError:
                yield setting(name, text, "lost", note="cannot be read")
                continue
            yield setting(name, text, "changed" if note else "mapped", key, note)
        elif name in _LOST:
            yield setting(name, text, "lost", note=_LOST[name])
        else:
            yield from _special(name, text, values)


def _special(name: str, text: str, values: dict[str, Any]) -> Iterator[Move]:
    if name == "gpt_model_type":
        in_flight = text.startswith("inflight")
        note = "" if in_flight else "LLM() batches in flight always"
        yield setting(name, text, "mapped" if in_flight else "changed", "(always in flight)", note)
    elif name == "gpt_model_path":
        note = "the PyTorch flow reads a checkpoint: the engine's plans are not used"
        yield setting(name, text, "changed", "model", note)
    elif name == "decoding_mode":
        fate = _DECODING.get(text)
        note = {"mapped": "", "changed": "max_beam_width decides"}.get(fate or "", "of the engine flow")
        target = "(by the request)" if fate == "mapped" else ("max_beam_width" if fate else "")
        yield setting(name, text, fate or "lost", target, note)  # type: ignore[arg-type]
    elif name == "exclude_input_in_output":
        target = "sampling_param_exclude_input_from_output"
        yield setting(name, text, "changed", target, "each request says it, and false is the default")
    elif name == "cuda_graph_mode":
        if _flag(text):
            put(values, "cuda_graph_config.enable_padding", True)
        yield setting(name, text, "changed", "cuda_graph_config", "graphs are on by default, and for decoding alone")
    elif name == "cuda_graph_cache_size":
        yield setting(name, text, "changed", "cuda_graph_config.max_batch_size", "sizes are named, not counted")
    elif name in ("xgrammar_tokenizer_info_path", "tokenizer_dir"):
        yield setting(name, text, "mapped", "(from the checkpoint)")
    elif name == "gpu_device_ids":
        yield setting(name, text, "mapped", "gpu_device_ids in config.pbtxt", "")
    else:
        yield setting(name, text, "lost", note="unknown to us")


def of_engine(engine: Document, values: dict[str, Any]) -> Iterator[Move]:
    """Moves what was decided when the engine was built, which `LLM()` decides at its start."""
    for name, key in _BUILD.items():
        value = engine.get("build_config", name)
        if value is not None:
            put(values, key, value)
            yield setting(f"build_config.{name}", value, "mapped", key)
    beams = engine.get("build_config", "max_beam_width")
    if beams is not None and "max_beam_width" not in values:
        put(values, "max_beam_width", beams)
        yield setting("build_config.max_beam_width", beams, "mapped", "max_beam_width")
    mapping = engine.get("pretrained_config", "mapping", default={}) or {}
    for name, key in (("tp_size", "tensor_parallel_size"), ("pp_size", "pipeline_parallel_size")):
        if name in mapping:
            put(values, key, mapping[name])
            yield setting(f"mapping.{name}", mapping[name], "mapped", key)
    block = engine.get("build_config", "plugin_config", "tokens_per_block")
    if block is not None:
        put(values, "kv_cache_config.tokens_per_block", block)
        yield setting("plugin_config.tokens_per_block", block, "mapped", "kv_cache_config.tokens_per_block")
    yield from _quantisation(engine, values)
    yield from _lora(engine, values)


def _quantisation(engine: Document, values: dict[str, Any]) -> Iterator[Move]:
    kv = engine.get("pretrained_config", "quantization", "kv_cache_quant_algo")
    if kv:
        known = {"FP8": "fp8", "NVFP4": "nvfp4"}.get(str(kv))
        if known:
            put(values, "kv_cache_config.dtype", known)
        note = "" if known else "the PyTorch flow has FP8 and NVFP4"
        yield setting(
            "kv_cache_quant_algo", kv, "mapped" if known else "lost", "kv_cache_config.dtype" if known else "", note
        )
    algorithm = engine.get("pretrained_config", "quantization", "quant_algo")
    if not algorithm:
        return
    if str(algorithm).startswith("W8A8_SQ"):
        note = "INT8 SmoothQuant has no PyTorch flow: quantise to FP8 or INT4 AWQ"
        yield setting("quant_algo", algorithm, "lost", note=note)
    else:
        note = f"give a ModelOpt checkpoint in {algorithm}: python -m recipes.quantize"
        yield setting("quant_algo", algorithm, "changed", "model", note)


def _lora(engine: Document, values: dict[str, Any]) -> Iterator[Move]:
    config = engine.get("build_config", "lora_config", default={}) or {}
    targets = config.get("lora_target_modules") or []
    if not targets and not config.get("lora_dir"):
        return
    if targets:
        put(values, "lora_config.lora_target_modules", list(targets))
    if config.get("lora_dir"):
        put(values, "lora_config.lora_dir", list(config["lora_dir"]))
    rank = config.get("max_lora_rank") or engine.get("build_config", "max_lora_rank") or 64
    put(values, "lora_config.max_lora_rank", rank)
    note = "requests name an adapter instead of sending its weights, in newer releases"
    yield setting("lora_config", f"rank {rank}", "changed", "lora_config", note)
