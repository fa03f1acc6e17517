"""Asks an engine the questions: greedy, through the runtime protocol, a bounded number in flight."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from throughline.contracts.engine import EngineRuntime, SamplingParams, StepOutput
from throughline.contracts.evaluation import Answer, Question, SuiteSpec
from throughline.evaluation.questions import select


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
) -> list[Answer]:
    """Answers the questions that `spec.limit` selects, in their order.

    A question that the engine cannot take (e.g. a prompt beyond its context) or loses becomes an answer with
    the finish reason `error`. When interrupted, what is in flight is cancelled.

    Args:
        runtime: A loaded engine without other work.
        questions: What to ask.
        spec: Limits; `spec.concurrency` questions are in flight at most.
        on_progress: Hears how many answers there are, after each.

    Raises:
        EngineError: If the engine fails and cannot go on.
    """
    chosen = select(questions, spec)
    params = SamplingParams(max_tokens=spec.max_new_tokens)
    waiting = list(reversed(chosen))
    live: dict[str, _Draft] = {}
    answers: dict[str, Answer] = {}
    try:
        while waiting or live:
            while waiting and len(live) < spec.concurrency:
                question = waiting.pop()
                live[question.id] = _Draft()
                runtime.submit(question.id, question.prompt_token_ids, params)
            outputs = runtime.step() if runtime.has_work() else _lost(live)
            for output in outputs:
                draft = live.get(output.request_id)
                if draft is None:
                    continue
                draft.add(output)
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
    return [answers[question.id] for question in chosen]


def _lost(live: dict[str, _Draft]) -> list[StepOutput]:
    """Errors for requests that an idle engine no longer knows."""
    return [
        StepOutput(request_id, (), "", "error", 0, len(draft.token_ids), "the engine dropped the request")
        for request_id, draft in live.items()
    ]
