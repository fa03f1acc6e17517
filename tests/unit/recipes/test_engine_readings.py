"""What is made of a server's gauges and counters over a window."""

from __future__ import annotations

import pytest

from recipes.engine_readings import gauge_readings
from throughline.benchmarking.machine import Sample, Sampler
from throughline.benchmarking.summary import Window

WINDOW = Window(begin=10.0, end=20.0, warm_up_seconds=10.0, steady=True)


def sampled(*moments: tuple[float, dict[str, float]]) -> Sampler:
    sampler = Sampler({})
    sampler.samples = [Sample(at, {}, 0.0, gauges) for at, gauges in moments]
    return sampler


def test_gauges_are_means_and_counters_what_they_grew_within_the_window() -> None:
    sampler = sampled(
        (5, {"scheduled": 90, "prompt_tokens": 0, "reused_tokens": 0, "paused_requests": 0}),
        (10, {"scheduled": 2, "prompt_tokens": 100, "reused_tokens": 10, "paused_requests": 4, "kv_cache_usage": 0.2}),
        (15, {"scheduled": 4, "prompt_tokens": 180, "reused_tokens": 40, "paused_requests": 4, "kv_cache_usage": 0.6}),
        (20, {"scheduled": 6, "prompt_tokens": 300, "reused_tokens": 60, "paused_requests": 5}),
        (25, {"scheduled": 90, "prompt_tokens": 900, "reused_tokens": 900, "paused_requests": 90}),
    )
    found = gauge_readings(sampler, WINDOW)
    assert (found.scheduled, found.kv_cache_usage, found.kv_cache_usage_max) == (4, pytest.approx(0.4), 0.6)
    assert (found.prompt_tokens, found.reused_tokens, found.paused_requests) == (200, 50, 1)
    assert (found.steps, found.waiting) == (None, None)


def test_a_counter_that_began_anew_says_nothing() -> None:
    found = gauge_readings(sampled((11, {"reused_tokens": 50}), (19, {"reused_tokens": 3})), WINDOW)
    assert found.reused_tokens is None
    assert gauge_readings(sampled((11, {"reused_tokens": 50})), WINDOW).reused_tokens is None
