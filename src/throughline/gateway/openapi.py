"""The OpenAPI 3.1 document: request bodies as msgspec checks them, every route, and the errors that each may give."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import msgspec
import orjson
from msgspec import Struct

from throughline import __version__
from throughline.gateway.schemas import (
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    EmbeddingRequest,
    TokenizeRequest,
)


class Error(Struct):
    """What failed, for people and for programs."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(Struct):
    """Body of every error."""

    error: Error


class Usage(Struct):
    """Tokens of a request."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class CalledFunction(Struct):
    """Name and JSON text of the arguments."""

    name: str
    arguments: str


class AnsweredCall(Struct):
    """A tool call of the assistant."""

    id: str
    type: Literal["function"]
    function: CalledFunction


class AnsweredMessage(Struct):
    """What the assistant says."""

    role: Literal["assistant"]
    content: str | None
    tool_calls: list[AnsweredCall] | None = None


class ScoredToken(Struct):
    """A generated token and the natural logarithm of its probability."""

    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[Any]


class ChatLogprobs(Struct):
    """Log-probabilities, where `logprobs` asked for them."""

    content: list[ScoredToken]
    refusal: None


class ChatChoice(Struct):
    """One of the choices."""

    index: int
    message: AnsweredMessage
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length", "tool_calls"]


class ChatCompletion(Struct):
    """A whole answer to a chat."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage


class TextLogprobs(Struct):
    """Log-probabilities, where `logprobs` asked for them."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: None
    text_offset: list[int]


class TextChoice(Struct):
    """One of the choices."""

    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: Literal["stop", "length"]


class Completion(Struct):
    """A whole answer to a prompt."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[TextChoice]
    usage: Usage


class Embedding(Struct):
    """The vector of a text: numbers, or the base64 of little-endian float32."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingUsage(Struct):
    """Tokens of an embedding request."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingList(Struct):
    """The vectors, in the order of the texts."""

    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: EmbeddingUsage


class ModelCard(Struct):
    """A served model."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    max_model_len: int
    task: Literal["generate", "embed"]


class ModelList(Struct):
    """The served models."""

    object: Literal["list"]
    data: list[ModelCard]


class Tokens(Struct):
    """Answer of `/tokenize`."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None = None


class Text(Struct):
    """Answer of `/detokenize`."""

    prompt: str


class Status(Struct):
    """Answer of the health routes."""

    status: Literal["ok", "ready"]


@dataclass(frozen=True)
class Operation:
    """A route's method. `errors` are those without keys; `guarded` routes add theirs, and those of an `engine`."""

    path: str
    method: Literal["get", "post"]
    summary: str
    answer: type[Struct] | str
    request: type[Struct] | None = None
    errors: tuple[int, ...] = ()
    guarded: bool = False
    engine: bool = False
    streams: bool = False


_BODY = (400, 404, 408, 413, 429)
_ENGINE = (502, 503, 504)
OPERATIONS = (
    Operation(
        "/v1/chat/completions",
        "post",
        "Answers a chat; with `stream` as server-sent events.",
        ChatCompletion,
        ChatRequest,
        (*_BODY, *_ENGINE),
        guarded=True,
        engine=True,
        streams=True,
    ),
    Operation(
        "/v1/completions",
        "post",
        "Continues a prompt; with `stream` as server-sent events.",
        Completion,
        CompletionRequest,
        (*_BODY, *_ENGINE),
        guarded=True,
        engine=True,
        streams=True,
    ),
    Operation(
        "/v1/embeddings",
        "post",
        "Makes vectors of texts.",
        EmbeddingList,
        EmbeddingRequest,
        (*_BODY, *_ENGINE),
        guarded=True,
        engine=True,
    ),
    Operation("/v1/models", "get", "Lists the models.", ModelList, guarded=True),
    Operation("/v1/models/{id}", "get", "Describes a model.", ModelCard, errors=(404,), guarded=True),
    Operation("/tokenize", "post", "Counts a prompt as the model does.", Tokens, TokenizeRequest, _BODY, guarded=True),
    Operation("/detokenize", "post", "Says what tokens say.", Text, DetokenizeRequest, _BODY, guarded=True),
    Operation("/openapi.json", "get", "This document.", "application/json"),
    Operation("/health", "get", "Whether the process lives.", Status),
    Operation("/health/ready", "get", "Whether every model answers.", Status, errors=(503,)),
    Operation("/metrics", "get", "Metrics for Prometheus.", "text/plain"),
)
_REASONS = {
    400: "The request has to be changed; `param` names the field.",
    401: "No API key, or none that is good.",
    404: "There is no such model.",
    405: "The route does not take this method; `allow` names those that it takes.",
    408: "The body did not come in time.",
    409: "The first request with this Idempotency-Key still runs.",
    413: "The body is too large.",
    422: "This Idempotency-Key was sent with another body.",
    429: "A limit is reached; `retry-after` says when to try again.",
    500: "A fault of the gateway or the engine.",
    502: "The engine broke its protocol.",
    503: "The engine or the key store is away.",
    504: "The engine took too long.",
}
ERROR_STATUSES = tuple(_REASONS)
_REF = "#/components/schemas/{name}"


def document(*, strict: bool, keys: bool) -> bytes:
    """The document as JSON.

    Args:
        strict: Whether unknown fields of a request are refused.
        keys: Whether clients need an API key.
    """
    types: set[type[Struct]] = {ErrorBody}
    for operation in OPERATIONS:
        types |= {kind for kind in (operation.request, operation.answer) if isinstance(kind, type)}
    ordered = sorted(types, key=lambda kind: kind.__name__)
    _, schemas = msgspec.json.schema_components(ordered, ref_template=_REF)
    for operation in OPERATIONS:
        if strict and operation.request is not None:
            schemas[operation.request.__name__]["additionalProperties"] = False
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method] = _operation(operation, keys=keys)
    components: dict[str, Any] = {"schemas": schemas}
    if keys:
        components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    info = {"title": "Throughline gateway", "version": __version__}
    return orjson.dumps({"openapi": "3.1.0", "info": info, "paths": paths, "components": components})


def _operation(operation: Operation, *, keys: bool) -> dict[str, Any]:
    guarded = keys and operation.guarded
    errors = {*operation.errors, 405, 500}
    if guarded:
        errors |= {401, 429, 503} | ({409, 422} if operation.engine else set())
    answers: dict[str, Any] = {"200": {"description": "The answer.", "content": _content(operation)}}
    for status in sorted(errors):
        body = {"application/json": {"schema": _schema(ErrorBody)}}
        answers[str(status)] = {"description": _REASONS[status], "content": body}
    found: dict[str, Any] = {"summary": operation.summary, "responses": answers}
    parameters = _parameters(operation, idempotency=guarded and operation.engine)
    if parameters:
        found["parameters"] = parameters
    if operation.request is not None:
        body = {"application/json": {"schema": _schema(operation.request)}}
        found["requestBody"] = {"required": True, "content": body}
    if guarded:
        found["security"] = [{"key": []}]
    return found


def _content(operation: Operation) -> dict[str, Any]:
    if isinstance(operation.answer, str):
        return {operation.answer: {"schema": {"type": "object" if "json" in operation.answer else "string"}}}
    content: dict[str, Any] = {"application/json": {"schema": _schema(operation.answer)}}
    if operation.streams:
        content["text/event-stream"] = {"schema": {"type": "string"}}
    return content


def _parameters(operation: Operation, *, idempotency: bool) -> list[dict[str, Any]]:
    text = {"type": "string", "minLength": 1}
    found: list[dict[str, Any]] = []
    if "{id}" in operation.path:
        found.append({"name": "id", "in": "path", "required": True, "schema": text})
    if idempotency:
        found.append({"name": "Idempotency-Key", "in": "header", "required": False, "schema": text})
    return found


def _schema(kind: type[Struct]) -> dict[str, str]:
    return {"$ref": _REF.format(name=kind.__name__)}
