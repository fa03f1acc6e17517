"""transformers behind the runtime protocol: the answers of our engine of the same weights, and errors for the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from throughline import engines
from throughline.contracts.engine import EngineRuntime, SamplingParams, StepOutput
from throughline.contracts.errors import EngineError
from throughline.engines.transformers_runtime import TransformersRuntime

pytestmark = pytest.mark.integration
PROMPTS = [[5 + (7 * row + column) % 900 for column in range(3 + row)] for row in range(6)]


@pytest.fixture(scope="module")
def runtime(tiny_checkpoint: Path) -> TransformersRuntime:
    import torch
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(tiny_checkpoint, dtype=torch.float32)
    return TransformersRuntime(model.eval(), tiny_checkpoint)


def answers(runtime: EngineRuntime, params: SamplingParams) -> dict[str, tuple[tuple[int, ...], str, str | None]]:
    for number, prompt in enumerate(PROMPTS):
        runtime.submit(str(number), prompt, params)
    found: dict[str, list[StepOutput]] = {}
    while runtime.has_work():
        for output in runtime.step():
            found.setdefault(output.request_id, []).append(output)
    return {
        key: (
            tuple(token for output in outputs for token in output.token_ids),
            "".join(output.text for output in outputs),
            outputs[-1].finish_reason,
        )
        for key, outputs in found.items()
    }


def test_the_answers_are_those_of_our_engine(runtime: TransformersRuntime, tiny_engine: Path) -> None:
    engine = engines.load(tiny_engine)
    generated = 0
    try:
        for count in (1, 24):
            params = SamplingParams(max_tokens=count)
            found = answers(runtime, params)
            assert found == answers(engine, params) and len(found) == len(PROMPTS)
            generated += sum(len(ids) for ids, _, _ in found.values())
    finally:
        engine.close()
    assert runtime.stats().generated_tokens == generated


@pytest.mark.parametrize(
    ("prompt", "params", "words"),
    [
        ([5, 6], SamplingParams(temperature=0.5), "only greedy answers are computed here, not temperature"),
        ([5, 6], SamplingParams(stop=("a",), logprobs=True), "not logprobs, stop"),
        ([5, 4000], SamplingParams(), "beyond the vocabulary of 2048"),
        ([], SamplingParams(), "prompt is empty"),
        ([5] * 500, SamplingParams(max_tokens=20), "500 + 20 tokens, the model was made for 512"),
    ],
)
def test_what_it_does_not_do_ends_with_an_error(
    runtime: TransformersRuntime, prompt: list[int], params: SamplingParams, words: str
) -> None:
    runtime.submit("odd", prompt, params)
    [output] = runtime.step()
    assert (output.finish_reason, output.error_kind) == ("error", "invalid") and words in str(output.error)
    assert not runtime.has_work()


def test_requests_that_wait_can_be_cancelled_and_have_ids_of_their_own(runtime: TransformersRuntime) -> None:
    runtime.submit("one", [5], SamplingParams())
    with pytest.raises(EngineError, match="live already"):
        runtime.submit("one", [6], SamplingParams())
    runtime.cancel("one")
    runtime.cancel("never there")
    assert not runtime.has_work()
