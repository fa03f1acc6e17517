"""Sequences that run together: each once, within both limits, and no more padding than their order allows."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from throughline.engines.cpu.embedding import batches


@given(st.lists(st.integers(1, 64), max_size=40), st.integers(1, 8), st.integers(1, 256))
def test_every_sequence_is_in_one_batch_within_the_limits(lengths: list[int], rows: int, tokens: int) -> None:
    found = list(batches(lengths, rows, tokens))
    assert sorted(index for batch in found for index in batch) == list(range(len(lengths)))
    for batch in found:
        assert 1 <= len(batch) <= rows
        assert len(batch) == 1 or len(batch) * max(lengths[index] for index in batch) <= tokens
    ordered = [lengths[index] for batch in found for index in batch]
    assert ordered == sorted(ordered)
