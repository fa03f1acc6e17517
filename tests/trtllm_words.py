"""Reads TensorRT-LLM's word lists, as its C++ back end does."""

from __future__ import annotations

from typing import Any


def words(table: Any) -> list[list[int]]:
    """The words of a `[2, L]` list: ids in a row, then where each ends in it, padded with -1."""
    ids, ends = table.reshape(2, -1).tolist()
    ends = [end for end in ends if end >= 0]
    return [ids[start:end] for start, end in zip([0, *ends], ends, strict=False)]
