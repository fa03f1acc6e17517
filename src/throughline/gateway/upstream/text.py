"""Answers that are text alone: stop strings are cut and tokens counted here."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Any

from throughline.gateway.errors import timed_out, unavailable
from throughline.gateway.upstream.contract import FINAL, Ask, Message, ModelShape, Tensors
from throughline.gateway.upstream.faults import protocol_error
from throughline.stop_words import StopWords

_LENGTH = struct.Struct("<I")
_SETTLE_CHARACTERS = 1024


class TextContract:
    """What contracts share whose models read and write text.

    Args:
        adds_special_tokens: Whether the engine's tokenizer puts its own tokens around a text.
        count: Tokens of a text.
    """

    reads_text = True
    tells_progress = False
    shares_stream = False

    def __init__(self, *, adds_special_tokens: bool, count: Callable[[str], int]) -> None:
        self.adds_special_tokens = adds_special_tokens
        self._count = count

    def tensors(self, model: str, ask: Ask, shape: ModelShape, prefix: str = "") -> Tensors:
        """The text of a request and how to choose tokens; `prefix` goes before the names of the latter."""
        tensors, params = Tensors(model, ask, batched=shape.batched), ask.params
        # Without it nothing says that a stream has ended.
        tensors.request.parameters["triton_enable_empty_final_response"].bool_param = True
        tensors.texts("text_input", ask.text)
        tensors.integer(f"{prefix}max_tokens", params.max_tokens)
        if params.temperature:
            tensors.number(f"{prefix}temperature", params.temperature)
            # Without top_k and top_p TensorRT-LLM is greedy.
            tensors.number(f"{prefix}top_p", params.top_p)
            if params.top_k:
                tensors.integer(f"{prefix}top_k", params.top_k)
        else:
            # Which temperature 0 is not to all its versions.
            tensors.integer(f"{prefix}top_k", 1)
        return tensors


class TextReader:
    """Reads messages with new text, and the end from the finish reason or Triton's final flag.

    The counts are those of the gateway's tokenizer: while a stream runs each message's by itself, at its end that of
    the whole text. An end token is not text and not counted. Where the engine gives no reason, an answer that has all
    its tokens ended by `length`, any other by `stop`.

    Args:
        ask: The request.
        count: Tokens of a text.
    """

    def __init__(self, ask: Ask, count: Callable[[str], int]) -> None:
        self._prompt_tokens, self._max_tokens = len(ask.prompt), ask.params.max_tokens
        self._stop = StopWords(ask.params.stop)
        self._counter = TokenCounter(count)

    def take(self, response: Any, message: Message) -> bool:
        """See `Reader`."""
        outputs = {output.name: raw for output, raw in zip(response.outputs, response.raw_output_contents, strict=True)}
        final = bool(response.parameters[FINAL].bool_param) if FINAL in response.parameters else False
        if not outputs and not final:
            return False
        if outputs and "text_output" not in outputs:
            raise protocol_error(f"The engine's answer lacks text_output: has {', '.join(outputs)}.")
        reason = _reason(outputs)
        text = self._stop.push(self.new_text(_first(outputs["text_output"]), outputs) if outputs else "")
        if self._stop.found:
            message.is_cut = not final and not reason
            reason = "stop"
        elif final or reason:
            text += self._stop.finish()
        # A text may have more tokens than it was made of, if its bytes are odd; the engine made no more than it may.
        tokens = min(self._counter.push(text), self._max_tokens)
        if final or reason:
            tokens = self._max_tokens if reason == "length" else min(self._counter.finish(), self._max_tokens)
            message.finish_reason = reason or ("length" if tokens >= self._max_tokens else "stop")
        message.text, message.prompt_tokens, message.completion_tokens = text, self._prompt_tokens, tokens
        return True

    def new_text(self, text: str, outputs: Mapping[str, bytes]) -> str:
        """What a message's text adds to that of those before it."""
        return text


class TokenCounter:
    """Counts the tokens of a text that comes in pieces, at a cost that grows with the text and not with its square.

    Args:
        count: Tokens of a text.
    """

    def __init__(self, count: Callable[[str], int]) -> None:
        self._count = count
        self._guess = 0
        self._settled = 0
        self._rest = ""

    def push(self, text: str) -> int:
        """Adds text and returns the sum of the pieces' own tokens."""
        if text:
            self._guess += self._count(text)
            self._rest += text
            if len(self._rest) > _SETTLE_CHARACTERS:
                self._settle()
        return self._guess

    def finish(self) -> int:
        """Returns the tokens of the whole text."""
        return self._settled + self._count(self._rest)

    def _settle(self) -> None:
        end = self._rest.rfind(" ")
        # Tokenizers of text begin a new part at a space behind a word, so that no token reaches over it.
        if end > 0 and not self._rest[end - 1].isspace():
            self._settled += self._count(self._rest[:end])
            self._rest = self._rest[end:]


def finish_word(outputs: Mapping[str, bytes]) -> str:
    """The output `finish_reason` as the engine spells it; empty where it has none."""
    raw = outputs.get("finish_reason")
    return "" if raw is None else _first(raw)


def _reason(outputs: Mapping[str, bytes]) -> str:
    """`stop` or `length`; empty while there is none, for which NVIDIA's model writes Python's None."""
    word = finish_word(outputs)
    if word in ("", "None", "stop", "length"):
        return word.replace("None", "")
    if word == "timeout":
        raise timed_out("The engine ended the request because it took too long.")
    if word == "cancelled":
        raise unavailable("The engine cancelled the request.")
    raise protocol_error(f"The engine ended the request with an unknown reason: {word!r:.40}.")


def _first(raw: bytes) -> str:
    """The first element of a BYTES tensor; further ones are other beams'."""
    if len(raw) < _LENGTH.size:
        return ""
    (size,) = _LENGTH.unpack_from(raw)
    return str(raw[_LENGTH.size : _LENGTH.size + size], "utf-8", "replace")
