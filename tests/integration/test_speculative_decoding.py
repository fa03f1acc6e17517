"""Speculative decoding of a real engine: the same answers in fewer steps, for requests of every kind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from throughline import engines
from throughline.contracts.engine import EngineRuntime, EngineSpec, GuidedDecodingParams, SamplingParams
from throughline.contracts.errors import ConfigError, EngineError, EngineLintError

pytestmark = pytest.mark.integration
# What repeats can be looked up.
PROMPTS = {"again": [7, 8, 9, 10] * 8, "other": [300, 301, 302], "third": [11, 12]}
NGRAM = {"decoding_type": "NGram", "max_draft_len": 4, "max_matching_ngram_size": 3}


def draft(folder: Path) -> dict[str, Any]:
    config = {"decoding_type": "Draft_Target", "max_draft_len": 4, "speculative_model_dir": str(folder)}
    return {"speculative_config": config, "enable_block_reuse": False}


def answers(runtime: EngineRuntime, **values: Any) -> tuple[dict[str, tuple[tuple[int, ...], str, str | None]], int]:
    """Tokens, text and reason of every prompt, all running together, and the steps that it took."""
    for name, prompt in PROMPTS.items():
        runtime.submit(name, prompt, SamplingParams(**{"max_tokens": 40, "ignore_eos": True, **values}))
    found: dict[str, tuple[tuple[int, ...], str, str | None]] = dict.fromkeys(PROMPTS, ((), "", None))
    steps = 0
    while runtime.has_work():
        steps += 1
        for output in runtime.step():
            tokens, text, _ = found[output.request_id]
            found[output.request_id] = (tokens + output.token_ids, text + output.text, output.finish_reason)
    return found, steps


@pytest.fixture(scope="module", params=["NGram", "Draft_Target"])
def speculating(request: pytest.FixtureRequest, tiny_engine: Path) -> Iterator[EngineRuntime]:
    """A draft that is the engine itself guesses right always, so that steps can be counted."""
    values = draft(tiny_engine) if request.param == "Draft_Target" else {"speculative_config": NGRAM}
    loaded = engines.load(tiny_engine, **values)
    yield loaded
    loaded.close()


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"stop": ("e",)},
        {"stop_token_ids": (20,)},
        {"repetition_penalty": 1.3},
        {"ignore_eos": False, "min_tokens": 9},
    ],
)
def test_greedy_answers_stay_what_they_were(
    tiny_engine: Path, speculating: EngineRuntime, values: dict[str, Any]
) -> None:
    plain = engines.load(tiny_engine)
    try:
        expected, _ = answers(plain, **values)
    finally:
        plain.close()
    found, _ = answers(speculating, **values)
    assert found == expected


def test_guesses_save_steps(speculating: EngineRuntime, tiny_engine: Path) -> None:
    found, steps = answers(speculating, max_tokens=40)
    assert {len(tokens) for tokens, _, _ in found.values()} == {40}
    config = speculating.spec.speculative_config  # type: ignore[attr-defined]
    # Four guesses and the token after them; prompts take a step.
    assert steps <= (40 / 5 + 2 if config.decoding_type == "Draft_Target" else 40)


def test_sampled_and_guided_requests_run_too(speculating: EngineRuntime) -> None:
    first, _ = answers(speculating, temperature=0.8, seed=3)
    assert {len(tokens) for tokens, _, _ in first.values()} == {40}
    if speculating.spec.speculative_config.decoding_type == "NGram":  # type: ignore[attr-defined]
        assert answers(speculating, temperature=0.8, seed=3)[0] == first
    guide = GuidedDecodingParams(regex="[ab]{5}")
    found, _ = answers(speculating, guided_decoding=guide, ignore_eos=False)
    assert all(set(text) <= {"a", "b"} and len(text) == 5 for _, text, _ in found.values())


def test_what_does_not_go_together_is_refused(tiny_engine: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(EngineLintError, match="enable_block_reuse"):
        engines.load(tiny_engine, **(draft(tiny_engine) | {"enable_block_reuse": True}))
    with pytest.raises(ConfigError, match="speculative_model_dir"):
        engines.load(tiny_engine, speculative_config={"decoding_type": "Draft_Target"})
    with pytest.raises(EngineError, match="no engine here"):
        engines.load(tiny_engine, **draft(tmp_path))
    other = tmp_path / "other"
    other.mkdir()
    for path in tiny_engine.iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    (other / "tokenizer.json").write_text((other / "tokenizer.json").read_text() + "\n")
    with pytest.raises(EngineError, match="another tokenizer"):
        engines.load(tiny_engine, **draft(other))


def test_a_build_records_its_golden_answers_while_speculating(tiny_checkpoint: Path, tmp_path: Path) -> None:
    spec = EngineSpec.model_validate(
        {"precision": "f32", "max_seq_len": 256, "num_threads": 1, "speculative_config": NGRAM}
    )
    engines.build(tiny_checkpoint, spec, tmp_path / "engine")
    assert engines.verify(tmp_path / "engine").ok
