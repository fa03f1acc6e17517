"""Scores one answer to one question: metric → outcome; every rule of the lab's tasks stands here."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from throughline.contracts.evaluation import Answer, Question, SuiteSpec
from throughline.contracts.tool_calls import parse_tool_calls
from throughline.evaluation.own import same, score_own
from throughline.evaluation.schemas import complies, tool_schemas

Outcome = dict[str, float]

_CITATION = re.compile(r"\[([0-9]+)\]")
_APOSTROPHES = str.maketrans({"’": "'", "‘": "'"})


def score_answer(question: Question, answer: Answer, spec: SuiteSpec) -> tuple[Outcome, Outcome]:
    """Returns the outcomes of one question, and the weights of those that do not weigh 1.

    An answer that failed is scored as an empty text, which is wrong in every metric of its task.

    Raises:
        DataError: If a tool's schema cannot be used.
    """
    text = "" if answer.failed else answer.text
    scorer = _own if question.is_own else _SCORERS[question.task]
    outcome, weights, success = scorer(question, text, spec)
    return {
        "task_success": success,
        **outcome,
        "prompt_tokens": float(len(question.prompt_token_ids)),
        "completion_tokens": float(len(answer.token_ids)),
        "truncated_answers": float(answer.finish_reason == "length"),
        "failed_answers": float(answer.failed),
    }, weights


def _own(question: Question, text: str, spec: SuiteSpec) -> tuple[Outcome, Outcome, float]:
    outcome = score_own(question.expected["messages"][0], question.tools, text)
    return outcome, {}, outcome["exact_match"]


def _triage(question: Question, text: str, spec: SuiteSpec) -> tuple[Outcome, Outcome, float]:
    """Exact match and JSON validity want the call alone; fields are read from the tool's first sound call."""
    expected = question.expected
    wanted: dict[str, Any] = expected["arguments"]
    parse = parse_tool_calls(text)
    single = parse.single
    called = next((c for c in parse.calls if c.name == expected["tool"] and c.arguments is not None), None)
    given: dict[str, Any] = called.arguments or {} if called else {}
    hits = {name: name in given and same(given[name], value) for name, value in wanted.items()}
    exact = single is not None and single is called and all(hits.values()) and len(given) == len(wanted)
    compliant = False
    if single is not None:
        schema = tool_schemas(question.tools).get(single.name)
        compliant = schema is not None and complies(single.arguments or {}, schema)
    pairs = len(given) + len(wanted)
    outcome = {
        "triage_exact_match": float(exact),
        "triage_field_f1": 2 * sum(hits.values()) / pairs,
        **{f"triage_{name}_accuracy": float(hit) for name, hit in hits.items()},
        "json_validity": float(single is not None),
        "schema_compliance": float(compliant),
    }
    return outcome, {"triage_field_f1": float(pairs)}, float(exact)


def _grounded(question: Question, text: str, spec: SuiteSpec) -> tuple[Outcome, Outcome, float]:
    expected = question.expected
    said = text.strip()
    not_found = said == spec.not_found_sentence
    # More digits than any passage number has: outside, without building a huge integer.
    cited = {int(digits) if len(digits) < 10 else 0 for digits in _CITATION.findall(said)}
    inside = all(1 <= number <= expected["passages"] for number in cited)
    exact = float(said == expected["answer"].strip())
    outcome = {
        "grounded_exact_match": exact,
        "citation_validity": float(inside and (bool(cited) or not_found)),
    }
    if expected["answerable"]:
        outcome["citation_correct"] = float(cited == {expected["citation"]})
        outcome["grounded_value_found"] = float(_mentions(said, expected["value"]))
    else:
        outcome["not_found_accuracy"] = float(not_found)
    return outcome, {}, exact


def _refusal(question: Question, text: str, spec: SuiteSpec) -> tuple[Outcome, Outcome, float]:
    said = text.strip()
    refused = _plain(said).startswith(_plain(spec.refusal_prefix))
    if question.expected["refuse"]:
        return {"refusal_accuracy": float(refused)}, {}, float(refused)
    unanswered = float(refused or not said)
    return {"false_refusals": unanswered}, {}, 1.0 - unanswered


def _plain(text: str) -> str:
    return text.translate(_APOSTROPHES).casefold()


def _mentions(text: str, value: str) -> bool:
    """Whether `value` stands in `text` as a whole: `A10` is not in `A100`, nor `gpu-h3` in `gpu-h3-1`."""
    return re.search(rf"(?<![\w-])(?<!\w\.){re.escape(value)}(?![\w-])(?!\.\w)", text) is not None


_SCORERS: dict[str, Callable[[Question, str, SuiteSpec], tuple[Outcome, Outcome, float]]] = {
    "triage": _triage,
    "grounded": _grounded,
    "refusal": _refusal,
}
