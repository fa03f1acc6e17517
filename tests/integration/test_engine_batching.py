"""In-flight batching of a real engine: joining, cancelling, stopping and refusing, counted in steps."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from throughline import engines
from throughline.contracts.engine import EngineRuntime, EngineSpec, SamplingParams, StepOutput
from throughline.contracts.errors import EngineError
from throughline.engines.cpu.logits import answer_logits

pytestmark = pytest.mark.integration

PROMPTS = {"long": [5, 6, 7], "short": [9, 10], "third": [300, 301, 302, 303]}


@pytest.fixture
def runtime(tiny_engine: Path) -> Iterator[EngineRuntime]:
    loaded = engines.load(tiny_engine)
    yield loaded
    loaded.close()


def params(tokens: int, **values: Any) -> SamplingParams:
    return SamplingParams(max_tokens=tokens, **{"ignore_eos": True, **values})


def run(runtime: EngineRuntime) -> dict[str, list[StepOutput]]:
    """Steps until nothing is left; outputs by request."""
    found: dict[str, list[StepOutput]] = {}
    while runtime.has_work():
        for output in runtime.step():
            found.setdefault(output.request_id, []).append(output)
    return found


def alone(runtime: EngineRuntime, prompt: list[int], sampling: SamplingParams) -> list[int]:
    runtime.submit("alone", prompt, sampling)
    return [token for output in run(runtime)["alone"] for token in output.token_ids]


def test_a_late_short_request_ends_while_a_long_one_runs(runtime: EngineRuntime) -> None:
    expected = {name: alone(runtime, PROMPTS[name], params(n)) for name, n in (("long", 120), ("short", 5))}
    runtime.submit("long", PROMPTS["long"], params(120))
    tokens: dict[str, list[int]] = {"long": [], "short": []}
    ended: dict[str, int] = {}
    steps = 0
    while runtime.has_work():
        if steps == 10:
            runtime.submit("short", PROMPTS["short"], params(5))
        for output in runtime.step():
            tokens[output.request_id] += output.token_ids
            if output.finish_reason:
                ended[output.request_id] = steps
        steps += 1
    assert tokens == expected
    # One token a step for each: the short one neither waits for the long one nor slows it.
    assert ended["short"] <= 10 + 5 + 1
    assert 119 <= ended["long"] <= 121


def test_a_cancelled_request_frees_its_place_and_its_blocks(tiny_engine: Path) -> None:
    runtime = engines.load(tiny_engine, max_batch_size=1, enable_block_reuse=False)
    try:
        runtime.submit("first", list(range(3, 203)), params(300))
        runtime.submit("second", PROMPTS["short"], params(3))
        before = [output for _ in range(8) for output in runtime.step()]
        assert {output.request_id for output in before} == {"first"}
        # Keys and values, 2 layers, 2 heads, 32 tokens a block, 16 floats.
        blocks = runtime.stats().kv_cache_bytes // (2 * 2 * 2 * 32 * 16 * 4)
        assert runtime.stats().kv_cache_usage == pytest.approx(7 / blocks)
        assert (runtime.stats().active_requests, runtime.stats().waiting_requests) == (1, 1)
        runtime.cancel("first")
        runtime.cancel("unknown")
        found = run(runtime)
        assert [output.finish_reason for output in found["first"]] == ["cancelled"]
        assert found["second"][-1].finish_reason == "length"
        # As of the last step, which the second request had to itself.
        assert runtime.stats().kv_cache_usage == pytest.approx(1 / blocks)
        assert runtime.stats().active_requests == runtime.stats().waiting_requests == 0
    finally:
        runtime.close()


def test_refused_requests_answer_once_and_leave_the_others_alone(runtime: EngineRuntime) -> None:
    expected = alone(runtime, PROMPTS["third"], params(12))
    runtime.submit("good", PROMPTS["third"], params(12))
    bad: dict[str, tuple[list[int], SamplingParams, str]] = {
        "id-too-big": ([1, 2048], params(2), "outside the vocabulary"),
        "id-negative": ([1, -1], params(2), "outside the vocabulary"),
        "empty": ([], params(2), "no list of token ids"),
        "too-long": (list(range(500)), params(13), "exceed the engine's context"),
        "no-tokens": ([1], params(0), "max_tokens"),
        "top-p": ([1], params(2, top_p=0.0), "top_p"),
        "cold": ([1], params(2, temperature=-1.0), "temperature"),
    }
    for name, (prompt, sampling, _) in bad.items():
        runtime.submit(name, prompt, sampling)
    with pytest.raises(EngineError, match="request id is live already"):
        runtime.submit("good", [1], params(2))
    found = run(runtime)
    for name, (_, _, words) in bad.items():
        (output,) = found[name]
        assert (output.finish_reason, output.error_kind) == ("error", "invalid")
        assert words in (output.error or "")
    assert [token for output in found["good"] for token in output.token_ids] == expected


def test_stop_strings_end_the_text_before_them(runtime: EngineRuntime, tiny_engine: Path) -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tiny_engine / "tokenizer.json"))
    tokens = alone(runtime, PROMPTS["long"], params(40))
    whole = tokenizer.decode(tokens, skip_special_tokens=True)
    # From the middle of the text and across tokens, and the same where an end-of-sequence token may end it.
    stop = whole[20:24]
    for ignore_eos in (True, False):
        runtime.submit("s", PROMPTS["long"], params(40, stop=(stop, "never\0seen"), ignore_eos=ignore_eos))
        outputs = run(runtime)["s"]
        assert "".join(output.text for output in outputs) == whole[: whole.index(stop)]
        assert outputs[-1].finish_reason == "stop"
        assert outputs[-1].completion_tokens < 40


def test_stop_ids_and_min_tokens(runtime: EngineRuntime) -> None:
    tokens = alone(runtime, PROMPTS["long"], params(40))
    stop = tokens[12]
    first = tokens.index(stop)
    for ignore_eos in (True, False):
        sampling = params(40, stop_token_ids=(stop,), ignore_eos=ignore_eos)
        assert alone(runtime, PROMPTS["long"], sampling) == tokens[: first + 1]
    later = alone(runtime, PROMPTS["long"], params(40, stop_token_ids=(stop,), min_tokens=first + 1))
    assert len(later) > first + 1


def test_a_seed_repeats_and_sampling_differs_from_greedy(runtime: EngineRuntime) -> None:
    greedy = alone(runtime, PROMPTS["long"], params(24))
    hot = params(24, temperature=1.5, seed=7)
    first = alone(runtime, PROMPTS["long"], hot)
    runtime.submit("other", PROMPTS["short"], params(24, temperature=1.5, seed=8))
    runtime.submit("again", PROMPTS["long"], hot)
    again = [token for output in run(runtime)["again"] for token in output.token_ids]
    assert first == again != greedy
    assert alone(runtime, PROMPTS["long"], params(24, temperature=1.5, seed=7, top_k=1)) == greedy


@pytest.mark.parametrize(
    "sampling",
    [
        {},
        {"temperature": 2.0, "seed": 3},
        {"temperature": 1.0, "seed": 3, "top_p": 0.5},
        {"temperature": 1.0, "seed": 3, "top_k": 2},
        {"repetition_penalty": 1.5, "presence_penalty": 1.0},
    ],
)
def test_log_probabilities_are_the_models_own(
    runtime: EngineRuntime, tiny_engine: Path, sampling: dict[str, Any]
) -> None:
    """Those of the graph run on the whole sequence: before temperature, filters and penalties."""
    prompt = PROMPTS["long"]
    runtime.submit("a", prompt, params(10, logprobs=True, **sampling))
    outputs = run(runtime)["a"]
    assert all(len(output.logprobs) == len(output.token_ids) for output in outputs)
    tokens = [token for output in outputs for token in output.token_ids]
    found = [value for output in outputs for value in output.logprobs]
    positions = list(range(len(prompt) - 1, len(prompt) - 1 + len(tokens)))
    [logits] = answer_logits(tiny_engine, [([*prompt, *tokens], positions)])
    expected = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    np.testing.assert_allclose(found, expected[range(len(tokens)), tokens], atol=2e-2)


def test_a_closed_engine_refuses(tiny_engine: Path) -> None:
    runtime = engines.load(tiny_engine)
    runtime.submit("a", [5], params(4))
    runtime.close()
    assert not runtime.has_work()
    assert runtime.step() == []
    runtime.submit("b", [5], params(4))
    (output,) = runtime.step()
    assert "engine is closed" in (output.error or "")


class Failing:
    """A pipeline whose steps fail."""

    def has_non_finished_requests(self) -> bool:
        return True

    def step(self) -> None:
        raise RuntimeError("Check 'x' failed\nat some place")


def test_an_engine_that_fails_ends_what_is_live_and_goes_on_afresh(tiny_engine: Path) -> None:
    runtime: Any = engines.load(tiny_engine)
    expected = alone(runtime, PROMPTS["long"], params(12))
    for name in ("long", "short"):
        runtime.submit(name, PROMPTS[name], params(40))
    running = runtime.step()
    assert {output.request_id for output in running} == {"long", "short"}
    runtime._pipeline = Failing()
    lost = {output.request_id: output for output in runtime.step()}
    assert set(lost) == {"long", "short"}
    for output in lost.values():
        assert (output.finish_reason, output.error_kind) == ("error", "unavailable")
        assert "engine failed and was restarted — step — seen: Check 'x' failed" in (output.error or "")
        assert output.completion_tokens == 1
    assert not runtime.has_work()
    assert alone(runtime, PROMPTS["long"], params(12)) == expected
    runtime.close()


def test_an_engine_that_cannot_start_again_says_both_reasons(tiny_engine: Path) -> None:
    runtime: Any = engines.load(tiny_engine)
    runtime.submit("a", [5], params(4))
    runtime.step()
    runtime._pipeline = Failing()

    def no_memory() -> None:
        raise RuntimeError("out of memory")

    runtime._factory = no_memory
    with pytest.raises(EngineError, match=r"cannot be restarted.*out of memory.*restart the process") as caught:
        runtime.step()
    assert "Check 'x' failed" in str(caught.value.__cause__)
    assert not runtime.has_work()


def test_more_requests_than_the_cache_holds_end_as_they_do_alone(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """One policy makes them wait for their start, the other pauses them; neither loses or repeats a token."""
    spec = EngineSpec(precision="f32", kv_cache_dtype="f32", max_seq_len=512, kv_cache_bytes=2**20, num_threads=1)
    engines.build(tiny_checkpoint, spec, tmp_path / "small")
    prompts = [[(7 * index + 3 * place) % 1900 + 10 for place in range(220)] for index in range(24)]

    def answers(at_once: int, policy: str) -> tuple[list[tuple[int, ...]], int]:
        """All tokens, and how often a request that had begun got none in a step."""
        runtime = engines.load(tmp_path / "small", capacity_scheduler_policy=policy, enable_block_reuse=False)
        found: dict[str, tuple[int, ...]] = {}
        pauses = 0
        try:
            for start in range(0, len(prompts), at_once):
                for index in range(start, min(start + at_once, len(prompts))):
                    runtime.submit(str(index), prompts[index], SamplingParams(max_tokens=120, ignore_eos=True))
                while runtime.has_work():
                    running = {name for name, tokens in found.items() if len(tokens) < 120}
                    for output in runtime.step():
                        assert output.finish_reason in (None, "length"), output.error
                        found[output.request_id] = (*found.get(output.request_id, ()), *output.token_ids)
                        running -= {output.request_id} if output.token_ids else set()
                    pauses += len(running)
        finally:
            runtime.close()
        return [found[str(index)] for index in range(len(prompts))], pauses

    alone, _ = answers(1, "guaranteed_no_evict")
    assert all(len(tokens) == 120 for tokens in alone)
    assert answers(24, "guaranteed_no_evict") == (alone, 0)
    together, pauses = answers(24, "max_utilization")
    assert together == alone
    assert pauses > 0


def test_a_cancelled_request_gives_its_booked_blocks_back(tiny_checkpoint: Path, tmp_path: Path) -> None:
    # 64 blocks of 32 tokens; a request of 403 tokens books 13 and one of slack, so that four run at once.
    spec = EngineSpec(precision="f32", kv_cache_dtype="f32", max_seq_len=512, kv_cache_bytes=2**20, num_threads=1)
    engines.build(tiny_checkpoint, spec, tmp_path / "small")
    runtime = engines.load(tmp_path / "small")
    try:
        for index in range(6):
            runtime.submit(str(index), [10 + index, 11, 12], params(400))
        begun: set[str] = set()
        for _ in range(5):
            begun |= {output.request_id for output in runtime.step()}
        assert begun == {"0", "1", "2", "3"}
        assert (runtime.stats().active_requests, runtime.stats().waiting_requests) == (4, 2)
        runtime.cancel("2")
        for _ in range(3):
            begun |= {output.request_id for output in runtime.step()}
        assert begun == {"0", "1", "2", "3", "4"}
        for index in (0, 1, 3, 4):
            runtime.cancel(str(index))
        assert [output.finish_reason for output in run(runtime)["5"]][-1] == "length"
    finally:
        runtime.close()
