"""Hand-made questions and answers that the evaluation tests share."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from throughline.contracts.engine import FinishReason
from throughline.contracts.evaluation import Answer, Evaluation, Metric, Question

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "severity": {"type": "string", "enum": ["high", "low"]},
        "gpu_model": {"type": "string", "minLength": 1},
    },
    "required": ["severity", "gpu_model"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "function": {"name": "open_ticket", "parameters": SCHEMA}}
NOT_FOUND = "Not found in the provided documents."
REFUSAL = "I can't help with that."
WANTED = {"severity": "high", "gpu_model": "none"}


def question(task: str, expected: Mapping[str, Any], name: str = "q", tokens: int = 3) -> Question:
    tools = [TOOL] if task == "triage" else []
    return Question(name, task, "cust", [{"role": "user", "content": "?"}], tools, dict(expected), "?", (5,) * tokens)


def triage(name: str = "q", **arguments: Any) -> Question:
    return question("triage", {"tool": "open_ticket", "arguments": arguments or WANTED}, name)


def grounded(citation: int | None, name: str = "q") -> Question:
    text = f"The port of x is 81 [{citation}]." if citation else NOT_FOUND
    value = "81" if citation else None
    return question(
        "grounded",
        {
            "answer": text,
            "answerable": citation is not None,
            "citation": citation,
            "value": value,
            "passages": 3,
        },
        name,
    )


def refusal(refuse: bool, name: str = "q") -> Question:
    text = f"{REFUSAL} Ask an admin." if refuse else "Open the console."
    return question("refusal", {"answer": text, "refuse": refuse, "category": "x"}, name)


def own(message: Mapping[str, Any], name: str = "q", *, task: str = "faq", tools: bool = False) -> Question:
    """A question of a user's own task: its reference is an assistant message."""
    expected = {"messages": [{"role": "assistant", **message}]}
    asked = question(task, expected, name)
    return replace(asked, tools=[TOOL] if tools else [])


def answer(text: str, name: str = "q", tokens: int = 4, reason: FinishReason = "stop") -> Answer:
    return Answer(name, text, (7,) * tokens, reason)


def call(arguments: Any, tool: str = "open_ticket") -> str:
    inner = json.dumps({"name": tool, "arguments": arguments}, ensure_ascii=False)
    return f"<tool_call>{inner}</tool_call>"


def evaluation(model: str, **columns: list[float]) -> Evaluation:
    """An evaluation with given outcomes; row i of every column is question `i`; no real intervals."""
    outcomes: dict[str, dict[str, float]] = {}
    for name, values in columns.items():
        for index, value in enumerate(values):
            outcomes.setdefault(str(index), {"completion_tokens": 1.0})[name] = value
    metrics = {
        name: Metric(name, sum(values) / len(values), 0.0, 1.0, len(values), name != "false_refusals")
        for name, values in columns.items()
    }
    return Evaluation(model, metrics, outcomes, 1.0, len(outcomes))
