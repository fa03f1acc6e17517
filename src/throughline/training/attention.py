"""Attention over a pack: every record attends to its shared prefix and to itself, one small product a record.

One masked product over the whole pack would cost the square of its length; in a pack of eight records most of that is
masked away. Registered with transformers under `NAME`; without `segments` it is transformers' own SDPA.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

NAME = "packed_sdpa"


def register() -> str:
    """Makes `attn_implementation=NAME` known to transformers; returns the name. A second call changes nothing."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(NAME, packed_attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    return NAME


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    segments: Sequence[tuple[int, int]] | None = None,
    **keywords: Any,
) -> tuple[torch.Tensor, None]:
    """Attends within the segments of a pack.

    Args:
        module: The attention layer; `num_key_value_groups` query heads share a key head.
        query: [1, H, S, D].
        key, value: [1, H / groups, S, D].
        attention_mask: Used without `segments` alone.
        scaling: Factor of the scores; 1/√D by default.
        dropout: Share of attention weights that are dropped.
        segments: (tokens, index of the segment that is seen as well, -1 for none) of each segment in order. None is
            an ordinary batch.

    Returns:
        Attended values [1, S, H, D], and no weights.
    """
    import torch
    from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward

    if segments is None:
        output, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **keywords
        )
        return output, None
    dtype = query.dtype
    if query.device.type == "cpu":
        # torch's CPU attention goes back through bfloat16 five times as slowly as through float32.
        query, key, value = query.float(), key.float(), value.float()
    repeats = int(getattr(module, "num_key_value_groups", 1))
    lengths = [length for length, _ in segments]
    queries = torch.split(query, lengths, dim=2)
    keys = torch.split(repeat_kv(key, repeats), lengths, dim=2)
    values = torch.split(repeat_kv(value, repeats), lengths, dim=2)
    attend = functools.partial(torch.nn.functional.scaled_dot_product_attention, dropout_p=dropout, scale=scaling)
    parts = []
    for index, (length, parent) in enumerate(segments):
        if parent < 0:
            parts.append(attend(queries[index], keys[index], values[index], is_causal=True))
            continue
        seen = lengths[parent]
        # True where a query may see a key: all of the prefix, and its own record up to itself.
        mask = torch.ones(length, seen + length, dtype=torch.bool, device=query.device).tril(diagonal=seen)
        both = [torch.cat([part[parent], part[index]], dim=2) for part in (keys, values)]
        parts.append(attend(queries[index], both[0], both[1], attn_mask=mask))
    return torch.cat(parts, dim=2).transpose(1, 2).to(dtype).contiguous(), None
