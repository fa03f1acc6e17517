"""Greedy answers of a transformers model that is being trained, for the task probe between its steps."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def answers_by_greedy(
    model: Any,
    prompts: Sequence[Sequence[int]],
    *,
    eos_ids: Collection[int],
    pad_id: int,
    max_new_tokens: int,
    batch_size: int = 32,
) -> list[list[int]]:
    """Answers prompts greedily in left-padded batches of similar length; leaves the model as it was.

    The loop is our own, so that the generation settings of a checkpoint (penalties, sampling) have no say.

    Args:
        model: A causal language model with transformers' `forward` and KV cache, on any device.
        prompts: Token ids, none of them empty.
        eos_ids: Ids that end an answer.
        pad_id: Any id of the vocabulary; padding is masked.
        max_new_tokens: Length limit of an answer.
        batch_size: Prompts in one forward pass.

    Returns:
        The new tokens of each prompt in the given order; the one that ended an answer is its last.
    """
    import torch

    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    answers: list[list[int]] = [[] for _ in prompts]
    with torch.inference_mode(), _evaluating(model):
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            batch = [prompts[index] for index in chosen]
            for index, answer in zip(chosen, _answer_batch(model, batch, eos_ids, pad_id, max_new_tokens), strict=True):
                answers[index] = answer
    return answers


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    """Evaluation mode for a while; afterwards every module has its own mode again."""
    training = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in training:
            module.training = mode


def _answer_batch(
    model: Any, prompts: Sequence[Sequence[int]], eos_ids: Collection[int], pad_id: int, max_new_tokens: int
) -> list[list[int]]:
    """Answers of one batch; `input_ids` and `mask` are int64 [B, S], the last real token at S − 1."""
    import torch

    width = max(len(prompt) for prompt in prompts)
    rows = [[pad_id] * (width - len(prompt)) + list(prompt) for prompt in prompts]
    real = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    device = next(model.parameters()).device
    input_ids = torch.tensor(rows, dtype=torch.int64, device=device)
    mask = torch.tensor(real, dtype=torch.int64, device=device)
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    answers: list[list[int]] = [[] for _ in prompts]
    running = set(range(len(prompts)))
    cache: Any = None
    for _ in range(max_new_tokens):
        output = model(
            input_ids=input_ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
        )
        cache = output.past_key_values
        following: torch.Tensor = output.logits[:, -1].argmax(dim=-1)
        for row, token in enumerate(following.tolist()):
            if row not in running:
                continue
            answers[row].append(token)
            if token in eos_ids:
                running.discard(row)
        if not running:
            break
        input_ids = following[:, None]
        mask = torch.cat([mask, mask.new_ones(len(prompts), 1)], dim=1)
        positions = positions[:, -1:] + 1
    return answers
