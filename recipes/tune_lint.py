"""Which points of a space contradict themselves: asked before anything is loaded, answered with the rule's id."""

from __future__ import annotations

from typing import Any

from recipes.tune_precision import over
from recipes.tuned import merged
from throughline.contracts.config import parse
from throughline.contracts.engine import EngineInfo, EngineSpec
from throughline.contracts.errors import UserError
from throughline.contracts.linting import Rule
from throughline.contracts.serving import ServeSpec
from throughline.linting.engine import NUM_TOKENS
from throughline.tuning import Settings
from throughline.tuning.evidence import by_layer

ENGINE_SPEC = Rule("engine-spec", "error", "the back end has what the engine's settings ask for, and they agree")
KV_SIZE = Rule("kv-cache-size", "error", "the KV cache holds a request of max_seq_len")
SERVE_SPEC = Rule("serve-spec", "error", "the server's settings agree with one another")
GPU_MEMORY = Rule("gpu-memory", "error", "weights, activations and the workload's KV cache fit the GPU")
RULES = (NUM_TOKENS, ENGINE_SPEC, KV_SIZE, SERVE_SPEC, GPU_MEMORY)

Refusal = tuple[str, str]


class CpuLint:
    """Refuses points of a CPU engine.

    Args:
        info: The engine's facts; its spec stands for what the space leaves out.
        serve: The server's settings likewise.
    """

    def __init__(self, info: EngineInfo, serve: ServeSpec) -> None:
        self._info = info
        self._serve = serve

    def __call__(self, settings: Settings) -> Refusal | None:
        """Returns the id of the rule that a point breaks and what it says, or None."""
        from throughline.engines.cpu.lint import check_spec, kv_blocks
        from throughline.engines.cpu.pipeline import machine_plan

        layers = by_layer(settings)
        try:
            spec = engine_spec(self._info.spec, layers["engine"])
            refused = token_room(spec)
            if refused:
                return refused
            check_spec(spec)
            plan = machine_plan(spec)
        except UserError as error:
            return ENGINE_SPEC.id, str(error)
        try:
            kv_blocks(self._info, spec, plan.kv_cache_dtype)
        except UserError as error:
            return KV_SIZE.id, str(error)
        return _serving(self._serve, layers["serve"])


def engine_spec(spec: EngineSpec, values: dict[str, Any]) -> EngineSpec:
    """Returns a spec with a point's settings over it.

    Raises:
        ConfigError: If the result does not validate.
    """
    return parse(EngineSpec, over(spec, values), where="engine")


def token_room(spec: EngineSpec) -> Refusal | None:
    """Refuses steps without a token for every sequence."""
    if spec.max_num_tokens < spec.max_batch_size:
        return NUM_TOKENS.id, f"max_num_tokens={spec.max_num_tokens}, max_batch_size={spec.max_batch_size}"
    return None


def _serving(serve: ServeSpec, values: dict[str, Any]) -> Refusal | None:
    try:
        parse(ServeSpec, merged(serve.model_dump(), values), where="serve")
    except UserError as error:
        return SERVE_SPEC.id, str(error)
    return None
