"""Stop words, bad words and weighted words as the tensors that TensorRT-LLM reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Encode = Callable[[str], Sequence[int]]


def word_list(words: Sequence[str], encode: Encode) -> NDArray[np.int32]:
    """Returns words as TensorRT-LLM's word list.

    Args:
        words: Texts; empty ones, with which clients fill an absent list, are left out.
        encode: Text to token ids, without special tokens.

    Returns:
        `[1, 2, L]`, L being the number of all ids: first the ids of all words in a row, then where each word ends
        in that row, padded with -1. `[1, 2, 0]` without words.
    """
    encoded = [list(ids) for word in words if word and (ids := encode(word))]
    flat = [token for ids in encoded for token in ids]
    ends = np.cumsum([len(ids) for ids in encoded], dtype=np.int32) if encoded else np.zeros(0, np.int32)
    table = np.full((1, 2, len(flat)), -1, dtype=np.int32)
    table[0, 0] = flat
    table[0, 1, : len(ends)] = ends
    return table


def embedding_bias(
    words: Sequence[str], weights: Sequence[float], encode: Encode, vocab_size: int
) -> NDArray[np.float32]:
    """Returns what is added to the logits: a word's weight for each of its tokens.

    Returns:
        `[1, vocab_size]`, or `[1, 0]` without words.

    Raises:
        ValueError: If there is not a weight for each word.
    """
    if len(words) != len(weights):
        raise ValueError(f"{len(words)} embedding_bias_words and {len(weights)} embedding_bias_weights: send one each")
    if not any(words):
        return np.zeros((1, 0), dtype=np.float32)
    bias = np.zeros((1, vocab_size), dtype=np.float32)
    for word, weight in zip(words, weights, strict=True):
        for token in encode(word) if word else ():
            bias[0, token] += weight
    return bias
