"""A closed loop of users over an engine in the same process, without a thread or a socket between them."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence

from throughline.contracts.benchmark import BenchRequest, RequestRecord
from throughline.contracts.engine import EngineRuntime, SamplingParams


class ClosedLoop:
    """Keeps a number of requests in flight on a runtime.

    Args:
        runtime: A loaded engine; nothing else may use it meanwhile.
    """

    def __init__(self, runtime: EngineRuntime) -> None:
        self._runtime = runtime
        self._ids = itertools.count()

    def run(self, requests: Sequence[BenchRequest], concurrency: int, *, ignore_eos: bool) -> list[RequestRecord]:
        """Runs the requests; a first token's time is when `step` returned it.

        Args:
            requests: What to ask, in this order.
            concurrency: Requests in flight at most.
            ignore_eos: Whether to generate exactly `max_tokens`.
        """
        waiting = list(reversed(requests))
        active: dict[str, tuple[BenchRequest, float, float]] = {}
        records: list[RequestRecord] = []
        while waiting or active:
            while waiting and len(active) < concurrency:
                request = waiting.pop()
                request_id = f"raw-{next(self._ids)}"
                params = SamplingParams(max_tokens=request.max_tokens, ignore_eos=ignore_eos)
                active[request_id] = (request, time.perf_counter(), 0.0)
                self._runtime.submit(request_id, request.prompt_token_ids, params)
            for output in self._runtime.step():
                request, start, first = active[output.request_id]
                now = time.perf_counter()
                if output.token_ids and not first:
                    first = now
                    active[output.request_id] = (request, start, first)
                if output.finish_reason:
                    del active[output.request_id]
                    records.append(
                        RequestRecord(
                            request.scenario,
                            start,
                            first or now,
                            now,
                            output.prompt_tokens,
                            output.completion_tokens,
                            ok=output.finish_reason in {"stop", "length"},
                            error=output.error or "",
                        )
                    )
        return records
