"""Rules for a Triton model repository in TensorRT-LLM's `inflight_batcher_llm` layout, and for any `config.pbtxt`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from throughline.contracts.linting import Edit, Finding, Rule
from throughline.contracts.text import did_you_mean, nearest
from throughline.documents import ModelConfigFile
from throughline.linting.engine import EngineDirectory, Target
from throughline.linting.names import known_names

PLACEHOLDER = Rule(
    "placeholder", "error", "no ${placeholder} is left in a config.pbtxt: the back end takes it as not set"
)
DECOUPLED = Rule("decoupled", "error", "tensorrt_llm and the models before it agree on decoupled, or streaming fails")
BATCHING = Rule("batching-strategy", "error", "gpt_model_type is V1, inflight_batching or inflight_fused_batching")
INFLIGHT = Rule(
    "inflight-batching", "error", "in-flight batching needs paged KV, packed input and the attention plugin"
)
SCHEDULER = Rule(
    "scheduler-policy", "error", "batch_scheduler_policy is a known name: others silently become the default"
)
DECODING = Rule("decoding-mode", "error", "decoding_mode is a known name, and has what it needs")
PAGED_CONTEXT = Rule(
    "paged-context-fmha", "error", "KV reuse and chunked context need use_paged_context_fmha in the engine"
)
WEIGHT_STREAMING = Rule(
    "weight-streaming", "error", "gpu_weights_percent below 1 needs an engine with weight_streaming"
)
GUIDED = Rule("guided-decoding", "error", "guided decoding has a tokenizer: without one it is silently off")
BEAM_WIDTH = Rule("beam-width", "error", "max_beam_width is no more than the engine's")
BATCH_SIZE = Rule("batch-size", "warning", "Triton's max_batch_size is no more than the engine's")
INSTANCES = Rule(
    "instance-count", "warning", "pre- and postprocessing and BLS have instances for the requests in flight"
)
LORA_CACHE = Rule(
    "lora-cache", "error", "the LoRA cache takes adapters of the engine's rank, and the engine has the plugin"
)
CROSS_KV = Rule("cross-kv-cache", "error", "cross_kv_cache_fraction is for encoder-decoder models")
UNKNOWN = Rule("unknown-parameter", "warning", "parameters of tensorrt_llm are ones that the back end reads")
SEED = Rule("random-seed", "warning", "a request's seed is called seed; random_seed is of old releases")
WIRING = Rule("ensemble-wiring", "error", "an ensemble's steps name models and tensors that are there")
DEVICES = Rule("device-ids", "error", "gpu_device_ids has a group for each instance, of world size GPUs each")
QUEUE = Rule("queue-size", "warning", "a queue has a limit, or overload ends in time-outs instead of refusals")
RULES = (
    PLACEHOLDER,
    DECOUPLED,
    BATCHING,
    INFLIGHT,
    SCHEDULER,
    DECODING,
    PAGED_CONTEXT,
    WEIGHT_STREAMING,
    GUIDED,
    BEAM_WIDTH,
    BATCH_SIZE,
    INSTANCES,
    LORA_CACHE,
    CROSS_KV,
    UNKNOWN,
    SEED,
    WIRING,
    DEVICES,
    QUEUE,
)
_STRATEGIES = ("V1", "v1", "inflight_batching", "inflight_fused_batching")
_POLICIES = ("guaranteed_no_evict", "max_utilization", "static_batch")
_MODES = ("top_k", "top_p", "top_k_top_p", "beam_search", "medusa", "redrafter", "lookahead", "eagle")
_LOOKAHEAD = ("lookahead_window_size", "lookahead_ngram_size", "lookahead_verification_set_size")
_BACKENDS = ("tensorrtllm", "python")
_PARAMETERS: list[str] = known_names()["parameters"]
_BEFORE = ("ensemble", "tensorrt_llm_bls")
_PER_REQUEST = ("preprocessing", "postprocessing", "tensorrt_llm_bls")
ENGINE_MODEL = "tensorrt_llm"


@dataclass(frozen=True)
class ModelRepository:
    """A model repository, or a part of one.

    Attributes:
        path: Its folder.
        models: Parsed configurations by model.
        engine: The engine that `tensorrt_llm` serves, None if it is not on this machine.
    """

    path: Path
    models: dict[str, ModelConfigFile]
    engine: EngineDirectory | None


def finding(rule: Rule, file: ModelConfigFile, key: str, seen: str, cure: str, edit: Edit | None = None) -> Finding:
    """Returns a finding at a parameter or field of a `config.pbtxt`."""
    return Finding(rule, file.path, file.line(key), key, seen, cure, edit)


def check_repository(repository: ModelRepository, target: Target) -> Iterator[Finding]:
    """Yields what contradicts within a repository, and between it and its engine."""
    for file in repository.models.values():
        yield from _placeholders(file)
        yield from _wiring(file, repository)
        if file.config.HasField("dynamic_batching") and not _queue_limited(file):
            yield finding(
                QUEUE, file, "dynamic_batching", "max_queue_size 0: no limit", "set default_queue_policy.max_queue_size"
            )
    model = repository.models.get(ENGINE_MODEL)
    if model is None or model.config.backend not in _BACKENDS or not _is_engine_model(model):
        return
    yield from _decoupled(model, repository)
    yield from _names(model)
    yield from _guided(model)
    yield from _devices(model, repository.engine)
    yield from _instances(model, repository, target)
    for name in _BEFORE:
        if name in repository.models:
            yield from _seed(repository.models[name])
    if model.parameter("cross_kv_cache_fraction") and not model.parameter("encoder_model_path"):
        yield finding(
            CROSS_KV, model, "cross_kv_cache_fraction", "no encoder_model_path", "leave cross_kv_cache_fraction empty"
        )
    if repository.engine is not None:
        yield from _against_engine(model, repository.engine)


def _is_engine_model(model: ModelConfigFile) -> bool:
    """Whether it is of the engine layout; the `llmapi` model has no such parameters."""
    return "gpt_model_path" in model.config.parameters or "gpt_model_type" in model.config.parameters


def _placeholders(file: ModelConfigFile) -> Iterator[Finding]:
    for line, name in file.placeholders():
        cure = "fill it in (tools/fill_template.py), or remove the setting"
        yield Finding(PLACEHOLDER, file.path, line, name, f"${{{name}}}", cure)


def _queue_limited(file: ModelConfigFile) -> bool:
    return bool(file.config.dynamic_batching.default_queue_policy.max_queue_size)


def _decoupled(model: ModelConfigFile, repository: ModelRepository) -> Iterator[Finding]:
    wanted = model.config.model_transaction_policy.decoupled
    bls = repository.models.get("tensorrt_llm_bls")
    if bls is None or bls.config.model_transaction_policy.decoupled == wanted:
        return
    # Streaming needs it in both; whoever set it in one wants to stream.
    lacking = bls if wanted else model
    line = lacking.line("decoupled") if "decoupled" in lacking.text else 1
    text = lacking.text.splitlines()[line - 1]
    edit = Edit(lacking.path, line, "false", "true") if text.count("false") == 1 else None
    seen = f"{model.name}: {str(wanted).lower()}, {bls.name}: {str(not wanted).lower()}"
    yield finding(DECOUPLED, lacking, "decoupled", seen, "set model_transaction_policy.decoupled to true in both", edit)


def _names(model: ModelConfigFile) -> Iterator[Finding]:
    for key, rule, known in (
        ("gpt_model_type", BATCHING, _STRATEGIES),
        ("batch_scheduler_policy", SCHEDULER, _POLICIES),
        ("decoding_mode", DECODING, _MODES),
    ):
        value = model.parameter(key)
        if value is not None and value not in known:
            yield finding(rule, model, key, value, did_you_mean(value, known), _renamed(model, key, value, known))
    if model.parameter("decoding_mode") == "lookahead":
        for key in _LOOKAHEAD:
            if model.number(key) is None:
                yield finding(DECODING, model, key, "decoding_mode is lookahead, this is not set", f"set {key}")
    for key in model.config.parameters:
        if key not in _PARAMETERS:
            yield finding(UNKNOWN, model, key, key, did_you_mean(key, _PARAMETERS))


def _renamed(model: ModelConfigFile, key: str, value: str, known: tuple[str, ...]) -> Edit | None:
    """The edit that puts the only near name in place of a wrong one."""
    near, line = nearest(value, known), model.line(key)
    text = model.text.splitlines()[line - 1]
    return Edit(model.path, line, f'"{value}"', f'"{near}"') if near and text.count(f'"{value}"') == 1 else None


def _guided(model: ModelConfigFile) -> Iterator[Finding]:
    if model.parameter("guided_decoding_backend") is None:
        return
    key = "xgrammar_tokenizer_info_path" if model.config.backend == "tensorrtllm" else "tokenizer_dir"
    if model.parameter(key) is None:
        yield finding(GUIDED, model, "guided_decoding_backend", f"{key} is not set", f"set {key}")


def _devices(model: ModelConfigFile, engine: EngineDirectory | None) -> Iterator[Finding]:
    value = model.parameter("gpu_device_ids")
    if value is None or engine is None:
        return
    groups = [group.split(",") for group in value.split(";")]
    instances = sum(max(1, group.count) for group in model.config.instance_group) or 1
    if any(len(group) != engine.world_size for group in groups) or len(groups) not in (1, instances):
        seen = f"{value}: {len(groups)} groups for {instances} instances, world size {engine.world_size}"
        yield finding(DEVICES, model, "gpu_device_ids", seen, "give ids parted by , and a group for each instance by ;")


def _instances(model: ModelConfigFile, repository: ModelRepository, target: Target) -> Iterator[Finding]:
    wanted = target.concurrency or model.config.max_batch_size
    for name in _PER_REQUEST:
        file = repository.models.get(name)
        if file is None:
            continue
        count = sum(max(1, group.count) for group in file.config.instance_group) or 1
        # Pre- and postprocessing take a batch at a time; BLS holds an instance for each request until it ends.
        if count * (1 if name == "tensorrt_llm_bls" else max(1, file.config.max_batch_size)) < wanted:
            seen = f"{count} for {wanted} requests in flight"
            yield finding(INSTANCES, file, "instance_group", seen, "raise count: requests beyond it wait")


def _seed(file: ModelConfigFile) -> Iterator[Finding]:
    if any(tensor.name == "random_seed" for tensor in file.config.input):
        cure = "rename it to seed, as current releases have it, and tell clients that send random_seed"
        yield finding(SEED, file, "random_seed", "input random_seed", cure)


def _wiring(file: ModelConfigFile, repository: ModelRepository) -> Iterator[Finding]:
    for step in file.config.ensemble_scheduling.step:
        member = repository.models.get(step.model_name)
        if member is None:
            yield finding(
                WIRING,
                file,
                "ensemble_scheduling",
                f"no model {step.model_name}",
                did_you_mean(step.model_name, repository.models),
            )
            continue
        for kind, mapped, declared in (
            ("input", step.input_map, member.config.input),
            ("output", step.output_map, member.config.output),
        ):
            names = {tensor.name for tensor in declared}
            for name in sorted(set(mapped) - names):
                seen = f"{member.name} has no {kind} {name}"
                yield finding(WIRING, file, "ensemble_scheduling", seen, did_you_mean(name, names))


def _against_engine(model: ModelConfigFile, engine: EngineDirectory) -> Iterator[Finding]:
    strategy = model.parameter("gpt_model_type") or ""
    if strategy.startswith("inflight"):
        lacking = [name for name in ("remove_input_padding", "gpt_attention_plugin") if not engine.on(name, True)]
        if not str(engine.build("kv_cache_type", default="PAGED")).upper().endswith("PAGED"):
            lacking.append("kv_cache_type=paged")
        if lacking:
            seen = f"{strategy}, the engine lacks {', '.join(lacking)}"
            yield finding(INFLIGHT, model, "gpt_model_type", seen, "build the engine with them")
    for key in ("enable_kv_cache_reuse", "enable_chunked_context"):
        if model.flag(key) and not engine.on("use_paged_context_fmha", True):
            cure = "build with --use_paged_context_fmha enable, or set it to false"
            yield finding(PAGED_CONTEXT, model, key, "true, use_paged_context_fmha is off in the engine", cure)
    percent = model.number("gpu_weights_percent")
    if percent is not None and percent < 1 and not engine.build("weight_streaming"):
        seen = f"{percent:g}, the engine has no weight_streaming"
        yield finding(
            WEIGHT_STREAMING, model, "gpu_weights_percent", seen, "build with --weight_streaming, or set it to 1.0"
        )
    beams, built = model.number("max_beam_width"), engine.build("max_beam_width", default=1)
    if beams is not None and beams > built:
        yield finding(BEAM_WIDTH, model, "max_beam_width", f"{beams:g}, the engine has {built}", f"set it to {built}")
    batch = engine.build("max_batch_size", default=2048)
    if model.config.max_batch_size > batch:
        seen = f"{model.config.max_batch_size}, the engine has {batch}"
        yield finding(BATCH_SIZE, model, "max_batch_size", seen, f"set it to {batch}, or build a larger engine")
    yield from _lora(model, engine)


def _lora(model: ModelConfigFile, engine: EngineDirectory) -> Iterator[Finding]:
    size = model.number("lora_cache_max_adapter_size")
    rank = engine.build("lora_config", "max_lora_rank", default=None) or engine.build("max_lora_rank", default=64)
    if size is None:
        return
    if not engine.on("lora_plugin"):
        cure = "build with --lora_plugin auto, or leave the LoRA cache empty"
        yield finding(LORA_CACHE, model, "lora_cache_max_adapter_size", "the engine has no lora_plugin", cure)
    elif size < rank:
        seen = f"{size:g}, max_lora_rank is {rank}"
        yield finding(LORA_CACHE, model, "lora_cache_max_adapter_size", seen, f"set it to {rank}")
