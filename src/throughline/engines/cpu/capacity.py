"""When a request may start: TensorRT-LLM's capacity scheduler policies over the blocks of the KV cache."""

from __future__ import annotations

from throughline.contracts.engine import EngineSpec
from throughline.engines.cpu.lint import TOKENS_PER_BLOCK

# The pipeline takes a new block before it gives the old one back.
_SLACK_BLOCKS = 1


class KvCapacity:
    """Books KV blocks for requests.

    Under `guaranteed_no_evict` a request starts when its longest answer fits beside those of all that run, so that
    none is ever paused. Blocks that requests share (`enable_block_reuse`) are booked by each of them. Under
    `max_utilization` requests start as long as there are places; when blocks run short, OpenVINO GenAI pauses some
    and computes their tokens again later.

    Args:
        blocks: Blocks of the KV cache.
        spec: Run-time settings.
    """

    def __init__(self, blocks: int, spec: EngineSpec) -> None:
        self._books = spec.capacity_scheduler_policy == "guaranteed_no_evict"
        # Guessed tokens have their place in the cache until they are rejected.
        self._ahead = spec.speculative_config.max_draft_len if spec.speculative_config else 0
        self._free = blocks
        self._booked: dict[str, int] = {}
        self._leaving: list[str] = []

    def take(self, request_id: str, tokens: int) -> bool:
        """Books room for a request of so many tokens, prompt and longest answer; False if there is not enough."""
        if not self._books:
            return True
        blocks = -(-(tokens + self._ahead) // TOKENS_PER_BLOCK) + _SLACK_BLOCKS
        # Alone it may always start: that it fits at all was checked when it came.
        if blocks > self._free and self._booked:
            return False
        self._booked[request_id] = blocks
        self._free -= blocks
        return True

    def give_back(self, request_id: str) -> None:
        """Notes the end of a request; the pipeline has its blocks until its next step."""
        self._leaving.append(request_id)

    def settle(self) -> None:
        """Frees what ended before the step that has just been made."""
        for request_id in self._leaving:
            self._free += self._booked.pop(request_id, 0)
        self._leaving.clear()

    def clear(self) -> None:
        """Frees everything."""
        self._leaving = list(self._booked)
        self.settle()
