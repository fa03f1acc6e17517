"""The Grafana dashboard and the autoscaler's rule ask for metrics that our code exports, by labels that they have."""

from __future__ import annotations

import re
import sys
from types import ModuleType
from typing import Any, ClassVar

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.unit.house.deployment import DOCKER, read
from tests.unit.house.promql import DASHBOARD, expressions, selectors
from throughline.gateway.metrics import GatewayMetrics
from throughline.triton.batching import Snapshot

# What Prometheus adds to every series.
TARGET_LABELS = {"instance", "job", "namespace", "pod"}
Series = dict[str, set[str]]


def gateway_series() -> Series:
    """Labels of every series of a gateway that has served, by name."""
    metrics = GatewayMetrics(["lab"])
    metrics.count_response("/v1/models", 200)
    for reason in ("stop", "error"):
        metrics.models["lab"].finish(reason)
    found: Series = {}
    for family in text_string_to_metric_families(metrics.expose().decode()):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


class Family:
    """Stands in for `pb_utils.MetricFamily`, which lives in Triton's process alone: keeps names and labels."""

    COUNTER, GAUGE, HISTOGRAM = "COUNTER", "GAUGE", "HISTOGRAM"
    seen: ClassVar[Series] = {}

    def __init__(self, name: str, description: str, kind: str) -> None:
        names = [f"{name}_bucket", f"{name}_sum", f"{name}_count"] if kind == self.HISTOGRAM else [name]
        self.all = [self.seen.setdefault(each, {"le"} if each.endswith("_bucket") else set()) for each in names]

    def Metric(self, labels: dict[str, str], buckets: Any = None) -> Family:  # noqa: N802
        for each in self.all:
            each.update(labels)
        return self

    def set(self, value: float) -> None:
        """As the real one."""

    def increment(self, value: float) -> None:
        """As the real one."""

    def observe(self, value: float) -> None:
        """As the real one."""


@pytest.fixture
def engine_series(monkeypatch: pytest.MonkeyPatch) -> Series:
    """Labels of every series that the engine model registers; tests/integration asks the real server for them."""
    module = ModuleType("triton_python_backend_utils")
    module.MetricFamily = Family  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", module)
    monkeypatch.setattr(Family, "seen", {})
    monkeypatch.delitem(sys.modules, "throughline.triton.models.engine_model", raising=False)
    from throughline.triton.models.engine_model import EngineMetrics

    metrics = EngineMetrics("lab", "1")
    metrics.update(Snapshot(1, 1, 1, 8, 0.5, 1024, 7, 9, {"stop": 1}))
    metrics.observe(3, 4)
    monkeypatch.delitem(sys.modules, "throughline.triton.models.engine_model")
    return Family.seen


def test_a_selector_is_taken_apart() -> None:
    text = 'histogram_quantile(0.95, sum by (le, model) (rate(a:b_bucket{x=~"c|d", y="e"}[$__rate_interval])))'
    assert selectors(text) == {"a:b_bucket": {"le", "model", "x", "y"}}


def test_every_panel_asks_for_what_we_export(engine_series: Series) -> None:
    known = gateway_series() | engine_series
    assert len(expressions()) > 20
    asked = set()
    for title, expression in expressions():
        for name, labels in selectors(expression).items():
            asked.add(name)
            assert name in known, f"{title}: {name}"
            assert labels <= known[name] | TARGET_LABELS, f"{title}: {labels - known[name]}"
    assert any(name in gateway_series() for name in asked) and any(name in engine_series for name in asked)


# A panel says the same by another name: TensorRT-LLM's for the engine, vLLM's for the gateway.
ELSEWHERE = (
    "gen_ai_",
    "vllm:request_time_per_output_token_seconds",
    "vllm:request_prompt_tokens",
    "vllm:request_generation_tokens",
    "vllm:kv_cache_usage_perc",
    "vllm:num_requests_waiting",
)


def test_everything_that_we_export_has_a_panel(engine_series: Series) -> None:
    asked = {name for _, expression in expressions() for name in selectors(expression)}
    exported = {
        re.sub("_(bucket|sum|count|created)$", "", name)
        for name in gateway_series() | engine_series
        if not name.startswith(ELSEWHERE)
    }
    assert exported - {re.sub("_bucket$", "", name) for name in asked} == set()


def test_a_legend_names_labels_that_are_left() -> None:
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", []):
            by = re.search(r"sum by \(([^)]*)\)", target["expr"])
            if by:
                assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= set(re.split(r",\s*", by[1]))


def test_panels_have_their_own_ids_places_and_the_provisioned_source() -> None:
    uid = read(DOCKER / "grafana/provisioning/datasources/prometheus.yaml")["datasources"][0]["uid"]
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert len({(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}) == len(panels)
    for panel in panels:
        for target in panel.get("targets", []):
            assert target["datasource"] == panel["datasource"] == {"type": "prometheus", "uid": uid}


def test_the_adapter_s_rule_asks_for_what_triton_exports(engine_series: Series) -> None:
    (rule,) = read(DOCKER / "kubernetes/prometheus-adapter.yaml")["rules"]["custom"]
    name = rule["seriesQuery"].split("{")[0]
    assert name in engine_series and f"sum({name}{{" in rule["metricsQuery"]
    assert re.findall(r'(\w+)="', rule["metricsQuery"]) == ["request_type"] and "request_type" in engine_series[name]
