"""A slow, obvious twin of in-flight batching on a clock of its own: what a load on an engine would measure.

A step takes `STEP` seconds, `SEQUENCE` for each answer in it and `PROMPT` for each prompt token, the last as
docs/log.md measured it ("How many tokens a step"). Lengths and arrivals are drawn here, without the load generator.
The machine's bandwidth is such that a step of one sequence draws 85 % of it.
"""

from __future__ import annotations

import itertools
import math
import random
from collections import deque
from dataclasses import dataclass, field

import numpy as np

from recipes.faults import FaultSpec
from throughline.benchmarking.engine_loop import StepRecord
from throughline.contracts.benchmark import Estimate
from throughline.contracts.engine import EngineSpec
from throughline.contracts.measurement import EngineReadings, Latencies, LoadProof, MachineReadings, Measurement

STEP, SEQUENCE, PROMPT = 0.012, 0.0015, 0.0025
WEIGHTS = {"int8": 135e6, "bf16": 270e6}
# Of the machine, and of a token's keys and values in two bytes: 30 layers, 3 heads of 64.
BANDWIDTH, KV_BYTES = WEIGHTS["int8"] / STEP / 0.85, 2 * 30 * 3 * 64 * 2
BLOCK = 32


@dataclass
class Request:
    """One request: what is left of it, and what it has seen."""

    prompt: int
    answer: int
    due: float
    shared: int
    left: int = 0
    made: int = 0
    seen: list[float] = field(default_factory=list)
    held: int = 0

    def need(self, tokens: int) -> int:
        """Blocks beyond those that it holds, for so many tokens; a shared beginning is held by the cache."""
        return max(0, -(-max(0, tokens - self.shared) // BLOCK) - self.held)


class Twin:
    """Runs a fault's load until its time is over and everything has ended."""

    def __init__(self, spec: FaultSpec, seed: int = 0) -> None:
        self.spec = spec
        self.engine = EngineSpec.model_validate(spec.engine)
        self.rng = random.Random(seed)
        self.blocks = self.engine.kv_cache_bytes // (KV_BYTES * BLOCK)
        self.waiting: deque[Request] = deque()
        self.running: list[Request] = []
        self.steps: list[StepRecord] = []
        self.ended: list[dict[str, list[float]]] = []
        self.now = 0.0
        self.warm = False

    def run(self) -> Measurement:
        """Returns what is measured."""
        arrivals, users = self.arrivals(), self.spec.workload.arrivals.users
        closed = self.spec.workload.arrivals.process == "closed"
        if closed:
            self.waiting.extend(self.request(0.0) for _ in range(users))
        while arrivals or self.waiting or self.running:
            while arrivals and arrivals[0] <= self.now:
                self.waiting.append(self.request(arrivals.popleft()))
            if not (self.waiting or self.running):
                self.now = arrivals[0]
                continue
            for ended in self.step():
                self.end(ended)
                if closed and self.now < self.spec.seconds:
                    self.waiting.append(self.request(self.now))
        return self.measurement()

    def arrivals(self) -> deque[float]:
        """Due times of an open loop; gaps are exponential, or even."""
        asked = self.spec.workload.arrivals
        times: deque[float] = deque()
        if asked.process == "closed" or asked.requests_per_second is None:
            return times
        at = 0.0
        while at < self.spec.seconds:
            even = asked.process == "constant"
            at += 1 / asked.requests_per_second if even else self.rng.expovariate(asked.requests_per_second)
            times.append(at)
        return times

    def request(self, due: float) -> Request:
        load = self.spec.workload
        shared = load.shared_prefix_tokens if self.engine.enable_block_reuse and self.warm else 0
        self.warm = True
        shared = shared // BLOCK * BLOCK
        prompt = self.length(load.input_tokens, load.input_cv, load.longest_input_tokens)
        answer = self.length(load.output_tokens, load.output_cv, load.longest_output_tokens)
        found = Request(max(prompt, shared + 1), answer, due, shared)
        found.left = found.prompt - shared
        return found

    def length(self, mean: int, cv: float, longest: int) -> int:
        """A log-normal length."""
        if not cv:
            return mean
        sigma = math.sqrt(math.log(1 + cv**2))
        return max(1, min(longest, round(self.rng.lognormvariate(math.log(mean) - sigma**2 / 2, sigma))))

    def free(self) -> int:
        """Blocks that nobody holds; a warm shared beginning holds its own."""
        shared = max((item.shared for item in self.running), default=0) // BLOCK
        return self.blocks - shared - sum(item.held for item in self.running)

    def admit(self) -> None:
        """First come, first served; what is booked ahead counts every block of a request, as the engine books."""
        books = self.engine.capacity_scheduler_policy == "guaranteed_no_evict"
        while self.waiting and len(self.running) < self.engine.max_batch_size:
            first = self.waiting[0]
            booked = sum(-(-(item.prompt + item.answer) // BLOCK) + 1 for item in self.running)
            if books and self.running and booked + -(-(first.prompt + first.answer) // BLOCK) + 1 > self.blocks:
                return
            if not books and first.need(first.prompt) > self.free():
                return
            self.running.append(self.waiting.popleft())

    def step(self) -> list[Request]:
        """One step; returns what has ended in it."""
        self.admit()
        paused = 0
        for item in [each for each in self.running if not each.left]:
            if item not in self.running:
                continue
            while item.need(item.prompt + item.made + 1) > self.free():
                last = self.running.pop()
                last.left, last.held = last.prompt + last.made - last.shared, 0
                paused += bool(last.seen)
                self.waiting.appendleft(last)
                if last is item:
                    break
            else:
                item.held += item.need(item.prompt + item.made + 1)
        streams = [each for each in self.running if not each.left]
        budget, read, firsts = self.engine.max_num_tokens - len(streams), 0, []
        for item in [each for each in self.running if each.left]:
            fits = (self.free() + item.held) * BLOCK - (item.prompt + item.made - item.shared - item.left)
            chunk = max(0, min(item.left, budget - read, fits))
            item.left -= chunk
            read += chunk
            item.held += item.need(item.prompt + item.made - item.left)
            if not item.left and chunk:
                firsts.append(item)
        idle = sum(1 for each in self.running if each.left)
        seconds = STEP * WEIGHTS[self.spec.precision] / WEIGHTS["int8"] + SEQUENCE * len(streams) + PROMPT * read
        self.now += seconds
        for item in [*streams, *firsts]:
            item.made += 1
            item.seen.append(self.now)
        scheduled = len(streams) + len(firsts) + (1 if read and idle else 0)
        usage = 1 - self.free() / self.blocks
        waits = len(self.waiting) + len(self.running) - scheduled
        self.steps.append(StepRecord(self.now, seconds, scheduled, max(0, waits), usage, read > 0, paused))
        ended = [item for item in [*streams, *firsts] if item.made >= item.answer]
        self.running = [item for item in self.running if item not in ended]
        return ended

    def end(self, item: Request) -> None:
        first = item.seen[0]
        self.ended.append(
            {
                "ttft": [first - item.due],
                "itl": [late - early for early, late in itertools.pairwise(item.seen)],
                "tpot": [(self.now - first) / max(1, item.made - 1)],
                "e2e": [self.now - item.due],
                "prompt": [item.prompt],
                "answer": [item.made],
            }
        )

    def measurement(self) -> Measurement:
        """Everything from the begin on: without a bootstrap, intervals are the values themselves."""
        spec, count = self.spec, len(self.ended)
        found = {name: [value for each in self.ended for value in each[name]] for name in self.ended[0]}
        busy = sum(step.seconds for step in self.steps)
        settings = self.engine.model_dump(mode="json") | {"precision": spec.precision}
        mean = {name: float(np.mean(values)) for name, values in found.items() if values}
        return Measurement(
            target="raw",
            settings={f"engine.{name}": value for name, value in settings.items()},
            workload=spec.workload.model_dump(mode="json"),
            slo=spec.slo,
            load=LoadProof(tests=()),
            started_at=0.0,
            warm_up_seconds=0.0,
            seconds=self.now,
            requests=count,
            requests_per_second=exactly(count / self.now, count),
            tokens_per_second=exactly(sum(found["answer"]) / self.now, count),
            ttft=latencies(found["ttft"]),
            itl=latencies(found["itl"]),
            tpot=latencies(found["tpot"]),
            e2e=latencies(found["e2e"]),
            input_tokens=mean["prompt"],
            output_tokens=mean["answer"],
            phases={"queue": 0.0, "prefill": mean["ttft"], "decode": mean["e2e"] - mean["ttft"]},
            engine=EngineReadings(
                max_batch_size=self.engine.max_batch_size,
                max_num_tokens=self.engine.max_num_tokens,
                steps=len(self.steps),
                step_seconds=latencies([step.seconds for step in self.steps]),
                scheduled=float(np.mean([step.scheduled for step in self.steps])),
                waiting=float(np.mean([step.waiting for step in self.steps])),
                kv_cache_usage_max=max(step.kv_cache_usage for step in self.steps),
                prompt_tokens=round(sum(found["prompt"])),
                paused_requests=sum(step.paused for step in self.steps),
                decoding_share=sum(step.seconds for step in self.steps if not step.has_prompts) / busy,
            ),
            machine=MachineReadings(
                cores=2,
                bandwidth=len(self.steps) * WEIGHTS[spec.precision] / self.now,
                bandwidth_bound=BANDWIDTH,
            ),
        )


def exactly(value: float, count: int) -> Estimate:
    return Estimate(value, value, value, count)


def latencies(values: list[float]) -> Latencies:
    if not values:
        return {}
    names = {"p50": 50, "p90": 90, "p95": 95, "p99": 99}
    found = {name: exactly(float(np.percentile(values, q)), len(values)) for name, q in names.items()}
    return found | {"mean": exactly(float(np.mean(values)), len(values))}
