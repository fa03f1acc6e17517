"""Each metric against hand-written records, and the scorer against the lab's own reference answers."""

from __future__ import annotations

import pytest

from tests.unit.evaluation.helpers import (
    NOT_FOUND,
    REFUSAL,
    WANTED,
    answer,
    call,
    grounded,
    question,
    refusal,
    triage,
)
from throughline.contracts.errors import DataError
from throughline.contracts.evaluation import METRIC_DEFINITIONS, Answer, Question, SuiteSpec
from throughline.contracts.tool_calls import END, START
from throughline.evaluation.suite import score

SPEC = SuiteSpec()


def outcome(asked: Question, said: str | Answer) -> dict[str, float]:
    given = answer(said) if isinstance(said, str) else said
    return score("m", [asked], [given], SPEC).outcomes["q"]


@pytest.mark.parametrize(
    ("said", "exact", "f1", "valid", "compliant"),
    [
        (call(WANTED), 1, 1, 1, 1),
        (call({"gpu_model": "none", "severity": "high"}), 1, 1, 1, 1),
        (call({**WANTED, "severity": "low"}), 0, 0.5, 1, 1),
        (call({**WANTED, "severity": "huge"}), 0, 0.5, 1, 0),
        (call({"severity": "high"}), 0, 2 / 3, 1, 0),
        (call({**WANTED, "extra": "x"}), 0, 4 / 5, 1, 0),
        (call({**WANTED, "gpu_model": None}), 0, 0.5, 1, 0),
        (call({}), 0, 0, 1, 0),
        (call(WANTED, tool="close_ticket"), 0, 0, 1, 0),
        ("Sure! " + call(WANTED), 0, 1, 0, 0),
        (call(WANTED) * 2, 0, 1, 0, 0),
        (call(WANTED).removesuffix(END), 0, 0, 0, 0),
        (START + '{"name": "open_ticket", "arguments": {"severity": "high",}}' + END, 0, 0, 0, 0),
        ("", 0, 0, 0, 0),
        ("I can't help with that.", 0, 0, 0, 0),
    ],
)
def test_triage(said: str, exact: float, f1: float, valid: float, compliant: float) -> None:
    found = outcome(triage(), said)
    assert found["triage_exact_match"] == found["task_success"] == exact
    assert found["triage_field_f1"] == pytest.approx(f1)
    assert (found["json_validity"], found["schema_compliance"]) == (valid, compliant)


def test_triage_scores_each_field() -> None:
    found = outcome(triage(), call({**WANTED, "severity": "low"}))
    assert (found["triage_severity_accuracy"], found["triage_gpu_model_accuracy"]) == (0, 1)


def test_true_is_not_one() -> None:
    asked = triage(count=1)
    assert outcome(asked, call({"count": True}))["triage_exact_match"] == 0
    assert outcome(asked, call({"count": 1}))["triage_exact_match"] == 1


def test_field_f1_is_pooled_over_fields() -> None:
    # 2 hits of 4 pairs, 1 hit of 3 pairs: 2 · 3 / (4 + 3), not the mean of 1 and 2/3.
    evaluation = score(
        "m",
        [triage("a"), triage("b")],
        [answer(call(WANTED), "a"), answer(call({"severity": "high"}), "b")],
        SPEC,
    )
    assert evaluation.metrics["triage_field_f1"].value == pytest.approx(6 / 7)
    assert evaluation.weights == {"a": {"triage_field_f1": 4.0}, "b": {"triage_field_f1": 3.0}}


@pytest.mark.parametrize(
    ("citation", "said", "exact", "valid", "right"),
    [
        (2, "The port of x is 81 [2].", 1, 1, 1),
        (2, "It is 81 [2].", 0, 1, 1),
        (2, "It is 81 [2] and [1].", 0, 1, 0),
        (2, "It is 81 [1].", 0, 1, 0),
        (2, "It is 81 [4].", 0, 0, 0),
        (2, "It is 81 [2] [0].", 0, 0, 0),
        (2, "It is 81 [" + "9" * 5000 + "].", 0, 0, 0),
        (2, "It is 81.", 0, 0, 0),
        (2, NOT_FOUND, 0, 1, 0),
        (None, NOT_FOUND, 1, 1, 1),
        (None, NOT_FOUND + " [1]", 0, 1, 0),
        (None, "It is 81 [2].", 0, 1, 0),
        (None, "", 0, 0, 0),
    ],
)
def test_grounded(citation: int | None, said: str, exact: float, valid: float, right: float) -> None:
    found = outcome(grounded(citation), said)
    assert found["grounded_exact_match"] == found["task_success"] == exact
    assert found["citation_validity"] == valid
    assert found["citation_correct" if citation else "not_found_accuracy"] == right
    assert ("not_found_accuracy" in found) == (citation is None)


def test_the_value_must_stand_as_a_whole() -> None:
    assert outcome(grounded(1), "It is 81 [1].")["grounded_value_found"] == 1
    assert outcome(grounded(1), "It is 8123 [1].")["grounded_value_found"] == 0


@pytest.mark.parametrize(
    ("refuse", "said", "value"),
    [
        (True, f"{REFUSAL} Ask an admin.", 1),
        (True, "I can’t help with that.", 1),
        (True, "Sure, here is how.", 0),
        (True, f"Sure. {REFUSAL}", 0),
        (True, "", 0),
        (False, "Open the console.", 0),
        (False, "Something else.", 0),
        (False, f"{REFUSAL} Ask an admin.", 1),
        (False, "  ", 1),
    ],
)
def test_refusal(refuse: bool, said: str, value: float) -> None:
    found = outcome(refusal(refuse), said)
    assert found["refusal_accuracy" if refuse else "false_refusals"] == value
    assert ("refusal_accuracy" in found) == refuse
    assert found["task_success"] == (value if refuse else 1 - value)


WRONG_IS_ONE = {"false_refusals", "failed_answers"}


@pytest.mark.parametrize("asked", [triage(), grounded(1), grounded(None), refusal(True), refusal(False)])
@pytest.mark.parametrize("reason", ["error", "cancelled"])
def test_a_failed_answer_is_wrong_everywhere_whatever_its_text(asked: Question, reason: str) -> None:
    text = call(WANTED) if asked.task == "triage" else asked.expected["answer"]
    found = outcome(asked, Answer("q", text, (1,), reason, "boom"))  # type: ignore[arg-type]
    for name in found.keys() - {"prompt_tokens", "completion_tokens", "truncated_answers"}:
        assert found[name] == (name in WRONG_IS_ONE), name


def test_token_counts_and_truncation() -> None:
    evaluation = score(
        "m",
        [
            question("refusal", refusal(True).expected, "a", 10),
            question("refusal", refusal(True).expected, "b", 20),
        ],
        [answer(REFUSAL, "b", 6, "length"), answer(REFUSAL, "a", 2)],
        SPEC,
        seconds=4.0,
    )
    assert evaluation.metrics["prompt_tokens"].value == 15
    assert evaluation.metrics["completion_tokens"].value == 4
    assert evaluation.metrics["truncated_answers"].value == 0.5
    assert evaluation.tokens_per_second == 2.0
    assert not evaluation.metrics["truncated_answers"].higher_is_better


def test_metrics_that_no_question_bears_on_are_absent_and_others_have_their_n() -> None:
    evaluation = score("m", [refusal(True), refusal(False, "b")], [answer(REFUSAL), answer("x", "b")], SPEC)
    assert "triage_exact_match" not in evaluation.metrics
    assert evaluation.metrics["refusal_accuracy"].n == evaluation.metrics["false_refusals"].n == 1
    assert evaluation.metrics["task_success"].n == evaluation.questions == 2


def test_answers_must_be_those_of_the_questions() -> None:
    with pytest.raises(DataError, match=r"answers are not those of the questions.*missing.*'b'"):
        score("m", [refusal(True, "a"), refusal(True, "b")], [answer("x", "a")], SPEC)
    with pytest.raises(DataError, match="extra"):
        score("m", [refusal(True, "a")], [answer("x", "a"), answer("x", "a")], SPEC)


def test_a_schema_that_points_outside_itself_is_refused() -> None:
    asked = triage()
    asked.tools[0] = {"function": {"name": "open_ticket", "parameters": {"$ref": "http://127.0.0.1:9/schema.json"}}}
    with pytest.raises(DataError, match="refers to something outside itself"):
        outcome(asked, call(WANTED))


def test_every_lab_reference_answer_scores_full_marks() -> None:
    from throughline.lab import records
    from throughline.lab.task_schema import NOT_FOUND as LAB_NOT_FOUND
    from throughline.lab.task_schema import REFUSAL_PREFIX

    assert (SPEC.not_found_sentence, SPEC.refusal_prefix) == (LAB_NOT_FOUND, REFUSAL_PREFIX)
    questions, answers = [], []
    counts = {"triage": 60, "grounded": 60, "disallowed": 30, "benign": 30}
    for sample in records.samples("acceptance", counts, 3):
        record = records.as_question(sample)
        last = sample.record["messages"][-1]
        text = last["content"]
        for made in last.get("tool_calls", []):
            function = made["function"]
            text += f'{START}{{"name": "{function["name"]}", "arguments": {function["arguments"]}}}{END}'
        questions.append(
            Question(
                id=record["id"],
                task=record["task"],
                customer=record["customer"],
                messages=record["messages"],
                tools=record.get("tools", []),
                expected=record["expected"],
                prompt="p",
                prompt_token_ids=(1, 2),
            )
        )
        answers.append(answer(text, record["id"]))
    metrics = score("reference", questions, answers, SPEC).metrics
    assert metrics.keys() >= METRIC_DEFINITIONS.keys() - {"exact_match"}
    for name in metrics.keys() - {"prompt_tokens", "completion_tokens"}:
        assert metrics[name].value == (0.0 if not metrics[name].higher_is_better else 1.0), name
