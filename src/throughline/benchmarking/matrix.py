"""The benchmark matrix: targets interleaved inside each round, so that drift hits all of them alike.

What makes the cells comparable:

- Every target of a round gets the same requests, each with a mark of its own (`scenario.marked`). So all do the same
  work, and none finds in a prefix cache what another one sent: Triton and the gateway share a server and its cache.
- Every target is warmed with requests of its own, of every scenario.
- The order of the targets turns with each round.
- A cell is long enough by a first measurement of the lowest layer (`BenchSpec.min_seconds`).
- A result in which a layer beats the one below it is refused (`statistics.check_layers`).
"""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Iterator, Sequence

from throughline.benchmarking.scenario import Render, marked, marks, one_of_each
from throughline.benchmarking.statistics import check_layers, summarise, wall_seconds
from throughline.benchmarking.system import Usage, gpu_readings, usage
from throughline.benchmarking.targets import Target, require_success
from throughline.contracts.benchmark import BenchRequest, BenchSpec, CellResult, RequestRecord
from throughline.contracts.progress import OnProgress


def run_matrix(
    targets: Sequence[Target],
    pool: Sequence[BenchRequest],
    spec: BenchSpec,
    *,
    render: Render,
    on_progress: OnProgress = lambda phase, fraction: None,
) -> tuple[list[CellResult], dict[str, list[RequestRecord]]]:
    """Runs every target at every concurrency, `spec.repeats` times.

    Args:
        targets: What to load, the lowest layer first; names are unique.
        pool: Requests to draw from.
        spec: Sizes of the matrix.
        render: The engine's chat template and tokenizer, for marked requests.
        on_progress: Called with the cell's name and the fraction done.

    Returns:
        One result a cell, and all request records by `target/concurrency`.

    Raises:
        UserError: If every request of a cell failed.
        MeasurementError: If a layer is faster than the one below it.
    """
    return _Matrix(targets, pool, spec, render, on_progress).run()


class _Matrix:
    def __init__(
        self,
        targets: Sequence[Target],
        pool: Sequence[BenchRequest],
        spec: BenchSpec,
        render: Render,
        on_progress: OnProgress,
    ) -> None:
        self._targets = targets
        self._pool = pool
        self._spec = spec
        self._render = render
        self._on_progress = on_progress
        self._marks: Iterator[int] = marks(spec.seed)
        self._records: dict[tuple[str, int], list[list[RequestRecord]]] = defaultdict(list)
        self._cpu: dict[tuple[str, int], float] = defaultdict(float)
        self._generator: dict[tuple[str, int], float] = defaultdict(float)
        self._memory: dict[str, int] = defaultdict(int)
        self._asks: dict[str, bool] = {}

    def run(self) -> tuple[list[CellResult], dict[str, list[RequestRecord]]]:
        spec, targets = self._spec, self._targets
        counts = {concurrency: self._count(concurrency) for concurrency in spec.concurrency}
        total = spec.repeats * len(spec.concurrency) * len(targets)
        done = 0
        for round_ in range(spec.repeats):
            for concurrency in spec.concurrency:
                requests = self._draw(counts[concurrency], concurrency, round_)
                turn = round_ % len(targets)
                for target in [*targets[turn:], *targets[:turn]]:
                    self._on_progress(f"{target.name} × {concurrency}", done / total)
                    self._cell(target, requests, concurrency)
                    done += 1
        self._on_progress("done", 1.0)
        cells = self._summaries()
        check_layers(cells, {target.name: target.below for target in targets})
        flat = {
            f"{name}/{concurrency}": [record for repeat in repeats for record in repeat]
            for (name, concurrency), repeats in self._records.items()
        }
        return cells, flat

    def _fresh(self, requests: Sequence[BenchRequest]) -> list[BenchRequest]:
        return [marked(request, next(self._marks), self._render) for request in requests]

    def _warm_up(self) -> list[BenchRequest]:
        return self._fresh(one_of_each(self._pool))

    def _draw(self, count: int, concurrency: int, round_: int) -> list[BenchRequest]:
        rng = random.Random(f"{self._spec.seed}/{round_}/{concurrency}")
        return [rng.choice(self._pool) for _ in range(count)]

    def _count(self, concurrency: int) -> int:
        """How many requests a round of a cell has."""
        spec = self._spec
        least = max(spec.min_requests, concurrency * spec.requests_per_user)
        if not spec.min_seconds:
            return least
        target = self._targets[0]
        self._on_progress(f"{target.name} × {concurrency}, how fast", 0.0)
        target.prepare(self._warm_up)
        records = target.run(self._fresh(self._draw(least, concurrency, -1)), concurrency)
        target.release()
        require_success(records, f"{target.name} × {concurrency}")
        seconds = max(1e-6, wall_seconds(records))
        return max(least, math.ceil(spec.min_seconds / spec.repeats * len(records) / seconds))

    def _cell(self, target: Target, requests: Sequence[BenchRequest], concurrency: int) -> None:
        key = (target.name, concurrency)
        fresh = self._fresh(requests)
        target.prepare(self._warm_up)
        processes = target.processes
        servers, generators = usage(processes.servers), usage(processes.generators, children=False)
        result = target.run(fresh, concurrency)
        after = usage(processes.servers)
        self._cpu[key] += _spent(servers, after)
        self._generator[key] += _spent(generators, usage(processes.generators, children=False))
        self._asks[target.name] = bool(processes.generators)
        target.release()
        self._memory[target.name] = max(self._memory[target.name], after.memory_bytes)
        require_success(result, f"{target.name} × {concurrency}")
        self._records[key].append(result)

    def _summaries(self) -> list[CellResult]:
        gpu = gpu_readings()
        cells = [
            summarise(
                name,
                concurrency,
                repeats,
                memory_bytes=self._memory[name] or None,
                cpu_seconds=self._cpu[name, concurrency],
                generator_seconds=self._generator[name, concurrency] if self._asks[name] else None,
                gpu=gpu,
                seed=self._spec.seed,
            )
            for (name, concurrency), repeats in self._records.items()
        ]
        order = {target.name: index for index, target in enumerate(self._targets)}
        return sorted(cells, key=lambda cell: (order[cell.target], cell.concurrency))


def _spent(before: Usage, after: Usage) -> float:
    return max(0.0, after.cpu_seconds - before.cpu_seconds)
