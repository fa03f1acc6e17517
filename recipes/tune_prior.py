"""Where a search starts: the incumbent, and what arithmetic says of batch and step before anything is measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from throughline.contracts.engine import EngineInfo
from throughline.contracts.workload import Workload
from throughline.tuning import Settings, SpaceSpec
from throughline.tuning.space import identity


def incumbent(space: SpaceSpec, layers: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Returns the present value of every setting of the space that means something beside the others.

    Args:
        space: The dimensions.
        layers: Settings of `engine`, `serve` and `gateway` as they are.

    Raises:
        KeyError: If the space names a setting that a layer does not have.
    """
    found: dict[str, Any] = {}
    for each in space.dimensions:
        if each.active(found):
            found[each.key] = _at(layers, each.key)
    return found


def proposals(space: SpaceSpec, start: Settings, info: EngineInfo, workload: Workload) -> list[dict[str, Any]]:
    """Returns the points that the arithmetic of a step proposes, snapped to the space.

    A batch holds the users whose requests fit the KV cache. A step of a prompt beside that batch brings first tokens
    soonest; one of twice the batch keeps the gaps of running streams short. Fewer bits of weights are less to read in
    every step, so both are proposed at the smallest precision too.
    """
    users = workload.arrivals.users if workload.arrivals.process == "closed" else workload.concurrency or 8
    length = workload.input_tokens + workload.output_tokens
    batch = max(1, min(users, info.spec.kv_cache_bytes // max(1, length * _kv_bytes(info))))
    steps = [{"engine.max_batch_size": batch, "engine.max_num_tokens": batch + workload.input_tokens}]
    steps.append({"engine.max_batch_size": batch, "engine.max_num_tokens": 2 * batch})
    wanted = [step | {"engine.precision": precision} for precision in _precisions(space, start) for step in steps]
    points = [space.clean(dict(start) | each) for each in wanted]
    return list({identity(point): point for point in points}.values())


def reconciled(start: Settings, change: Settings) -> dict[str, Any]:
    """Returns the incumbent with a change; a batch that a shorter step has no token for shrinks with it."""
    point = dict(start) | dict(change)
    tokens, batch = point.get("engine.max_num_tokens"), point.get("engine.max_batch_size")
    if tokens is not None and batch is not None and tokens < batch and "engine.max_batch_size" not in change:
        point["engine.max_batch_size"] = tokens
    return point


def _precisions(space: SpaceSpec, start: Settings) -> list[Any]:
    order = ("f32", "bf16", "fp8", "int8", "int8_sq", "w4a8_awq", "int4_awq", "nvfp4", "int4")
    dimension = next((each for each in space.dimensions if each.key == "engine.precision"), None)
    if dimension is None:
        return [start.get("engine.precision")]
    smallest = max(dimension.values, key=lambda name: order.index(name) if name in order else -1)
    return list(dict.fromkeys([start["engine.precision"], smallest]))


def _kv_bytes(info: EngineInfo) -> int:
    """Of a token's keys and values in 16 bits."""
    return 2 * info.num_hidden_layers * info.num_key_value_heads * info.head_dim * 2


def _at(layers: Mapping[str, Any], key: str) -> Any:
    value: Any = layers
    for part in key.split("."):
        # A section that is null has no kind: `speculative_config.decoding_type` is null then.
        value = None if value is None else value[part]
    return value
