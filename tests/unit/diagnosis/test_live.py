"""A running gateway, told from two readings of its own page and from Triton's gauges in between."""

from __future__ import annotations

import pytest

from throughline.contracts.errors import DeployError, MeasurementError
from throughline.contracts.slo import SloSpec
from throughline.diagnosis import diagnose
from throughline.diagnosis.exposition import Between, Page
from throughline.diagnosis.live import Watched, watch
from throughline.gateway.metrics import GatewayMetrics

URL, METRICS = "http://gateway", "http://triton"


class Service:
    """The gateway's real metrics, and Triton's page as our engine model writes it."""

    def __init__(self, *, waiting: float, engine_first_token: float) -> None:
        self.metrics = GatewayMetrics(["lab"])
        self.now = 0.0
        self._waiting, self._first = waiting, engine_first_token
        self._serve(5)

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self._serve(round(4 * seconds))

    def read(self, url: str) -> Page:
        return Page(self.metrics.expose().decode() if url == URL else self._triton(), url)

    def _serve(self, requests: int) -> None:
        model = self.metrics.models["lab"]
        for _ in range(requests):
            model.prepare.observe(0.002)
            model.framework_first_token.observe(0.01)
            model.engine_first_token.observe(self._first)
            model.time_to_first_token.observe(self._first + 0.01)
            model.inter_token_latency.observe(0.02, 31)
            model.time_per_output_token.observe(0.02)
            model.e2e_latency.observe(self._first + 0.01 + 0.62)
            model.request_prompt_tokens.observe(200)
            model.request_generation_tokens.observe(32)
            model.generation_tokens += 32
            model.finish("length")

    def _triton(self) -> str:
        labels = 'model="lab",version="1"'
        return (
            f'nv_trt_llm_request_metrics{{request_type="waiting",{labels}}} {self._waiting}\n'
            f'nv_trt_llm_request_metrics{{request_type="scheduled",{labels}}} 2\n'
            f'nv_trt_llm_kv_cache_block_metrics{{kv_cache_block_type="fraction",{labels}}} 0.3\n'
            f'nv_trt_llm_general_metrics{{general_type="iteration_counter",{labels}}} {100 + 50 * self.now}\n'
        )


def look(service: Service, *, seconds: float = 10.0, metrics_url: str = METRICS) -> Watched:
    return watch(
        URL,
        metrics_url,
        seconds=seconds,
        looks=10,
        slo=SloSpec(ttft_seconds=0.5),
        settings={"engine.max_batch_size": 2},
        read=service.read,
        sleep=service.sleep,
    )


def test_only_what_happened_meanwhile_counts() -> None:
    found = look(Service(waiting=0, engine_first_token=0.2)).run
    assert found.requests == 40
    assert found.requests_per_second.value == 4
    assert found.tokens_per_second.value == 128
    assert found.input_tokens == 200
    assert found.engine.steps == 500
    assert found.ttft["mean"].value == pytest.approx(0.21)
    # Between the bounds of the bucket that all of them are in.
    assert found.ttft["p50"].low < 0.21 <= found.ttft["p50"].high
    assert found.ttft["p50"].low <= found.ttft["p50"].value <= found.ttft["p50"].high
    assert sum(found.phases.values()) == pytest.approx(found.e2e["mean"].value)


def test_a_queue_is_told_by_littles_law() -> None:
    found = look(Service(waiting=6, engine_first_token=1.7))
    # Six that wait, four a second: one and a half seconds.
    assert found.run.phases["queue"] == pytest.approx(1.5)
    named = diagnose(found.run)
    assert named.names == ("queueing",)
    assert named.findings[0].levers[0].overrides == ("engine.max_batch_size=8",)


def test_an_idle_engine_is_healthy() -> None:
    assert diagnose(look(Service(waiting=0, engine_first_token=0.2)).run).healthy


def test_without_triton_it_says_what_is_missing() -> None:
    found = look(Service(waiting=0, engine_first_token=0.2), metrics_url="")
    assert any("metrics_url" in line for line in found.blind)
    assert "batch-starvation" in {rule.name for rule in diagnose(found.run).undecided}


def test_no_request_is_no_measurement() -> None:
    with pytest.raises(MeasurementError, match="no request ended"):
        look(Service(waiting=0, engine_first_token=0.2), seconds=0.0)


def test_a_page_of_something_else_is_refused() -> None:
    with pytest.raises(DeployError, match="Prometheus"):
        Page("<html>not found</html>", URL)


def test_a_counter_that_began_anew_counts_from_zero() -> None:
    before, after = Page("a_total 50\n", URL), Page("a_total 7\n", URL)
    assert Between(before, after).counted("a_total") == 7
