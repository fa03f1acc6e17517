"""Reads the deployment files in `docker/`, and builds the Kustomize overlays as far as ours go."""

from __future__ import annotations

import copy
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[3]
DOCKER = ROOT / "docker"
SCHEMAS = Path(__file__).parent / "schemas"
Object = dict[str, Any]


def tool(name: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Runs a linter of this environment; one that is missing is a failure."""
    path = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    assert path, f"{name} is not installed — run `make setup`"
    return subprocess.run([path, *map(str, arguments)], capture_output=True, text=True, timeout=120, check=False)


def read(path: Path) -> Any:
    """Reads a YAML or JSON file of one document."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def documents(path: Path) -> list[Object]:
    """Reads the objects of a YAML file."""
    return [item for item in yaml.safe_load_all(path.read_text(encoding="utf-8")) if item is not None]


def build(folder: Path) -> list[Object]:
    """Builds a Kustomize folder: resources, components, JSON patches (RFC 6902) and the namespace, nothing else."""
    spec = read(folder / "kustomization.yaml")
    known = {"apiVersion", "kind", "namespace", "resources", "components", "patches"}
    assert set(spec) <= known, f"{folder}: {set(spec) - known} are not built here"
    found: list[Object] = []
    for name in [*spec.get("resources", []), *spec.get("components", [])]:
        path = folder / name
        found += build(path) if path.is_dir() else copy.deepcopy(documents(path))
    for each in spec.get("patches", []):
        assert set(each) <= {"target", "patch", "path"} and set(each["target"]) == {"kind", "name"}
        operations = read(folder / each["path"]) if "path" in each else yaml.safe_load(each["patch"])
        (target,) = [item for item in found if key(item) == (each["target"]["kind"], each["target"]["name"])]
        for operation in operations:
            apply(target, operation)
    for item in found:
        if "namespace" in spec and item["kind"] != "Namespace":
            item["metadata"]["namespace"] = spec["namespace"]
    assert len({key(item) for item in found}) == len(found), "two objects share a name"
    return found


def key(item: Object) -> tuple[str, str]:
    """Kind and name."""
    return item["kind"], item["metadata"]["name"]


def apply(target: Object, operation: Object) -> None:
    """Applies an `add` or `replace` of RFC 6902; a path that is not there is an error."""
    *parents, last = [part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:]]
    here: Any = target
    for part in parents:
        here = here[int(part)] if isinstance(here, list) else here[part]
    if isinstance(here, list):
        assert operation["op"] == "replace", "ours only replace in lists"
        here[int(last)] = operation["value"]
        return
    assert operation["op"] in ("add", "replace")
    assert operation["op"] == "add" or last in here, f"nothing to replace at {operation['path']}"
    here[last] = operation["value"]


def container(item: Object) -> Object:
    """The one container of a Deployment."""
    found: list[Object] = item["spec"]["template"]["spec"]["containers"]
    assert len(found) == 1
    return found[0]


def seconds(text: str) -> int:
    """Seconds of a duration in Compose's spelling, e.g. `40s`."""
    found = re.fullmatch(r"(\d+)s", text)
    assert found, text
    return int(found[1])


def port_of(arguments: list[str], name: str) -> int:
    """The number that a command line gives a setting: `name=8000` or `--name=8000`."""
    (found,) = [word.partition("=")[2] for word in arguments if re.fullmatch(rf"(--)?{re.escape(name)}=\d+", word)]
    return int(found)


def closed(schema: Any) -> Any:
    """A schema that refuses fields it does not know, as Kubernetes does with `--validate=strict`."""
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    found = {name: closed(each) for name, each in schema.items()}
    return {"additionalProperties": False, **found} if isinstance(schema.get("properties"), dict) else found
