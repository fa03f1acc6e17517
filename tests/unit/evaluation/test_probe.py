"""Greedy probing: the same as one prompt at a time without cache or padding; the model stays as it was."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import pytest

from throughline.evaluation.probe import answers_by_greedy, make_probe

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def model(tiny_checkpoint: Path) -> Any:
    from transformers import LlamaForCausalLM

    torch.set_num_threads(1)
    return LlamaForCausalLM.from_pretrained(tiny_checkpoint, dtype=torch.float32)


def prompts() -> list[list[int]]:
    rng = Random(4)
    return [[1, *(rng.randrange(3, 2048) for _ in range(rng.randrange(1, 40)))] for _ in range(11)]


def prompts_with_shared_heads() -> list[list[int]]:
    """Two heads of 40 and 50 tokens with ends of many lengths, one of them the head alone, in mixed order."""
    rng = Random(5)
    heads = [[1, *(rng.randrange(3, 2048) for _ in range(length))] for length in (39, 49)]
    ends = [[rng.randrange(3, 2048) for _ in range(rng.randrange(0, 20))] for _ in range(9)]
    return [heads[index % 2] + end for index, end in enumerate([[], *ends])]


def slow_greedy(model: Any, prompt: list[int], eos_ids: set[int], max_new_tokens: int) -> list[int]:
    """The whole sequence again for every token."""
    ids = list(prompt)
    with torch.inference_mode():
        while len(ids) - len(prompt) < max_new_tokens:
            token = int(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax())
            ids.append(token)
            if token in eos_ids:
                break
    return ids[len(prompt) :]


def test_it_equals_the_slow_twin_for_any_batch_size(model: Any) -> None:
    model.eval()
    free = [slow_greedy(model, prompt, set(), 12) for prompt in prompts()]
    # End tokens that stop some answers at once, some late and some never.
    eos_ids = {free[0][0], free[1][5], free[2][3]}
    expected = [slow_greedy(model, prompt, eos_ids, 12) for prompt in prompts()]
    assert len({len(answer) for answer in expected}) > 2
    for batch_size in (1, 4, 32):
        found = answers_by_greedy(model, prompts(), eos_ids=eos_ids, pad_id=0, max_new_tokens=12, batch_size=batch_size)
        assert found == expected


def test_a_shared_head_is_read_once_and_changes_nothing(model: Any) -> None:
    model.eval()
    asked = prompts_with_shared_heads()
    expected = [slow_greedy(model, prompt, set(), 6) for prompt in asked]
    widths: list[tuple[int, int]] = []
    hook = model.model.embed_tokens.register_forward_hook(lambda _m, args, _out: widths.append(tuple(args[0].shape)))
    try:
        for batch_size in (1, 3, 32):
            found = answers_by_greedy(model, asked, eos_ids=(), pad_id=0, max_new_tokens=6, batch_size=batch_size)
            assert found == expected
    finally:
        hook.remove()
    # The last run: each head alone, then the ends of all five prompts that have it.
    heads = [shape for shape in widths if shape[0] == 1][-2:]
    assert sorted(heads) == [(1, 39), (1, 49)] or sorted(heads) == [(1, 39), (1, 50)]
    assert max(width for rows, width in widths[-14:] if rows == 5) <= 20


def test_a_probe_scores_the_same_questions_at_every_call(model: Any, tiny_checkpoint: Path, tmp_path: Path) -> None:
    rows = [
        {
            "id": f"p{index}",
            "task": "faq",
            "messages": [{"role": "user", "content": "x"}],
            "expected": {"messages": [{"role": "assistant", "content": "never said"}]},
            "prompt": "x",
            "prompt_token_ids": prompt,
        }
        for index, prompt in enumerate(prompts())
    ]
    path = tmp_path / "probe.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert make_probe(path, tiny_checkpoint, size=0, max_new_tokens=3) is None
    assert make_probe(path.with_name("none.jsonl"), tiny_checkpoint, size=4, max_new_tokens=3) is None
    probe = make_probe(path, tiny_checkpoint, size=4, max_new_tokens=3)
    assert probe is not None
    seen: list[int] = []
    hook = model.model.embed_tokens.register_forward_hook(lambda _m, args, _out: seen.append(len(args[0])))
    try:
        first = probe(model)
    finally:
        hook.remove()
    assert sum(seen) <= 4 * 3
    assert first == probe(model) == {"probe/task_success": 0.0, "probe/exact_match": 0.0}


def test_modes_and_gradients_are_as_before(model: Any) -> None:
    model.train()
    model.model.layers[0].eval()
    before = {name: module.training for name, module in model.named_modules()}
    answers_by_greedy(model, [[1, 5]], eos_ids={2}, pad_id=0, max_new_tokens=2)
    assert {name: module.training for name, module in model.named_modules()} == before
    assert torch.is_grad_enabled()
    model.train()
    assert model(input_ids=torch.tensor([[1, 5]])).logits.requires_grad


def test_modes_come_back_after_a_fault(model: Any) -> None:
    model.train()
    with pytest.raises(IndexError):
        answers_by_greedy(model, [[1, 99_999]], eos_ids={2}, pad_id=0, max_new_tokens=2)
    assert model.training


def test_no_prompts_no_answers(model: Any) -> None:
    assert answers_by_greedy(model, [], eos_ids={2}, pad_id=0, max_new_tokens=2) == []
