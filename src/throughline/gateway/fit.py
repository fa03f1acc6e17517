"""Whether the model that a route names on Triton has the tensors of the route's contract, asked before serving."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass

from throughline.contracts.engine import ENGINE_FILE, EngineInfo
from throughline.contracts.errors import GatewayError
from throughline.contracts.gateway import ContractName, GatewaySpec, ModelRoute

logger = logging.getLogger("throughline.gateway")


@dataclass(frozen=True)
class Needs:
    """Tensors without which no request of a contract can be served; others are sent only where a request asks."""

    inputs: frozenset[str]
    outputs: frozenset[str]


NEEDS: dict[ContractName, Needs] = {
    "throughline": Needs(
        frozenset({"input_ids", "max_tokens", "stream", "temperature", "return_perf_metrics"}),
        frozenset({"text_output", "finish_reason", "prompt_tokens", "completion_tokens", "output_ids"}),
    ),
    "bls": Needs(
        frozenset(
            {"text_input", "max_tokens", "stream", "temperature", "top_k", "top_p", "exclude_input_in_output"},
        ),
        frozenset({"text_output"}),
    ),
    "llmapi": Needs(
        frozenset(
            {
                "text_input",
                "streaming",
                "return_finish_reason",
                "sampling_param_max_tokens",
                "sampling_param_temperature",
                "sampling_param_top_k",
                "sampling_param_top_p",
                "sampling_param_exclude_input_from_output",
            }
        ),
        frozenset({"text_output"}),
    ),
}
# Of a model that makes vectors, whatever the route's contract.
EMBEDDING_NEEDS = Needs(frozenset({"input_ids"}), frozenset({"sentence_embedding"}))


def check_fit(spec: GatewaySpec) -> None:
    """Compares every route's contract with what its Triton says of the model.

    A server that does not answer, or does not know the model (yet), is no error: it may come up later than the
    gateway, and `/health/ready` wants a token of it.

    Raises:
        GatewayError: If a model lacks tensors of its contract; names them, and the contracts that it does have.
    """
    for route in spec.models:
        found = _tensors(route, spec.timeouts.ready_seconds)
        if found is None:
            continue
        embeds = _embeds(route)
        missing = list(_missing(EMBEDDING_NEEDS if embeds else NEEDS[route.contract], found))
        if missing:
            others = [name for name, needs in NEEDS.items() if not embeds and not list(_missing(needs, found))]
            fitting = " or ".join(f"contract={name}" for name in others)
            spoken = "of embedding models" if embeds else f"'{route.contract}'"
            raise GatewayError(
                f"the model on Triton does not speak the contract {spoken}",
                where=f"{route.id}: {route.triton_model} at {route.upstream}",
                seen=f"it lacks {', '.join(missing)}",
                fix=f"set {fitting}" if fitting else "name another model, or another server",
            )


def _embeds(route: ModelRoute) -> bool:
    return (route.engine_dir / ENGINE_FILE).exists() and EngineInfo.read(route.engine_dir).embedding is not None


def _missing(needs: Needs, found: Needs) -> Iterator[str]:
    yield from (f"input {name}" for name in sorted(needs.inputs - found.inputs))
    yield from (f"output {name}" for name in sorted(needs.outputs - found.outputs))


def _tensors(route: ModelRoute, seconds: float) -> Needs | None:
    """The model's tensors; None, with a warning, where Triton does not say them."""
    import grpc
    from tritonclient.grpc import service_pb2, service_pb2_grpc

    with grpc.insecure_channel(route.upstream, options=[("grpc.enable_http_proxy", 0)]) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        try:
            answer = stub.ModelMetadata(service_pb2.ModelMetadataRequest(name=route.triton_model), timeout=seconds)
        except grpc.RpcError as error:
            logger.warning(
                "%s: Triton at %s does not say what tensors %s has, so that its contract is not checked: %s",
                route.id,
                route.upstream,
                route.triton_model,
                error.details(),
            )
            return None
    return Needs(frozenset(tensor.name for tensor in answer.inputs), frozenset(each.name for each in answer.outputs))
