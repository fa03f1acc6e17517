"""Generation through the runtime protocol: concurrency, order, failures, interruption."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from tests.unit.evaluation.helpers import TOOL, question, triage
from throughline.contracts.engine import EngineStats, SamplingParams, StepOutput
from throughline.contracts.evaluation import Question, SuiteSpec
from throughline.contracts.guided import tool_call_guide
from throughline.evaluation.generate import generate, schedule


class ScriptedRuntime:
    """Says `<id>.` token by token, later requests first; `bad` ids are refused, `lost` ones vanish."""

    def __init__(self, *, bad: str = "", lost: str = "", fail_at: int = -1) -> None:
        self.bad, self.lost, self.fail_at = bad, lost, fail_at
        self.live: dict[str, int] = {}
        self.most = 0
        self.params: set[SamplingParams] = set()
        # Ids submitted between two steps, in order.
        self.waves: list[list[str]] = [[]]
        self.cancelled: list[str] = []
        self.steps = 0

    def submit(self, request_id: str, prompt_token_ids: Sequence[int], params: SamplingParams) -> None:
        self.params.add(params)
        self.waves[-1].append(request_id)
        if request_id != self.lost:
            self.live[request_id] = 0
        self.most = max(self.most, len(self.live))

    def step(self) -> list[StepOutput]:
        self.steps += 1
        self.waves.append([])
        if self.steps == self.fail_at:
            raise RuntimeError("engine failed and cannot be restarted")
        outputs = [StepOutput("somebody else", (1,), "x", None, 1, 1)]
        for request_id in reversed(list(self.live)):
            self.live[request_id] += 1
            done = self.live[request_id] == 2
            if request_id == self.bad:
                outputs.append(StepOutput(request_id, (), "", "error", 3, 0, "prompt is too long"))
            else:
                outputs.append(
                    StepOutput(request_id, (9,), "." if done else request_id, "stop" if done else None, 3, 1)
                )
            if outputs[-1].finish_reason:
                del self.live[request_id]
        return outputs

    def cancel(self, request_id: str) -> None:
        self.cancelled.append(request_id)

    def has_work(self) -> bool:
        return bool(self.live)

    def stats(self) -> EngineStats:
        return EngineStats(len(self.live), 0, 0.0, 0, 0)

    def close(self) -> None:
        self.live.clear()


def asked(name: str, system: str = "", tokens: int = 3, task: str = "refusal") -> Question:
    expected = {"answer": "x", "refuse": True}
    made = question(task, expected, name, tokens)
    return replace(made, messages=[{"role": "system", "content": system or name}, *made.messages])


# No two share a prefix.
QUESTIONS = [asked(str(index)) for index in range(7)]


def test_answers_come_in_order_with_few_in_flight() -> None:
    runtime = ScriptedRuntime()
    heard: list[int] = []
    spec = SuiteSpec(concurrency=3, max_new_tokens={"refusal": 11, "other": 5})
    answers = generate(runtime, QUESTIONS, spec, heard.append)
    assert [(a.id, a.text, a.token_ids, a.finish_reason) for a in answers] == [
        (str(index), f"{index}.", (9, 9), "stop") for index in range(7)
    ]
    assert runtime.most == 3 and runtime.cancelled == []
    assert runtime.params == {SamplingParams(max_tokens=11, temperature=0.0)}
    assert heard == list(range(1, 8))


def test_one_question_of_each_shared_prefix_is_read_before_the_others_come() -> None:
    questions = [asked(f"{system}{index}", system, 9 - index) for index in range(3) for system in "ab"]
    runtime = ScriptedRuntime()
    answers = generate(runtime, [*questions, asked("alone", tokens=50)], SuiteSpec(concurrency=10))
    assert [answer.id for answer in answers] == [*(question.id for question in questions), "alone"]
    assert runtime.waves[:2] == [["a2", "b2"], ["alone", "a0", "b0", "a1", "b1"]]


def test_long_work_goes_first() -> None:
    spec = SuiteSpec(max_new_tokens={"triage": 90, "other": 9})
    questions = [asked("s"), asked("m", tokens=40), replace(triage("l"), messages=[])]
    first, rest = schedule(questions, spec)
    assert first == [] and [question.id for question in rest] == ["l", "m", "s"]


def test_questions_with_tools_can_be_held_to_their_schema() -> None:
    runtime = ScriptedRuntime()
    generate(runtime, [triage("a"), asked("b")], SuiteSpec(), constrained=True)
    guides = {params.guided_decoding for params in runtime.params}
    assert guides == {None, tool_call_guide([TOOL])}


def test_what_the_engine_refuses_or_loses_is_an_error_answer() -> None:
    answers = generate(ScriptedRuntime(bad="2", lost="6"), QUESTIONS, SuiteSpec(concurrency=2))
    assert len(answers) == 7
    failed = {a.id: a.error for a in answers if a.failed}
    assert failed == {"2": "prompt is too long", "6": "the engine dropped the request"}


def test_an_interruption_cancels_what_is_in_flight() -> None:
    runtime = ScriptedRuntime(fail_at=2)
    with pytest.raises(RuntimeError):
        generate(runtime, QUESTIONS, SuiteSpec(concurrency=4))
    assert runtime.cancelled == ["0", "1", "2", "3"]
