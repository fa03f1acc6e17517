"""An engine for what stands before it: a token for each request in every step, at once.

It imports what a version in the model repository carries, and nothing else.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from pathlib import Path

from throughline.contracts.engine import EngineStats, FinishReason, SamplingParams, StepOutput

TEXT = " word"


class Instant:
    """An `EngineRuntime` that gives each request a token a step."""

    def __init__(self) -> None:
        self._live: dict[str, tuple[int, int, int]] = {}
        self._ended: deque[StepOutput] = deque()
        self._made = 0

    def submit(self, request_id: str, prompt_token_ids: Sequence[int], params: SamplingParams) -> None:
        """See `EngineRuntime.submit`."""
        self._live[request_id] = (len(prompt_token_ids), 0, params.max_tokens)

    def cancel(self, request_id: str) -> None:
        """See `EngineRuntime.cancel`."""
        if request_id in self._live:
            prompt, count, _ = self._live.pop(request_id)
            self._ended.append(StepOutput(request_id, (), "", "cancelled", prompt, count))

    def step(self) -> list[StepOutput]:
        """See `EngineRuntime.step`."""
        outputs = [*self._ended]
        self._ended.clear()
        for request_id, (prompt, count, most) in list(self._live.items()):
            reason: FinishReason | None = "length" if count + 1 == most else None
            outputs.append(StepOutput(request_id, (5,), TEXT, reason, prompt, count + 1))
            self._live[request_id] = (prompt, count + 1, most)
            if reason:
                del self._live[request_id]
        self._made += len(outputs)
        return outputs

    def has_work(self) -> bool:
        """See `EngineRuntime.has_work`."""
        return bool(self._live or self._ended)

    def stats(self) -> EngineStats:
        """See `EngineRuntime.stats`."""
        return EngineStats(len(self._live), 0, 0.0, 0, self._made)

    def close(self) -> None:
        """See `EngineRuntime.close`."""
        self._live.clear()


def load(_: Path) -> Instant:
    """For `ServeSpec.runtime`."""
    return Instant()
