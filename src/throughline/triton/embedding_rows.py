"""From the tensors of an embedding request to its sequences."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from throughline.contracts.errors import EngineError


def rows(input_ids: npt.NDArray[np.int64], attention_mask: npt.NDArray[np.int64] | None) -> list[list[int]]:
    """Returns the token ids of each sequence without its padding.

    Args:
        input_ids: [B, S], padded on the right.
        attention_mask: [B, S], 1 for tokens and 0 behind them; None where every id is a token.

    Raises:
        EngineError: If the shapes do not fit, or padding is not on the right alone.
    """
    if input_ids.ndim != 2:
        raise _refused("input_ids", "no matrix", f"shape {list(input_ids.shape)}", "send [sequences, tokens]")
    if attention_mask is None:
        return _lists(input_ids)
    if attention_mask.shape != input_ids.shape:
        seen = f"{list(attention_mask.shape)}, input_ids {list(input_ids.shape)}"
        raise _refused("attention_mask", "of another shape than input_ids", seen, "send a number for every id")
    lengths = attention_mask.sum(axis=1)
    if not np.array_equal(attention_mask, np.arange(input_ids.shape[1]) < lengths[:, None]):
        raise _refused("attention_mask", "no padding on the right", "other than ones, then zeros", "pad on the right")
    return [row[:length] for row, length in zip(_lists(input_ids), lengths.tolist(), strict=True)]


def _lists(values: npt.NDArray[np.int64]) -> list[list[int]]:
    found: list[list[Any]] = values.tolist()
    return found


def _refused(name: str, what: str, seen: str, fix: str) -> EngineError:
    return EngineError(f"{name} is {what}", where=name, seen=seen, fix=fix)
