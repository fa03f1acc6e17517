"""Request bodies in OpenAI's names, decoded and range-checked in one pass by msgspec."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from throughline.contracts.gateway import MAX_PRIORITY
from throughline.contracts.text import did_you_mean, shorten
from throughline.gateway.errors import ApiError, bad_request

INT32_MAX = 2**31 - 1
MAX_STOPS = 4
MAX_BAD_WORDS = 64
_Tokens = Annotated[int, Meta(ge=1, le=INT32_MAX)]
_Count = Annotated[int, Meta(ge=0, le=INT32_MAX)]
_Penalty = Annotated[float, Meta(ge=-2.0, le=2.0)]
_Seed = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
_BadWords = Annotated[list[str], Meta(max_length=MAX_BAD_WORDS)]
_Stops = Annotated[list[str], Meta(max_length=MAX_STOPS)]


class StreamOptions(Struct, kw_only=True):
    """`stream_options`."""

    include_usage: bool = False
    include_obfuscation: bool | None = None


class TextPart(Struct, kw_only=True):
    """One part of a message's content; text is the only kind that a text model reads."""

    type: Literal["text"]
    text: str


class FunctionCall(Struct, kw_only=True):
    """Name and JSON arguments of a call that the assistant made earlier."""

    name: str
    arguments: str | dict[str, Any] = "{}"


class ToolCall(Struct, kw_only=True):
    """A call that the assistant made earlier."""

    function: FunctionCall
    id: str = ""
    type: Literal["function"] = "function"


class Message(Struct, kw_only=True):
    """One chat message; fields that do not reach a template are ignored."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None


class GenerationFields(Struct, kw_only=True):
    """What chat and text completions share.

    `n` asks for several choices; with `seed`, choice i takes `seed + i`. The fields after `response_format` are
    OpenAI's but not this engine's; `params.py` says why, by name.
    """

    model: str
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: _Tokens | None = None
    temperature: Annotated[float, Meta(ge=0.0, le=2.0)] | None = None
    top_p: Annotated[float, Meta(gt=0.0, le=1.0)] | None = None
    stop: str | _Stops | None = None
    n: _Tokens | None = None
    seed: _Seed | None = None
    presence_penalty: _Penalty | None = None
    frequency_penalty: _Penalty | None = None
    user: str | None = None
    metadata: dict[str, Any] | None = None
    # Beyond OpenAI, in vLLM's names.
    top_k: Annotated[int, Meta(ge=-1, le=INT32_MAX)] | None = None
    repetition_penalty: Annotated[float, Meta(gt=0.0, le=10.0)] | None = None
    ignore_eos: bool = False
    min_tokens: _Count = 0
    bad_words: _BadWords | None = None
    # Lower is served earlier; that of the API key if absent.
    priority: Annotated[int, Meta(ge=-MAX_PRIORITY, le=MAX_PRIORITY)] | None = None
    # With TensorRT-LLM's further types.
    response_format: dict[str, Any] | None = None
    logit_bias: dict[str, float] | None = None
    service_tier: str | None = None
    store: bool | None = None


class ChatRequest(GenerationFields, kw_only=True):
    """Body of `/v1/chat/completions`."""

    messages: Annotated[list[Message], Meta(min_length=1)]
    max_completion_tokens: _Tokens | None = None
    tools: Annotated[list[dict[str, Any]], Meta(max_length=128)] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None


class CompletionRequest(GenerationFields, kw_only=True):
    """Body of `/v1/completions`; `prompt` is a text, a list of token ids, or a list of either.

    The choices of prompt p have the indices `p * n` to `p * n + n - 1`.
    """

    prompt: str | list[Any]
    echo: bool | None = None
    suffix: str | None = None
    best_of: _Count | None = None
    logprobs: _Count | None = None


class EmbeddingRequest(Struct, kw_only=True):
    """Body of `/v1/embeddings`; `input` is a text, a list of token ids, or a list of either."""

    model: str
    input: str | list[Any]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: _Tokens | None = None
    user: str | None = None


class TokenizeRequest(Struct, kw_only=True):
    """Body of `/tokenize` in vLLM's shape, with either `prompt` or `messages`.

    `add_special_tokens` is true for a prompt and false for messages, whose template writes them, unless it is given.
    The fields after `tools` are vLLM's but not ours; `tokenizing.py` says so, by name.
    """

    model: str | None = None
    prompt: str | None = None
    messages: Annotated[list[Message], Meta(min_length=1)] | None = None
    add_special_tokens: bool | None = None
    add_generation_prompt: bool = True
    return_token_strs: bool | None = None
    tools: Annotated[list[dict[str, Any]], Meta(max_length=128)] | None = None
    continue_final_message: bool = False
    chat_template: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None


class DetokenizeRequest(Struct, kw_only=True):
    """Body of `/detokenize` in vLLM's shape."""

    tokens: list[_Count]
    model: str | None = None


class _StrictEmbeddingRequest(EmbeddingRequest, forbid_unknown_fields=True):
    pass


class _StrictTokenizeRequest(TokenizeRequest, forbid_unknown_fields=True):
    pass


class _StrictDetokenizeRequest(DetokenizeRequest, forbid_unknown_fields=True):
    pass


class _StrictChatRequest(ChatRequest, forbid_unknown_fields=True):
    pass


class _StrictCompletionRequest(CompletionRequest, forbid_unknown_fields=True):
    pass


R = TypeVar("R", bound=Struct)
_AT = re.compile(r" - at `(.*)`$")
_PATH_PART = re.compile(r"\[(\d+)\]|\.?([^.\[\]]+)")
_UNKNOWN = re.compile(r"unknown field `(.*)`")
_MISSING = re.compile(r"missing required field `(.*)`")


class BodyDecoder:
    """Decodes request bodies; `strict` refuses fields that we do not know.

    Nested objects ignore what they do not know, because clients send messages back as they got them.
    """

    def __init__(self, *, strict: bool) -> None:
        chat = _StrictChatRequest if strict else ChatRequest
        completion = _StrictCompletionRequest if strict else CompletionRequest
        self._chat: msgspec.json.Decoder[ChatRequest] = msgspec.json.Decoder(chat)
        self._completion: msgspec.json.Decoder[CompletionRequest] = msgspec.json.Decoder(completion)
        embedding = _StrictEmbeddingRequest if strict else EmbeddingRequest
        self._embedding: msgspec.json.Decoder[EmbeddingRequest] = msgspec.json.Decoder(embedding)
        tokenize = _StrictTokenizeRequest if strict else TokenizeRequest
        detokenize = _StrictDetokenizeRequest if strict else DetokenizeRequest
        self._tokenize: msgspec.json.Decoder[TokenizeRequest] = msgspec.json.Decoder(tokenize)
        self._detokenize: msgspec.json.Decoder[DetokenizeRequest] = msgspec.json.Decoder(detokenize)

    def chat(self, body: bytes) -> ChatRequest:
        """Raises `ApiError` 400 naming the field."""
        return _decode(self._chat, body)

    def completion(self, body: bytes) -> CompletionRequest:
        """Raises `ApiError` 400 naming the field."""
        return _decode(self._completion, body)

    def embedding(self, body: bytes) -> EmbeddingRequest:
        """Raises `ApiError` 400 naming the field."""
        return _decode(self._embedding, body)

    def tokenize(self, body: bytes) -> TokenizeRequest:
        """Raises `ApiError` 400 naming the field."""
        return _decode(self._tokenize, body)

    def detokenize(self, body: bytes) -> DetokenizeRequest:
        """Raises `ApiError` 400 naming the field."""
        return _decode(self._detokenize, body)


def _decode(decoder: msgspec.json.Decoder[R], body: bytes) -> R:
    try:
        try:
            return decoder.decode(body)
        except msgspec.ValidationError as error:
            # What stands behind the field at fault may be no JSON at all.
            raise _field_error(str(error), msgspec.json.decode(body), decoder.type) from None
    except msgspec.DecodeError as error:
        raise bad_request(f"The request body is not valid JSON: {error}.", code="invalid_json") from None
    except UnicodeDecodeError as error:
        raise bad_request(
            f"The request body is not valid UTF-8: {error.reason} at byte {error.start}.", code="invalid_json"
        ) from None
    except RecursionError:
        raise bad_request("The request body is nested too deeply.", code="invalid_json") from None


def _field_error(text: str, body: Any, model: Any) -> ApiError:
    found = _AT.search(text)
    path = found.group(1).removeprefix("$").removeprefix(".") if found else ""
    what = text[: found.start()] if found else text
    if (unknown := _UNKNOWN.search(what)) is not None:
        field = unknown.group(1)
        near = did_you_mean(field, model.__struct_fields__)
        hint = near if near.startswith("did you mean") else "remove it"
        return bad_request(f"Unknown field '{field}': {hint}.", param=field, code="unknown_parameter")
    if (missing := _MISSING.search(what)) is not None:
        field = ".".join(part for part in (path, missing.group(1)) if part)
        return bad_request(f"Missing required field '{field}'.", param=field, code="missing_required_parameter")
    if not path:
        return bad_request(f"The request body is wrong: {what}.", code="invalid_type")
    seen = shorten(_value_at(body, path))
    return bad_request(f"Invalid '{path}': {what}, seen: {seen}.", param=path, code="invalid_value")


def _value_at(body: Any, path: str) -> Any:
    value = body
    for number, name in _PATH_PART.findall(path):
        try:
            value = value[int(number)] if number else value[name]
        except (KeyError, IndexError, TypeError):
            return None
    return value
