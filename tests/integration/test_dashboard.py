"""The real Triton, after a request, exports every series of the engine that the dashboard shows."""

from __future__ import annotations

import time
from http.client import HTTPConnection

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import RunningTriton
from tests.unit.house.promql import expressions, selectors
from throughline.gateway.metrics import GatewayMetrics
from throughline.triton.client import TritonClient

pytestmark = pytest.mark.integration
DEADLINE_SECONDS = 20


def exported(server: RunningTriton) -> dict[str, set[str]]:
    """Labels of every series on the metrics page, by name."""
    connection = HTTPConnection("127.0.0.1", server.metrics_port, timeout=DEADLINE_SECONDS)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def test_the_engine_s_panels_have_series(triton_server: RunningTriton) -> None:
    gateway = {
        sample.name
        for family in text_string_to_metric_families(GatewayMetrics(["lab"]).expose().decode())
        for sample in family.samples
    }
    wanted = {name: labels for _, text in expressions() for name, labels in selectors(text).items()}
    engine = {name for name in wanted if name.startswith(("nv_", "throughline_generated", "throughline_finished"))}
    assert len(engine) >= 6 and not engine & gateway
    with TritonClient(f"127.0.0.1:{triton_server.grpc_port}") as client:
        client.generate("lab", {"text_input": "The server has stopped.", "max_tokens": 4, "ignore_eos": True})
    # Gauges are published at intervals; each look is a request to the server.
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not engine <= set(found := exported(triton_server)) and time.monotonic() < deadline:
        pass
    assert engine <= set(found)
    for name in engine:
        assert wanted[name] - {"instance"} <= found[name] | {"le"}, name
