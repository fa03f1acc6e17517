"""The models behind the gateway: facts, prompt encoder, metrics and Triton connection of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from throughline.contracts.gateway import GatewaySpec, ModelRoute
from throughline.contracts.text import shorten
from throughline.gateway.chat import PromptEncoder
from throughline.gateway.errors import ApiError, model_not_found
from throughline.gateway.facts import EngineFacts, load_facts
from throughline.gateway.metrics import GatewayMetrics, ModelMetrics
from throughline.gateway.resilience import Guard
from throughline.gateway.upstream import Contract, TritonUpstream, contract_of


@dataclass(frozen=True)
class ServedModel:
    """One model that clients can name.

    Attributes:
        id: Name in OpenAI requests.
        triton_model: Name on Triton.
        facts: What the engine folder says.
        encoder: Messages to tokens.
        metrics: Its counters.
        upstream: Its Triton server; models on the same server share one.
        contract: What it speaks.
        guard: Retries and circuit breaker of its deployment.
        fingerprint: `system_fingerprint`: which weights in which precision answered.
    """

    id: str
    triton_model: str
    facts: EngineFacts
    encoder: PromptEncoder
    metrics: ModelMetrics
    upstream: TritonUpstream
    contract: Contract
    guard: Guard
    fingerprint: str

    def card(self) -> dict[str, Any]:
        """OpenAI's model object, with the context length under vLLM's name."""
        return {
            "id": self.id,
            "object": "model",
            "created": self.facts.created,
            "owned_by": "throughline",
            "max_model_len": self.facts.max_seq_len,
        }


class ServedModels:
    """All models of a spec.

    Args:
        spec: See `GatewaySpec`.
        metrics: Has a `ModelMetrics` for each of the spec's models.

    Attributes:
        max_choices: Choices of one request.

    Raises:
        EngineError: If an engine folder is none.
        ConfigError: If its `engine.json` does not validate.
        GatewayError: If it lacks a tokenizer or has a broken chat template.
    """

    def __init__(self, spec: GatewaySpec, metrics: GatewayMetrics) -> None:
        self.max_choices = spec.limits.max_choices
        urls = {route.upstream for route in spec.models}
        self.upstreams = {url: TritonUpstream(url, spec.timeouts, spec.upstream.stream) for url in sorted(urls)}
        self.by_id: Mapping[str, ServedModel] = {
            route.id: _served(route, metrics.models[route.id], self.upstreams[route.upstream], Guard(spec.upstream))
            for route in spec.models
        }

    def find(self, model_id: str) -> ServedModel:
        """Raises `ApiError` 404 that lists the models there are."""
        model = self.by_id.get(model_id)
        if model is None:
            raise model_not_found(shorten(model_id, 200)[1:-1], sorted(self.by_id))
        return model

    async def open(self) -> None:
        """Prepares the connections; needs the running event loop."""
        for upstream in self.upstreams.values():
            await upstream.open()

    async def close(self) -> None:
        """Closes the connections."""
        for upstream in self.upstreams.values():
            await upstream.close()

    async def not_ready(self) -> ApiError | None:
        """None when a token of every model came out lately or just now, else the 503 that names the others."""
        away = [
            model.id
            for model in self.by_id.values()
            if not await model.upstream.ready(model.triton_model, model.contract)
        ]
        if not away:
            return None
        message = f"Not ready: {', '.join(away)}."
        return ApiError(503, message, type="server_error", code="not_ready", retry_after=1.0)


def _served(route: ModelRoute, metrics: ModelMetrics, upstream: TritonUpstream, guard: Guard) -> ServedModel:
    facts = load_facts(route)
    encoder = PromptEncoder(route.engine_dir, max_seq_len=facts.max_seq_len)
    fingerprint = "_".join(filter(None, ("fp", facts.digest[:12], facts.precision)))
    contract = contract_of(route, encoder.count)
    return ServedModel(route.id, route.triton_model, facts, encoder, metrics, upstream, contract, guard, fingerprint)
