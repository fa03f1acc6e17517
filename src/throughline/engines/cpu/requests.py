"""Guards a request before it reaches the pipeline, which checks neither token ids nor most parameters."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from throughline.contracts.engine import EngineInfo, SamplingParams
from throughline.contracts.errors import EngineError
from throughline.contracts.text import shorten


def check_prompt(prompt_token_ids: Sequence[int], info: EngineInfo) -> npt.NDArray[np.int64]:
    """Returns the prompt as int64 [1, S].

    Raises:
        EngineError: If it is empty, not of integers, or has ids outside the vocabulary.
    """
    ids = np.asarray(prompt_token_ids)
    if ids.ndim != 1 or not ids.size or ids.dtype.kind not in "iu":
        raise EngineError(
            "prompt is no list of token ids",
            where="prompt",
            seen=shorten(prompt_token_ids),
            fix="send at least one integer id",
        )
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or high >= info.vocab_size:
        raise EngineError(
            "prompt holds a token id outside the vocabulary",
            where="prompt",
            seen=low if low < 0 else high,
            fix=f"use ids from 0 to {info.vocab_size - 1}",
        )
    return ids.astype(np.int64)[None]


def check_length(prompt_tokens: int, max_tokens: int, max_seq_len: int) -> None:
    """Checks that prompt and output fit a sequence.

    Raises:
        EngineError: If they do not.
    """
    if prompt_tokens + max_tokens > max_seq_len:
        raise EngineError(
            "prompt and max_tokens exceed the engine's context",
            where="max_tokens",
            seen=f"prompt of {prompt_tokens} tokens + max_tokens {max_tokens} > max_seq_len {max_seq_len}",
            fix=f"shorten the prompt or ask for at most {max_seq_len - prompt_tokens} tokens"
            if prompt_tokens < max_seq_len
            else f"shorten the prompt below {max_seq_len} tokens",
        )


def check_params(params: SamplingParams) -> None:
    """Checks ranges as TensorRT-LLM and OpenAI define them.

    Raises:
        EngineError: Naming the first parameter that is out of range.
    """
    for name, value, allowed in _faults(params):
        raise EngineError(
            "sampling parameter is out of range", where=name, seen=shorten(value), fix=f"{name} is {allowed}"
        )


def _faults(params: SamplingParams) -> Iterator[tuple[str, Any, str]]:
    if params.max_tokens < 1:
        yield "max_tokens", params.max_tokens, "1 or more"
    if not 0 <= params.min_tokens <= params.max_tokens:
        yield "min_tokens", params.min_tokens, "between 0 and max_tokens"
    if not (params.temperature >= 0 and math.isfinite(params.temperature)):
        yield "temperature", params.temperature, "0 (greedy) or more"
    if params.top_k < 0:
        yield "top_k", params.top_k, "0 (off) or more"
    if not 0 < params.top_p <= 1:
        yield "top_p", params.top_p, "above 0 and at most 1"
    if not (params.repetition_penalty > 0 and math.isfinite(params.repetition_penalty)):
        yield "repetition_penalty", params.repetition_penalty, "above 0"
    for name in ("presence_penalty", "frequency_penalty"):
        if not -2 <= getattr(params, name) <= 2:
            yield name, getattr(params, name), "between -2 and 2"
    if params.seed is not None and not 0 <= params.seed < 2**64:
        yield "seed", params.seed, "an unsigned 64-bit number"
