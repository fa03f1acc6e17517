"""A measurement of a running service, from its `/metrics` alone: what happened while we looked.

Counters and histograms are read at both ends of the interval, gauges several times within it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from throughline.contracts.benchmark import Estimate
from throughline.contracts.errors import DeployError, MeasurementError
from throughline.contracts.measurement import EngineReadings, LoadProof, MachineReadings, Measurement
from throughline.contracts.slo import SloSpec
from throughline.diagnosis.exposition import Between, Page

# What no metrics page says, and who would know.
BLIND = (
    "time on the network and in the client: run a load with `python -m recipes.bench`",
    "processor time by process: `recipes.profile tool=py-spy`, or `top` on the machine",
    "steps of the CPU engine, and which of them read prompts: `recipes.bench` measures them",
    "prompt tokens that the prefix cache had: TensorRT-LLM says blocks, our engine nothing",
    "GPUs: clocks, power and throttling are NVML's (`nvidia-smi -q`), or DCGM's exporter's",
)
_REQUESTS = "nv_trt_llm_request_metrics"
_KV = "nv_trt_llm_kv_cache_block_metrics"
_BATCH = "nv_trt_llm_inflight_batcher_metrics"


@dataclass(frozen=True)
class Watched:
    """A measurement and what it could not see."""

    run: Measurement
    blind: tuple[str, ...]


def fetch(url: str) -> Page:
    """Reads one page; `/metrics` is added to an address without a path.

    Raises:
        DeployError: If it cannot be read.
    """
    import httpx

    address = url if "/" in url.partition("://")[2] else f"{url}/metrics"
    try:
        answer = httpx.get(address, timeout=5.0)
        answer.raise_for_status()
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise DeployError(
            "metrics cannot be read", where=address, seen=str(error) or type(error).__name__, fix="is it running?"
        ) from None
    return Page(answer.text, address)


def watch(
    url: str,
    metrics_url: str = "",
    *,
    seconds: float,
    looks: int = 20,
    slo: SloSpec | None = None,
    settings: Mapping[str, Any] | None = None,
    cores: int = 0,
    read: Callable[[str], Page] = fetch,
    sleep: Callable[[float], None] = time.sleep,
) -> Watched:
    """Looks at a gateway, and at the Triton behind it, for some seconds.

    Args:
        url: The gateway's address.
        metrics_url: Triton's address of metrics; empty for none.
        seconds: Between the first and the last reading.
        looks: Readings of the gauges in between.
        slo: Limits to judge by.
        settings: Of engine and server, by dotted key, where they are known.
        cores: Processors of the machine, 0 if it is not ours.
        read: Reads a page.
        sleep: Waits.

    Raises:
        DeployError: If a page cannot be read.
        MeasurementError: If no request ended meanwhile.
    """
    started = time.time()
    gateways = [read(url)]
    tritons = [read(metrics_url)] if metrics_url else []
    for _ in range(looks):
        sleep(seconds / looks)
        gateways.append(read(url))
        if metrics_url:
            tritons.append(read(metrics_url))
    between = Between(gateways[0], gateways[-1])
    ended = between.counted_by("vllm:request_success_total", "finished_reason")
    failed = between.counted_by("throughline_failed_requests_total", "reason")
    requests = round(sum(ended.values()) + sum(failed.values()))
    if not requests:
        raise MeasurementError(
            "no request ended while we looked", where=url, seen=f"{seconds:g} s", fix="send some, or raise seconds"
        )
    engine = _engine(tritons)
    rate = sum(ended.values()) / seconds
    run = Measurement(
        target="gateway",
        settings=dict(settings or {}),
        slo=slo,
        load=LoadProof(tests=()),
        started_at=started,
        warm_up_seconds=0.0,
        seconds=seconds,
        requests=requests,
        errors={reason: round(count) for reason, count in failed.items()},
        requests_per_second=_exact(rate, requests),
        tokens_per_second=_exact(between.counted("vllm:generation_tokens_total") / seconds, requests),
        ttft=between.latencies("vllm:time_to_first_token_seconds"),
        itl=between.latencies("vllm:inter_token_latency_seconds"),
        tpot=between.latencies("vllm:request_time_per_output_token_seconds"),
        e2e=between.latencies("vllm:e2e_request_latency_seconds"),
        input_tokens=between.mean("vllm:request_prompt_tokens") or 0.0,
        output_tokens=between.mean("vllm:request_generation_tokens") or 0.0,
        phases=_phases(between, engine.waiting, rate),
        engine=engine,
        machine=MachineReadings(cores=cores),
    )
    blind = BLIND if tritons else (*BLIND, "the engine's batch, queue and KV cache: give metrics_url=http://host:8002")
    return Watched(run, blind)


def _phases(between: Between, waiting: float | None, rate: float) -> dict[str, float]:
    """Mean seconds of a stream's parts; the queue by Little's law, requests that wait over requests a second."""
    first = between.mean("throughline_engine_time_to_first_token_seconds")
    around = between.mean("throughline_framework_time_to_first_token_seconds")
    ttft, e2e = (
        between.mean("vllm:time_to_first_token_seconds"),
        between.mean("vllm:e2e_request_latency_seconds"),
    )
    if first is None or around is None or ttft is None or e2e is None:
        return {}
    prepare = min(around, between.mean("throughline_gateway_prepare_seconds") or 0.0)
    queue = min(first, waiting / rate) if waiting is not None and rate else 0.0
    return {
        "tokenize": prepare,
        "gateway": around - prepare,
        "queue": queue,
        "prefill": first - queue,
        "decode": max(0.0, e2e - ttft),
    }


def _engine(pages: list[Page]) -> EngineReadings:
    """What Triton's gauges said, on average over the readings."""
    if not pages:
        return EngineReadings()
    usage = _gauge(pages, _KV, kv_cache_block_type="fraction")
    iterations = _gauge(pages, "nv_trt_llm_general_metrics", general_type="iteration_counter")
    context = _gauge(pages, _BATCH, inflight_batcher_specific_metric="total_context_tokens")
    paused = _gauge(pages, _BATCH, inflight_batcher_specific_metric="paused_requests")
    return EngineReadings(
        steps=round(iterations[-1] - iterations[0]) if iterations and iterations[-1] >= iterations[0] else None,
        scheduled=_mean(_gauge(pages, _REQUESTS, request_type="scheduled")),
        waiting=_mean(_gauge(pages, _REQUESTS, request_type="waiting")),
        kv_cache_usage=_mean(usage),
        kv_cache_usage_max=max(usage, default=None),
        # At least so many: the gauge counts those of one step.
        paused_requests=round(max(paused)) if paused else None,
        decoding_share=sum(tokens == 0 for tokens in context) / len(context) if context else None,
    )


def _gauge(pages: list[Page], name: str, **labels: str) -> list[float]:
    return [value for page in pages if (value := page.total(name, **labels)) is not None]


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _exact(value: float, count: int) -> Estimate:
    return Estimate(value, value, value, count)
