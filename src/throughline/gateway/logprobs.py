"""Log-probabilities of generated tokens in OpenAI's shapes."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from throughline.vocabulary import Vocabulary

# OpenAI's stand-in for "very unlikely"; JSON has no infinity.
LEAST = -9999.0


@dataclass(frozen=True)
class ScoredToken:
    """One generated token: its bytes and the natural logarithm of its probability."""

    piece: bytes
    logprob: float

    @property
    def text(self) -> str:
        """The bytes as text; a part of a character is U+FFFD."""
        return self.piece.decode("utf-8", "replace")


@dataclass(frozen=True)
class TokenScorer:
    """Puts ids and log-probabilities of an engine's messages together.

    Args:
        vocabulary: Bytes of every id.
        end_ids: Tokens that end an answer and are no part of it.
    """

    vocabulary: Vocabulary
    end_ids: frozenset[int]

    def scored(self, token_ids: Sequence[int], log_probs: Sequence[float], finish_reason: str) -> list[ScoredToken]:
        """Returns the tokens of one message, without the one that stopped the answer.

        Raises:
            ValueError: If the two have different lengths.
        """
        found = [
            ScoredToken(self.vocabulary.bytes_of((token,)), max(value, LEAST))
            for token, value in zip(token_ids, log_probs, strict=True)
        ]
        stopped = finish_reason == "stop" and token_ids and token_ids[-1] in self.end_ids
        return found[:-1] if stopped else found


def chat_logprobs(tokens: Sequence[ScoredToken]) -> dict[str, Any]:
    """`choices[].logprobs` of a chat completion; the engine gives no alternatives."""
    content = [
        {"token": token.text, "logprob": token.logprob, "bytes": list(token.piece), "top_logprobs": []}
        for token in tokens
    ]
    return {"content": content, "refusal": None}


class TextOffsets:
    """Where each token begins in an answer's text, in characters, as the engine's own decoder counts them.

    Counted from the tokens and not from the text that was sent: what may begin a stop string comes after its token.
    """

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._characters = 0

    def add(self, piece: bytes) -> int:
        """The place of the next token; one that goes on within a character has that character's."""
        at = self._characters
        self._characters += len(self._decoder.decode(piece))
        return at


def text_logprobs(tokens: Sequence[ScoredToken], offsets: TextOffsets) -> dict[str, Any]:
    """`choices[].logprobs` of a text completion.

    Args:
        tokens: New tokens.
        offsets: Knows the tokens before them.
    """
    return {
        "tokens": [token.text for token in tokens],
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": None,
        "text_offset": [offsets.add(token.piece) for token in tokens],
    }
