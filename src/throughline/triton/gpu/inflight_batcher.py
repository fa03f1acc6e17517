"""The five `config.pbtxt` of TensorRT-LLM's `inflight_batcher_llm` layout (1.2.x), as protobuf messages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from throughline.contracts.serving import ServeSpec
from throughline.triton.gpu.engine import ServedEngine
from throughline.triton.gpu.settings import Settings
from throughline.triton.text import tensors
from throughline.triton.text.tensors import Tensor

if TYPE_CHECKING:
    from google.protobuf.message import Message

ENGINE_MODEL = "tensorrt_llm"
WARM_UP_TOKENS = 8
# File of a model's `warmup` folder → its int32 value; zeros would be a prompt without a token.
WARM_UP_FILES = {"input_lengths": WARM_UP_TOKENS, "request_output_len": 1}


def render(engine: ServedEngine, spec: ServeSpec, settings: Settings, *, tokenizer_info: str | None) -> dict[str, Any]:
    """Returns the `ModelConfig` of each model by its name.

    Args:
        engine: What is served.
        spec: How.
        settings: What the engine decided of it.
        tokenizer_info: Path of xgrammar's tokenizer info on the serving machine; None without guided decoding.
    """
    return {
        "preprocessing": _preprocessing(engine, spec, settings),
        ENGINE_MODEL: _engine(engine, spec, settings, tokenizer_info),
        "postprocessing": _postprocessing(engine, spec, settings),
        "tensorrt_llm_bls": _bls(engine, spec, settings),
        "ensemble": _ensemble(engine, spec),
    }


def new_config(name: str, spec: ServeSpec, *, batch: int, backend: str) -> Any:
    """Returns a `ModelConfig` with what all of them have: name, back end, batch size, version policy."""
    from tritonclient.grpc import model_config_pb2

    config = model_config_pb2.ModelConfig(name=name, max_batch_size=batch)
    if backend == "ensemble":
        config.platform = backend
    else:
        config.backend = backend
    if spec.gpu.version_policy == "specific":
        config.version_policy.specific.versions.append(1)
    else:
        config.version_policy.latest.num_versions = 1
    return config


def add_tensors(field: Any, found: Iterable[Tensor], *, inputs: bool, reshapes: bool = False) -> None:
    """Adds tensors to the `input` or `output` of a config; `reshapes` takes the `[1]` off scalars."""
    from tritonclient.grpc import model_config_pb2

    for tensor in found:
        added = field.add(
            name=tensor.name, data_type=model_config_pb2.DataType.Value(f"TYPE_{tensor.kind}"), dims=tensor.dims
        )
        if inputs and tensor.optional:
            added.optional = True
        if reshapes and inputs and tensor.ragged:
            added.allow_ragged_batch = True
        if reshapes and inputs and tensor.scalar:
            added.reshape.SetInParent()


def set_parameters(config: Message, values: Mapping[str, object]) -> None:
    """Sets text parameters of a config; flags as `true` and `false`."""
    parameters: Any = getattr(config, "parameters")  # noqa: B009  # a generated field
    for key, value in values.items():
        parameters[key].string_value = str(value).lower() if isinstance(value, bool) else str(value)


def add_instances(config: Any, count: int) -> None:
    """Adds processes; the models run on the CPU, and the engine's GPUs are named by the engine."""
    group = config.instance_group.add(count=count)
    group.kind = group.KIND_CPU


def _batching(config: Any, engine: ServedEngine, spec: ServeSpec) -> None:
    batching = config.dynamic_batching
    batching.preferred_batch_size.append(engine.max_batch_size)
    batching.max_queue_delay_microseconds = spec.gpu.max_queue_delay_microseconds
    batching.default_queue_policy.max_queue_size = spec.max_active_requests


def _preprocessing(engine: ServedEngine, spec: ServeSpec, settings: Settings) -> Any:
    config = new_config("preprocessing", spec, batch=engine.max_batch_size, backend="python")
    _batching(config, engine, spec)
    add_tensors(config.input, tensors.PREPROCESSING_INPUTS, inputs=True)
    add_tensors(config.output, tensors.PREPROCESSING_OUTPUTS, inputs=False)
    set_parameters(
        config,
        {"tokenizer_dir": spec.gpu.checkpoint_dir, "add_special_tokens": spec.gpu.add_special_tokens},
    )
    add_instances(config, settings.preprocessing_instances)
    return config


def _postprocessing(engine: ServedEngine, spec: ServeSpec, settings: Settings) -> Any:
    config = new_config("postprocessing", spec, batch=engine.max_batch_size, backend="python")
    _batching(config, engine, spec)
    add_tensors(config.input, tensors.POSTPROCESSING_INPUTS, inputs=True)
    add_tensors(config.output, tensors.POSTPROCESSING_OUTPUTS, inputs=False)
    set_parameters(
        config,
        {"tokenizer_dir": spec.gpu.checkpoint_dir, "skip_special_tokens": spec.gpu.skip_special_tokens},
    )
    add_instances(config, settings.postprocessing_instances)
    return config


def _engine(engine: ServedEngine, spec: ServeSpec, settings: Settings, tokenizer_info: str | None) -> Any:
    gpu = spec.gpu
    config = new_config(ENGINE_MODEL, spec, batch=engine.max_batch_size, backend="tensorrtllm")
    config.model_transaction_policy.decoupled = gpu.decoupled
    _batching(config, engine, spec)
    add_tensors(config.input, tensors.ENGINE_INPUTS, inputs=True, reshapes=True)
    add_tensors(config.output, tensors.ENGINE_OUTPUTS, inputs=False)
    add_instances(config, 1)
    values: dict[str, object] = {
        "gpt_model_type": gpu.batching_strategy,
        "gpt_model_path": gpu.engine_dir,
        "max_beam_width": engine.max_beam_width,
        "batch_scheduler_policy": gpu.batch_scheduler_policy,
        "kv_cache_free_gpu_mem_fraction": f"{gpu.kv_cache_free_gpu_mem_fraction:g}",
        "enable_kv_cache_reuse": settings.enable_kv_cache_reuse,
        "enable_chunked_context": settings.enable_chunked_context,
        "exclude_input_in_output": spec.exclude_input_in_output,
        "cancellation_check_period_ms": gpu.cancellation_check_period_ms,
        "stats_check_period_ms": gpu.stats_check_period_ms,
        "FORCE_CPU_ONLY_INPUT_TENSORS": "no",
        **settings.lora_cache,
    }
    if gpu.kv_cache_host_memory_bytes:
        values["kv_cache_host_memory_bytes"] = gpu.kv_cache_host_memory_bytes
    if gpu.guided_decoding_backend and tokenizer_info:
        values["guided_decoding_backend"] = gpu.guided_decoding_backend
        values["xgrammar_tokenizer_info_path"] = tokenizer_info
    set_parameters(config, values)
    if settings.warm_up:
        _warm_up(config)
    return config


def _warm_up(config: Any) -> None:
    from tritonclient.grpc import model_config_pb2

    sample = config.model_warmup.add(name="one_token", batch_size=1, count=1)
    prompt = sample.inputs["input_ids"]
    prompt.data_type, prompt.zero_data = model_config_pb2.TYPE_INT32, True
    prompt.dims.append(WARM_UP_TOKENS)
    for name in WARM_UP_FILES:
        value = sample.inputs[name]
        value.data_type, value.input_data_file = model_config_pb2.TYPE_INT32, name
        value.dims.append(1)


def _bls(engine: ServedEngine, spec: ServeSpec, settings: Settings) -> Any:
    config = new_config("tensorrt_llm_bls", spec, batch=engine.max_batch_size, backend="python")
    config.model_transaction_policy.decoupled = spec.gpu.decoupled
    add_tensors(config.input, tensors.TEXT_INPUTS, inputs=True)
    add_tensors(config.output, tensors.TEXT_OUTPUTS, inputs=False)
    set_parameters(
        config,
        {
            "tensorrt_llm_model_name": ENGINE_MODEL,
            "tokenizer_dir": spec.gpu.checkpoint_dir,
            "skip_special_tokens": spec.gpu.skip_special_tokens,
            "cancellation_check_period_ms": spec.gpu.cancellation_check_period_ms,
        },
    )
    add_instances(config, settings.bls_instances)
    return config


def _ensemble(engine: ServedEngine, spec: ServeSpec) -> Any:
    config = new_config("ensemble", spec, batch=engine.max_batch_size, backend="ensemble")
    add_tensors(config.input, tensors.TEXT_INPUTS, inputs=True)
    add_tensors(config.output, tensors.TEXT_OUTPUTS, inputs=False)
    inner = {tensor.name: f"_{tensor.name}" for tensor in tensors.PREPROCESSING_OUTPUTS}
    from_preprocessing = {member: inner[name] for member, name in tensors.FROM_PREPROCESSING.items()}
    passed = {tensor.name: tensor.name for tensor in tensors.PASSED}
    for model, inputs, outputs in (
        ("preprocessing", tensors.TO_PREPROCESSING, inner),
        (
            ENGINE_MODEL,
            from_preprocessing | tensors.TO_ENGINE,
            {"output_ids": "_TOKENS_BATCH", "sequence_length": "_SEQUENCE_LENGTH"} | passed,
        ),
        (
            "postprocessing",
            {"TOKENS_BATCH": "_TOKENS_BATCH", "SEQUENCE_LENGTH": "_SEQUENCE_LENGTH"},
            {"OUTPUT": "text_output"},
        ),
    ):
        step = config.ensemble_scheduling.step.add(model_name=model, model_version=-1)
        step.input_map.update(inputs)
        step.output_map.update(outputs)
    return config
