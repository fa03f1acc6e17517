"""The evaluate recipe: which sets are asked, and a user's own acceptance set from the file to the gate."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from recipes import app, evaluate, lifecycle
from throughline.contracts.engine import EngineStats, SamplingParams, StepOutput
from throughline.contracts.errors import DataError
from throughline.contracts.evaluation import SuiteSpec
from throughline.evaluation.gate import decide
from throughline.evaluation.store import read_evaluations

TOOL = {"type": "function", "function": {"name": "route", "parameters": {"type": "object"}}}


def row(index: int, *, tools: bool = False, call: bool = False) -> dict[str, Any]:
    calls = {"tool_calls": [{"function": {"name": "route", "arguments": "{}"}}]} if call else {}
    return {
        "id": f"q{index}",
        "task": "routing",
        "messages": [{"role": "user", "content": "x"}],
        "tools": [TOOL] if tools else [],
        "expected": {"messages": [{"role": "assistant", "content": f"answer {index}", **calls}]},
        "prompt": "x",
        "prompt_token_ids": [index + 1],
    }


def write(folder: Path, name: str, rows: Sequence[dict[str, Any]]) -> None:
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(item) + "\n" for item in rows))


class Echo:
    """Answers question i with `answer i`; from `wrong` on with something else."""

    def __init__(self, wrong: int) -> None:
        self.wrong = wrong
        self.waiting: list[tuple[str, int]] = []
        self.guided = 0

    def submit(self, request_id: str, prompt_token_ids: Sequence[int], params: SamplingParams) -> None:
        self.waiting.append((request_id, prompt_token_ids[0] - 1))
        self.guided += params.guided_decoding is not None

    def step(self) -> list[StepOutput]:
        done, self.waiting = self.waiting, []
        return [
            StepOutput(name, (1,), f"answer {index}" if index < self.wrong else "no", "stop", 1, 1)
            for name, index in done
        ]

    def cancel(self, request_id: str) -> None: ...

    def has_work(self) -> bool:
        return bool(self.waiting)

    def stats(self) -> EngineStats:
        return EngineStats(0, len(self.waiting), 0.0, 0, 0)

    def close(self) -> None: ...


def asked(dataset: Path, folder: Path, name: str, wrong: int, suite: SuiteSpec) -> Echo:
    runtime = Echo(wrong)
    evaluate._ask(runtime, name, dict(evaluate.questions_of(dataset, suite)), suite, folder)
    return runtime


def test_an_acceptance_set_of_ones_own_flows_to_the_gate(tmp_path: Path) -> None:
    write(tmp_path, "acceptance", [row(index) for index in range(250)])
    suite = app.to_schema(app.compose("evaluate", []), evaluate.Config).suite
    policy = app.to_schema(app.compose("lifecycle", ["gate=own"]), lifecycle.Config).gate
    found = {}
    for name, wrong in (("bf16", 240), ("int8", 240), ("int4", 150)):
        asked(tmp_path, tmp_path / name, name, wrong, suite)
        sets = read_evaluations(tmp_path / name)
        assert list(sets) == ["acceptance"]
        found[name] = sets["acceptance"]
    assert found["bf16"].questions == 200
    verdicts = decide(found["bf16"], {name: found[name] for name in ("int8", "int4")}, policy)
    assert [verdict.decision for verdict in verdicts.values()] == ["GO", "GO", "NO_GO"]
    lab = app.to_schema(app.compose("lifecycle", []), lifecycle.Config).gate
    refused = decide(found["bf16"], {}, lab)["bf16"]
    assert refused.decision == "INCONCLUSIVE"
    assert refused.reasons[0] == (
        "triage_exact_match: not measured by this suite "
        "(task_success, exact_match, truncated_answers, failed_answers is)"
    )


def test_questions_that_expect_a_call_are_asked_again_under_the_grammar(tmp_path: Path) -> None:
    write(tmp_path, "acceptance", [row(index, tools=True, call=index < 3) for index in range(8)])
    write(tmp_path, "shifted", [row(index, tools=True, call=index < 2) for index in range(5)])
    runtime = asked(tmp_path, tmp_path / "out", "bf16", 8, SuiteSpec(constrained=True))
    sets = read_evaluations(tmp_path / "out")
    assert {name: evaluation.questions for name, evaluation in sets.items()} == {
        "acceptance": 8,
        "acceptance_constrained": 3,
        "shifted": 5,
        "shifted_constrained": 2,
    }
    assert runtime.guided == 5


def test_a_dataset_without_an_acceptance_set_says_how_to_get_one(tmp_path: Path) -> None:
    write(tmp_path, "shifted", [row(0)])
    with pytest.raises(DataError, match=r"no questions to judge by.*no acceptance\.jsonl.*data\.acceptance="):
        list(evaluate.questions_of(tmp_path, SuiteSpec()))
