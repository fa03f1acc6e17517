"""How long each stage of the line is expected to take: what it took here, or a table scaled by a short probe."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path

from throughline.artifacts import ArtifactStore

# Wall seconds with the default model on two cores of a processor with AVX512-BF16, and what the probe says there.
# Other models and machines correct them as their stages finish.
REFERENCE_GFLOPS = 240.0
REFERENCE = {
    "convert": 5.0,
    "data": 6.0,
    "train": 665.0,
    "build": 70.0,
    "evaluate": 255.0,
    "compare": 71.0,
    "decide": 1.0,
    "deploy": 4.0,
    "bench": 170.0,
    # Of each round of the loop.
    "tune": 1800.0,
}
# Of debug=fast.
REFERENCE_FAST = {
    "convert": 5.0,
    "data": 4.0,
    "train": 20.0,
    "build": 17.0,
    "evaluate": 25.0,
    "compare": 13.0,
    "decide": 1.0,
    "deploy": 4.0,
    "bench": 25.0,
    "tune": 180.0,
}
_PROBE_SIZE = 512
_PROBE_SECONDS = 0.25


def expected(store: ArtifactStore, line: str, stages: Sequence[str], *, fast: bool) -> dict[str, float]:
    """Returns seconds by stage, in order.

    Args:
        store: Where earlier runs left what they took.
        line: Names runs that are alike, e.g. `smollm2/laptop/none`.
        stages: Names of the stages.
        fast: Whether this is the small run.
    """
    known = _read(store).get(line, {})
    if all(name in known for name in stages):
        return {name: known[name] for name in stages}
    scale = REFERENCE_GFLOPS / probe()
    table = REFERENCE_FAST if fast else REFERENCE
    return {name: known.get(name, table.get(name.split()[0], 1.0) * scale) for name in stages}


def remember(store: ArtifactStore, line: str, stage: str, seconds: float) -> None:
    """Keeps what a stage took, for the next run's estimate."""
    values = _read(store)
    values.setdefault(line, {})[stage] = round(seconds, 3)
    path = _path(store)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(values, indent=1) + "\n")
    partial.replace(path)


def probe() -> float:
    """Returns how fast this machine multiplies float32 matrices now, in GFLOP/s; takes a quarter of a second."""
    import numpy as np

    a = np.ones((_PROBE_SIZE, _PROBE_SIZE), dtype=np.float32)
    np.matmul(a, a)
    started, count = time.perf_counter(), 0
    while time.perf_counter() - started < _PROBE_SECONDS:
        np.matmul(a, a)
        count += 1
    return 2 * _PROBE_SIZE**3 * count / (time.perf_counter() - started) / 1e9


def _path(store: ArtifactStore) -> Path:
    return store.home / "lifecycle" / "seconds.json"


def _read(store: ArtifactStore) -> dict[str, dict[str, float]]:
    try:
        found: dict[str, dict[str, float]] = json.loads(_path(store).read_text())
    except (OSError, ValueError):
        # An estimate is no reason to fail.
        return {}
    return found
