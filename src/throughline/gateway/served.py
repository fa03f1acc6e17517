"""The models behind the gateway: facts, prompt encoder, metrics and Triton connection of each."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from throughline.contracts.embedding import EmbeddingInfo
from throughline.contracts.gateway import GatewaySpec, ModelRoute
from throughline.contracts.text import shorten
from throughline.gateway.chat import PromptEncoder
from throughline.gateway.errors import ApiError, model_not_found, wrong_task
from throughline.gateway.facts import EngineFacts, load_facts
from throughline.gateway.metrics import GatewayMetrics, ModelMetrics
from throughline.gateway.resilience import Guard
from throughline.gateway.upstream import Contract, TritonUpstream, contract_of

T = TypeVar("T")


@dataclass(frozen=True)
class ServedModel:
    """What models that clients can name have in common.

    Attributes:
        id: Name in OpenAI requests.
        triton_model: Name on Triton.
        facts: What the engine folder says.
        encoder: Messages to tokens.
        metrics: Its counters.
        upstream: Its Triton server; models on the same server share one.
        guard: Retries and circuit breaker of its deployment.
        fingerprint: `system_fingerprint`: which weights in which precision answered.
    """

    id: str
    triton_model: str
    facts: EngineFacts
    encoder: PromptEncoder
    metrics: ModelMetrics
    upstream: TritonUpstream
    guard: Guard
    fingerprint: str

    task: ClassVar[str]

    def card(self) -> dict[str, Any]:
        """OpenAI's model object, with the context length under vLLM's name."""
        return {
            "id": self.id,
            "object": "model",
            "created": self.facts.created,
            "owned_by": "throughline",
            "max_model_len": self.facts.max_seq_len,
            "task": self.task,
        }

    async def ready(self) -> bool:
        """Whether an answer came lately, or comes now."""
        raise NotImplementedError

    async def until_answered(
        self, ask: Callable[[], Awaitable[T]], again: Callable[[float], Awaitable[None]] = asyncio.sleep
    ) -> T:
        """Asks, and while the engine is away asks again, as `guard` allows.

        Args:
            ask: Sends the request and reads what the client is shown first.
            again: Waits so many seconds, and makes ready for the next time.

        Raises:
            ApiError: That of the last time.
        """
        attempt = 0
        while True:
            try:
                found = await ask()
            except ApiError as error:
                self.guard.failed(error)
                self.metrics.breaker_open = self.guard.is_open
                pause = self.guard.pause(error, attempt)
                if pause is None:
                    raise
            else:
                self.guard.succeeded()
                self.metrics.breaker_open = self.guard.is_open
                return found
            attempt += 1
            self.metrics.retries += 1
            await again(pause)


@dataclass(frozen=True)
class GeneratingModel(ServedModel):
    """A model that makes tokens; `contract` is what it speaks."""

    contract: Contract

    task = "generate"

    async def ready(self) -> bool:
        """See `ServedModel.ready`."""
        return await self.upstream.ready(self.triton_model, self.contract)


@dataclass(frozen=True)
class EmbeddingModel(ServedModel):
    """A model that makes vectors; `embedding` says what they are."""

    embedding: EmbeddingInfo

    task = "embed"

    async def ready(self) -> bool:
        """See `ServedModel.ready`."""
        return await self.upstream.embeds(self.triton_model)


class ServedModels:
    """All models of a spec.

    Args:
        spec: See `GatewaySpec`.
        metrics: Has a `ModelMetrics` for each of the spec's models.

    Attributes:
        max_choices: Choices of one request.
        max_inputs: Texts to embed of one request.

    Raises:
        EngineError: If an engine folder is none.
        ConfigError: If its `engine.json` does not validate.
        GatewayError: If it lacks a tokenizer or has a broken chat template.
    """

    def __init__(self, spec: GatewaySpec, metrics: GatewayMetrics) -> None:
        self.max_choices, self.max_inputs = spec.limits.max_choices, spec.limits.max_inputs
        urls = {route.upstream for route in spec.models}
        self.upstreams = {url: TritonUpstream(url, spec.timeouts, spec.upstream) for url in sorted(urls)}
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

    def generating(self, model_id: str) -> GeneratingModel:
        """Raises `ApiError` 404 as `find`, 400 for a model that makes vectors."""
        model = self.find(model_id)
        if isinstance(model, GeneratingModel):
            return model
        why = "makes embeddings and no text: send it to /v1/embeddings"
        raise wrong_task(model.id, why, self._ids(GeneratingModel))

    def embedding(self, model_id: str) -> EmbeddingModel:
        """Raises `ApiError` 404 as `find`, 400 for a model that makes text."""
        model = self.find(model_id)
        if isinstance(model, EmbeddingModel):
            return model
        why = "makes text and no embeddings: send it to /v1/chat/completions or /v1/completions"
        raise wrong_task(model.id, why, self._ids(EmbeddingModel))

    def _ids(self, kind: type[ServedModel]) -> list[str]:
        return sorted(model.id for model in self.by_id.values() if isinstance(model, kind))

    async def open(self) -> None:
        """Prepares the connections; needs the running event loop."""
        for upstream in self.upstreams.values():
            await upstream.open()

    async def close(self) -> None:
        """Closes the connections."""
        for upstream in self.upstreams.values():
            await upstream.close()

    async def not_ready(self) -> ApiError | None:
        """None when every model has answered lately or just now, else the 503 that names the others."""
        away = [model.id for model in self.by_id.values() if not await model.ready()]
        if not away:
            return None
        message = f"Not ready: {', '.join(away)}."
        return ApiError(503, message, type="server_error", code="not_ready", retry_after=1.0)


def _served(route: ModelRoute, metrics: ModelMetrics, upstream: TritonUpstream, guard: Guard) -> ServedModel:
    facts = load_facts(route)
    encoder = PromptEncoder(route.engine_dir, max_seq_len=facts.max_seq_len)
    fingerprint = "_".join(filter(None, ("fp", facts.digest[:12], facts.precision)))
    common = (route.id, route.triton_model, facts, encoder, metrics, upstream, guard, fingerprint)
    if facts.embedding is not None:
        return EmbeddingModel(*common, facts.embedding)
    return GeneratingModel(*common, contract_of(route, encoder.count))
