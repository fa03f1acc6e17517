"""The engine model's `config.pbtxt`: how it is written, and the check of any such file without a server."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from throughline.contracts.errors import DeployError
from throughline.contracts.serving import ServeSpec
from throughline.triton import llmapi

if TYPE_CHECKING:
    from google.protobuf.message import Message

CONFIG_NAME = "config.pbtxt"
HEADER = (
    "# Written by `python -m recipes.deploy`, again at each deployment; the version folders never change.\n"
    "# Streaming and limits are under `parameters`; load the model again after a change.\n"
)

# The text contract of TensorRT-LLM's BLS model, plus input_ids for prompts that are tokens already.
INPUTS: tuple[tuple[str, str, int], ...] = (
    ("text_input", "TYPE_STRING", 1),
    ("input_ids", "TYPE_INT32", -1),
    ("max_tokens", "TYPE_INT32", 1),
    ("stream", "TYPE_BOOL", 1),
    ("stop", "TYPE_BOOL", 1),
    ("temperature", "TYPE_FP32", 1),
    ("top_k", "TYPE_INT32", 1),
    ("top_p", "TYPE_FP32", 1),
    ("seed", "TYPE_UINT64", 1),
    ("random_seed", "TYPE_UINT64", 1),
    ("stop_words", "TYPE_STRING", -1),
    ("bad_words", "TYPE_STRING", -1),
    ("repetition_penalty", "TYPE_FP32", 1),
    ("presence_penalty", "TYPE_FP32", 1),
    ("frequency_penalty", "TYPE_FP32", 1),
    ("min_tokens", "TYPE_INT32", 1),
    ("ignore_eos", "TYPE_BOOL", 1),
    ("priority", "TYPE_INT32", 1),
    ("return_log_probs", "TYPE_BOOL", 1),
    ("return_perf_metrics", "TYPE_BOOL", 1),
    ("exclude_input_in_output", "TYPE_BOOL", 1),
    ("guided_decoding_guide_type", "TYPE_STRING", 1),
    ("guided_decoding_guide", "TYPE_STRING", 1),
)
OUTPUTS: tuple[tuple[str, str, int], ...] = (
    ("text_output", "TYPE_STRING", 1),
    ("finish_reason", "TYPE_STRING", 1),
    ("prompt_tokens", "TYPE_INT32", 1),
    ("completion_tokens", "TYPE_INT32", 1),
    ("output_ids", "TYPE_INT32", -1),
    ("cum_log_probs", "TYPE_FP32", 1),
    ("output_log_probs", "TYPE_FP32", -1),
    ("arrival_time_ns", "TYPE_INT64", 1),
    ("first_scheduled_time_ns", "TYPE_INT64", 1),
    ("first_token_time_ns", "TYPE_INT64", 1),
    ("last_token_time_ns", "TYPE_INT64", 1),
)

# Fields that tritonclient's schema (2.73) has and the embedded server's (2.51) has not; found by
# comparing the two releases' descriptors field by field, these two are the roots of all differences.
NEWER_THAN_SERVER = frozenset({"model_metrics", "ensemble_scheduling.max_inflight_requests"})
# What NVIDIA's containers of TensorRT-LLM 1.2.x (26.03 to 26.07, Triton 2.67 to 2.71) may lack of it: the field came
# between 2.62 and 2.73.
NEWER_THAN_CONTAINER = frozenset({"ensemble_scheduling.max_inflight_requests"})
Server = Literal["cpu", "container"]

_PARAMETERS = (
    "layout",
    "max_active_requests",
    "default_max_tokens",
    "exclude_input_in_output",
    "stream_interval_tokens",
    "flush_interval_ms",
    "max_responses_per_second",
    "cancel_poll_interval_ms",
    "metrics_interval_ms",
    "drain_timeout_seconds",
    "priority_aging_seconds",
)


def render_config(name: str, *, version: int, engine_dir: Path, spec: ServeSpec) -> str:
    """Returns the `config.pbtxt` of an engine model that serves exactly `version`."""
    from tritonclient.grpc import model_config_pb2

    config = model_config_pb2.ModelConfig(name=name, backend="python", max_batch_size=0)
    config.model_transaction_policy.decoupled = True
    config.version_policy.specific.versions.append(version)
    config.instance_group.add(count=1, kind=model_config_pb2.ModelInstanceGroup.KIND_CPU)
    inputs, outputs = (llmapi.INPUTS, llmapi.OUTPUTS) if spec.layout == "llmapi" else (INPUTS, OUTPUTS)
    for tensor, kind, size in inputs:
        config.input.add(name=tensor, data_type=model_config_pb2.DataType.Value(kind), dims=[size], optional=True)
    for tensor, kind, size in outputs:
        config.output.add(name=tensor, data_type=model_config_pb2.DataType.Value(kind), dims=[size])
    config.parameters["engine_dir"].string_value = str(engine_dir)
    values = spec.model_dump(mode="json")
    for key in _PARAMETERS:
        value = values[key]
        config.parameters[key].string_value = str(value).lower() if isinstance(value, bool) else str(value)
    return to_text(config)


def to_text(config: Message, header: str = HEADER) -> str:
    """Returns a config as protobuf text under a header, by default that of our engine model."""
    from google.protobuf import text_format

    return header + text_format.MessageToString(config)


def parse_config(text: str, *, where: str, directory_name: str, server: Server = "cpu") -> Any:
    """Checks a `config.pbtxt` against the schema, the server's subset of it and its directory.

    Args:
        text: Protobuf text.
        where: Path for messages.
        directory_name: Name of the model's directory, which Triton requires to be the model's name.
        server: `cpu` for the embedded server, `container` for NVIDIA's with TensorRT-LLM.

    Returns:
        The `ModelConfig` message.

    Raises:
        DeployError: With line and column for syntax, unknown fields and enums; else every fault found.
    """
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2

    config = model_config_pb2.ModelConfig()
    try:
        text_format.Parse(text, config)
    except text_format.ParseError as error:
        raise DeployError(
            "model configuration is not valid protobuf text",
            where=f"{where}:{error.GetLine()}:{error.GetColumn()}",
            seen=str(error).partition(" : ")[2] or str(error),
            fix="correct the line; field names are those of Triton's model_config.proto",
        ) from None
    faults = [*_semantic_faults(config, directory_name)]
    if server == "cpu":
        faults += [*_beyond_cpu(config), *_newer_fields(config, NEWER_THAN_SERVER, "Triton 2.51")]
    else:
        faults += [*_beyond_container(config), *_newer_fields(config, NEWER_THAN_CONTAINER, "Triton 2.67 to 2.71")]
    if faults:
        raise DeployError(
            "model configuration would not load",
            where=where,
            seen="; ".join(faults),
            fix="correct the fields named",
        )
    return config


def _semantic_faults(config: Any, directory_name: str) -> Iterator[str]:
    if config.name and config.name != directory_name:
        yield f"name is '{config.name}' in directory '{directory_name}'"
    if not config.backend and not config.platform:
        yield "neither backend nor platform is set"
    if config.max_batch_size < 0:
        yield f"max_batch_size is {config.max_batch_size}, must not be negative"
    for tensor in [*config.input, *config.output]:
        if not tensor.dims or any(size == 0 or size < -1 for size in tensor.dims):
            yield f"dims of '{tensor.name}' are {list(tensor.dims)}, each must be -1 or positive"
    for what, tensors in (("inputs", config.input), ("outputs", config.output)):
        names = Counter(tensor.name for tensor in tensors)
        yield from (f"{count} {what} are called '{name}'" for name, count in names.items() if count > 1)


def _beyond_cpu(config: Any) -> Iterator[str]:
    if any(group.kind == group.KIND_GPU for group in config.instance_group):
        yield "instance_group kind is KIND_GPU, but this server has no GPU support"
    if config.backend and config.backend != "python":
        yield f"backend is '{config.backend}', but this server ships the python backend only"


def _beyond_container(config: Any) -> Iterator[str]:
    if config.backend and config.backend not in ("python", "tensorrtllm"):
        yield f"backend is '{config.backend}', but the container ships python and tensorrtllm"
    if config.platform and config.platform != "ensemble":
        yield f"platform is '{config.platform}', but the container knows ensemble alone"


def _newer_fields(message: Message, newer: frozenset[str], server: str, prefix: str = "") -> Iterator[str]:
    for field, value in message.ListFields():
        path = f"{prefix}{field.name}"
        if path in newer:
            yield f"{path} is unknown to {server}"
        elif field.message_type is not None and not field.message_type.GetOptions().map_entry:
            for item in value if field.is_repeated else [value]:
                yield from _newer_fields(item, newer, server, f"{path}.")
