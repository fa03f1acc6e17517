"""The benchmark matrix: targets interleaved inside each round, so that drift hits all of them alike."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

from throughline.benchmarking.statistics import summarise
from throughline.benchmarking.system import Usage, gpu_readings, usage
from throughline.benchmarking.targets import Target, require_success
from throughline.contracts.benchmark import BenchRequest, BenchSpec, CellResult, RequestRecord

Progress = Callable[[str, float], None]


def cell_requests(pool: Sequence[BenchRequest], spec: BenchSpec, concurrency: int, round_: int) -> list[BenchRequest]:
    """Draws the requests of one cell; every target of a round gets the same ones."""
    count = max(spec.min_requests, concurrency * spec.requests_per_user)
    rng = random.Random(f"{spec.seed}/{round_}/{concurrency}")
    return [rng.choice(pool) for _ in range(count)]


def run_matrix(
    targets: Sequence[Target],
    pool: Sequence[BenchRequest],
    spec: BenchSpec,
    *,
    pids: Mapping[str, Iterable[int]],
    on_progress: Progress = lambda phase, fraction: None,
) -> tuple[list[CellResult], dict[str, list[RequestRecord]]]:
    """Runs every target at every concurrency, `spec.repeats` times.

    Args:
        targets: What to load.
        pool: Requests to draw from.
        spec: Sizes of the matrix.
        pids: Server processes of each target, for CPU time and memory.
        on_progress: Called with the cell's name and the fraction done.

    Returns:
        One result a cell, and all request records by `target/concurrency`.

    Raises:
        UserError: If every request of a cell failed.
    """
    records: dict[tuple[str, int], list[list[RequestRecord]]] = defaultdict(list)
    cpu: dict[tuple[str, int], float] = defaultdict(float)
    memory: dict[str, int] = defaultdict(int)
    for target in targets:
        require_success(target.run(cell_requests(pool, spec, 1, -1)[:4], 2), f"{target.name} warm-up")
    total = spec.repeats * len(spec.concurrency) * len(targets)
    done = 0
    for round_ in range(spec.repeats):
        for concurrency in spec.concurrency:
            requests = cell_requests(pool, spec, concurrency, round_)
            # Turning the order each round keeps a target from always running on a warmer cache.
            turned = [*targets[round_ % len(targets) :], *targets[: round_ % len(targets)]]
            for target in turned:
                on_progress(f"{target.name} × {concurrency}", done / total)
                before = usage(pids[target.name])
                result = target.run(requests, concurrency)
                after = usage(pids[target.name])
                require_success(result, f"{target.name} × {concurrency}")
                records[target.name, concurrency].append(result)
                cpu[target.name, concurrency] += _spent(before, after)
                memory[target.name] = max(memory[target.name], after.memory_bytes)
                done += 1
    on_progress("done", 1.0)
    gpu = gpu_readings()
    cells = [
        summarise(
            name,
            concurrency,
            repeats,
            memory_bytes=memory[name] or None,
            cpu_seconds=cpu[name, concurrency],
            gpu=gpu,
            seed=spec.seed,
        )
        for (name, concurrency), repeats in records.items()
    ]
    order = {target.name: index for index, target in enumerate(targets)}
    cells.sort(key=lambda cell: (order[cell.target], cell.concurrency))
    flat = {
        f"{name}/{concurrency}": [record for repeat in repeats for record in repeat]
        for (name, concurrency), repeats in records.items()
    }
    return cells, flat


def _spent(before: Usage, after: Usage) -> float:
    return max(0.0, after.cpu_seconds - before.cpu_seconds)
