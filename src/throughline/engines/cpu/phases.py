"""The phases of a build: timed, and told of as fractions of the whole."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from throughline.contracts.engine import EngineSpec
from throughline.contracts.progress import OnProgress
from throughline.engines.cpu.quantize import QUANTISED, quantising_cost

# Seconds of the phases for a model of 135M weights on two cores; what they come to in all is not used.
_COSTS = {"check": 0.5, "graph": 1.0, "save": 0.5, "golden": 5.0}


class Phases:
    """Times phases, and tells which one runs and how much of the whole build is done."""

    def __init__(self, on_progress: OnProgress, spec: EngineSpec) -> None:
        self._on_progress = on_progress
        quantise = {"quantise": quantising_cost(spec)} if spec.precision in QUANTISED else {}
        costs = _COSTS | quantise
        self._shares = {phase: cost / sum(costs.values()) for phase, cost in costs.items()}
        self._before = 0.0
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        self._on_progress(phase, self._before)
        started = time.perf_counter()
        yield
        self.seconds[phase] = time.perf_counter() - started
        self._before = min(1.0, self._before + self._shares[phase])
        self._on_progress(phase, self._before)

    def reporter(self, phase: str) -> Any:
        """Returns a callback for fractions within a phase; its end is told by the phase itself."""
        before, share = self._before, self._shares[phase]
        return lambda fraction: self._on_progress(phase, before + share * fraction) if fraction < 1 else None
