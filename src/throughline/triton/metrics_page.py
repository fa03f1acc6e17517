"""What the engine models say of themselves on Triton's Prometheus page."""

from __future__ import annotations

import re
from http.client import HTTPConnection

_SAMPLE = re.compile(r"^(?P<family>\w+)\{(?P<labels>[^}]*)\} (?P<value>\S+)$", re.MULTILINE)


def fetch(host: str, port: int, *, timeout_seconds: float = 2.0) -> str:
    """Returns the page.

    Raises:
        OSError: If it cannot be fetched.
        http.client.HTTPException: If the answer is none of HTTP.
    """
    connection = HTTPConnection(host, port, timeout=timeout_seconds)
    try:
        connection.request("GET", "/metrics")
        return connection.getresponse().read().decode("utf-8")
    finally:
        connection.close()


def active_requests(page: str) -> int:
    """Sums the models' gauges of live requests."""
    return int(sum(_values(page, "nv_trt_llm_request_metrics", 'request_type="active"')))


def iterations(page: str, model: str) -> float | None:
    """Returns how many steps a model's engine has made, or batches where it has none; None if nothing says."""
    found = _values(page, "nv_trt_llm_general_metrics", 'general_type="iteration_counter"', f'model="{model}"')
    found = found or _values(page, "nv_inference_exec_count", f'model="{model}"')
    # Of two versions at once, any step is progress.
    return sum(found) if found else None


def engine_gauges(page: str, model: str) -> dict[str, float]:
    """Returns a model's steps so far, its sequences in a step, waiting requests, and share of the KV cache in use."""
    own = f'model="{model}"'
    found = {
        "steps": _values(page, "nv_trt_llm_general_metrics", 'general_type="iteration_counter"', own),
        "scheduled": _values(page, "nv_trt_llm_request_metrics", 'request_type="scheduled"', own),
        "waiting": _values(page, "nv_trt_llm_request_metrics", 'request_type="waiting"', own),
        "kv_cache_usage": _values(page, "nv_trt_llm_kv_cache_block_metrics", 'kv_cache_block_type="fraction"', own),
    }
    return {name: sum(values) for name, values in found.items() if values}


def _values(page: str, family: str, *labels: str) -> list[float]:
    samples = (sample for sample in _SAMPLE.finditer(page) if sample["family"] == family)
    return [
        float(sample["value"]) for sample in samples if all(label in sample["labels"].split(",") for label in labels)
    ]
