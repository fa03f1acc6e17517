"""Memory and disk: what a stage needs, checked before anything is written, and the most that it had."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from throughline.contracts.errors import EngineError

_CGROUP = Path("/sys/fs/cgroup")
_SELF = Path("/proc/self")


@dataclass(frozen=True)
class Resources:
    """Bytes of memory and disk, needed or available."""

    memory: int
    disk: int


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


def reset_peak_memory() -> bool:
    """Makes `peak_memory` count from now on; returns whether the system does that (Linux, proc(5): clear_refs)."""
    try:
        (_SELF / "clear_refs").write_text("5")
    except OSError:
        return False
    return True


def peak_memory() -> int:
    """Returns the most memory, in bytes, that this process had since `reset_peak_memory`, mapped files included."""
    status = (_SELF / "status").read_text(encoding="utf-8")
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def check(need: Resources, have: Resources, out_dir: Path, *, what: str, fix: str) -> None:
    """Compares the two.

    Args:
        need: Of the stage.
        have: From `available`.
        out_dir: Where it will write.
        what: What it makes, e.g. `build the engine`.
        fix: What to do if memory is short.

    Raises:
        EngineError: If memory or disk is short.
    """
    if have.memory < need.memory:
        raise EngineError(
            f"not enough memory to {what}",
            where="memory",
            seen=f"{have.memory:,} bytes free, about {need.memory:,} needed",
            fix=fix,
        )
    if have.disk < need.disk:
        raise EngineError(
            f"not enough disk space to {what}",
            where=str(out_dir),
            seen=f"{have.disk:,} bytes free, about {need.disk:,} needed",
            fix="free some space or choose another folder",
        )
