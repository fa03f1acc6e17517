"""A runtime for tests of the engine's process: tokens 1, 2, 3, … for each request, and prompts that do harm."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path

from throughline.contracts.engine import EngineStats, FinishReason, SamplingParams, StepOutput
from throughline.contracts.errors import EngineError

DIES, RAISES, FORGETS, STOPS = 901, 902, 903, 904


class Counting:
    """One token a step and request; the first id of a prompt may name a fault."""

    def __init__(self) -> None:
        self.live: dict[str, tuple[SamplingParams, int, tuple[int, ...]]] = {}
        self.ended: list[StepOutput] = []

    def submit(self, request_id: str, prompt_token_ids: Sequence[int], params: SamplingParams) -> None:
        if not prompt_token_ids:
            raise EngineError("empty prompt", where="prompt_token_ids", fix="send a token")
        self.live[request_id] = (params, 0, tuple(prompt_token_ids))

    def step(self) -> list[StepOutput]:
        outputs, self.ended = self.ended, []
        for request_id, (params, count, prompt) in list(self.live.items()):
            self.harm(prompt[0])
            if prompt[0] == FORGETS:
                del self.live[request_id]
                continue
            done: FinishReason | None = "length" if count + 1 == params.max_tokens else None
            outputs.append(StepOutput(request_id, (count + 1,), f"{count + 1} ", done, len(prompt), count + 1))
            self.live[request_id] = (params, count + 1, prompt)
            if done:
                del self.live[request_id]
        return outputs

    def harm(self, token: int) -> None:
        if token == DIES:
            os.kill(os.getpid(), signal.SIGKILL)
        if token == STOPS:
            os.kill(os.getpid(), signal.SIGSTOP)
        if token == RAISES:
            raise RuntimeError("step is broken")

    def cancel(self, request_id: str) -> None:
        if request_id in self.live:
            _, count, prompt = self.live.pop(request_id)
            self.ended.append(StepOutput(request_id, (), "", "cancelled", len(prompt), count))

    def has_work(self) -> bool:
        return bool(self.live or self.ended)

    def stats(self) -> EngineStats:
        return EngineStats(len(self.live), 0, 0.5, 7, 0)

    def close(self) -> None:
        self.live.clear()


def load(engine_dir: Path) -> Counting:
    """Loads, unless the folder says no."""
    if engine_dir.name == "broken":
        raise EngineError("nothing to load", where=str(engine_dir), fix="build it")
    return Counting()
