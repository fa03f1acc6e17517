"""A service on paper: what settings of a batching engine come to, with known noise, so that the best point is known."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from throughline.contracts.benchmark import Estimate
from throughline.contracts.measurement import LoadProof, MachineReadings, Measurement
from throughline.contracts.slo import SloSpec
from throughline.tuning import Dimension, Limits, SpaceSpec

SLO = SloSpec(ttft_seconds=2.0, itl_seconds=0.3)
LIMITS = Limits(SLO)
SPACE = SpaceSpec(
    name="paper",
    dimensions=(
        Dimension(key="engine.precision", kind="categorical", values=("bf16", "int8")),
        Dimension(key="engine.max_num_tokens", kind="ordered", values=(32, 64, 128, 256, 512, 1024)),
        Dimension(key="engine.max_batch_size", kind="ordered", values=(4, 8, 16, 32)),
        Dimension(key="engine.enable_block_reuse", kind="categorical", values=(True, False)),
    ),
)
DEFAULT = {
    "engine.precision": "bf16",
    "engine.max_num_tokens": 256,
    "engine.max_batch_size": 32,
    "engine.enable_block_reuse": True,
}
USERS, PROMPT, ANSWER = 32, 300, 40


@dataclass
class Paper:
    """A `Probe` over the arithmetic below.

    Attributes:
        noise: Standard deviation of the logarithm of every rate and latency.
        dies: Probes after which the service is gone, by their number from 0.
        stream: Seed of the noise.
        calls: Settings that were asked for, in order.
    """

    noise: float = 0.0
    dies: frozenset[int] = frozenset()
    stream: int = 0
    calls: list[dict[str, Any]] = field(default_factory=list)

    def __call__(self, settings: Mapping[str, Any], *, seconds: float, seed: int) -> Measurement:
        from throughline.contracts.errors import EngineError

        self.calls.append(dict(settings))
        if len(self.calls) - 1 in self.dies:
            raise EngineError("engine ended early", where="process 1", seen="exit code 137", fix="look at its log")
        rng = random.Random(f"{seed}/{self.stream}/{len(self.calls)}")
        scale = math.exp(rng.gauss(0, self.noise))
        return measurement(dict(settings), scale=scale, seconds=seconds)


def measurement(settings: dict[str, Any], *, scale: float = 1.0, seconds: float = 12.0) -> Measurement:
    """What the arithmetic says: a step costs a base and so much a token, and has to hold its share of prompts.

    With too little room for prompts in a step the batch starves; with much of it a burst of prompts holds up the
    streams. So there is a best size of a step in between.
    """
    tokens, batch = settings["engine.max_num_tokens"], settings["engine.max_batch_size"]
    fast = (0.6 if settings["engine.precision"] == "int8" else 1.0) * scale
    prompt = PROMPT * (0.5 if settings["engine.enable_block_reuse"] else 1.0)
    room = max(1.0, tokens - batch)
    demand = batch * prompt / ANSWER
    step = fast * (0.02 + 0.0009 * (batch + min(room, demand)))
    rate = min(batch / ANSWER, room / prompt) / step
    burst = fast * (0.02 + 0.0009 * (batch + min(room, 3 * prompt)))
    queue = 1 / max(0.05, 1 - demand / room) if room > demand else 20.0
    ttft = max(0.0, USERS - batch) / rate + burst * (prompt / room + 0.2 * queue)
    # The share within the limits falls off smoothly, as spread latencies do.
    kept = 1 / (1 + math.exp(6 * (ttft / 2.0 - 1))) / (1 + math.exp(12 * (burst / 0.3 - 1)))
    return made(settings, rate=rate, goodput=rate * kept, ttft=ttft * 1.05, itl=burst * 1.05, seconds=seconds)


def made(
    settings: dict[str, Any],
    *,
    rate: float,
    goodput: float,
    ttft: float,
    itl: float,
    seconds: float = 12.0,
    errors: int = 0,
) -> Measurement:
    """A measurement with these figures and no spread."""

    def exact(value: float) -> Estimate:
        return Estimate(value, value, value, 100)

    def at(value: float) -> dict[str, Estimate]:
        return {name: exact(value) for name in ("p50", "p90", "p95", "p99", "mean")}

    return Measurement(
        target="raw",
        settings=settings,
        slo=SLO,
        load=LoadProof(tests=()),
        started_at=0.0,
        warm_up_seconds=1.0,
        seconds=seconds,
        requests=100,
        errors={"server_error": errors} if errors else {},
        requests_per_second=exact(rate),
        tokens_per_second=exact(rate * ANSWER),
        goodput=exact(goodput),
        ttft=at(ttft),
        itl=at(itl),
        tpot=at(itl),
        e2e=at(ttft + ANSWER * itl),
        input_tokens=PROMPT,
        output_tokens=ANSWER,
        machine=MachineReadings(cores=2, memory_bytes=10**9),
    )
