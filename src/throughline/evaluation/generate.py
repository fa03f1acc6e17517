"""Asks an engine the questions: greedy, through the runtime protocol, shared prefixes first, longest work first."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from throughline.contracts.engine import EngineRuntime, SamplingParams, StepOutput
from throughline.contracts.evaluation import Answer, Question, SuiteSpec
from throughline.contracts.guided import tool_call_guide


@dataclass
class _Draft:
    """What has arrived of one answer."""

    text: list[str] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)

    def add(self, output: StepOutput) -> None:
        self.text.append(output.text)
        self.token_ids += output.token_ids


def generate(
    runtime: EngineRuntime,
    questions: Sequence[Question],
    spec: SuiteSpec,
    on_progress: Callable[[int], object] | None = None,
    *,
    constrained: bool = False,
) -> list[Answer]:
    """Answers questions; the answers come back in the questions' order.

    A question that the engine cannot take (e.g. a prompt beyond its context) or loses becomes an answer with
    the finish reason `error`. When interrupted, what is in flight is cancelled.

    Args:
        runtime: A loaded engine without other work.
        questions: What to ask.
        spec: Limits; `spec.concurrency` questions are in flight at most.
        on_progress: Hears how many answers there are, after each.
        constrained: Whether answers to questions with tools must be one call that satisfies its schema.

    Raises:
        EngineError: If the engine fails and cannot go on.
    """
    first, rest = schedule(questions, spec)
    waiting = list(reversed(first))
    live: dict[str, _Draft] = {}
    answers: dict[str, Answer] = {}
    # Nobody waits while these have no token yet: only a prompt that is computed can lend its prefix.
    warming = {question.id for question in first}
    try:
        while waiting or live or rest:
            if not warming and rest:
                waiting, rest = list(reversed(rest)), []
            while waiting and len(live) < spec.concurrency:
                question = waiting.pop()
                live[question.id] = _Draft()
                guide = tool_call_guide(question.tools) if constrained else None
                params = SamplingParams(max_tokens=spec.answer_limit(question.task), guided_decoding=guide)
                runtime.submit(question.id, question.prompt_token_ids, params)
            outputs = runtime.step() if runtime.has_work() else _lost(live)
            for output in outputs:
                draft = live.get(output.request_id)
                if draft is None:
                    continue
                draft.add(output)
                warming.discard(output.request_id)
                if output.finish_reason is None:
                    continue
                del live[output.request_id]
                answers[output.request_id] = Answer(
                    output.request_id,
                    "".join(draft.text),
                    tuple(draft.token_ids),
                    output.finish_reason,
                    output.error or "",
                )
                if on_progress is not None:
                    on_progress(len(answers))
    finally:
        for request_id in live:
            runtime.cancel(request_id)
    return [answers[question.id] for question in questions]


def schedule(questions: Sequence[Question], spec: SuiteSpec) -> tuple[list[Question], list[Question]]:
    """Returns in which order to ask: one question of each shared prefix, then the others.

    Questions share a prefix where tools and system message are the same; the engine keeps its blocks once one
    of them has been read, the shortest as nobody works meanwhile. The others go by expected work, the longest
    first, so that no long answer is left to run alone at the end.
    """

    def work(question: Question) -> tuple[int, int]:
        return spec.answer_limit(question.task), len(question.prompt_token_ids)

    groups: dict[str, list[Question]] = {}
    for question in questions:
        head = [message for message in question.messages[:1] if message.get("role") == "system"]
        groups.setdefault(json.dumps([question.tools, head]), []).append(question)
    first = [min(members, key=work) for members in groups.values() if len(members) > 1]
    taken = {question.id for question in first}
    rest = [question for question in questions if question.id not in taken]
    return first, sorted(rest, key=work, reverse=True)


def _lost(live: dict[str, _Draft]) -> list[StepOutput]:
    """Errors for requests that an idle engine no longer knows."""
    return [
        StepOutput(request_id, (), "", "error", 0, len(draft.token_ids), "the engine dropped the request")
        for request_id, draft in live.items()
    ]
