"""What the contracts have in common in which engine models on Triton are asked and answer."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from throughline.contracts.engine import GuidedDecodingParams, SamplingParams

# Parameter of a response: whether it is the last one of its request.
FINAL = "triton_final_response"


@dataclass(frozen=True, slots=True)
class Ask:
    """One request to an engine.

    Attributes:
        request_id: Its name, for the engine's logs.
        prompt: Token ids.
        text: The prompt as text, of which the engine's tokenizer makes just these ids; empty where ids are sent.
        params: Sampling.
        stream: Whether text comes as it is made.
        priority: Lower is served earlier.
        timeout_seconds: After which nobody waits for the answer any more; None for no limit.
        interval_seconds: Least time between two messages of an answer that nobody reads before its end: they say that
            the engine goes on. None for no message but the last.
    """

    request_id: str
    prompt: Sequence[int]
    text: str
    params: SamplingParams
    stream: bool
    priority: int = 0
    timeout_seconds: float | None = None
    interval_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class ModelShape:
    """What Triton says of a model.

    Attributes:
        batched: Whether its tensors have a batch dimension in front.
        inputs: Names of its inputs.
    """

    batched: bool
    inputs: frozenset[str]


class Message:
    """What a message of an engine says.

    Attributes:
        text: New text.
        finish_reason: Empty until the last message.
        prompt_tokens: Tokens of the prompt, once known.
        completion_tokens: Tokens generated so far.
        token_ids: New tokens, where log-probabilities were asked for.
        log_probs: Natural log-probability of each of them; None if the engine sends none.
        engine_seconds: From the request's arrival at the engine to its first token there; None if it does not say.
        times: Nanoseconds of the engine's monotonic clock: `arrival`, `first_scheduled` if it says so, `first_token`,
            and `last_token` once all are there; empty if it does not say.
        is_cut: Whether the answer has ended though the engine goes on.
    """

    __slots__ = (
        "completion_tokens",
        "engine_seconds",
        "finish_reason",
        "is_cut",
        "log_probs",
        "prompt_tokens",
        "text",
        "times",
        "token_ids",
    )

    def __init__(self) -> None:
        self.text = ""
        self.finish_reason = ""
        self.prompt_tokens = 0
        self.completion_tokens = 0
        self.token_ids: Sequence[int] = ()
        self.log_probs: Sequence[float] | None = None
        self.engine_seconds: float | None = None
        self.times: dict[str, int] = {}
        self.is_cut = False


class Reader(Protocol):
    """Reads the messages of one request."""

    def take(self, response: Any, message: Message) -> bool:
        """Writes what a `ModelInferResponse` says into `message`; False for one that says nothing.

        Raises:
            ApiError: 502 for an answer that the contract does not have, or as the engine ended the request.
        """


class Contract(Protocol):
    """Names and meanings of an engine model's tensors.

    Attributes:
        name: As `ModelRoute.contract` names it.
        reads_text: Whether the prompt goes as text and not as token ids, and whether the answers say no token counts.
        adds_special_tokens: Whether the engine's tokenizer puts its own tokens around a text.
        tells_progress: Whether an engine can send a whole answer in few messages (`Ask.interval_seconds`).
        shares_stream: Whether an engine can end one of several requests of a call (the input `stop`) and says the
            status of an error in its text.
        lacks: Why a field of a request cannot be served, by field.
    """

    name: str
    reads_text: bool
    adds_special_tokens: bool
    tells_progress: bool
    shares_stream: bool
    lacks: Mapping[str, str]

    def guide_refusal(self, guide: GuidedDecodingParams) -> str:
        """Why a guide cannot be followed; empty if it can."""

    def request(self, model: str, ask: Ask, shape: ModelShape) -> Any:
        """The `ModelInferRequest`; `shape` counts only where `reads_text`."""

    def reader(self, ask: Ask) -> Reader:
        """Reads the answer to a request."""


class Tensors:
    """Builds a `ModelInferRequest`.

    Args:
        model: Name on Triton.
        ask: The request.
        batched: Whether tensors get a batch dimension of one.
    """

    def __init__(self, model: str, ask: Ask, *, batched: bool = False) -> None:
        from tritonclient.grpc import service_pb2

        self.request = service_pb2.ModelInferRequest(model_name=model, id=ask.request_id)
        self._raw = self.request.raw_input_contents
        self._batched = batched
        if ask.timeout_seconds is not None:
            # Triton takes 0 for none.
            self.request.parameters["timeout"].int64_param = max(1, int(ask.timeout_seconds * 1e6))

    def add(self, name: str, datatype: str, data: bytes, size: int = 1) -> None:
        """Adds a tensor of `size` elements."""
        self.request.inputs.add(name=name, datatype=datatype, shape=(1, size) if self._batched else (size,))
        self._raw.append(data)

    def integer(self, name: str, value: int) -> None:
        """Adds an INT32."""
        self.add(name, "INT32", struct.pack("<i", value))

    def number(self, name: str, value: float) -> None:
        """Adds an FP32."""
        self.add(name, "FP32", struct.pack("<f", value))

    def flag(self, name: str, value: bool) -> None:
        """Adds a BOOL."""
        self.add(name, "BOOL", b"\x01" if value else b"\x00")

    def seed(self, name: str, value: int) -> None:
        """Adds a UINT64."""
        self.add(name, "UINT64", struct.pack("<Q", value))

    def texts(self, name: str, *values: str) -> None:
        """Adds BYTES."""
        self.add(name, "BYTES", b"".join(map(_bytes, values)), len(values))

    def steering(self, params: SamplingParams) -> None:
        """Adds what ends, bans, guides and penalises an answer, in the names of TensorRT-LLM's text models."""
        if params.stop:
            self.texts("stop_words", *params.stop)
        if params.bad_words:
            self.texts("bad_words", *params.bad_words)
        if params.min_tokens:
            self.integer("min_tokens", params.min_tokens)
        if params.guided_decoding is not None:
            kind, guide = guide_kind(params.guided_decoding)
            self.texts("guided_decoding_guide_type", kind)
            self.texts("guided_decoding_guide", guide)
        for name, value, neutral in (
            ("repetition_penalty", params.repetition_penalty, 1.0),
            ("presence_penalty", params.presence_penalty, 0.0),
            ("frequency_penalty", params.frequency_penalty, 0.0),
        ):
            if value != neutral:
                self.number(name, value)


def guide_kind(guide: GuidedDecodingParams) -> tuple[str, str]:
    """TensorRT-LLM's name of the guide's kind, and the guide."""
    kinds = {
        "json_schema": guide.json,
        "regex": guide.regex,
        "ebnf_grammar": guide.grammar,
        "structural_tag": guide.structural_tag,
    }
    return next((kind, value) for kind, value in kinds.items() if value is not None)


def _bytes(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<I", len(data)) + data
