"""Log-probabilities of generated tokens in OpenAI's shapes."""

from __future__ import annotations

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


def text_logprobs(tokens: Sequence[ScoredToken], offset: int) -> dict[str, Any]:
    """`choices[].logprobs` of a text completion.

    Args:
        tokens: The tokens.
        offset: Characters of the answer before the first of them.
    """
    offsets, at = [], b""
    for token in tokens:
        offsets.append(offset + len(at.decode("utf-8", "ignore")))
        at += token.piece
    return {
        "tokens": [token.text for token in tokens],
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": None,
        "text_offset": offsets,
    }
