"""Memory and disk that a build of the CPU back end needs."""

from __future__ import annotations

from throughline.contracts.engine import EngineSpec
from throughline.resources import Resources

# Bytes a parameter on disk, scales included (INT4 at groups of 32 with an INT8 embedding stays below 0.9).
_DISK = {"f32": 4.0, "bf16": 2.0, "int8": 1.1, "int4": 0.9, "fp8": 1.1}
# Bytes a parameter while building: the graph's matrices, NNCF's working copy, and the loaded engine's ones.
_MEMORY = {"f32": 12.0, "bf16": 8.0, "int8": 10.0, "int4": 10.0, "fp8": 10.0}
_BASE_MEMORY = 400 * 2**20
_BASE_DISK = 16 * 2**20
SHORT_OF_MEMORY = "close other programs, lower kv_cache_bytes, or build on a larger machine"


def needed(parameters: int, spec: EngineSpec) -> Resources:
    """Estimates what a build of `parameters` weights takes at its peak."""
    cache = spec.kv_cache_bytes if spec.embedding is None else 0
    return Resources(
        memory=int(parameters * _MEMORY[spec.precision]) + cache + _BASE_MEMORY,
        disk=int(parameters * _DISK[spec.precision]) + _BASE_DISK,
    )
