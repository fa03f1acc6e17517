"""docker/kubernetes: both overlays are valid objects that agree with each other and with our settings."""

from __future__ import annotations

import json

import jsonschema
import kubernetes_validate
import pytest
import yaml

from recipes import app
from tests.unit.house.deployment import DOCKER, SCHEMAS, Object, build, closed, container, key, port_of, read
from throughline.contracts.config import parse
from throughline.contracts.gateway import GatewaySpec

OVERLAYS = {name: build(DOCKER / "kubernetes/overlays" / name) for name in ("laptop", "gpu")}
FOREIGN = {"ServiceMonitor": closed(json.loads((SCHEMAS / "servicemonitor.json").read_text(encoding="utf-8")))}
OBJECTS = [(name, item) for name, items in OVERLAYS.items() for item in items]
VERSIONS = ("1.31", "1.33", "1.35")
both = pytest.mark.parametrize("overlay", OVERLAYS)


def one(overlay: str, kind: str, name: str) -> Object:
    """The object of a kind and name."""
    (found,) = [item for item in OVERLAYS[overlay] if key(item) == (kind, name)]
    return found


def spec_of(overlay: str) -> GatewaySpec:
    """The gateway's settings in its ConfigMap."""
    return parse(GatewaySpec, json.loads(one(overlay, "ConfigMap", "gateway")["data"]["gateway.json"]), where=overlay)


def pod(overlay: str, name: str) -> Object:
    """The pod of a Deployment."""
    return dict(one(overlay, "Deployment", name)["spec"]["template"]["spec"])


def patience(probe: Object) -> int:
    """Seconds until a probe has failed for good."""
    return int(probe["periodSeconds"]) * int(probe["failureThreshold"])


@pytest.mark.parametrize(("overlay", "item"), OBJECTS, ids=[f"{name}-{'-'.join(key(item))}" for name, item in OBJECTS])
def test_the_schema_takes_it(overlay: str, item: Object) -> None:
    assert item["kind"] == "Namespace" or item["metadata"]["namespace"] == "throughline"
    if item["kind"] in FOREIGN:
        jsonschema.Draft202012Validator(FOREIGN[item["kind"]]).validate(item)
        return
    for version in VERSIONS:
        kubernetes_validate.validate(item, version, strict=True)


def test_the_schemas_would_find_a_fault() -> None:
    broken = json.loads(json.dumps(one("gpu", "Deployment", "triton")))
    container(broken)["readinesProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, VERSIONS[0], strict=True)
    monitor = json.loads(json.dumps(one("gpu", "ServiceMonitor", "triton")))
    monitor["spec"]["endpoints"][0]["intervall"] = "5s"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(FOREIGN["ServiceMonitor"]).validate(monitor)


def test_every_file_is_in_an_overlay() -> None:
    """A file that no kustomization names would be checked by nobody."""
    folder = DOCKER / "kubernetes"
    named = {folder / "prometheus-adapter.yaml"}
    for path in folder.rglob("kustomization.yaml"):
        values = read(path)
        named |= {path, *((path.parent / name).resolve() for name in values.get("resources", []))}
        named |= {path.parent / patch["path"] for patch in values.get("patches", []) if "path" in patch}
    assert set(folder.rglob("*.yaml")) <= named


@both
@pytest.mark.parametrize("name", ["triton", "gateway"])
def test_a_pod_is_hardened(overlay: str, name: str) -> None:
    spec, inner = pod(overlay, name), container(one(overlay, "Deployment", name))
    assert spec["securityContext"]["runAsNonRoot"] is True and spec["securityContext"]["runAsUser"] > 0
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["automountServiceAccountToken"] is False
    assert inner["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
    assert set(inner["resources"]["requests"]) >= {"cpu", "memory"} and "memory" in inner["resources"]["limits"]
    assert ":latest" not in inner["image"] and ":" in inner["image"]
    assert {volume["name"] for volume in spec["volumes"]} == {mount["name"] for mount in inner["volumeMounts"]}


@both
@pytest.mark.parametrize("name", ["triton", "gateway"])
def test_running_requests_end_before_a_pod_is_killed(overlay: str, name: str) -> None:
    inner = container(one(overlay, "Deployment", name))
    pause = int(inner["lifecycle"]["preStop"]["exec"]["command"][-1])
    if name == "gateway":
        needed = spec_of(overlay).timeouts.drain_seconds
    elif overlay == "laptop":
        needed = app.compose("deploy", inner["args"][3:]).serve.exit_timeout_seconds
    else:
        needed = port_of(inner["args"], "exit-timeout-secs")
        assert needed == app.compose("deploy", ["profile=production"]).serve.exit_timeout_seconds
    assert pod(overlay, name)["terminationGracePeriodSeconds"] > needed + pause


@both
def test_an_engine_has_time_to_load_and_a_dead_process_has_not(overlay: str) -> None:
    triton = container(one(overlay, "Deployment", "triton"))
    profile = {"laptop": "laptop", "gpu": "gpu"}[overlay]
    assert patience(triton["startupProbe"]) >= app.compose("deploy", [f"profile={profile}"]).serve.ready_timeout_seconds
    assert triton["livenessProbe"]["httpGet"]["path"] == "/v2/health/live"
    gateway = container(one(overlay, "Deployment", "gateway"))
    # An engine that is away takes the gateway out of the Service and does not restart it.
    assert gateway["livenessProbe"]["httpGet"]["path"] == "/health"
    assert gateway["readinessProbe"]["httpGet"]["path"] == "/health/ready"
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert triton[probe]["httpGet"]["port"] == gateway[probe]["httpGet"]["port"] == "http"


@both
def test_ports_and_names_agree(overlay: str) -> None:
    spec, triton = spec_of(overlay), container(one(overlay, "Deployment", "triton"))
    gateway = container(one(overlay, "Deployment", "gateway"))
    ports = {port["name"]: port["containerPort"] for port in triton["ports"]}
    prefix, dash = ("serve.", "_") if overlay == "laptop" else ("", "-")
    assert ports == {name: port_of(triton["args"], f"{prefix}{name}{dash}port") for name in ("http", "grpc", "metrics")}
    assert {port["name"]: port["containerPort"] for port in gateway["ports"]} == {"http": spec.port}
    (route,) = spec.models
    assert route.upstream == f"triton-grpc:{ports['grpc']}"
    services = [item for item in OVERLAYS[overlay] if item["kind"] == "Service"]
    assert {service["metadata"]["name"] for service in services} == {"triton-grpc", "gateway"}
    assert one(overlay, "Service", "triton-grpc")["spec"]["clusterIP"] == "None"
    for service in services:
        target = service["spec"]["selector"]["app.kubernetes.io/name"]
        known = {"triton": ports, "gateway": {"http": spec.port}}[target]
        assert all(known[port["targetPort"]] == port["port"] for port in service["spec"]["ports"])
    assert str(route.engine_dir) in {mount["mountPath"] for mount in gateway["volumeMounts"]}
    mounted = [volume for volume in pod(overlay, "gateway")["volumes"] if "configMap" in volume]
    assert mounted[0]["configMap"]["name"] == "gateway" and gateway["args"][-1] == "/etc/throughline/gateway.json"


@both
def test_selectors_find_pods(overlay: str) -> None:
    labels = {
        name: one(overlay, "Deployment", name)["spec"]["template"]["metadata"]["labels"]
        for name in ("triton", "gateway")
    }
    for kind in ("Deployment", "PodDisruptionBudget"):
        for name, found in labels.items():
            wanted = one(overlay, kind, name)["spec"]["selector"]["matchLabels"]
            assert wanted.items() <= found.items()
    for name, found in labels.items():
        for constraint in pod(overlay, name)["topologySpreadConstraints"]:
            assert constraint["labelSelector"]["matchLabels"].items() <= found.items()
        assert one(overlay, "NetworkPolicy", name)["spec"]["podSelector"]["matchLabels"].items() <= found.items()
    deny = one(overlay, "NetworkPolicy", "default-deny")["spec"]
    assert deny == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}


@both
def test_shared_memory_is_memory_with_a_size(overlay: str) -> None:
    (shm,) = [volume for volume in pod(overlay, "triton")["volumes"] if volume["name"] == "shm"]
    assert shm["emptyDir"]["medium"] == "Memory" and shm["emptyDir"]["sizeLimit"] in ("1Gi", "8Gi")
    mounts = {
        mount["name"]: mount["mountPath"] for mount in container(one(overlay, "Deployment", "triton"))["volumeMounts"]
    }
    assert mounts["shm"] == "/dev/shm"


def test_the_autoscaler_reads_the_metric_that_the_adapter_makes() -> None:
    (metric,) = one("gpu", "HorizontalPodAutoscaler", "triton")["spec"]["metrics"]
    (rule,) = read(DOCKER / "kubernetes/prometheus-adapter.yaml")["rules"]["custom"]
    assert metric["pods"]["metric"]["name"] == rule["name"]["as"]
    # The autoscaler owns the number of pods.
    assert all("replicas" not in item["spec"] for _, item in OBJECTS if item["kind"] == "Deployment")


def test_only_the_gpu_overlay_asks_for_gpus_and_for_the_operator() -> None:
    gpu = container(one("gpu", "Deployment", "triton"))["resources"]
    assert gpu["requests"]["nvidia.com/gpu"] == gpu["limits"]["nvidia.com/gpu"] == "1"
    assert "nvidia" not in yaml.safe_dump(OVERLAYS["laptop"]) and "ServiceMonitor" not in {
        item["kind"] for item in OVERLAYS["laptop"]
    }
    for name in ("triton", "gateway"):
        monitor = one("gpu", "ServiceMonitor", name)["spec"]
        service = one("gpu", "Service", {"triton": "triton-grpc"}.get(name, name))
        assert monitor["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
        assert monitor["endpoints"][0]["port"] in {port["name"] for port in service["spec"]["ports"]}


def test_what_never_ran_says_so() -> None:
    for path in (DOCKER / "kubernetes/overlays").glob("*/kustomization.yaml"):
        assert "never applied" in path.read_text(encoding="utf-8").lower()
