"""The `config.pbtxt` of an embedding model; its tensors have the names that Optimum gives exported ones."""

from __future__ import annotations

from pathlib import Path

from throughline.contracts.serving import ServeSpec
from throughline.triton.model_config import to_text

LAYOUT = "embedding"
INPUT_IDS, ATTENTION_MASK, OUTPUT = "input_ids", "attention_mask", "sentence_embedding"
_HEADER = (
    "# Written by `python -m recipes.deploy`, again at each deployment; the version folders never change.\n"
    "# Right-padded token ids in, one vector a sequence out; Triton puts waiting requests together.\n"
)


def render_embedding_config(
    name: str, *, version: int, engine_dir: Path, spec: ServeSpec, dimensions: int, max_batch_size: int
) -> str:
    """Returns the `config.pbtxt` of an embedding model that serves exactly `version`.

    Args:
        name: Served model name.
        version: The version.
        engine_dir: Its engine.
        spec: Serving settings; `max_active_requests` is how many may wait.
        dimensions: Numbers of a vector.
        max_batch_size: Sequences that run together.
    """
    from tritonclient.grpc import model_config_pb2

    config = model_config_pb2.ModelConfig(name=name, backend="python", max_batch_size=max_batch_size)
    config.version_policy.specific.versions.append(version)
    config.instance_group.add(count=1, kind=model_config_pb2.ModelInstanceGroup.KIND_CPU)
    # Ragged: sequences of different lengths may come in one batch, which the engine pads.
    config.input.add(name=INPUT_IDS, data_type=model_config_pb2.TYPE_INT64, dims=[-1], allow_ragged_batch=True)
    config.input.add(
        name=ATTENTION_MASK, data_type=model_config_pb2.TYPE_INT64, dims=[-1], allow_ragged_batch=True, optional=True
    )
    config.output.add(name=OUTPUT, data_type=model_config_pb2.TYPE_FP32, dims=[dimensions])
    # No delay: what comes while a batch runs is the next one.
    policy = config.dynamic_batching.default_queue_policy
    policy.max_queue_size = spec.max_active_requests
    policy.timeout_action = model_config_pb2.ModelQueuePolicy.REJECT
    policy.allow_timeout_override = True
    config.parameters["engine_dir"].string_value = str(engine_dir)
    config.parameters["layout"].string_value = LAYOUT
    return to_text(config, _HEADER)
