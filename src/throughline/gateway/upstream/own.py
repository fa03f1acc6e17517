"""The contract of our own engine model: token ids in, text with token counts and finish reason out."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from throughline.contracts.engine import GuidedDecodingParams, SamplingParams
from throughline.gateway.upstream.contract import Ask, Message, ModelShape, Tensors
from throughline.gateway.upstream.faults import protocol_error

_INT32, _INT64 = struct.Struct("<i"), struct.Struct("<q")


class OwnContract:
    """See `Contract`."""

    name = "throughline"
    reads_text = False
    adds_special_tokens = False
    tells_progress = True
    shares_stream = True
    lacks: Mapping[str, str] = {}

    def guide_refusal(self, guide: GuidedDecodingParams) -> str:
        """See `Contract`."""
        return ""

    def request(self, model: str, ask: Ask, shape: ModelShape | None = None) -> Any:
        """See `Contract`; values that the engine assumes anyway are left out."""
        tensors, params = Tensors(model, ask), ask.params
        tensors.add("input_ids", "INT32", array("i", ask.prompt).tobytes(), len(ask.prompt))
        tensors.integer("max_tokens", params.max_tokens)
        interval = None if ask.stream else ask.interval_seconds
        tensors.flag("stream", ask.stream or interval is not None)
        if interval is not None:
            # A parameter and not an input: an engine model that does not know it streams, and refuses nothing.
            tensors.request.parameters["stream_interval_ms"].int64_param = max(1, round(interval * 1e3))
        tensors.number("temperature", params.temperature)
        if params.top_k:
            tensors.integer("top_k", params.top_k)
        if params.top_p != 1.0:
            tensors.number("top_p", params.top_p)
        if params.seed is not None:
            tensors.seed("seed", params.seed)
        if params.ignore_eos:
            tensors.flag("ignore_eos", True)
        tensors.flag("return_perf_metrics", True)
        if params.logprobs:
            tensors.flag("return_log_probs", True)
        if ask.priority:
            tensors.integer("priority", ask.priority)
        tensors.steering(params)
        return tensors.request

    def reader(self, ask: Ask) -> OwnReader:
        """See `Contract`."""
        return OwnReader()


def infer_request(
    model: str,
    request_id: str,
    prompt: Sequence[int],
    params: SamplingParams,
    *,
    stream: bool,
    priority: int = 0,
    timeout_seconds: float | None = None,
) -> Any:
    """The `ModelInferRequest` of a request to our own engine model; the arguments are the fields of `Ask`."""
    return OwnContract().request(model, Ask(request_id, prompt, "", params, stream, priority, timeout_seconds))


class OwnReader:
    """See `Reader`."""

    __slots__ = ("_layout",)

    def __init__(self) -> None:
        self._layout: _Layout | None = None

    def take(self, response: Any, message: Message) -> bool:
        """See `Reader`."""
        raw = response.raw_output_contents
        layout = self._layout
        if layout is None or len(raw) != layout.outputs:
            if not raw:
                return False  # the final flag alone
            layout = self._layout = _layout([output.name for output in response.outputs])
            if layout.times:
                message.times = {name: _INT64.unpack(raw[place])[0] for name, place in layout.times.items()}
                message.engine_seconds = (message.times["first_token"] - message.times["arrival"]) / 1e9
        message.text = str(raw[layout.text][4:], "utf-8", "replace")
        message.finish_reason = str(raw[layout.finish_reason][4:], "ascii", "replace")
        if message.finish_reason and layout.last_token is not None:
            message.times["last_token"] = _INT64.unpack(raw[layout.last_token])[0]
        message.prompt_tokens = _INT32.unpack(raw[layout.prompt_tokens])[0]
        message.completion_tokens = _INT32.unpack(raw[layout.completion_tokens])[0]
        if layout.log_probs is not None:
            message.token_ids = memoryview(raw[layout.token_ids]).cast("i")
            message.log_probs = memoryview(raw[layout.log_probs]).cast("f")
        return True


class _Layout(NamedTuple):
    """Where the outputs are; a model answers a request with the same outputs in the same order."""

    outputs: int
    text: int
    finish_reason: int
    prompt_tokens: int
    completion_tokens: int
    token_ids: int
    log_probs: int | None
    times: dict[str, int]
    last_token: int | None


_OUTPUTS = ("text_output", "finish_reason", "prompt_tokens", "completion_tokens", "output_ids")
# Those that the first message has, without `_time_ns`.
_TIMES = ("arrival", "first_scheduled", "first_token")


def _layout(names: Sequence[str]) -> _Layout:
    try:
        text, reason, prompt, completion, ids = (names.index(name) for name in _OUTPUTS)
    except ValueError:
        raise protocol_error(f"The engine's answer lacks an output: has {', '.join(names) or 'none'}.") from None
    places = {name: place for place, name in enumerate(names)}
    times = {name: places[f"{name}_time_ns"] for name in _TIMES if f"{name}_time_ns" in places}
    if not {"arrival", "first_token"} <= times.keys():
        times = {}
    log_probs, last_token = places.get("output_log_probs"), places.get("last_token_time_ns")
    return _Layout(len(names), text, reason, prompt, completion, ids, log_probs, times, last_token)
