"""Requests of a workload in the tiny tokenizer's tokens: exact lengths, what is shared, turns, people."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from throughline.benchmarking.prompts import Prompts, words_of
from throughline.benchmarking.traces import TraceRow
from throughline.benchmarking.workload import check_context, replayed, synthetic
from throughline.contracts.benchmark import BenchRequest
from throughline.contracts.errors import ConfigError
from throughline.contracts.workload import ArrivalSpec, Workload
from throughline.data.render import Renderer


@pytest.fixture(scope="module")
def prompts(tiny_tokenizer_dir: Path) -> Prompts:
    renderer = Renderer(tiny_tokenizer_dir)
    words = words_of(tiny_tokenizer_dir / "tokenizer.json")
    return Prompts(lambda messages, tools: renderer.prompt(messages, tools)[1], words)


def workload(**more: Any) -> Workload:
    values = {"input_tokens": 120, "output_tokens": 20, "longest_input_tokens": 400, "longest_output_tokens": 60}
    return Workload(**{**values, **more})


def flat(found: list[list[BenchRequest]]) -> list[BenchRequest]:
    return [request for session in found for request in session]


def common(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    return next((index for index, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def test_prompts_have_just_the_lengths_that_were_drawn(prompts: Prompts) -> None:
    found = synthetic(workload(input_cv=0.6, output_cv=0.6), prompts, 60, seed=1, texts="a")
    lengths = [len(request.prompt_token_ids) for request in flat(found.sessions)]
    assert found.inputs is not None
    assert sum(lengths) / 60 == pytest.approx(120, rel=0.2)
    assert len(set(lengths)) > 20
    assert max(lengths) <= 400
    assert all(1 <= request.max_tokens <= 60 for request in flat(found.sessions))


def test_another_target_gets_the_same_shape_in_other_words(prompts: Prompts) -> None:
    load = workload(input_cv=0.6, output_cv=0.6)
    first, second = (synthetic(load, prompts, 20, seed=1, texts=texts).sessions for texts in ("raw", "gateway"))
    shapes = [[(len(r.prompt_token_ids), r.max_tokens) for r in flat(found)] for found in (first, second)]
    assert shapes[0] == shapes[1]
    template = len(prompts.fitted([], 60, prompts.words(60, "x"))[1]) - 60
    assert template == 0
    shared = {common(a.prompt_token_ids, b.prompt_token_ids) for a, b in zip(flat(first), flat(second), strict=True)}
    assert max(shared) < 45


def test_beginnings_are_shared_as_widely_as_is_asked(prompts: Prompts) -> None:
    load = workload(shared_prefix_tokens=64, shared_prefixes=2)
    requests = flat(synthetic(load, prompts, 30, seed=2, texts="a").sessions)
    first = requests[0].prompt_token_ids
    shared = [common(first, request.prompt_token_ids) for request in requests[1:]]
    assert {length >= 64 for length in shared} == {True, False}
    assert len({request.messages[0]["content"] for request in requests}) == 2
    assert {len(request.prompt_token_ids) for request in requests} == {120}


def test_turns_repeat_what_was_said(prompts: Prompts) -> None:
    load = workload(turns=3, turn_tokens=30, input_tokens=150)
    sessions = synthetic(load, prompts, 4, seed=3, texts="a").sessions
    for session in sessions:
        lengths = [len(request.prompt_token_ids) for request in session]
        assert lengths == [100, 150, 200]
        # All of the last prompt but the mark of the answer's begin is in the next one.
        for before, after in itertools.pairwise(session):
            assert common(before.prompt_token_ids, after.prompt_token_ids) >= len(before.prompt_token_ids) - 1
    assert sum(len(request.prompt_token_ids) for request in flat(sessions)) / 12 == load.input_tokens


def test_a_session_ends_before_its_prompt_is_too_long(prompts: Prompts) -> None:
    load = workload(turns=3, turn_tokens=30, input_tokens=150, longest_input_tokens=160)
    assert {len(session) for session in synthetic(load, prompts, 4, seed=3, texts="a").sessions} == {2}


def test_shares_are_exact(prompts: Prompts) -> None:
    load = workload(cancelled_share=0.25, tenants={"a": 0.7, "b": 0.3})
    requests = flat(synthetic(load, prompts, 40, seed=4, texts="a").sessions)
    assert Counter(request.tenant for request in requests) == {"a": 28, "b": 12}
    leaving = [request for request in requests if request.cancel_after]
    assert len(leaving) == 10
    assert all(request.cancel_after < request.max_tokens for request in leaving)


def test_equal_blocks_of_a_trace_are_equal_text(prompts: Prompts) -> None:
    rows = [TraceRow(0, 700, 5, (1, 2)), TraceRow(1, 800, 5, (1, 3)), TraceRow(2, 600, 5, (4, 5))]
    a, b, c = flat(replayed(workload(), prompts, rows, seed=0, texts="a").sessions)
    assert [len(request.prompt_token_ids) for request in (a, b, c)] == [700, 800, 600]
    assert common(a.prompt_token_ids, b.prompt_token_ids) >= 512
    assert common(a.prompt_token_ids, c.prompt_token_ids) < 100


def test_a_prompt_shorter_than_the_template_is_refused(prompts: Prompts) -> None:
    with pytest.raises(ConfigError, match=r"no prompt of this length.*seen: 3 tokens, with chat template"):
        prompts.fitted([], 3, prompts.words(3, "x"))


def test_a_workload_longer_than_the_context_is_refused_with_settings_that_fit() -> None:
    check_context(workload(), 460)
    with pytest.raises(ConfigError, match=r"longer than the engine's context.*460 tokens, max_seq_len=400.*=340 .*=60"):
        check_context(workload(), 400)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"turns": 3}, "turns needs turn_tokens"),
        ({"turns": 9, "turn_tokens": 30}, "too short for 9 turns"),
        ({"shared_prefix_tokens": 120}, "leaves nothing of a first prompt"),
        ({"tenants": {"a": 0.5}}, "sum to 0.5"),
        ({"trace": "x.csv"}, "goes with trace=FILE"),
        ({"arrivals": {"process": "poisson"}}, "needs requests_per_second"),
        ({"arrivals": {"process": "ramp", "requests_per_second": 1}}, "ramp_to goes with process=ramp"),
        ({"longest_input_tokens": 100}, "shorter than the mean"),
    ],
)
def test_what_contradicts_itself_is_refused(more: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        workload(**more)


def test_mlperf_s_scenarios_say_how_requests_arrive() -> None:
    load = workload(arrivals={"process": "constant", "requests_per_second": 3.0})
    assert load.under("SingleStream").arrivals == ArrivalSpec(process="closed", users=1)
    assert load.under("Server").arrivals == ArrivalSpec(process="poisson", requests_per_second=3.0)
    assert load.under("Offline").arrivals.process == "offline"
