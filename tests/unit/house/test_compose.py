"""docker/compose.yaml: valid by the official schema, hardened, on loopback, and its ports agree everywhere."""

from __future__ import annotations

import json
import re
from typing import Any

import jsonschema
import pytest

from recipes import app
from tests.unit.house.deployment import DOCKER, SCHEMAS, Object, port_of, read, seconds
from throughline.contracts.gateway import GatewaySpec, GatewayTimeouts
from throughline.contracts.serving import ServeSpec
from throughline.gateway.__main__ import read_spec

COMPOSE: Object = read(DOCKER / "compose.yaml")
SERVICES: dict[str, Object] = COMPOSE["services"]
SCHEMA = json.loads((SCHEMAS / "compose-spec.json").read_text(encoding="utf-8"))
SPEC: GatewaySpec = read_spec(DOCKER / "gateway.json")


def published(service: str) -> dict[int, int]:
    """Ports of a service by the host's port."""
    found = {}
    for text in SERVICES[service].get("ports", []):
        host, outside, inside = text.split(":")
        assert host == "127.0.0.1", text
        found[int(outside)] = int(inside)
    return found


def targets() -> dict[str, tuple[str, int]]:
    """Host and port that Prometheus reads, by job."""
    jobs = read(DOCKER / "prometheus.yml")["scrape_configs"]
    addresses = {job["job_name"]: job["static_configs"][0]["targets"] for job in jobs}
    return {job: (each[0].split(":")[0], int(each[0].split(":")[1])) for job, each in addresses.items()}


def test_the_official_schema_takes_it() -> None:
    jsonschema.Draft7Validator(SCHEMA).validate(COMPOSE)
    assert set(SERVICES) == {"triton", "gateway", "prometheus", "grafana"}


@pytest.mark.parametrize(
    "fault", [{"volums": []}, {"depends_on": {"triton": {"condition": "healthy"}}}, {"read_only": [1]}]
)
def test_the_schema_would_find_a_fault(fault: Any) -> None:
    broken = {**COMPOSE, "services": {**SERVICES, "gateway": {**SERVICES["gateway"], **fault}}}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft7Validator(SCHEMA).validate(broken)


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_hardened_pinned_and_watched(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True and service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service and "cap_add" not in service
    assert re.search(r":v?\d+\.\d+\.\d+$", service["image"]), service["image"]
    assert seconds(service["healthcheck"]["start_period"]) >= 30
    published(name)
    for on in service.get("depends_on", {}):
        assert service["depends_on"][on]["condition"] == "service_healthy"


def test_what_is_used_is_declared() -> None:
    for service in SERVICES.values():
        assert set(service["networks"]) <= set(COMPOSE["networks"])
        for volume in service.get("volumes", []):
            source = re.sub(r"^\$\{.*?\}", "", volume).split(":")[0]
            if source.startswith("."):
                assert (DOCKER / source).exists(), source
            elif source:
                assert source in COMPOSE["volumes"], source


def test_triton_is_reached_by_nobody_outside() -> None:
    assert "ports" not in SERVICES["triton"]
    assert SERVICES["triton"]["networks"] == ["serving"] and COMPOSE["networks"]["serving"]["internal"] is True


def test_the_ports_agree() -> None:
    command = SERVICES["triton"]["command"]
    (route,) = SPEC.models
    assert route.upstream == f"triton:{port_of(command, 'serve.grpc_port')}"
    assert targets() == {
        "triton": ("triton", port_of(command, "serve.metrics_port")),
        "gateway": ("gateway", SPEC.port),
    }
    assert published("gateway") == {SPEC.port: SPEC.port}
    for name, port in (("triton", port_of(command, "serve.http_port")), ("gateway", SPEC.port)):
        assert f"http://127.0.0.1:{port}/" in SERVICES[name]["healthcheck"]["test"][-1]
    for name in ("prometheus", "grafana"):
        (port,) = published(name).values()
        assert f"http://127.0.0.1:{port}/" in SERVICES[name]["healthcheck"]["test"][-1]
    datasource = read(DOCKER / "grafana/provisioning/datasources/prometheus.yaml")["datasources"][0]
    assert datasource["url"] == f"http://prometheus:{next(iter(published('prometheus').values()))}"
    dockerfile = (DOCKER / "gateway.Dockerfile").read_text(encoding="utf-8")
    assert f"\nEXPOSE {SPEC.port}\n" in dockerfile and f"127.0.0.1:{SPEC.port}/health'" in dockerfile


def test_triton_s_command_composes_and_the_gateway_asks_for_its_model() -> None:
    python, flag, module, *overrides = SERVICES["triton"]["command"]
    assert (python, flag, module) == ("python", "-m", "recipes.deploy")
    config = app.compose("deploy", overrides)
    assert config.serve.host == "0.0.0.0"
    assert (SPEC.models[0].triton_model, str(SPEC.models[0].engine_dir)) == (config.name, config.target)
    assert SPEC.host == "0.0.0.0"
    for name in ("triton", "gateway"):
        assert any(volume.endswith(":/engine:ro") for volume in SERVICES[name]["volumes"])


def test_running_requests_end_before_a_container_is_killed() -> None:
    assert seconds(SERVICES["triton"]["stop_grace_period"]) > ServeSpec().exit_timeout_seconds
    assert seconds(SERVICES["gateway"]["stop_grace_period"]) > GatewayTimeouts().drain_seconds


def test_grafana_finds_the_dashboards_where_they_are_mounted() -> None:
    (provider,) = read(DOCKER / "grafana/provisioning/dashboards/files.yaml")["providers"]
    grafana = SERVICES["grafana"]
    assert f"./grafana/dashboards:{provider['options']['path']}:ro" in grafana["volumes"]
    home = grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert (DOCKER / "grafana/dashboards" / home.removeprefix(provider["options"]["path"] + "/")).is_file()


def test_the_tracing_file_adds_jaeger_and_says_where_it_is() -> None:
    added: Object = read(DOCKER / "compose.tracing.yaml")
    jsonschema.Draft7Validator(SCHEMA).validate(added)
    assert set(added["services"]) == {"jaeger", "triton", "gateway"}
    jaeger, triton, gateway = (added["services"][name] for name in ("jaeger", "triton", "gateway"))
    hardened = ("init", "read_only", "cap_drop", "security_opt", "restart", "logging")
    assert {key: jaeger[key] for key in hardened} == {key: SERVICES["grafana"][key] for key in hardened}
    assert re.search(r":\d+\.\d+\.\d+$", jaeger["image"]) and jaeger["networks"] == ["serving", "edge"]
    assert all(port.startswith("127.0.0.1:") for port in jaeger["ports"])
    # A command replaces the other file's; a volume replaces the one with the same target.
    *same, last = triton["command"]
    assert same == SERVICES["triton"]["command"]
    endpoint = app.compose("deploy", triton["command"][3:]).serve.tracing.endpoint
    assert last == f"serve.tracing.endpoint={endpoint}"
    (volume,) = gateway["volumes"]
    source, target, _ = volume.split(":")
    assert f"./gateway.json:{target}:ro" in SERVICES["gateway"]["volumes"]
    spec = read_spec(DOCKER / source)
    assert spec.tracing.endpoint == endpoint == "http://jaeger:4318"
    assert spec.model_copy(update={"tracing": SPEC.tracing}) == SPEC
