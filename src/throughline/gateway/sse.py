"""Bodies of answers: server-sent events from pre-built JSON around one encoded text, and whole answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from throughline.gateway.logprobs import ScoredToken, TextOffsets, chat_logprobs, text_logprobs
from throughline.gateway.toolcalls import Piece

# Some readers end a line at these too, as Python's `splitlines` does; in JSON they can only stand in strings.
_LINE_ENDS = (("\x85".encode(), b"\\u0085"), ("\u2028".encode(), b"\\u2028"), ("\u2029".encode(), b"\\u2029"))

DONE = b"data: [DONE]\n\n"
# A line that begins with a colon is no event to any client (WHATWG HTML, 9.2.6).
KEEP_ALIVE = b": keep-alive\n\n"
CALL_ID_PREFIX = "call_"
_UNFINISHED = b',"finish_reason":null}]'


def error_event(body: bytes) -> bytes:
    """An error in the middle of a stream; the headers with their 200 are gone already."""
    return b"data: " + _on_one_line(body) + b"\n\n"


def _line_json(value: Any) -> bytes:
    """JSON that every reader of lines takes for one."""
    return _on_one_line(orjson.dumps(value))


def _on_one_line(data: bytes) -> bytes:
    if data.isascii():
        return data
    for character, escaped in _LINE_ENDS:
        data = data.replace(character, escaped)
    return data


def usage_dict(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    """OpenAI's `usage` object."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


class ChatFrames:
    """Events and bodies of one choice of a chat completion.

    Args:
        answer_id: `chatcmpl-…`.
        created: Unix seconds.
        model: The model's id as the client named it.
        fingerprint: `system_fingerprint`, which names the engine.
        include_usage: Whether chunks carry `usage`, null until the last.
        index: Which of the answer's choices.
    """

    def __init__(
        self, answer_id: str, created: int, model: str, fingerprint: str, *, include_usage: bool, index: int = 0
    ) -> None:
        self._answer_id = answer_id
        self._index = index
        self._whole = _head("chat.completion", answer_id, created, model, fingerprint)
        head = _head("chat.completion.chunk", answer_id, created, model, fingerprint)
        self._head = b"data: " + _line_json(head)[:-1] + b',"choices":['
        usage = b',"usage":null' if include_usage else b""
        self._delta_head = self._head + b'{"index":%d,"delta":{' % index
        self._delta_tail = b'},"logprobs":null' + _UNFINISHED + usage + b"}\n\n"
        self._scored_tail = _UNFINISHED + usage + b"}\n\n"
        self._content_head = self._delta_head + b'"content":'
        self._finish_tail = b"}]" + usage + b"}\n\n"

    def first(self) -> bytes:
        """The chunk that names the role."""
        return self._delta_head + b'"role":"assistant","content":""' + self._delta_tail

    def text(self, text: str) -> bytes:
        """A chunk of content; empty text has no chunk."""
        return self._content_head + _line_json(text) + self._delta_tail if text else b""

    def scored(self, text: str, tokens: Sequence[ScoredToken]) -> bytes:
        """A chunk of content with its tokens' log-probabilities; tokens without text have one too."""
        if not tokens:
            return self.text(text)
        logprobs = _line_json(chat_logprobs(tokens))
        return self._content_head + _line_json(text) + b'},"logprobs":' + logprobs + self._scored_tail

    def pieces(self, pieces: Sequence[Piece]) -> bytes:
        """Chunks of content and tool calls."""
        return b"".join(self.text(piece.content) if piece.index < 0 else self._call(piece) for piece in pieces)

    def finish(self, reason: str) -> bytes:
        """The chunk with the finish reason."""
        encoded = orjson.dumps(reason)
        return self._delta_head + b'},"logprobs":null,"finish_reason":' + encoded + self._finish_tail

    def usage(self, prompt_tokens: int, completion_tokens: int) -> bytes:
        """The last chunk, without choices."""
        usage = orjson.dumps(usage_dict(prompt_tokens, completion_tokens))
        return self._head + b'],"usage":' + usage + b"}\n\n"

    def choice(self, pieces: Sequence[Piece], reason: str, tokens: Sequence[ScoredToken] | None) -> dict[str, Any]:
        """The choice of an answer that does not stream; `tokens` for log-probabilities."""
        return {
            "index": self._index,
            "message": chat_message(pieces, self._answer_id, self._index),
            "logprobs": None if tokens is None else chat_logprobs(tokens),
            "finish_reason": reason,
        }

    def whole(self, choices: Sequence[dict[str, Any]], prompt_tokens: int, completion_tokens: int) -> bytes:
        """The body of an answer that does not stream."""
        return _whole(self._whole, choices, prompt_tokens, completion_tokens)

    def _call(self, piece: Piece) -> bytes:
        function: dict[str, Any] = {"arguments": piece.arguments}
        call: dict[str, Any] = {"index": piece.index}
        if piece.name is not None:
            call["id"] = call_id(self._answer_id, self._index, piece.index)
            call["type"] = "function"
            function = {"name": piece.name, **function}
        call["function"] = function
        return self._delta_head + b'"tool_calls":[' + _line_json(call) + b"]" + self._delta_tail


class TextFrames:
    """Events and bodies of one choice of a text completion; the arguments are those of `ChatFrames`."""

    def __init__(
        self, answer_id: str, created: int, model: str, fingerprint: str, *, include_usage: bool, index: int = 0
    ) -> None:
        self._index = index
        head = self._whole = _head("text_completion", answer_id, created, model, fingerprint)
        self._head = b"data: " + _line_json(head)[:-1] + b',"choices":['
        self._usage = b',"usage":null' if include_usage else b""
        self._text_head = self._head + b'{"index":%d,"text":' % index
        self._text_tail = b',"logprobs":null' + _UNFINISHED + self._usage + b"}\n\n"
        self._offsets = TextOffsets()

    def first(self) -> bytes:
        """Text completions have no role."""
        return b""

    def text(self, text: str) -> bytes:
        """A chunk of text; empty text has no chunk."""
        return self._text_head + _line_json(text) + self._text_tail if text else b""

    def scored(self, text: str, tokens: Sequence[ScoredToken]) -> bytes:
        """A chunk of text with its tokens' log-probabilities; tokens without text have one too."""
        if not tokens:
            return self.text(text)
        logprobs = _line_json(text_logprobs(tokens, self._offsets))
        tail = _UNFINISHED + self._usage + b"}\n\n"
        return self._text_head + _line_json(text) + b',"logprobs":' + logprobs + tail

    def pieces(self, pieces: Sequence[Piece]) -> bytes:
        """Text completions have no tool calls."""
        return b"".join(self.text(piece.content) for piece in pieces)

    def finish(self, reason: str) -> bytes:
        """The chunk with the finish reason."""
        encoded = orjson.dumps(reason)
        return self._text_head + b'"","logprobs":null,"finish_reason":' + encoded + b"}]" + self._usage + b"}\n\n"

    def usage(self, prompt_tokens: int, completion_tokens: int) -> bytes:
        """The last chunk, without choices."""
        usage = orjson.dumps(usage_dict(prompt_tokens, completion_tokens))
        return self._head + b'],"usage":' + usage + b"}\n\n"

    def choice(self, pieces: Sequence[Piece], reason: str, tokens: Sequence[ScoredToken] | None) -> dict[str, Any]:
        """The choice of an answer that does not stream; `tokens` for log-probabilities."""
        return {
            "index": self._index,
            "text": "".join(piece.content for piece in pieces),
            "logprobs": None if tokens is None else text_logprobs(tokens, TextOffsets()),
            "finish_reason": reason,
        }

    def whole(self, choices: Sequence[dict[str, Any]], prompt_tokens: int, completion_tokens: int) -> bytes:
        """The body of an answer that does not stream."""
        return _whole(self._whole, choices, prompt_tokens, completion_tokens)


def call_id(answer_id: str, choice: int, index: int) -> str:
    """Id of a tool call, one of its kind in the answer; the same in a stream and in a whole answer."""
    return f"{CALL_ID_PREFIX}{answer_id.rpartition('-')[2]}{f'{choice}x' if choice else ''}{index}"


def chat_message(pieces: Sequence[Piece], answer_id: str, choice: int = 0) -> dict[str, Any]:
    """The assistant's message of a whole answer; `content` is null beside tool calls without text."""
    content = "".join(piece.content for piece in pieces)
    calls: dict[int, dict[str, str]] = {}
    for piece in pieces:
        if piece.index >= 0:
            call = calls.setdefault(piece.index, {"name": "", "arguments": ""})
            call["name"] += piece.name or ""
            call["arguments"] += piece.arguments
    message: dict[str, Any] = {"role": "assistant", "content": content or (None if calls else "")}
    if calls:
        message["tool_calls"] = [
            {"id": call_id(answer_id, choice, index), "type": "function", "function": call}
            for index, call in calls.items()
        ]
    message["refusal"] = None
    return message


def _head(kind: str, answer_id: str, created: int, model: str, fingerprint: str) -> dict[str, Any]:
    return {
        "id": answer_id,
        "object": kind,
        "created": created,
        "model": model,
        "system_fingerprint": fingerprint,
    }


def _whole(
    head: dict[str, Any], choices: Sequence[dict[str, Any]], prompt_tokens: int, completion_tokens: int
) -> bytes:
    usage = usage_dict(prompt_tokens, completion_tokens)
    return orjson.dumps({**head, "choices": choices, "usage": usage})
