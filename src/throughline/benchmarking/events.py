"""What a client reads of a stream of chat completions: when text came, the token counts, and errors."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import orjson

_DATA, _DONE = b"data:", b"[DONE]"
# What a model thinks aloud has tokens as well; vLLM and SGLang name it so.
_TEXTS = ("content", "tool_calls", "reasoning_content", "reasoning")


class EventReader:
    """Reads server-sent events.

    Attributes:
        first: When the first event with text came, 0 before it.
        last: When the last one came.
        gaps: Seconds between them.
        messages: Their number.
        done: Whether `[DONE]` has come.
        finished: Whether a choice has said why it ended; a server that ends its stream there leaves `[DONE]` out.
        error: The stream's error, empty without one.
        error_type: Its code.
        prompt_tokens: From the stream's `usage`.
        completion_tokens: From the stream's `usage`.
    """

    def __init__(self) -> None:
        self.first = self.last = 0.0
        self.gaps: list[float] = []
        self.messages = 0
        self.done = self.finished = False
        self.error = self.error_type = ""
        self.prompt_tokens = self.completion_tokens = 0

    def feed(self, event: bytes, came: float = 0.0) -> None:
        """Takes one event, with or without the empty line behind it.

        Args:
            event: Its bytes.
            came: When they came, seconds of `time.perf_counter`; now by default.

        Raises:
            ValueError: If its data is no JSON.
        """
        now = came or time.perf_counter()
        if not event.startswith(_DATA):
            return
        text = event[len(_DATA) :].strip()
        if text == _DONE:
            self.done = True
            return
        data = orjson.loads(text)
        if "error" in data:
            self.error, self.error_type = error_of(data, "error")
        usage = data.get("usage")
        if usage:
            self.prompt_tokens = usage["prompt_tokens"]
            self.completion_tokens = usage["completion_tokens"]
        choices = data.get("choices")
        if not choices:
            return
        self.finished = self.finished or choices[0].get("finish_reason") is not None
        delta = choices[0].get("delta") or {}
        if any(delta.get(name) for name in _TEXTS):
            if self.messages:
                self.gaps.append(now - self.last)
            else:
                self.first = now
            self.messages += 1
            self.last = now


def error_of(body: object, otherwise: str) -> tuple[str, str]:
    """Returns the message and the code, else the type, of OpenAI's error object."""
    error = body.get("error") if isinstance(body, Mapping) else None
    if not isinstance(error, Mapping):
        return str(body)[:200], otherwise
    return str(error.get("message")), str(error.get("code") or error.get("type") or otherwise)


def refusal(status: int, body: bytes) -> tuple[str, str]:
    """Returns the text and the kind of an answer that is no stream."""
    try:
        parsed: Any = orjson.loads(body)
    except ValueError:
        parsed = body[:200].decode("utf-8", "replace")
    message, kind = error_of(parsed, f"http_{status}")
    return f"HTTP {status}: {message}", kind
