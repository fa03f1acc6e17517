"""Where an artifact was made: package versions, git commit, machine, and the version of our own code."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

from throughline.contracts.errors import InternalError

PACKAGES = (
    "throughline",
    "nemo_toolkit",
    "nemo-automodel",
    "torch",
    "transformers",
    "tokenizers",
    "gguf",
    "peft",
    "datasets",
    "openvino",
    "openvino-genai",
    "nncf",
    "nvidia-pytriton",
    "tritonclient",
    "tensorrt_llm",
    "numpy",
)


@functools.cache
def describe_environment() -> dict[str, Any]:
    """Returns versions of the packages that shape artifacts, the git commit, processor and NVIDIA driver."""
    return {
        "python": platform.python_version(),
        "packages": {name: version for name in PACKAGES if (version := package_version(name))},
        "git_commit": git_commit(),
        "machine": {
            "system": platform.platform(),
            "processor": processor_name(),
            "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        },
        "nvidia_driver": nvidia_driver(),
        "container": os.environ.get("NVIDIA_PRODUCT_NAME") or None,
    }


def package_version(name: str) -> str | None:
    """Returns an installed package's version, None if it is absent."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def git_commit() -> str | None:
    """Returns the commit of this checkout, with `+` if files changed since; None outside git."""
    root = Path(__file__).resolve().parents[3]
    command = ["git", "-C", str(root), "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def processor_name() -> str:
    """Returns the processor's name as the operating system gives it."""
    path = Path("/proc/cpuinfo")
    if path.is_file():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def nvidia_driver() -> str | None:
    """Returns the NVIDIA driver's version, None without one."""
    path = Path("/proc/driver/nvidia/version")
    return path.read_text(encoding="utf-8").splitlines()[0] if path.is_file() else None


@functools.cache
def library_versions(extras: tuple[str, ...]) -> dict[str, str | None]:
    """Returns the installed version of each library of our optional dependencies `extras`, None if it is absent.

    Raises:
        InternalError: If our own package is not installed, so that nobody knows what it needs.
    """
    from packaging.requirements import Requirement

    try:
        wanted = [Requirement(text) for text in importlib.metadata.requires("throughline") or ()]
    except importlib.metadata.PackageNotFoundError:
        raise InternalError("throughline is not installed", fix="run `make setup`") from None
    found = {
        item.name: package_version(item.name)
        for item in wanted
        if item.marker is not None and any(item.marker.evaluate({"extra": extra}) for extra in extras)
    }
    return dict(sorted(found.items()))


@functools.cache
def code_version(*packages: str, extras: tuple[str, ...] = ()) -> str:
    """Returns a digest over all sources and data of packages and the versions of the libraries that they stand on.

    Args:
        packages: Our packages and modules; changed code makes a new artifact.
        extras: Names of our optional dependencies (`data`, `train`, …); so does another version of one of them.

    Raises:
        InternalError: If a package does not exist.
    """
    state = hashlib.sha256(json.dumps(library_versions(extras)).encode() if extras else b"")
    for package in packages:
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.origin:
            raise InternalError("no such package to version", seen=package)
        origin = Path(spec.origin)
        files = sorted(origin.parent.rglob("*")) if spec.submodule_search_locations else [origin]
        for path in files:
            if path.suffix in {".py", ".jinja", ".yaml"}:
                state.update(f"{package}:{path.relative_to(origin.parent).as_posix()}\0".encode())
                state.update(path.read_bytes())
    return state.hexdigest()[:16]
