"""CPU time and memory of server processes through psutil, GPU readings through NVML."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import psutil


@dataclass(frozen=True)
class Usage:
    """CPU seconds used so far and resident bytes now, over a set of processes and their children."""

    cpu_seconds: float
    memory_bytes: int


def usage(pids: Iterable[int], *, children: bool = True, memory: bool = True) -> Usage:
    """Adds up CPU time and unique set size of the processes and all their children.

    Unique set size counts memory once that processes share; where the kernel hides it, resident size.

    Args:
        pids: Process ids; what has ended counts as nothing.
        children: Whether the processes that they have started count too.
        memory: Whether memory is read, which takes the kernel some milliseconds.
    """
    cpu = 0.0
    held = 0
    seen: set[int] = set()
    for pid in pids:
        for process in _family(pid, children=children):
            if process.pid in seen:
                continue
            seen.add(process.pid)
            try:
                times = process.cpu_times()
                cpu += times.user + times.system
                held += _resident(process) if memory else 0
            except psutil.Error:
                continue
    return Usage(cpu, held)


def _family(pid: int, *, children: bool) -> list[psutil.Process]:
    try:
        process = psutil.Process(pid)
        return [process, *(process.children(recursive=True) if children else [])]
    except psutil.Error:
        return []


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_full_info().uss)
    except (psutil.AccessDenied, AttributeError):
        return int(process.memory_info().rss)


def gpu_readings() -> dict[str, float] | None:
    """Returns memory in bytes, utilisation 0…1 and power in watts summed over all GPUs, or None without one.

    The GPU branch has not run on the project's CI, which has no NVIDIA driver.
    """
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        return {
            "count": float(len(handles)),
            "memory_bytes": float(sum(pynvml.nvmlDeviceGetMemoryInfo(handle).used for handle in handles)),
            "utilisation": sum(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu for handle in handles)
            / (100.0 * max(1, len(handles))),
            "power_watts": sum(pynvml.nvmlDeviceGetPowerUsage(handle) for handle in handles) / 1000.0,
        }
    finally:
        pynvml.nvmlShutdown()
