"""An engine alone in a process, for benchmarks: one load a line of standard input.

python -m recipes.raw_engine artifacts/engine/<digest> '{"max_num_tokens": 256}'

The second argument overrides settings that an engine takes when it is loaded. A line is a JSON object with the fields
of `contracts.benchmark.Load`; the answer has `began`, `records` and, where the line has `"timed": true`, `steps`.
`null` is answered with the seconds that loading took and the engine's settings, or with `error` if it cannot be loaded.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from throughline import engines
from throughline.benchmarking.child import Answers
from throughline.benchmarking.engine_loop import EngineLoop
from throughline.contracts.benchmark import Load
from throughline.contracts.errors import UserError


def main(engine_dir: Path, overrides: dict[str, Any]) -> None:
    """Serves loads until standard input ends."""
    answers = Answers()
    started = time.perf_counter()
    try:
        runtime = engines.load(engine_dir, **overrides)
    except UserError as problem:
        text = str(problem)
        answers.serve(lambda message: {"error": text})
        return
    loaded = {"load_seconds": time.perf_counter() - started, "spec": runtime.spec.model_dump(mode="json")}

    def answer(message: dict[str, Any] | None) -> dict[str, Any]:
        if message is None:
            return loaded
        loop = EngineLoop(runtime, timed=bool(message.pop("timed", False)))
        began, records = loop.run(Load.from_plain(message))
        return {
            "began": began,
            "records": [asdict(record) for record in records],
            "steps": [asdict(step) for step in loop.steps],
        }

    answers.serve(answer)
    runtime.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]) if len(sys.argv) > 2 else {})
