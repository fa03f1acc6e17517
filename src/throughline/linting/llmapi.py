"""Rules for the options of TensorRT-LLM's `LLM()`: the `model.yaml` of Triton's `llmapi` model, or a `--config`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from throughline.contracts.linting import Edit, Finding, Rule
from throughline.contracts.text import did_you_mean, nearest
from throughline.documents import Document, ModelConfigFile
from throughline.linting.names import known_names

UNKNOWN_KEY = Rule("llm-key", "error", "keys are arguments of LLM() at the level where they belong: others are refused")
ENGINE_FLOW = Rule("engine-flow-key", "error", "keys of the engine flow are not given to the PyTorch back end")
LLM_DECOUPLED = Rule(
    "llmapi-decoupled", "error", "triton_config and config.pbtxt agree: Triton starts without auto-complete"
)
LLM_TOKENS = Rule(
    "llm-num-tokens", "error", "max_num_tokens holds a token of every sequence, and a prompt where it is not cut"
)
CUDA_GRAPHS = Rule(
    "cuda-graphs", "warning", "CUDA graphs' batch sizes end at max_batch_size of cuda_graph_config, within the engine's"
)
LLM_SCHEDULER = Rule(
    "llm-scheduler", "error", "scheduler_config has known policies, and all of dynamic_batch_config or nothing"
)
KV_CONFIG = Rule("kv-cache-config", "error", "kv_cache_config has a known dtype and a fraction within 0 and 1")
SPECULATIVE = Rule("speculative-config", "error", "speculative_config has what its decoding_type needs")
LLM_GUIDED = Rule("llm-guided-decoding", "error", "guided_decoding_backend is xgrammar or llguidance")
LLM_LORA = Rule("llm-lora", "error", "lora_config names its targets, and the adapter cache takes its rank")
REMOTE_CODE = Rule("trust-remote-code", "warning", "code of a checkpoint is not run")
RULES = (
    UNKNOWN_KEY,
    ENGINE_FLOW,
    LLM_DECOUPLED,
    LLM_TOKENS,
    CUDA_GRAPHS,
    LLM_SCHEDULER,
    KV_CONFIG,
    SPECULATIVE,
    LLM_GUIDED,
    LLM_LORA,
    REMOTE_CODE,
)
_NAMES = known_names()
_TOP: list[str] = _NAMES["llm"]
_NESTED: dict[str, list[str]] = _NAMES["nested"]
_ENGINE_ONLY: list[str] = _NAMES["engine_flow"]
# What is written at the top and belongs below, and the other way round.
_MOVED: dict[str, str] = _NAMES["moved"]
_POLICIES = {
    "capacity_scheduler_policy": ("GUARANTEED_NO_EVICT", "MAX_UTILIZATION", "STATIC_BATCH"),
    "context_chunking_policy": ("FIRST_COME_FIRST_SERVED", "EQUAL_PROGRESS", "FORCE_CHUNK"),
}
_DYNAMIC = ("enable_batch_size_tuning", "enable_max_num_tokens_tuning", "dynamic_batch_moving_average_window")
_KV_DTYPES = ("auto", "fp8", "nvfp4")
_GUIDED = ("xgrammar", "llguidance")
_DRAFT_MODEL = ("Draft_Target", "Eagle", "Eagle3")
_DEFAULT_BATCH, _DEFAULT_TOKENS, _DEFAULT_INPUT = 2048, 8192, 1024


def check_llmapi(document: Document, config: ModelConfigFile | None) -> Iterator[Finding]:
    """Yields what contradicts in a file of `LLM()` options, and between it and the model's `config.pbtxt`."""
    yield from _keys(document)
    yield from _sizes(document)
    yield from _graphs(document)
    yield from _scheduler(document)
    yield from _kv_cache(document)
    yield from _speculative(document)
    yield from _lora(document)
    guided = document.get("guided_decoding_backend")
    if guided is not None and guided not in _GUIDED:
        yield _finding(
            LLM_GUIDED, document, ("guided_decoding_backend",), str(guided), did_you_mean(str(guided), _GUIDED)
        )
    if document.get("trust_remote_code") is True:
        cure = "leave it out unless the model has no other way, and pin its revision"
        yield _finding(REMOTE_CODE, document, ("trust_remote_code",), "true", cure)
    if config is not None:
        yield from _triton(document, config)


def _finding(
    rule: Rule, document: Document, keys: tuple[str, ...], seen: str, cure: str, edit: Edit | None = None
) -> Finding:
    return Finding(rule, document.path, document.line(*keys), ".".join(keys), seen, cure, edit)


def _keys(document: Document) -> Iterator[Finding]:
    for key in map(str, document.values):
        if key in _ENGINE_ONLY:
            if document.get("backend") != "tensorrt":
                cure = "leave it out, or serve an engine with backend: tensorrt (releases up to 1.2.x)"
                yield _finding(ENGINE_FLOW, document, (key,), key, cure)
        elif key not in _TOP:
            yield _finding(UNKNOWN_KEY, document, (key,), key, _cure(key), _edit(document, (key,), _TOP))
    for section, known in _NESTED.items():
        values = document.get(section)
        for key in map(str, values) if isinstance(values, Mapping) else ():
            if key not in known:
                edit = _edit(document, (section, key), known)
                yield _finding(UNKNOWN_KEY, document, (section, key), key, did_you_mean(key, known), edit)


def _cure(key: str) -> str:
    return f"write it as {_MOVED[key]}" if key in _MOVED else did_you_mean(key, _TOP)


def _edit(document: Document, keys: tuple[str, ...], known: list[str]) -> Edit | None:
    key, near, line = keys[-1], nearest(keys[-1], known), document.line(*keys)
    if key in _MOVED or near is None or document.get(*keys[:-1], near) is not None:
        return None
    return Edit(document.path, line, f"{key}:", f"{near}:")


def _sizes(document: Document) -> Iterator[Finding]:
    tokens = document.get("max_num_tokens", default=_DEFAULT_TOKENS)
    batch = document.get("max_batch_size", default=_DEFAULT_BATCH)
    prompt = document.get("max_input_len", default=0)
    if not all(isinstance(value, int) for value in (tokens, batch, prompt)):
        return
    if batch > tokens:
        cure = f"set max_batch_size to {tokens} or less, or max_num_tokens to {batch} or more"
        yield _finding(
            LLM_TOKENS, document, ("max_num_tokens",), f"max_num_tokens={tokens}, max_batch_size={batch}", cure
        )
    elif prompt > tokens and not document.get("enable_chunked_prefill"):
        seen = f"max_num_tokens={tokens}, max_input_len={prompt}, no chunked prefill"
        yield _finding(LLM_TOKENS, document, ("max_num_tokens",), seen, "set enable_chunked_prefill: true")


def _graphs(document: Document) -> Iterator[Finding]:
    sizes = document.get("cuda_graph_config", "batch_sizes") or []
    most = document.get("cuda_graph_config", "max_batch_size") or 0
    batch = document.get("max_batch_size", default=_DEFAULT_BATCH)
    if sizes and most and max(sizes) != most:
        seen = f"max_batch_size={most}, batch_sizes end at {max(sizes)}"
        yield _finding(CUDA_GRAPHS, document, ("cuda_graph_config", "batch_sizes"), seen, "give one of the two")
    elif max([*sizes, most]) > batch:
        seen = f"graphs of {max([*sizes, most])}, max_batch_size={batch}"
        yield _finding(
            CUDA_GRAPHS, document, ("cuda_graph_config",), seen, f"end at {batch}: larger ones are never run"
        )


def _scheduler(document: Document) -> Iterator[Finding]:
    for key, known in _POLICIES.items():
        value = document.get("scheduler_config", key)
        if value is not None and value not in known:
            keys, near = ("scheduler_config", key), nearest(str(value).upper(), known)
            edit = Edit(document.path, document.line(*keys), str(value), near) if near else None
            yield _finding(LLM_SCHEDULER, document, keys, str(value), did_you_mean(str(value).upper(), known), edit)
    dynamic = document.get("scheduler_config", "dynamic_batch_config")
    missing = [key for key in _DYNAMIC if isinstance(dynamic, Mapping) and key not in dynamic]
    if missing:
        keys = ("scheduler_config", "dynamic_batch_config")
        yield _finding(LLM_SCHEDULER, document, keys, f"lacks {', '.join(missing)}", "give all three")


def _kv_cache(document: Document) -> Iterator[Finding]:
    dtype = document.get("kv_cache_config", "dtype")
    if dtype is not None and dtype not in _KV_DTYPES:
        yield _finding(
            KV_CONFIG, document, ("kv_cache_config", "dtype"), str(dtype), did_you_mean(str(dtype), _KV_DTYPES)
        )
    share = document.get("kv_cache_config", "free_gpu_memory_fraction")
    if isinstance(share, int | float) and not 0 <= share <= 1:
        keys = ("kv_cache_config", "free_gpu_memory_fraction")
        yield _finding(KV_CONFIG, document, keys, str(share), "give a share, e.g. 0.9")


def _speculative(document: Document) -> Iterator[Finding]:
    config: Any = document.get("speculative_config")
    if not isinstance(config, Mapping):
        return
    kind = config.get("decoding_type")
    lacking = {
        None: "decoding_type",
        "MTP": None if config.get("num_nextn_predict_layers", 0) else "num_nextn_predict_layers above 0",
        "NGram": None
        if config.get("max_draft_len", 0) and config.get("max_matching_ngram_size", 0)
        else "max_draft_len and max_matching_ngram_size above 0",
    }.get(kind)
    if kind in _DRAFT_MODEL and not (config.get("speculative_model_dir") or config.get("speculative_model")):
        lacking = "speculative_model_dir (up to 1.2.x) or speculative_model (later)"
    if lacking:
        yield _finding(SPECULATIVE, document, ("speculative_config",), f"{kind} without {lacking}", f"give {lacking}")


def _lora(document: Document) -> Iterator[Finding]:
    config: Any = document.get("lora_config")
    if not isinstance(config, Mapping):
        return
    if not config.get("lora_dir") and not config.get("lora_target_modules"):
        cure = "name lora_target_modules: without them memory for every module is taken"
        yield _finding(LLM_LORA, document, ("lora_config",), "neither lora_dir nor lora_target_modules", cure)
    rank, size = config.get("max_lora_rank", 64), document.get("peft_cache_config", "max_adapter_size", default=64)
    if isinstance(rank, int) and isinstance(size, int) and size < rank:
        keys = ("peft_cache_config", "max_adapter_size")
        yield _finding(LLM_LORA, document, keys, f"{size}, max_lora_rank is {rank}", f"set it to {rank}")


def _triton(document: Document, config: ModelConfigFile) -> Iterator[Finding]:
    wanted = bool(document.get("triton_config", "decoupled", default=False))
    found = config.config.model_transaction_policy.decoupled
    if wanted != found:
        seen = f"{str(wanted).lower()} here, {str(found).lower()} in {config.path.name}"
        keys = ("triton_config", "decoupled")
        yield _finding(LLM_DECOUPLED, document, keys, seen, "set both to true to stream, else both to false")
    size = document.get("triton_config", "max_batch_size", default=0)
    if size != config.config.max_batch_size:
        seen = f"{size} here, {config.config.max_batch_size} in {config.path.name}"
        yield _finding(LLM_DECOUPLED, document, ("triton_config", "max_batch_size"), seen, "give the same in both")
