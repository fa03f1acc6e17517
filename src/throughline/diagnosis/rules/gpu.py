"""What a GPU loses: a clock that is held down, times in which nobody gives it work, tokens that belong to nobody.

On an H100 the first two named what was done to it (benchmarks/gpu_service.py); padding has not met a GPU.
"""

from __future__ import annotations

from throughline.contracts.diagnosis import Evidence, Finding, Lever
from throughline.contracts.measurement import GpuReadings
from throughline.diagnosis import thresholds as t
from throughline.diagnosis.readings import Seen, pct
from throughline.diagnosis.rule import Rule

# NVML's names (nvmlClocksEventReason…) without prefix, in lower case and with underscores.
POWER = ("sw_power_cap", "hw_power_brake_slowdown")
HEAT = ("sw_thermal_slowdown", "hw_thermal_slowdown", "hw_slowdown")


def _throttling(seen: Seen) -> Finding | None:
    found = [_one(seen, index, gpu) for index, gpu in enumerate(seen.run.machine.gpus)]
    worst = max((finding for finding in found if finding is not None), key=lambda each: each.severity, default=None)
    return worst or _processor(seen)


def _one(seen: Seen, index: int, gpu: GpuReadings) -> Finding | None:
    heat = max((gpu.throttled.get(name, 0.0) for name in HEAT), default=0.0)
    power = max((gpu.throttled.get(name, 0.0) for name in POWER), default=0.0)
    share = max(heat, power)
    if share < t.THROTTLED:
        return None
    cause = "heat" if heat >= power else "its power limit"
    severity, arithmetic = _lost_clock(seen, index, gpu, share)
    query = "nvidia-smi -q -d CLOCK,POWER,TEMPERATURE,PERFORMANCE"
    levers = [Lever(why=f"cooling or neighbours: see `{query}`")] if cause == "heat" else []
    if cause != "heat":
        levers = [
            Lever(why=f"raise the power limit where the board allows it (`nvidia-smi -pl`), see `{query}`"),
            Lever(overrides=("quant=fp8",), why="less energy for the same tokens"),
        ]
    return Finding(
        name=THROTTLING.name,
        kind="waste",
        summary=f"{gpu.name} is slowed down by {cause}.",
        severity=severity,
        cost="throughput",
        arithmetic=arithmetic,
        evidence=(
            Evidence(
                name=f"samples slowed by {cause}",
                value=share,
                unit="share",
                limit=t.THROTTLED,
                source="a tenth of the time moves no limit's verdict beyond the spread between runs",
            ),
            Evidence(name="mean SM clock", value=gpu.sm_clock_hertz, unit="Hz"),
            Evidence(name="mean power", value=gpu.power_watts, unit="W"),
        ),
        levers=tuple(levers),
        contradicted_by="the clock is as high as in a run without the reason",
    )


def _lost_clock(seen: Seen, index: int, gpu: GpuReadings, share: float) -> tuple[float, str]:
    before = seen.baseline.machine.gpus if seen.baseline is not None else ()
    highest = before[index].sm_clock_hertz if index < len(before) else gpu.sm_clock_max_hertz
    if highest:
        severity = min(1.0, max(0.0, 1 - gpu.sm_clock_hertz / highest))
        whose = "the baseline's" if index < len(before) else "the highest"
        return severity, f"1 − {gpu.sm_clock_hertz / 1e6:.0f} MHz / {highest / 1e6:.0f} MHz ({whose}) = {pct(severity)}"
    return share / 2, f"no other clock is known: half of the {pct(share)} of samples that were slowed, as a guess"


def _processor(seen: Seen) -> Finding | None:
    clock, before = seen.run.machine.clock_hertz, seen.baseline.machine.clock_hertz if seen.baseline else None
    if not clock or not before or clock > t.SLOW_CLOCK * before:
        return None
    severity = 1 - clock / before
    return Finding(
        name=THROTTLING.name,
        kind="waste",
        summary="The processor's clock is lower than in the baseline.",
        severity=severity,
        cost="throughput",
        arithmetic=f"1 − {clock / 1e6:.0f} MHz / {before / 1e6:.0f} MHz = {pct(severity)}",
        evidence=(
            Evidence(
                name="clock",
                value=clock,
                unit="Hz",
                limit=t.SLOW_CLOCK * before,
                source="nine tenths of the baseline's",
            ),
        ),
        levers=(Lever(why="cooling, the governor (`cpupower frequency-info`), or neighbours on the same package"),),
        contradicted_by="the same work takes no more processor seconds than in the baseline",
    )


def _host(seen: Seen) -> Finding | None:
    gpus = seen.run.machine.gpus
    if not gpus:
        return None
    busy = sum(gpu.utilisation for gpu in gpus) / len(gpus)
    mean = seen.run.e2e.get("mean")
    # Little's law.
    in_flight = seen.run.requests_per_second.value * mean.value if mean is not None else 0.0
    if busy >= t.NVML_BUSY or in_flight < t.IN_FLIGHT:
        return None
    return Finding(
        name=HOST.name,
        kind="waste",
        summary="The GPU waits for the processor most of the time, while requests are there.",
        severity=1 - busy,
        cost="GPU time",
        arithmetic=f"1 − {pct(busy)} of the time with a kernel running = {pct(1 - busy)}",
        evidence=(
            Evidence(
                name="GPU busy",
                value=busy,
                unit="share",
                limit=t.NVML_BUSY,
                source="NVML counts a time as busy in which any kernel runs, however small",
            ),
            Evidence(
                name="requests in flight",
                value=in_flight,
                unit="requests",
                limit=t.IN_FLIGHT,
                source="below it the GPU may rest",
            ),
            *(
                Evidence(name=f"processors busy: {name}", value=value, unit="cores")
                for name, value in seen.run.machine.busy_cores.items()
            ),
        ),
        levers=(
            Lever(why="launches in CUDA graphs (TensorRT-LLM's `cuda_graph_config`), and more sequences in a step"),
            Lever(why="which code it is: `python -m recipes.profile tool=nsys`, or `tool=py-spy` for Python"),
        ),
        contradicted_by="a capture of Nsight Systems has no gaps between kernels",
    )


def _padding(seen: Seen) -> Finding | None:
    engine = seen.run.engine
    if engine.padded_tokens is None:
        return None
    read = (engine.prompt_tokens or 0) - (engine.reused_tokens or 0)
    real = read + seen.run.tokens_per_second.value * seen.run.seconds
    share = engine.padded_tokens / (engine.padded_tokens + real) if engine.padded_tokens else 0.0
    if share < t.PADDED:
        return None
    levers = []
    if seen.setting("serve.gpu.batching_strategy") == "V1":
        why = "requests join and leave the batch at every step"
        levers.append(
            Lever(
                overrides=(
                    "serve.gpu.batching_strategy=inflight_fused_batching",
                    "serve.gpu.enable_chunked_context=true",
                ),
                why=why,
            )
        )
    why = "CUDA graphs of more sizes (`cuda_graph_config.batch_sizes`), so that a step is padded to the next of them"
    levers.append(Lever(why=why))
    return Finding(
        name=PADDING.name,
        kind="waste",
        summary="Steps compute tokens that belong to no request.",
        severity=share,
        cost="throughput",
        arithmetic=f"{engine.padded_tokens} of {engine.padded_tokens + real:.0f} tokens = {pct(share)}",
        evidence=(
            Evidence(
                name="padded tokens",
                value=share,
                unit="share",
                limit=t.PADDED,
                source="graphs at 1, 2, 4, 8, 16, … pad a uniform mix of sizes by less",
            ),
        ),
        levers=tuple(levers),
        contradicted_by="batches that fill a graph's size are no faster a token",
    )


THROTTLING = Rule(
    "throttling",
    "heat or a power limit holds the clock down",
    ("machine.gpus|machine.clock_hertz",),
    _throttling,
)
HOST = Rule(
    "host-bound",
    "the GPU waits for the processor while requests are there",
    ("machine.gpus|machine.clock_hertz",),
    _host,
)
PADDING = Rule("padding", "steps compute tokens that belong to no request", ("engine.padded_tokens",), _padding)
