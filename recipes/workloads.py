"""A workload's requests for one model: in its tokens, through its chat template, within its context."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from throughline.artifacts import Artifact
from throughline.checkpoints import TOKENIZER
from throughline.contracts.benchmark import BenchRequest
from throughline.contracts.errors import ConfigError
from throughline.contracts.workload import Workload

if TYPE_CHECKING:
    from throughline.benchmarking.prompts import Prompts
    from throughline.benchmarking.scenario import Render
    from throughline.benchmarking.traces import Trace
    from throughline.benchmarking.workload import Requests

# Questions of a dataset that are drawn from.
_POOL = 400


class RequestMaker:
    """Makes requests.

    Args:
        tokenizer: Folder of an engine or a checkpoint, whose tokens are counted.
        workload: What is asked for.
        max_seq_len: The model's context.
        seed: Of arrivals and lengths.
        texts: Seed of the words, so that what one target was sent is new to the next.
        dataset: Questions, for `workload.source=dataset`.

    Raises:
        ConfigError: If the workload is longer than the context, or wants a dataset and there is none.
        DataError: If the trace has no request that can be sent.
    """

    def __init__(
        self, tokenizer: Path, workload: Workload, max_seq_len: int, *, seed: int, texts: str, dataset: Artifact | None
    ) -> None:
        from throughline.benchmarking.workload import check_context

        self._tokenizer, self._workload, self._max_seq_len = tokenizer, workload, max_seq_len
        self._seed, self._texts, self._dataset = seed, texts, dataset
        if workload.source == "dataset":
            self._pool()
        else:
            check_context(workload, max_seq_len)

    def due(self, seconds: float) -> list[float] | None:
        """Returns when requests are due, from the run's begin; None for a closed loop."""
        from throughline.benchmarking.arrivals import due_times

        workload = self._workload
        if workload.arrivals.process == "trace":
            return [row.seconds / workload.trace_speed for row in self._rows(seconds)]
        if workload.arrivals.process == "offline":
            return [0.0] * workload.arrivals.offline_requests
        times = due_times(workload.arrivals, seconds, self._seed)
        return None if times is None else times.tolist()

    def requests(self, count: int, part: str = "run") -> Requests:
        """Returns so many sessions; another `part` has other words and, but for a trace, other lengths."""
        from throughline.benchmarking import workload as made

        workload, texts = self._workload, f"{self._texts}/{part}"
        seed = self._seed if part == "run" else self._seed + 1_000_003
        if workload.source == "dataset":
            return made.questions(workload, self._pool(), self._render, count, seed=seed, texts=texts)
        if workload.trace is not None:
            return made.replayed(workload, self._prompts, self._trace.rows[:count], seed=seed, texts=texts)
        return made.synthetic(workload, self._prompts, count, seed=seed, texts=texts)

    def _rows(self, seconds: float) -> Sequence[Any]:
        rows = self._trace.rows
        return [row for row in rows if row.seconds / self._workload.trace_speed <= seconds]

    @functools.cached_property
    def _trace(self) -> Trace:
        from throughline.benchmarking.traces import read_trace

        workload = self._workload
        return read_trace(
            Path(str(workload.trace)),
            longest_input=workload.longest_input_tokens,
            longest_output=workload.longest_output_tokens,
        )

    @functools.cached_property
    def _render(self) -> Render:
        from throughline.data.render import Renderer

        renderer = Renderer(self._tokenizer)
        return lambda messages, tools: renderer.prompt(messages, tools)[1]

    @functools.cached_property
    def _prompts(self) -> Prompts:
        from throughline.benchmarking.prompts import Prompts, words_of

        return Prompts(self._render, words_of(self._tokenizer / TOKENIZER, seed=self._seed))

    def _pool(self) -> list[BenchRequest]:
        from throughline.benchmarking.scenario import load_questions

        if self._dataset is None:
            raise ConfigError(
                "workload asks a dataset's questions and none is given", where="dataset", fix="name one: dataset=latest"
            )
        found = load_questions(
            self._dataset.path / "acceptance.jsonl",
            output_lengths=json.loads((self._dataset.path / "answer_lengths.json").read_text()),
            max_seq_len=self._max_seq_len,
            size=_POOL,
            seed=self._seed,
        )
        tasks = self._workload.tasks
        kept = [request for request in found if not tasks or request.scenario in tasks]
        if not kept:
            raise ConfigError(
                "dataset has no question of these tasks",
                where="workload.tasks",
                seen=", ".join(tasks),
                fix="name tasks that it has: " + ", ".join(sorted({request.scenario for request in found})),
            )
        return kept
