"""Memory and disk that a build needs, checked before anything is written."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from throughline.contracts.engine import EngineSpec
from throughline.contracts.errors import EngineError

# Bytes a parameter on disk, scales included (INT4 at groups of 32 with an INT8 embedding stays below 0.9).
_DISK = {"f32": 4.0, "bf16": 2.0, "int8": 1.1, "int4": 0.9, "fp8": 1.1}
# Bytes a parameter while building: the graph's matrices, NNCF's working copy, and the loaded engine's ones.
_MEMORY = {"f32": 12.0, "bf16": 8.0, "int8": 10.0, "int4": 10.0, "fp8": 10.0}
_BASE_MEMORY = 400 * 2**20
_BASE_DISK = 16 * 2**20
_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Resources:
    """Bytes of memory and disk, needed or available."""

    memory: int
    disk: int


def needed(parameters: int, spec: EngineSpec) -> Resources:
    """Estimates what a build of `parameters` weights takes at its peak."""
    return Resources(
        memory=int(parameters * _MEMORY[spec.precision]) + spec.kv_cache_bytes + _BASE_MEMORY,
        disk=int(parameters * _DISK[spec.precision]) + _BASE_DISK,
    )


def available(folder: Path) -> Resources:
    """Measures free memory (a container's limit counts) and the free disk below `folder`."""
    import psutil

    memory = int(psutil.virtual_memory().available)
    try:
        limit = int((_CGROUP / "memory.max").read_text())
        memory = min(memory, limit - int((_CGROUP / "memory.current").read_text()))
    except (OSError, ValueError):
        pass
    place = folder
    while not place.exists():
        place = place.parent
    return Resources(memory, shutil.disk_usage(place).free)


def check(need: Resources, have: Resources, out_dir: Path) -> None:
    """Compares the two.

    Raises:
        EngineError: If memory or disk is short.
    """
    if have.memory < need.memory:
        raise EngineError(
            "not enough memory to build the engine",
            where="memory",
            seen=f"{have.memory} bytes free, about {need.memory} needed",
            fix="close other programs, lower kv_cache_bytes, or build on a larger machine",
        )
    if have.disk < need.disk:
        raise EngineError(
            "not enough disk space for the engine",
            where=str(out_dir),
            seen=f"{have.disk} bytes free, about {need.disk} needed",
            fix="free some space or choose another folder",
        )
