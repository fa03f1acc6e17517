"""From the tensors of one Triton request to a checked generation request; errors are for the client."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from throughline.contracts.engine import GuidedDecodingParams, SamplingParams
from throughline.contracts.errors import UserError
from throughline.contracts.text import shorten

MAX_WORDS = 64
# Steps of priority in each direction; each makes up for `priority_aging_seconds` of waiting.
MAX_PRIORITY = 100
# TensorRT-LLM's names of guides (its executor's `GuideType`), and ours.
_GUIDES = {
    "json": "json",
    "json_schema": "json",
    "regex": "regex",
    "ebnf_grammar": "grammar",
    "structural_tag": "structural_tag",
}
_KINDS = ", ".join(_GUIDES)
INT32_MAX = 2**31 - 1


class RequestError(UserError):
    """A request's inputs cannot be served; reported as INVALID_ARG."""


@dataclass(frozen=True)
class GenerateRequest:
    """One request as the scheduler needs it.

    Attributes:
        prompt_token_ids: Prompt, at least one id.
        params: Sampling.
        stream: Whether responses are sent while tokens come.
        echo: Text that goes before the output, empty unless the client asked for its input back.
        perf_metrics: Whether responses say when the request came and when its tokens were there.
        priority: Lower is served earlier, as in vLLM.
        timeout_seconds: Time after its arrival at which nobody wants an answer any more; None for no end.
        interval_seconds: Least time between two responses of a stream, and before the first one; None to leave it to
            the model.
        id: What its client calls it; may be empty, or another's too.
    """

    prompt_token_ids: tuple[int, ...]
    params: SamplingParams
    stream: bool
    echo: str = ""
    perf_metrics: bool = False
    priority: int = 0
    timeout_seconds: float | None = None
    interval_seconds: float | None = None
    id: str = ""


@dataclass(frozen=True)
class StopRequest:
    """Ends the requests that are called `id`; the input `stop` of TensorRT-LLM's models."""

    id: str


@dataclass(frozen=True)
class RequestDefaults:
    """What holds for a request that does not say; see `ServeSpec`."""

    max_tokens: int = 16
    exclude_input_in_output: bool = True


def parse_request(
    inputs: Mapping[str, Any],
    *,
    encode: Callable[[str], Sequence[int]] | None,
    decode: Callable[[Sequence[int]], str] | None,
    defaults: RequestDefaults,
    timeout_microseconds: int = 0,
    parameters: Mapping[str, Any] | None = None,
    request_id: str = "",
) -> GenerateRequest:
    """Checks the tensors of one request.

    Args:
        inputs: One-dimensional numpy arrays by input name; BYTES tensors hold `bytes` objects.
        encode: The engine's tokenizer; None where the engine folder has none.
        decode: Its inverse, used when a client that sent ids asks for its input back.
        defaults: Values for absent inputs.
        timeout_microseconds: Triton's request parameter `timeout`; 0 for none.
        parameters: The other request parameters, of which `stream_interval_ms` is known.
        request_id: What the client calls it.

    Raises:
        RequestError: Naming the input, the value seen and what is allowed.
    """
    prompt, text = _prompt(inputs, encode)
    exclude = _flag(inputs, "exclude_input_in_output", defaults.exclude_input_in_output)
    if not exclude and text is None:
        if decode is None:
            raise _error("exclude_input_in_output", False, "this engine has no tokenizer: leave it at true")
        text = decode(prompt)
    return GenerateRequest(
        prompt_token_ids=prompt,
        params=_params(inputs, defaults),
        stream=_flag(inputs, "stream", False),
        echo="" if exclude else text or "",
        perf_metrics=_flag(inputs, "return_perf_metrics", False),
        priority=_integer(inputs, "priority", 0, low=-MAX_PRIORITY, high=MAX_PRIORITY) or 0,
        timeout_seconds=timeout_microseconds / 1e6 if timeout_microseconds else None,
        interval_seconds=_interval(parameters or {}),
        id=request_id,
    )


def stop_request(inputs: Mapping[str, Any], request_id: str) -> StopRequest | None:
    """The request to end another one, if it is one: with `stop` true, whatever its other inputs.

    Raises:
        RequestError: If it does not say which.
    """
    if not _flag(inputs, "stop", False):
        return None
    if not request_id:
        raise _error("stop", "no request id", "send the id of the request that is to end")
    return StopRequest(request_id)


def _prompt(
    inputs: Mapping[str, Any], encode: Callable[[str], Sequence[int]] | None
) -> tuple[tuple[int, ...], str | None]:
    has_text, has_ids = "text_input" in inputs, "input_ids" in inputs
    if has_text == has_ids:
        seen = "both" if has_text else "neither"
        raise _error("text_input, input_ids", seen, "send exactly one of the two")
    if has_ids:
        ids = tuple(int(value) for value in inputs["input_ids"])
        if not ids:
            raise _error("input_ids", "no ids", "send at least one token id")
        if min(ids) < 0:
            raise _error("input_ids", min(ids), "token ids are not negative")
        return ids, None
    text = _string("text_input", _one(inputs, "text_input"))
    if not text:
        raise _error("text_input", "an empty prompt", "send at least one character")
    if encode is None:
        raise _error("text_input", shorten(text, 40), "this engine has no tokenizer: send input_ids")
    ids = tuple(encode(text))
    if not ids:
        raise _error("text_input", shorten(text, 40), "the prompt has no tokens: send other text")
    return ids, text


def _params(inputs: Mapping[str, Any], defaults: RequestDefaults) -> SamplingParams:
    max_tokens = _integer(inputs, "max_tokens", defaults.max_tokens, low=1)
    seed = _integer(inputs, "seed", None, low=0, high=2**64 - 1)
    if seed is None:
        seed = _integer(inputs, "random_seed", None, low=0, high=2**64 - 1)
    return SamplingParams(
        max_tokens=max_tokens or defaults.max_tokens,
        temperature=_number(inputs, "temperature", 0.0, low=0.0),
        top_k=_integer(inputs, "top_k", 0, low=0) or 0,
        top_p=_number(inputs, "top_p", 1.0, above=0.0, high=1.0),
        seed=seed,
        stop=_words(inputs, "stop_words"),
        bad_words=_words(inputs, "bad_words"),
        ignore_eos=_flag(inputs, "ignore_eos", False),
        min_tokens=_integer(inputs, "min_tokens", 0, low=0, high=max_tokens) or 0,
        repetition_penalty=_number(inputs, "repetition_penalty", 1.0, above=0.0),
        presence_penalty=_number(inputs, "presence_penalty", 0.0),
        frequency_penalty=_number(inputs, "frequency_penalty", 0.0),
        logprobs=_flag(inputs, "return_log_probs", False),
        guided_decoding=_guide(inputs),
    )


def _guide(inputs: Mapping[str, Any]) -> GuidedDecodingParams | None:
    kind, guide = (_text(inputs, f"guided_decoding_guide{part}") for part in ("_type", ""))
    if not kind:
        if guide:
            raise _error("guided_decoding_guide_type", "no value beside guided_decoding_guide", f"send {_KINDS}")
        return None
    if kind not in _GUIDES:
        raise _error("guided_decoding_guide_type", shorten(kind, 40), f"send {_KINDS}")
    if kind == "json":
        # TensorRT-LLM takes no guide here: any JSON object.
        guide = guide or '{"type": "object"}'
    if not guide:
        raise _error("guided_decoding_guide", f"no value beside guided_decoding_guide_type '{kind}'", "send the guide")
    return GuidedDecodingParams(**{_GUIDES[kind]: guide})


def _one(inputs: Mapping[str, Any], name: str) -> Any:
    values = inputs[name]
    if len(values) != 1:
        raise _error(name, f"{len(values)} values", "send exactly one value")
    return values[0]


def _text(inputs: Mapping[str, Any], name: str) -> str:
    return _string(name, _one(inputs, name)) if name in inputs else ""


def _interval(parameters: Mapping[str, Any]) -> float | None:
    name = "stream_interval_ms"
    value = parameters.get(name)
    if value is None:
        return None
    if type(value) is not int or not 1 <= value <= INT32_MAX:
        raise _error(name, shorten(value, 40), f"send an integer between 1 and {INT32_MAX}")
    return value / 1e3


def _flag(inputs: Mapping[str, Any], name: str, default: bool) -> bool:
    return bool(_one(inputs, name)) if name in inputs else default


def _integer(
    inputs: Mapping[str, Any], name: str, default: int | None, *, low: int, high: int | None = None
) -> int | None:
    if name not in inputs:
        return default
    value = int(_one(inputs, name))
    top = INT32_MAX if high is None else high
    if not low <= value <= top:
        bound = f"between {low} and {top}" if high is not None else f"at least {low}"
        raise _error(name, value, f"send a value of {bound}")
    return value


def _number(
    inputs: Mapping[str, Any],
    name: str,
    default: float,
    *,
    low: float | None = None,
    above: float | None = None,
    high: float | None = None,
) -> float:
    if name not in inputs:
        return default
    value = float(_one(inputs, name))
    if not math.isfinite(value):
        raise _error(name, value, "send a finite number")
    if low is not None and value < low:
        raise _error(name, value, f"send at least {low:g}")
    if above is not None and value <= above:
        raise _error(name, value, f"send more than {above:g}")
    if high is not None and value > high:
        raise _error(name, value, f"send at most {high:g}")
    return value


def _words(inputs: Mapping[str, Any], name: str) -> tuple[str, ...]:
    # TensorRT-LLM's clients fill an absent list with one empty string.
    words = tuple(word for value in inputs.get(name, ()) if (word := _string(name, value)))
    if len(words) > MAX_WORDS:
        raise _error(name, f"{len(words)} words", f"send at most {MAX_WORDS}")
    return words


def _string(name: str, value: Any) -> str:
    if isinstance(value, str):
        return value
    try:
        return bytes(value).decode("utf-8")
    except UnicodeDecodeError as error:
        raise _error(name, f"bytes that are no UTF-8 ({error.reason} at {error.start})", "send UTF-8") from None


def _error(name: str, seen: object, fix: str) -> RequestError:
    return RequestError("invalid input", where=name, seen=seen, fix=fix)
