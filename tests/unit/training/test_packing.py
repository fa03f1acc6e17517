"""Packs against their slow twins: separate records through the same model, and every grouping tried."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from throughline.training import attention
from throughline.training.packing import LEAST_SHARED, Record, groups, pack, plan

SYSTEM = list(range(10, 10 + LEAST_SHARED + 4))
OTHER = list(range(60, 60 + LEAST_SHARED + 9))
RECORDS = [
    Record([*SYSTEM, 100, 101, 102, 2, 9], [-100] * (len(SYSTEM) + 2) + [102, 2, -100]),
    Record([*OTHER, 7, 8], [-100] * len(OTHER) + [7, 8]),
    Record([*SYSTEM, 100, 104, 2], [-100] * (len(SYSTEM) + 1) + [104, 2]),
    Record([*SYSTEM, 55, 56, 57, 58, 2], [-100] * (len(SYSTEM) + 3) + [58, 2]),
    Record([*OTHER, 11], [-100] * len(OTHER) + [11]),
    Record([5, 6, 7, 8], [-100, 6, -100, 8]),
]


@pytest.fixture(scope="module")
def model(tiny_checkpoint: Path) -> Any:
    """The tiny Llama with LoRA-like trainable projections, in float32."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny_checkpoint, attn_implementation=attention.register())


def loss_and_gradients(model: Any, rows: Sequence[tuple[dict[str, Any], Any]]) -> tuple[float, list[Any]]:
    """Sum of the negative log-likelihoods over all rows, and the gradient of every weight."""
    import torch

    model.zero_grad()
    total = torch.zeros(())
    for arguments, labels in rows:
        logits = model(**arguments).logits
        total = total + torch.nn.functional.cross_entropy(logits[0], labels[0], ignore_index=-100, reduction="sum")
    total.backward()
    return float(total.detach()), [parameter.grad.clone() for parameter in model.parameters()]


def test_a_pack_has_the_loss_and_the_gradients_of_its_separate_records(model: Any) -> None:
    import torch

    packed = pack(RECORDS).batch()
    separate = []
    for record in RECORDS:
        ids, labels = torch.tensor([record.input_ids]), torch.tensor([[*record.labels[1:], -100]])
        separate.append(({"input_ids": ids}, labels))
    labels = packed.pop("labels")
    assert packed["input_ids"].shape[1] < sum(len(record.input_ids) for record in RECORDS)
    together, one_by_one = loss_and_gradients(model, [(packed, labels)]), loss_and_gradients(model, separate)
    assert together[0] == pytest.approx(one_by_one[0], rel=1e-5)
    for found, wanted in zip(together[1], one_by_one[1], strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-5)


def test_without_segments_attention_is_that_of_transformers(model: Any, tiny_checkpoint: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    plain = AutoModelForCausalLM.from_pretrained(tiny_checkpoint, attn_implementation="sdpa")
    ids = torch.tensor([[5, 6, 7, 8, 9], [0, 0, 7, 8, 9]])
    mask = torch.tensor([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1]])
    with torch.inference_mode():
        found = model(input_ids=ids, attention_mask=mask).logits
        wanted = plain(input_ids=ids, attention_mask=mask).logits
    torch.testing.assert_close(found[0], wanted[0])
    torch.testing.assert_close(found[1, 2:], wanted[1, 2:])


def test_every_label_is_predicted_by_the_token_before_it() -> None:
    made = pack(RECORDS)
    pairs = sorted((made.input_ids[at], label) for at, label in zip(made.label_positions, made.labels, strict=True))
    wanted = sorted(
        (record.input_ids[index - 1], label)
        for record in RECORDS
        for index, label in enumerate(record.labels)
        if label >= 0 and index > 0
    )
    assert pairs == wanted


def _partitions(count: int) -> Iterator[list[range]]:
    """Every way to cut 0 … count − 1 into ranges of neighbours."""
    if count == 0:
        yield []
        return
    for size in range(1, count + 1):
        for rest in _partitions(count - size):
            yield [*rest, range(count - size, count)]


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(1, 6)), min_size=1, max_size=6))
def test_grouping_saves_as_much_as_the_best_of_all_groupings(shapes: list[tuple[int, int, int]]) -> None:
    records = []
    for head, middle, tail in shapes:
        ids = [[1, 2, 3][head]] * (LEAST_SHARED + 3) + [[4, 5, 6][middle]] * LEAST_SHARED + list(range(20, 20 + tail))
        records.append(Record(ids, [-100] * (len(ids) - 1) + [ids[-1]]))
    found = groups(records)
    assert sorted(map(id, (record for _, members in found for record in members))) == sorted(map(id, records))
    ordered = sorted(records, key=lambda record: list(record.input_ids))

    def shared(members: Sequence[Record]) -> int:
        length = 0
        most = min(record.shareable - 1 for record in members)
        while length < most and len({record.input_ids[length] for record in members}) == 1:
            length += 1
        return length if length >= LEAST_SHARED else 0

    best = max(
        sum((len(part) - 1) * shared([ordered[index] for index in part]) for part in parts)
        for parts in _partitions(len(ordered))
    )
    assert sum((len(members) - 1) * length for length, members in found) == best
    for length, members in found:
        assert len({tuple(record.input_ids[:length]) for record in members}) == 1


@given(
    lengths=st.lists(st.integers(1, 50), min_size=1, max_size=30),
    batch_size=st.integers(1, 5),
    most_tokens=st.integers(1, 120),
    max_tokens=st.integers(0, 2000),
    max_steps=st.integers(0, 20),
    seed=st.integers(0, 3),
    tasks=st.none() | st.lists(st.sampled_from("abc"), min_size=30, max_size=30),
)
def test_a_plan_sees_every_record_once_an_epoch_within_its_limits(
    lengths: list[int],
    batch_size: int,
    most_tokens: int,
    max_tokens: int,
    max_steps: int,
    seed: int,
    tasks: list[str] | None,
) -> None:
    arguments: dict[str, int] = {
        "batch_size": batch_size,
        "most_tokens": most_tokens,
        "max_tokens": max_tokens,
        "max_steps": max_steps,
        "seed": seed,
    }
    packs = plan(lengths, tasks, **arguments)
    assert packs == plan(lengths, tasks, **arguments)
    sizes = [sum(lengths[index] for index in indices) for indices in packs]
    assert all(len(indices) <= batch_size for indices in packs)
    assert all(size <= most_tokens or len(indices) == 1 for size, indices in zip(sizes, packs, strict=True))
    if tasks is not None:
        assert all(len({tasks[index] for index in indices}) == 1 for indices in packs)
    seen = [index for indices in packs for index in indices]
    for start in range(0, len(seen) - len(lengths) + 1, len(lengths)):
        assert sorted(seen[start : start + len(lengths)]) == list(range(len(lengths)))
    if not (max_tokens or max_steps):
        assert len(seen) == len(lengths)
    reached = (max_steps and len(packs) == max_steps) or (max_tokens and sum(sizes) >= max_tokens)
    assert reached or not (max_tokens or max_steps)
    assert not max_tokens or sum(sizes[:-1]) < max_tokens
    assert not max_steps or len(packs) <= max_steps


def test_packs_of_one_task_come_in_random_order() -> None:
    tasks = ["a"] * 100 + ["b"] * 100
    packs = plan([10] * 200, tasks, batch_size=4, most_tokens=100, max_tokens=0, max_steps=0, seed=0)
    order = "".join(tasks[indices[0]] for indices in packs)
    assert (len(packs), order.count("a")) == (50, 25)
    # Of 49 neighbours 24.5 differ on average, with a standard deviation of 3.5.
    changes = sum(first != second for first, second in itertools.pairwise(order))
    assert 14 <= changes <= 35
