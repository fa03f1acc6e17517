"""From a decoded request to prompt and sampling parameters; what the engine cannot do is refused by name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from throughline.contracts.engine import GuidedDecodingParams, SamplingParams
from throughline.contracts.guided import tool_call_guide, tool_calls_guide
from throughline.gateway.chat import TOOL_CALL_START, PromptEncoder
from throughline.gateway.errors import bad_request, context_exceeded, unsupported
from throughline.gateway.facts import EngineFacts
from throughline.gateway.guides import format_guide, is_strict
from throughline.gateway.schemas import ChatRequest, CompletionRequest, GenerationFields, Message
from throughline.gateway.upstream import Contract

COMPLETION_DEFAULT_MAX_TOKENS = 16
_TOOL_NAME = re.compile(r"[A-Za-z0-9_.\-]{1,64}")
UINT64_MAX = 2**64 - 1
_NEUTRAL = {"min_tokens": 0, "priority": 0, "repetition_penalty": 1.0, "bad_words": []}


@dataclass(frozen=True)
class ToolUse:
    """Which tools the template sees and what the answer has to be.

    Attributes:
        tools: Tools for the template, None for none.
        parse: Whether `<tool_call>` blocks of the answer become tool calls.
        guide: What a call has to look like; None where calls are the model's own affair.
    """

    tools: Sequence[dict[str, Any]] | None
    parse: bool
    guide: GuidedDecodingParams | None = None


def tool_use(request: ChatRequest, encoder: PromptEncoder) -> ToolUse:
    """Reads `tools` and `tool_choice`.

    `required` and a named function make the answer one call, whose arguments follow the tool's schema; a named
    function also hides the other tools. With `auto`, a tool that is `strict` has its schema followed wherever the
    model calls it. Without tools, or with `none`, `<tool_call>` blocks stay content.

    Raises:
        ApiError: 400 naming the field.
    """
    tools = request.tools or None
    for index, tool in enumerate(tools or ()):
        _check_tool(tool, f"tools[{index}]")
    choice = request.tool_choice
    if choice in (None, "auto"):
        strict = tools is not None and is_strict(tools)
        if tools is None or not strict:
            return ToolUse(tools, parse=tools is not None)
        _check_calls("tools", encoder)
        return ToolUse(tools, parse=True, guide=tool_calls_guide(tools))
    if choice == "none":
        return ToolUse(None, parse=False)
    if tools is None:
        raise bad_request("'tool_choice' needs 'tools'.", param="tool_choice", code="invalid_value")
    if isinstance(choice, dict):
        tools = [_named_tool(choice, tools)]
    elif choice != "required":
        message = f"'tool_choice' is none, auto, required or a function, seen: {choice!r}."
        raise bad_request(message, param="tool_choice", code="invalid_value")
    _check_calls("tool_choice", encoder)
    return ToolUse(tools, parse=True, guide=tool_call_guide(tools))


def _check_calls(param: str, encoder: PromptEncoder) -> None:
    if not encoder.writes_calls:
        raise unsupported(param, f"this model's chat template writes no {TOOL_CALL_START} to force a call with")


def template_messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Messages as chat templates expect them: text content, arguments of tool calls as objects.

    `developer` is OpenAI's newer name of `system`. Arguments come as JSON text and templates write them
    with `tojson`, so they are parsed; text that is no JSON object stays as it is.
    """
    return [_template_message(message, index) for index, message in enumerate(messages)]


def prompts_of(prompt: str | list[Any], where: str = "prompt") -> list[str | list[Any]]:
    """The prompts of a text completion, or the texts to embed, from a field that has one or several of them.

    Args:
        prompt: A text, a list of token ids, or a list of either.
        where: Name of the field.

    Raises:
        ApiError: 400 for texts beside lists of token ids.
    """
    if isinstance(prompt, str) or not prompt or not isinstance(prompt[0], str | list):
        return [prompt]
    kind = type(prompt[0])
    for index, item in enumerate(prompt):
        if not isinstance(item, kind):
            place = f"{where}[{index}]"
            message = f"Invalid '{place}': either all are texts or all lists of token ids, seen: {item!r:.40}."
            raise bad_request(message, param=place, code="invalid_value")
    return prompt


async def token_prompt(prompt: str | list[Any], encoder: PromptEncoder, vocab_size: int, where: str) -> list[int]:
    """Token ids of a `/v1/completions` prompt; `where` is its field.

    Raises:
        ApiError: 400 for an empty one, or ids outside the vocabulary.
    """
    if isinstance(prompt, str):
        ids = await encoder.encode(prompt, add_special_tokens=True)
    else:
        ids = prompt
        check_token_ids(ids, vocab_size, where)
    if not ids:
        raise bad_request("The prompt has no tokens.", param=where, code="invalid_value")
    return ids


def check_choices(request: GenerationFields, *, prompts: int, limit: int) -> int:
    """Returns `n`.

    Raises:
        ApiError: 400 for more choices than `limit` over all prompts.
    """
    n = request.n or 1
    if n * prompts <= limit:
        return n
    asked = f"{n} choices" if prompts == 1 else f"{prompts} prompts with {n} {'choice' if n == 1 else 'choices'} each"
    param = "n" if n > limit else "prompt"
    raise bad_request(
        f"'{param}' asks for too much: {asked}, and a request may have {limit} choices. Send several requests.",
        param=param,
        code="too_many_choices",
    )


def refuse_lacking(request: GenerationFields, facts: EngineFacts, contract: Contract) -> None:
    """Refuses fields that the engine's contract has no place for.

    Raises:
        ApiError: 400 naming the field, the engine and why.
    """
    for field, why in contract.lacks.items():
        value = getattr(request, field)
        if value is not None and value is not False and value != _NEUTRAL.get(field):
            raise unsupported(field, f"{facts.name} is served by the contract '{contract.name}': {why}")


def sampling(
    request: GenerationFields,
    facts: EngineFacts,
    contract: Contract,
    *,
    prompt_tokens: int,
    guide: GuidedDecodingParams | None = None,
) -> SamplingParams:
    """Sampling parameters, with the checkpoint's own defaults and the context length checked.

    Args:
        request: The request.
        facts: Its engine.
        contract: What the engine speaks.
        prompt_tokens: Tokens of its prompt.
        guide: What its tools ask for.

    Raises:
        ApiError: 400 naming the field; `context_length_exceeded` carries the numbers.
    """
    _refuse_unsupported(request)
    wanted = format_guide(request.response_format)
    if wanted is not None and isinstance(request, ChatRequest) and request.tools and request.tool_choice != "none":
        raise unsupported("response_format", "not beside 'tools': an answer follows one of the two")
    if (asked := guide or wanted) is not None and (why := contract.guide_refusal(asked)):
        field = "response_format" if guide is None else "tool_choice"
        raise unsupported(field, f"{facts.name} is served by the contract '{contract.name}': {why}")
    bad_words = _texts(request.bad_words)
    if asked is not None and bad_words:
        raise unsupported("bad_words", "not beside 'response_format' or forced tools: an answer follows one of the two")
    max_tokens = _max_tokens(request, facts, prompt_tokens)
    if request.min_tokens > max_tokens:
        message = f"'min_tokens' ({request.min_tokens}) is larger than the output limit ({max_tokens})."
        raise bad_request(message, param="min_tokens", code="invalid_value")
    defaults = facts.sampling_defaults
    temperature = request.temperature
    top_p = request.top_p
    top_k = request.top_k
    repetition = request.repetition_penalty
    return SamplingParams(
        max_tokens=max_tokens,
        temperature=defaults.get("temperature", 1.0) if temperature is None else temperature,
        top_p=defaults.get("top_p", 1.0) if top_p is None else top_p,
        top_k=max(0, int(defaults.get("top_k", 0)) if top_k is None else top_k),
        seed=None if request.seed is None else request.seed & UINT64_MAX,
        stop=_texts(request.stop),
        bad_words=bad_words,
        ignore_eos=request.ignore_eos,
        min_tokens=request.min_tokens,
        repetition_penalty=defaults.get("repetition_penalty", 1.0) if repetition is None else repetition,
        presence_penalty=request.presence_penalty or 0.0,
        frequency_penalty=request.frequency_penalty or 0.0,
        logprobs=_wants_logprobs(request, facts),
        guided_decoding=guide or wanted,
    )


def _wants_logprobs(request: GenerationFields, facts: EngineFacts) -> bool:
    """Whether the tokens' log-probabilities go into the answer; alternatives are refused, the engine has none."""
    if isinstance(request, CompletionRequest):
        wanted, param, others = request.logprobs is not None, "logprobs", request.logprobs or 0
    elif isinstance(request, ChatRequest):
        wanted, param, others = bool(request.logprobs), "top_logprobs", request.top_logprobs or 0
        if request.top_logprobs is not None and not wanted:
            raise bad_request("'top_logprobs' needs 'logprobs': true.", param=param, code="invalid_value")
    else:
        return False
    if others:
        raise unsupported(
            param, f"{facts.name} gives the chosen token's log-probability and no alternatives, seen: {others}; send 0"
        )
    if wanted and facts.scorer is None:
        raise unsupported("logprobs", f"the tokenizer of {facts.name} does not say which bytes a token is")
    return wanted


def _max_tokens(request: GenerationFields, facts: EngineFacts, prompt_tokens: int) -> int:
    asked, field = request.max_tokens, "max_tokens"
    if isinstance(request, ChatRequest) and request.max_completion_tokens is not None:
        asked, field = request.max_completion_tokens, "max_completion_tokens"
    limit = facts.max_seq_len
    prompt_field = "messages" if isinstance(request, ChatRequest) else "prompt"
    room = limit - prompt_tokens
    if room < 1:
        raise context_exceeded(limit=limit, prompt=prompt_tokens, output=asked, param=prompt_field)
    if asked is None:
        return room if isinstance(request, ChatRequest) else min(room, COMPLETION_DEFAULT_MAX_TOKENS)
    if asked > room:
        raise context_exceeded(limit=limit, prompt=prompt_tokens, output=asked, param=field)
    return asked


def _texts(given: str | list[str] | None) -> tuple[str, ...]:
    """A field's texts for the engine; an empty one means nothing, and clients send it for "none"."""
    texts = (given,) if isinstance(given, str) else tuple(given or ())
    return tuple(text for text in texts if text)


def _refuse_unsupported(request: GenerationFields) -> None:
    if request.logit_bias:
        raise unsupported("logit_bias", "the engine cannot change logits by token")
    if request.stream_options is not None and not request.stream:
        raise bad_request("'stream_options' needs 'stream': true.", param="stream_options", code="invalid_value")
    if isinstance(request, ChatRequest):
        _refuse_unsupported_chat(request)
    elif isinstance(request, CompletionRequest):
        _refuse_unsupported_completion(request)


def _refuse_unsupported_chat(request: ChatRequest) -> None:
    if request.parallel_tool_calls is False and request.tool_choice in (None, "auto") and request.tools:
        raise unsupported("parallel_tool_calls", "only a forced call is known to be alone; leave it out")


def _refuse_unsupported_completion(request: CompletionRequest) -> None:
    if request.echo:
        raise unsupported("echo", "the prompt is not part of the answer")
    if request.suffix:
        raise unsupported("suffix", "the engine does not fill in the middle")
    if request.best_of not in (None, request.n or 1):
        raise unsupported("best_of", f"every candidate is a choice, seen: {request.best_of}; leave it out and set 'n'")


def check_token_ids(ids: Sequence[Any], vocab_size: int, where: str) -> None:
    """Refuses what are no token ids; `where` is their field.

    Raises:
        ApiError: 400 naming the first.
    """
    top = vocab_size or 2**31
    for index, value in enumerate(ids):
        if type(value) is not int or not 0 <= value < top:
            param = f"{where}[{index}]"
            message = f"Invalid '{param}': a token id is an integer from 0 to {top - 1}, seen: {value!r:.40}."
            raise bad_request(message, param=param, code="invalid_value")


def _check_tool(tool: dict[str, Any], where: str) -> None:
    function = tool.get("function")
    if tool.get("type") != "function" or not isinstance(function, dict):
        message = f"Invalid '{where}': expected {{type: 'function', function: {{...}}}}."
        raise bad_request(message, param=where, code="invalid_value")
    name = function.get("name")
    if not isinstance(name, str) or not _TOOL_NAME.fullmatch(name):
        message = f"Invalid '{where}.function.name': 1 to 64 letters, digits, '_', '.' or '-', seen: {name!r:.80}."
        raise bad_request(message, param=f"{where}.function.name", code="invalid_value")
    if not isinstance(function.get("parameters", {}), dict):
        message = f"Invalid '{where}.function.parameters': expected a JSON schema object."
        raise bad_request(message, param=f"{where}.function.parameters", code="invalid_value")


def _named_tool(choice: dict[str, Any], tools: Sequence[dict[str, Any]]) -> dict[str, Any]:
    function = choice.get("function")
    name = function.get("name") if isinstance(function, dict) else None
    for tool in tools:
        if tool["function"]["name"] == name:
            return tool
    message = f"'tool_choice' names no function of 'tools', seen: {name!r:.80}."
    raise bad_request(message, param="tool_choice", code="invalid_value")


def _template_message(message: Message, index: int) -> dict[str, Any]:
    content = message.content
    if isinstance(content, list):
        content = "".join(part.text for part in content)
    if content is None and message.role != "assistant":
        where = f"messages[{index}].content"
        raise bad_request(f"Missing '{where}' of a {message.role} message.", param=where, code="invalid_value")
    role = "system" if message.role == "developer" else message.role
    # Many templates fail on a turn that is only a call unless its text is there, if empty.
    out: dict[str, Any] = {"role": role, "content": content or ""}
    if message.name is not None:
        out["name"] = message.name
    if message.tool_call_id is not None:
        out["tool_call_id"] = message.tool_call_id
    if message.tool_calls:
        out["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.function.name, "arguments": _arguments(call.function.arguments)},
            }
            for call in message.tool_calls
        ]
    return out


def _arguments(arguments: str | dict[str, Any]) -> str | dict[str, Any]:
    if isinstance(arguments, dict):
        return arguments
    try:
        parsed = orjson.loads(arguments)
    except orjson.JSONDecodeError:
        return arguments
    return parsed if isinstance(parsed, dict) else arguments
