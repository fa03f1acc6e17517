"""The real engine with a switch: while the file `THROUGHLINE_FAULT` names is there, its statistics raise."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from throughline import engines


def load(engine_dir: Path) -> Any:
    """Loads the engine; the scheduler asks for statistics outside of every guard of a request."""
    runtime: Any = engines.load(engine_dir)
    given = runtime.stats

    def stats() -> Any:
        fault = Path(os.environ["THROUGHLINE_FAULT"])
        if fault.exists():
            fault.unlink()
            raise RuntimeError("a fault that nobody expects")
        return given()

    runtime.stats = stats
    return runtime
