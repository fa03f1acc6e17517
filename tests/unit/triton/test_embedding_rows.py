"""The tensors of an embedding request: padding comes off, and what is not padded on the right is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from throughline.contracts.errors import EngineError
from throughline.triton.embedding_rows import rows

prompts = st.lists(st.lists(st.integers(0, 2**40), min_size=1, max_size=6), min_size=1, max_size=5)


@given(prompts, st.integers(0, 3), st.integers(0, 9))
def test_padding_comes_off(prompts: list[list[int]], more: int, pad: int) -> None:
    width = max(map(len, prompts)) + more
    ids = np.array([[*prompt, *[pad] * (width - len(prompt))] for prompt in prompts], np.int64)
    mask = np.array([[1] * len(prompt) + [0] * (width - len(prompt)) for prompt in prompts], np.int64)
    assert rows(ids, mask) == prompts
    assert rows(ids, None) == ids.tolist()


@pytest.mark.parametrize(
    ("ids", "mask", "words"),
    [
        ([[5, 6]], [[0, 1]], "pad on the right"),
        ([[5, 6]], [[2, 0]], "pad on the right"),
        ([[5, 6]], [[1, -1]], "pad on the right"),
        ([[5, 6]], [[1]], "another shape than input_ids"),
        ([5, 6], None, "no matrix"),
    ],
)
def test_what_is_refused(ids: list[list[int]], mask: list[list[int]] | None, words: str) -> None:
    with pytest.raises(EngineError, match=words):
        rows(np.array(ids, np.int64), None if mask is None else np.array(mask, np.int64))
