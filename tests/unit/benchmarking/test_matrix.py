"""The matrix over stand-in targets with a clock of their own: fair requests, turns, sizes."""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from throughline.benchmarking.matrix import run_matrix
from throughline.benchmarking.targets import Processes
from throughline.contracts.benchmark import BenchRequest, BenchSpec, RequestRecord
from throughline.contracts.errors import MeasurementError

TURNS: list[str] = []


def render(messages: Sequence[Any], tools: Sequence[Any]) -> list[int]:
    """A token a character."""
    return [ord(letter) for letter in "".join(message["content"] for message in messages)]


class StandIn:
    """Serves `users` requests a second each, `caches` skips prompts that it or its cache's other users saw before."""

    def __init__(self, name: str, below: str, rate: float, cache: set[tuple[int, ...]] | None = None) -> None:
        self.name, self.below = name, below
        self._rate = rate
        self._cache = cache
        self._now = 0.0
        self.prepared: list[int] = []
        self.seen: list[BenchRequest] = []

    @property
    def processes(self) -> Processes:
        return Processes((os.getpid(),), (os.getpid(),))

    def prepare(self, warm_up: Callable[[], Sequence[BenchRequest]]) -> None:
        self.prepared.append(len(warm_up()))

    def release(self) -> None:
        TURNS.append(self.name)

    def run(self, requests: Sequence[BenchRequest], concurrency: int) -> list[RequestRecord]:
        self.seen += requests
        records = []
        for item in requests:
            known = self._cache is not None and item.prompt_token_ids in self._cache
            if self._cache is not None:
                self._cache.add(item.prompt_token_ids)
            # Some noise, so that intervals have a width.
            seconds = (0.01 if known else 1.0) / (self._rate * concurrency) * (1 + 0.01 * (len(self.seen) % 7))
            records.append(RequestRecord(item.scenario, self._now, self._now + seconds / 2, self._now + seconds, 9, 5))
            self._now += seconds
        return records


def pool() -> list[BenchRequest]:
    texts = [f"question {number}" for number in range(6)]
    return [
        BenchRequest(
            f"task{number % 3}",
            [{"role": "system", "content": "You help. "}, {"role": "user", "content": text}],
            [],
            tuple(map(ord, text)),
            5,
        )
        for number, text in enumerate(texts)
    ]


def layers(cache: set[tuple[int, ...]] | None = None) -> list[StandIn]:
    return [StandIn("raw", "", 10, set()), StandIn("triton", "raw", 9, cache), StandIn("gateway", "triton", 8, cache)]


def test_no_prompt_is_sent_twice_and_all_targets_do_the_same_work() -> None:
    targets = layers()
    run_matrix(targets, pool(), BenchSpec(concurrency=(1, 4), min_requests=5, repeats=3), render=render)
    prompts = Counter(request.prompt_token_ids for target in targets for request in target.seen)
    assert set(prompts.values()) == {1}
    work = [[(item.scenario, len(item.prompt_token_ids), item.max_tokens) for item in t.seen] for t in targets]
    assert sorted(work[0]) == sorted(work[1]) == sorted(work[2])
    sent = targets[0].seen[0]
    # The system prompt stays a prefix that a cache can know.
    assert sent.messages[0]["content"] == "You help. "
    mark, text = str(sent.messages[1]["content"]).split(" ", 1)
    assert mark.isdigit() and len(mark) == 8 and text.startswith("question")
    assert sent.prompt_token_ids == tuple(render(sent.messages, []))


def test_a_shared_cache_does_not_help_the_layer_that_comes_second() -> None:
    """With one cache for Triton and gateway, and prompts sent as they are, the gateway came out as the fastest."""
    cells, _ = run_matrix(layers(set()), pool(), BenchSpec(concurrency=(4,), min_requests=8, repeats=3), render=render)
    rates = {cell.target: cell.tokens_per_second.value for cell in cells}
    assert rates["raw"] > rates["triton"] > rates["gateway"]


def test_a_table_in_which_a_layer_beats_the_one_below_is_not_returned() -> None:
    targets = [StandIn("raw", "", 10), StandIn("triton", "raw", 15)]
    with pytest.raises(MeasurementError, match="triton was faster than raw"):
        run_matrix(targets, pool(), BenchSpec(concurrency=(2,), min_requests=6, repeats=3), render=render)


def test_targets_take_turns_and_are_warmed_with_every_scenario() -> None:
    TURNS.clear()
    targets = layers()
    run_matrix(targets, pool(), BenchSpec(concurrency=(1,), min_requests=3, repeats=3), render=render)
    assert TURNS == ["raw", "triton", "gateway", "triton", "gateway", "raw", "gateway", "raw", "triton"]
    assert set(itertools.chain(*(target.prepared for target in targets))) == {3}


def test_a_cell_lasts_as_long_as_it_should_in_all_its_rounds() -> None:
    spec = BenchSpec(concurrency=(1, 4), min_requests=5, requests_per_user=1, repeats=3, min_seconds=6.0)
    cells, records = run_matrix(layers(), pool(), spec, render=render)
    for cell in cells:
        assert cell.seconds >= 5.8
        assert cell.requests == len(records[f"{cell.target}/{cell.concurrency}"])
        assert cell.generator_cores is not None
