"""An engine alone in a process, for benchmarks: a closed loop over it, one cell a line of standard input.

python -m recipes.raw_engine artifacts/engine/<digest>

A line is a JSON object with `requests`, `concurrency` and `ignore_eos`; the answer is the list of its request records.
`null` is answered with the seconds that loading took.
"""

from __future__ import annotations

import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from throughline import engines
from throughline.benchmarking.child import Answers
from throughline.benchmarking.closed_loop import ClosedLoop
from throughline.contracts.benchmark import BenchRequest


def main(engine_dir: Path) -> None:
    """Serves cells until standard input ends."""
    answers = Answers()
    started = time.perf_counter()
    runtime = engines.load(engine_dir)
    load_seconds = time.perf_counter() - started
    loop = ClosedLoop(runtime)

    def answer(cell: dict[str, Any] | None) -> float | list[dict[str, Any]]:
        if cell is None:
            return load_seconds
        requests = [BenchRequest(**item) for item in cell["requests"]]
        return [asdict(item) for item in loop.run(requests, cell["concurrency"], ignore_eos=cell["ignore_eos"])]

    answers.serve(answer)
    runtime.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
